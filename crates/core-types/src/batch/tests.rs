use super::*;
use proptest::prelude::*;

fn sample() -> RecordBatch {
    BatchBuilder::new(1_000)
        .producer(ProducerId::new(7), ProducerEpoch::new(0), 5)
        .record(1_000, Some(b"AA"), Some(b"first"))
        .record(1_250, None, None)
        .build()
        .unwrap()
}

/// Recomputes the CRC after `edit`, so that only the lie itself is wrong.
fn forged(edit: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = sample().bytes().to_vec();
    edit(&mut bytes);
    let crc = crc32c::crc32c(&bytes[CRC_COVERS_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

#[test]
fn a_batch_gives_back_what_was_put_in() {
    let batch = sample();
    let records: Vec<_> = batch.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(
        (records[0].key, records[0].value),
        (Some(&b"AA"[..]), Some(&b"first"[..]))
    );
    assert_eq!(
        (records[1].offset, records[1].timestamp, records[1].value),
        (1, 1_250, None)
    );
    assert_eq!(
        batch.header().producer(),
        Some((ProducerId::new(7), ProducerEpoch::new(0), 5))
    );
    assert_eq!(batch.header().max_timestamp, 1_250);
}

#[test]
fn stamping_does_not_touch_what_the_crc_covers() {
    let stamped = sample().restamped(Offset::new(42).unwrap(), LeaderEpoch::new(3));
    let mut bytes = stamped.bytes().clone();
    let again = RecordBatch::split_from(&mut bytes).unwrap();
    assert_eq!(again, stamped);
    assert_eq!(again.header().end_offset(), Some(Offset::new(44).unwrap()));
    assert_eq!(again.header().epoch(), Some(LeaderEpoch::new(3)));
}

#[test]
fn lies_about_count_and_length_are_refused() {
    let count = forged(|b| b[57..61].copy_from_slice(&i32::MAX.to_be_bytes()));
    assert!(matches!(
        split_batches(count),
        Err(BatchError::Inconsistent(_))
    ));
    let both = forged(|b| {
        b[57..61].copy_from_slice(&1_000_000i32.to_be_bytes());
        b[23..27].copy_from_slice(&999_999i32.to_be_bytes());
    });
    assert!(matches!(
        split_batches(both),
        Err(BatchError::Inconsistent(_))
    ));
    let none = forged(|b| {
        b[57..61].copy_from_slice(&0i32.to_be_bytes());
        b[23..27].copy_from_slice(&(-1i32).to_be_bytes());
    });
    assert!(matches!(
        split_batches(none),
        Err(BatchError::Inconsistent(_))
    ));
    let long = forged(|b| b[8..12].copy_from_slice(&i32::MAX.to_be_bytes()));
    assert!(matches!(
        split_batches(long),
        Err(BatchError::BadLength { .. })
    ));
    let negative = forged(|b| b[8..12].copy_from_slice(&(-1i32).to_be_bytes()));
    assert!(matches!(
        split_batches(negative),
        Err(BatchError::BadLength { .. })
    ));
    let magic = forged(|b| b[16] = 1);
    assert!(matches!(split_batches(magic), Err(BatchError::Magic(1))));
    // One record more in the header than in the bytes, though the bytes could hold it.
    let one_more = forged(|b| {
        b[57..61].copy_from_slice(&3i32.to_be_bytes());
        b[23..27].copy_from_slice(&2i32.to_be_bytes());
    });
    let batch = RecordBatch::split_from(&mut { one_more }).unwrap();
    assert!(matches!(
        batch.verify_records(),
        Err(BatchError::Inconsistent(_))
    ));
    let one_less = forged(|b| {
        b[57..61].copy_from_slice(&1i32.to_be_bytes());
        b[23..27].copy_from_slice(&0i32.to_be_bytes());
    });
    let batch = RecordBatch::split_from(&mut { one_less }).unwrap();
    assert!(matches!(
        batch.verify_records(),
        Err(BatchError::Inconsistent(_))
    ));
}

proptest! {
    #[test]
    fn one_flipped_bit_is_found(position in 12usize..61 + 20, bit in 0u8..8) {
        let mut bytes = sample().bytes().to_vec();
        prop_assume!(position < bytes.len());
        bytes[position] ^= 1 << bit;
        // Bytes 12..16 are the leader epoch, outside the CRC: the log checks it, not the batch.
        let outcome = split_batches(Bytes::from(bytes));
        prop_assert_eq!(outcome.is_err(), position >= 16);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = split_batches(Bytes::from(bytes));
    }

    #[test]
    fn arbitrary_records_never_panic(payload in proptest::collection::vec(any::<u8>(), 7..100)) {
        let mut bytes = sample().bytes()[..HEADER_BYTES].to_vec();
        bytes.extend_from_slice(&payload);
        let length = i32::try_from(bytes.len() - 12).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_COVERS_FROM..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        if let Ok(batch) = RecordBatch::split_from(&mut Bytes::from(bytes)) {
            let _outcome = batch.verify_records();
        }
    }
}
