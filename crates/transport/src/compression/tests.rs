use proptest::prelude::*;

use super::*;

const MAX: usize = 16 << 20;

#[test]
fn what_does_not_shrink_is_left_alone() {
    assert!(compress(&Bytes::from(vec![0; COMPRESS_FROM_BYTES - 1])).is_none());
    let mut noise = 1u64;
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            noise.to_be_bytes()[0]
        })
        .collect();
    assert!(compress(&Bytes::from(noise)).is_none());
}

#[test]
fn a_bomb_is_refused_from_its_declaration() {
    // 16 MiB of nothing in some hundred bytes. We would not send it so ourselves.
    let nothing = Bytes::from(vec![0; MAX]);
    assert!(compress(&nothing).is_none());
    let mut bomb = u32::try_from(MAX).unwrap().to_be_bytes().to_vec();
    bomb.extend(zstd::bulk::compress(&nothing, 1).unwrap());
    assert!(bomb.len() < 16 * 1024);
    assert_eq!(
        declared_length(&bomb, MAX),
        Err(FrameError::Compression("a bomb"))
    );
    assert!(matches!(
        declared_length(&bomb, MAX - 1),
        Err(FrameError::TooLong { .. })
    ));
    assert!(declared_length(&bomb[..3], MAX).is_err());
    // Declares less than comes out: no more than that is allocated, and it is an error.
    let mut liar = bomb.clone();
    liar[..4].copy_from_slice(&5000u32.to_be_bytes());
    assert_eq!(declared_length(&liar, MAX), Ok(5000));
    assert!(decompress(Bytes::from(liar), 5000).is_err());
}

proptest! {
    #[test]
    fn what_is_compressed_comes_back(word in proptest::collection::vec(any::<u8>(), 1..50), times in 200usize..2000) {
        let plain = Bytes::from(word.repeat(times));
        if let Some(short) = compress(&plain) {
            prop_assert!(short.len() <= plain.len() - plain.len() / 8);
            if let Ok(length) = declared_length(&short, MAX) {
                prop_assert_eq!(decompress(short, length).unwrap(), plain);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_no_more(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(length) = declared_length(&bytes, 1 << 20) {
            let _outcome = decompress(Bytes::from(bytes), length).is_ok();
        }
    }
}
