//! Judging what was read against what was written.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use rivven_core_types::{Offset, split_batches};
use rivven_segment_log::dump_bytes;

use crate::failure::{Doing, Failure};
use crate::flights::InputRecord;
use crate::kafka::ReadPartition;

/// What is wrong with the records that were read. All zero is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Records that were written and not read.
    pub lost: usize,
    /// Records that were read more often than written, or never written.
    pub duplicates: usize,
    /// Records that were read before one with the same key (without a key: in the same partition) that
    /// was written earlier.
    pub order_violations: usize,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares everything that was read with everything that was written.
pub fn judge(written: &[InputRecord], read: &[ReadPartition]) -> Verdict {
    let mut places: BTreeMap<(Option<&str>, &str), VecDeque<usize>> = BTreeMap::new();
    for (place, record) in written.iter().enumerate() {
        let identity = (record.key.as_deref(), record.value.as_str());
        places.entry(identity).or_default().push_back(place);
    }
    let mut verdict = Verdict::default();
    // The place of the last record of each key.
    let mut last: BTreeMap<(Option<&str>, u32), usize> = BTreeMap::new();
    for partition in read {
        for record in &partition.records {
            let key = record.key.as_deref();
            let place = places
                .get_mut(&(key, record.value.as_str()))
                .and_then(VecDeque::pop_front);
            let Some(place) = place else {
                verdict.duplicates += 1;
                continue;
            };
            let stream = (
                key,
                if key.is_some() {
                    0
                } else {
                    partition.id.index.get()
                },
            );
            let before = last.insert(stream, place);
            if before.is_some_and(|before| before > place) {
                verdict.order_violations += 1;
            }
        }
    }
    verdict.lost = places.values().map(VecDeque::len).sum();
    verdict
}

/// Compares the logs of stopped nodes byte by byte, up to the high watermarks in `read`; says what
/// differs.
pub fn compare_replicas(data_dirs: &[&Path], read: &[ReadPartition]) -> Result<(), Failure> {
    for partition in read {
        let up_to = Offset::new(partition.end).doing(|| "a high watermark".to_owned())?;
        let mut first: Option<(&Path, Vec<u8>)> = None;
        for dir in data_dirs {
            let what = || format!("the log of {} in {}", partition.id, dir.display());
            let bytes = match dump_bytes(&dir.join("logs"), partition.id, up_to) {
                // A replica that never received a record may have no files.
                Err(rivven_core_types::LogError::Io(e))
                    if partition.end == 0 && e.kind() == std::io::ErrorKind::NotFound =>
                {
                    Vec::new()
                }
                bytes => bytes.doing(what)?,
            };
            let batches = split_batches(bytes.clone().into()).doing(what)?;
            let end = batches.last().and_then(|batch| batch.header().end_offset());
            let end = end.unwrap_or(Offset::ZERO);
            if end != up_to {
                let text = format!(
                    "{} ends at {end}, before the high watermark {up_to}",
                    what()
                );
                return Err(Failure::new(text));
            }
            match &first {
                None => first = Some((dir, bytes)),
                Some((other, expected)) if *expected != bytes => {
                    let at = expected
                        .iter()
                        .zip(&bytes)
                        .take_while(|(a, b)| a == b)
                        .count();
                    let text = format!(
                        "{} differs from that in {} at byte {at}",
                        what(),
                        other.display()
                    );
                    return Err(Failure::new(text));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rivven_core_types::{BatchBuilder, LeaderEpoch, OsVfs, PartitionId, ReplicaLog, TopicId};
    use rivven_segment_log::{SegmentLogConfig, SegmentLogStore};

    use super::*;
    use crate::kafka::ReadRecord;

    fn written(records: &[(&str, &str)]) -> Vec<InputRecord> {
        let record = |(key, value): &(&str, &str)| InputRecord {
            key: (!key.is_empty()).then(|| (*key).to_owned()),
            value: (*value).to_owned(),
        };
        records.iter().map(record).collect()
    }

    fn read(index: u32, records: &[(&str, &str)]) -> ReadPartition {
        let records = written(records)
            .into_iter()
            .zip(0..)
            .map(|(record, offset)| ReadRecord {
                offset,
                key: record.key,
                value: record.value,
            });
        let records: Vec<_> = records.collect();
        let end = i64::try_from(records.len()).unwrap();
        ReadPartition {
            id: PartitionId::new(TopicId::from_bytes([1; 16]), index),
            end,
            records,
        }
    }

    #[test]
    fn every_kind_of_violation_is_counted() {
        let input = written(&[("a", "1"), ("b", "1"), ("a", "2"), ("a", "2"), ("b", "3")]);
        let same = [
            read(0, &[("a", "1"), ("a", "2"), ("a", "2")]),
            read(1, &[("b", "1"), ("b", "3")]),
        ];
        assert!(judge(&input, &same).is_clean());
        let lost = [
            read(0, &[("a", "1"), ("a", "2")]),
            read(1, &[("b", "1"), ("b", "3")]),
        ];
        assert_eq!(
            judge(&input, &lost),
            Verdict {
                lost: 1,
                ..Verdict::default()
            }
        );
        let twice = [
            read(0, &[("a", "1"), ("a", "2"), ("a", "2"), ("a", "1")]),
            read(1, &[("b", "1"), ("b", "3")]),
        ];
        assert_eq!(
            judge(&input, &twice),
            Verdict {
                duplicates: 1,
                ..Verdict::default()
            }
        );
        let swapped = [
            read(0, &[("a", "2"), ("a", "1"), ("a", "2")]),
            read(1, &[("b", "1"), ("b", "3")]),
        ];
        assert_eq!(
            judge(&input, &swapped),
            Verdict {
                order_violations: 1,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn records_without_keys_are_ordered_within_their_partition() {
        let input = written(&[("", "1"), ("", "2"), ("", "3"), ("", "4")]);
        let right = [
            read(0, &[("", "1"), ("", "3")]),
            read(1, &[("", "2"), ("", "4")]),
        ];
        assert!(judge(&input, &right).is_clean());
        let wrong = [
            read(0, &[("", "3"), ("", "1")]),
            read(1, &[("", "2"), ("", "4")]),
        ];
        assert_eq!(judge(&input, &wrong).order_violations, 1);
    }

    /// A data directory whose log of partition 0 holds these values, one batch each.
    fn data_dir(values: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let store = SegmentLogStore::open(
            dir.path().join("logs"),
            Arc::new(OsVfs),
            SegmentLogConfig::default(),
        );
        let (mut log, _) = store.unwrap().open_log(read(0, &[]).id).unwrap();
        let epoch = LeaderEpoch::new(0);
        log.assign_epoch(epoch, log.log_end()).unwrap();
        for value in values {
            let batch = BatchBuilder::new(0).record(0, None, Some(value.as_bytes()));
            log.append_as_leader(epoch, &batch.build().unwrap())
                .unwrap();
        }
        dir
    }

    #[test]
    fn replicas_must_agree_up_to_the_high_watermark_and_reach_it() {
        let same = [data_dir(&["1", "2"]), data_dir(&["1", "2", "tail"])];
        let other = data_dir(&["1", "x"]);
        let short = data_dir(&["1"]);
        let two = [read(0, &[("", "1"), ("", "2")])];
        let compare = |dirs: &[&Path]| compare_replicas(dirs, &two).map_err(|e| e.to_string());
        assert_eq!(compare(&[same[0].path(), same[1].path()]), Ok(()));
        let error = compare(&[same[0].path(), other.path()]).unwrap_err();
        assert!(error.contains("differs"), "{error}");
        let error = compare(&[same[0].path(), short.path()]).unwrap_err();
        assert!(
            error.contains("ends at 1, before the high watermark 2"),
            "{error}"
        );
        let nothing = tempfile::tempdir().unwrap();
        assert!(compare(&[same[0].path(), nothing.path()]).is_err());
    }
}
