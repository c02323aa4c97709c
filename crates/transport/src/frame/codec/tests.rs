use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = [9; 32];

fn request(correlation: u32) -> FrameHeader {
    FrameHeader {
        kind: 7,
        correlation,
        budget_ms: 100,
        ..FrameHeader::new(0, FrameType::Request)
    }
}

fn encoder(sealed: bool) -> FrameEncoder {
    FrameEncoder::new(1, 1 << 20, sealed.then(|| FrameSeal::new(&KEY)))
}

fn decoder(sealed: bool) -> FrameDecoder {
    FrameDecoder::new(1, 1 << 20, sealed.then(|| FrameSeal::new(&KEY)))
}

/// The bytes on the wire, written in vectored writes of odd lengths.
fn wire(encoder: &mut FrameEncoder, frames: &[(Bytes, Bytes)]) -> Vec<u8> {
    let mut batch = WriteBatch::default();
    for (i, (meta, body)) in frames.iter().enumerate() {
        let correlation = u32::try_from(i).unwrap();
        encoder
            .encode(request(correlation), meta, body.clone(), &mut batch)
            .unwrap();
    }
    batch.close_segment();
    let mut out = Vec::new();
    while !batch.is_empty() {
        let mut written = 0;
        let mut room = [IoSlice::new(&[]); MAX_SLICES];
        for slice in batch.slices(&mut room) {
            let take = slice.len().min(1777 - written);
            out.extend_from_slice(&slice[..take]);
            written += take;
        }
        batch.advance(written);
    }
    out
}

fn header_of(meta_len: u32, body_len: u32, sealed: bool) -> BytesMut {
    let header = FrameHeader {
        version: 1,
        meta_len,
        body_len,
        sealed,
        ..request(1)
    };
    BytesMut::from(header.encode().as_slice())
}

#[test]
fn a_frame_bomb_is_refused_from_its_header() {
    for (meta, body) in [
        (u32::MAX, 0),
        (0, u32::MAX),
        (u32::MAX, u32::MAX),
        (0, 1 << 21),
        // Longer than a part, although a body in parts could be as long.
        (0, 64 * 1024 + 1),
    ] {
        let mut buffer = header_of(meta, body, false);
        let capacity = buffer.capacity();
        assert!(matches!(
            decoder(false).decode(&mut buffer),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(buffer.capacity(), capacity);
    }
    // A length within the limit reserves a step and not the whole frame.
    let buffer = header_of(64 * 1024, 64 * 1024, false);
    assert!(decoder(false).room(&buffer) <= GROWTH_STEP_BYTES);
    let strict = FrameDecoder::new(1, limits::MAX_UNAUTHENTICATED_FRAME_BYTES, None);
    assert!(strict.room(&BytesMut::new()) < 1100);
}

#[test]
fn a_seal_is_neither_optional_nor_volunteered() {
    let unsealed = wire(&mut encoder(false), &[(Bytes::new(), Bytes::new())]);
    let sealed = wire(&mut encoder(true), &[(Bytes::new(), Bytes::new())]);
    let flags = |r| matches!(r, Err(FrameError::Flags(_)));
    assert!(flags(
        decoder(true).decode(&mut BytesMut::from(&unsealed[..]))
    ));
    assert!(flags(
        decoder(false).decode(&mut BytesMut::from(&sealed[..]))
    ));
}

#[test]
fn a_replayed_dropped_or_reordered_frame_has_a_wrong_seal() {
    let mut e = encoder(true);
    let frame = [(Bytes::from_static(b"meta"), Bytes::from_static(b"body"))];
    let first = wire(&mut e, &frame);
    let second = wire(&mut e, &frame);
    let decode_all = |parts: &[&[u8]]| {
        let mut d = decoder(true);
        let mut buffer = BytesMut::from(parts.concat().as_slice());
        parts
            .iter()
            .map(|_| d.decode(&mut buffer))
            .collect::<Result<Vec<_>, _>>()
    };
    assert!(decode_all(&[&first, &second]).is_ok());
    for parts in [[&first, &first], [&second, &first]] {
        let parts = parts.map(Vec::as_slice);
        assert_eq!(decode_all(&parts), Err(FrameError::Seal));
    }
    assert_eq!(decode_all(&[&second]), Err(FrameError::Seal));
}

proptest! {
    #[test]
    fn frames_survive_any_fragmentation(
        parts in proptest::collection::vec((0usize..200, 0usize..20_000), 1..6),
        sealed in any::<bool>(),
        chunk in 1usize..9_000,
    ) {
        let frames: Vec<(Bytes, Bytes)> = parts
            .iter()
            .map(|(m, b)| (Bytes::from(vec![1; *m]), Bytes::from(vec![2; *b])))
            .collect();
        let bytes = wire(&mut encoder(sealed), &frames);
        let mut d = decoder(sealed);
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for chunk in bytes.chunks(chunk) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = d.decode(&mut buffer).unwrap() {
                found.push((frame.meta, frame.body));
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), plausible in any::<bool>(), sealed in any::<bool>()) {
        let mut bytes = bytes;
        if plausible && bytes.len() >= HEADER_BYTES {
            let (meta, body) = (u32::from(bytes[0]), u32::from(bytes[1]));
            bytes[..HEADER_BYTES].copy_from_slice(&header_of(meta, body, sealed));
        }
        let mut d = decoder(sealed);
        let mut buffer = BytesMut::from(bytes.as_slice());
        while let Ok(Some(_)) = d.decode(&mut buffer) {}
        prop_assert!(d.room(&buffer) <= GROWTH_STEP_BYTES);
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_frame_is_noticed(at in 0usize..(HEADER_BYTES + 8 + SEAL_BYTES), bit in 0u8..8) {
        let mut bytes = wire(&mut encoder(true), &[(Bytes::from_static(b"meta"), Bytes::from_static(b"body"))]);
        bytes[at] ^= 1 << bit;
        let outcome = decoder(true).decode(&mut BytesMut::from(bytes.as_slice()));
        // A longer length only waits for bytes that never come (or fails with them).
        prop_assert!(matches!(outcome, Err(_) | Ok(None)), "{:?}", outcome);
    }
}
