//! The configurations of a topic under their Kafka names: reading them from text, showing them.

use rivven_coordinator::metadata::TopicChange;
use rivven_core_types::limits::MAX_RECORD_BATCH_BYTES;
use rivven_core_types::{Durability, LogConfig};

pub(crate) const MIN_ISR: &str = "min.insync.replicas";
pub(crate) const DURABILITY: &str = "durability";
const RETENTION_MS: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const SEGMENT_BYTES: &str = "segment.bytes";
const SEGMENT_MS: &str = "segment.ms";

/// What `-1` means in a retention.
const UNLIMITED: &str = "-1";

/// Configurations of Kafka with one supported value, which may be set and never changes anything.
const FIXED: [(&str, &str); 4] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("message.timestamp.type", "CreateTime"),
    ("unclean.leader.election.enable", "false"),
];

/// A topic's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicSettings {
    /// `min.insync.replicas`.
    pub min_isr: u32,
    /// `durability`.
    pub durability: Durability,
    /// How long records are kept.
    pub log: LogConfig,
}

/// The type of a value, as DescribeConfigs numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    String = 2,
    Int = 3,
    Long = 5,
}

/// One configuration as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) read_only: bool,
    /// It has the default value.
    pub(crate) is_default: bool,
    pub(crate) value_type: ValueType,
    pub(crate) documentation: &'static str,
}

/// Reads one configuration into `change`; no value stands for the default. The error says what is
/// wrong.
pub(crate) fn set(
    change: &mut TopicChange,
    key: &str,
    value: Option<&str>,
    default_min_isr: u32,
) -> Result<(), String> {
    let default = LogConfig::default();
    match key {
        MIN_ISR => {
            change.min_isr = Some(match value {
                None => default_min_isr,
                Some(text) => at_least_one(key, text)?,
            });
        }
        DURABILITY => {
            change.durability = Some(match value {
                None | Some("fsync") => Durability::Fsync,
                Some("replicated") => Durability::Replicated,
                Some(text) => {
                    return Err(format!(
                        "{key} {text:?} is neither \"fsync\" nor \"replicated\""
                    ));
                }
            });
        }
        RETENTION_MS => change.retention_ms = Some(limit(key, value)?),
        RETENTION_BYTES => change.retention_bytes = Some(limit(key, value)?),
        SEGMENT_BYTES => {
            change.segment_bytes = Some(number(key, value)?.unwrap_or(default.segment_bytes));
        }
        SEGMENT_MS => change.segment_ms = Some(number(key, value)?.unwrap_or(default.segment_ms)),
        _ => return fixed(key, value),
    }
    match change.apply_to(default).out_of_range() {
        Some((key, range)) => Err(format!("{key} is out of range {range}")),
        None => Ok(()),
    }
}

fn fixed(key: &str, value: Option<&str>) -> Result<(), String> {
    match FIXED.iter().find(|(name, _)| *name == key) {
        Some((_, only)) if value.is_none_or(|value| value == *only) => Ok(()),
        Some((_, only)) => Err(format!("{key} can only be {only:?} here")),
        None => {
            let known = [
                MIN_ISR,
                DURABILITY,
                RETENTION_MS,
                RETENTION_BYTES,
                SEGMENT_BYTES,
                SEGMENT_MS,
            ];
            let known = known.join(", ");
            Err(format!(
                "unknown topic configuration {key:?}; known are {known}"
            ))
        }
    }
}

fn at_least_one(key: &str, text: &str) -> Result<u32, String> {
    let parsed = text.parse().ok().filter(|count| *count >= 1);
    parsed.ok_or_else(|| format!("{key} {text:?} is not a number of at least 1"))
}

fn number(key: &str, value: Option<&str>) -> Result<Option<u64>, String> {
    let parsed = value.map(str::parse).transpose();
    parsed.map_err(|_| format!("{key} {:?} is not a number", value.unwrap_or_default()))
}

/// A retention; unlimited is the default.
fn limit(key: &str, value: Option<&str>) -> Result<Option<u64>, String> {
    number(key, value.filter(|text| *text != UNLIMITED))
}

/// All configurations of a topic.
pub(crate) fn show(settings: &TopicSettings, default_min_isr: u32) -> Vec<Shown> {
    let shown = |name, value: String, default: String, value_type, documentation| Shown {
        name,
        is_default: value == default,
        value,
        read_only: false,
        value_type,
        documentation,
    };
    let durability = |durability| match durability {
        Durability::Fsync => "fsync".to_owned(),
        Durability::Replicated => "replicated".to_owned(),
    };
    let limit = |limit: Option<u64>| limit.map_or_else(|| UNLIMITED.to_owned(), |l| l.to_string());
    let (log, default) = (&settings.log, LogConfig::default());
    let mut all = vec![
        shown(
            MIN_ISR,
            settings.min_isr.to_string(),
            default_min_isr.to_string(),
            ValueType::Int,
            "How many in-sync replicas a write with acks=all needs.",
        ),
        shown(
            DURABILITY,
            durability(settings.durability),
            durability(Durability::default()),
            ValueType::String,
            "When a record counts as stored: on stable storage (fsync) or in the page cache \
             (replicated).",
        ),
        shown(
            RETENTION_MS,
            limit(log.retention_ms),
            limit(default.retention_ms),
            ValueType::Long,
            "A segment is deleted once its newest record is older, in milliseconds; -1 keeps it.",
        ),
        shown(
            RETENTION_BYTES,
            limit(log.retention_bytes),
            limit(default.retention_bytes),
            ValueType::Long,
            "The oldest segments are deleted while the rest of the partition is as long as this, \
             in bytes; -1 keeps them.",
        ),
        shown(
            SEGMENT_BYTES,
            log.segment_bytes.to_string(),
            default.segment_bytes.to_string(),
            ValueType::Int,
            "A segment is closed before it would grow beyond this, in bytes.",
        ),
        shown(
            SEGMENT_MS,
            log.segment_ms.to_string(),
            default.segment_ms.to_string(),
            ValueType::Long,
            "A segment is closed once its first record is older, in milliseconds.",
        ),
    ];
    let constant = |name, value: &str, value_type| Shown {
        name,
        value: value.to_owned(),
        read_only: true,
        is_default: true,
        value_type,
        documentation: "The only supported value.",
    };
    all.extend(FIXED.map(|(name, value)| constant(name, value, ValueType::String)));
    let most = MAX_RECORD_BATCH_BYTES.to_string();
    all.push(constant("max.message.bytes", &most, ValueType::Int));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: Option<&str>) -> Result<TopicChange, String> {
        let mut change = TopicChange::default();
        set(&mut change, key, value, 2).map(|()| change)
    }

    #[test]
    fn what_is_shown_can_be_set_and_gives_the_same() {
        let settings = TopicSettings {
            min_isr: 3,
            durability: Durability::Replicated,
            log: LogConfig {
                retention_ms: Some(1),
                retention_bytes: Some(0),
                segment_bytes: 1 << 20,
                segment_ms: 1_000,
            },
        };
        let mut change = TopicChange::default();
        for shown in show(&settings, 2).iter().filter(|shown| !shown.read_only) {
            assert!(!shown.is_default);
            set(&mut change, shown.name, Some(&shown.value), 2).unwrap();
        }
        assert_eq!(change.min_isr, Some(3));
        assert_eq!(change.durability, Some(Durability::Replicated));
        assert_eq!(change.apply_to(LogConfig::default()), settings.log);
        for shown in show(&settings, 2) {
            if shown.name != "max.message.bytes" {
                read(shown.name, None).unwrap();
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("retention.bytes", "9223372036854775808"),
            ("segment.bytes", "-1"),
            ("segment.bytes", "1000"),
            ("segment.ms", "999"),
            ("min.insync.replicas", "0"),
            ("durability", "maybe"),
            ("cleanup.policy", "compact"),
            ("no.such.thing", "1"),
        ] {
            let error = read(key, Some(value)).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        assert_eq!(read("min.insync.replicas", None).unwrap().min_isr, Some(2));
        assert_eq!(
            read("retention.ms", Some("-1")).unwrap().retention_ms,
            Some(None)
        );
    }
}
