//! The frame of every small file that is ours: magic, kind, format version, length, body, CRC-32C.
//! All numbers are big-endian.

use rivven_core_types::{Offset, PartitionId, PartitionIndex, TopicId};

const MAGIC: [u8; 4] = *b"RVNL";
const FORMAT_VERSION: u8 = 1;
/// What the frame adds to a body, in bytes.
pub(crate) const FRAME_BYTES: usize = 4 + 1 + 1 + 4 + 4;

/// Longest partition metadata file, in bytes.
pub(crate) const MAX_SMALL_FILE_BYTES: usize = 4096;
/// Longest epoch table file, in bytes.
pub(crate) const MAX_EPOCHS_FILE_BYTES: usize = 16 << 20;
/// Longest high-watermark checkpoint, in bytes: about 2.3 million partitions.
pub(crate) const MAX_CHECKPOINT_BYTES: usize = 64 << 20;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Meta = 1,
    Epochs = 2,
    DurableMark = 3,
    Checkpoint = 4,
    Cut = 5,
    Shutdown = 6,
    StoredLogs = 7,
}

/// Frames `body`. The callers bound its length by the constants above.
pub(crate) fn seal(kind: FileKind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.push(kind as u8);
    out.push(FORMAT_VERSION);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Checks the frame and returns the body.
pub(crate) fn unseal(kind: FileKind, bytes: &[u8]) -> Result<&[u8], String> {
    let mut fields = Fields(bytes);
    let (Some(magic), Some([found]), Some([version]), Some(length)) = (
        fields.array::<4>(),
        fields.array::<1>(),
        fields.array::<1>(),
        fields.array::<4>(),
    ) else {
        return Err(format!("{} bytes are too short for a header", bytes.len()));
    };
    if magic != MAGIC {
        return Err("the magic bytes are wrong".to_owned());
    }
    if found != kind as u8 {
        return Err(format!("a file of kind {found} where {kind:?} belongs"));
    }
    if version != FORMAT_VERSION {
        return Err(format!(
            "format version {version}; this build reads {FORMAT_VERSION}"
        ));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let body = fields.take(length).ok_or("the body is cut short")?;
    let stored = fields.array().ok_or("the checksum is cut short")?;
    if !fields.0.is_empty() {
        return Err("bytes are left over after the checksum".to_owned());
    }
    let computed = crc32c::crc32c(bytes.get(..bytes.len() - 4).unwrap_or_default());
    if computed != u32::from_be_bytes(stored) {
        return Err("the checksum does not match".to_owned());
    }
    Ok(body)
}

/// Says so if the bytes begin with a frame of this kind in another format version.
pub(crate) fn other_version(kind: FileKind, bytes: &[u8]) -> Option<String> {
    let mut fields = Fields(bytes);
    let ours = fields.array() == Some(MAGIC) && fields.array() == Some([kind as u8]);
    let [version] = fields.array().filter(|_| ours)?;
    (version != FORMAT_VERSION)
        .then(|| format!("format version {version}; this build reads {FORMAT_VERSION}"))
}

/// A bounded reader of fixed-width fields.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn offset(&mut self) -> Option<Offset> {
        Offset::new(i64::from_be_bytes(self.array()?)).ok()
    }

    pub(crate) fn partition(&mut self) -> Option<PartitionId> {
        let topic = TopicId::from_bytes(self.array()?);
        let index = u32::from_be_bytes(self.array()?);
        Some(PartitionId {
            topic,
            index: PartitionIndex::new(index),
        })
    }
}

pub(crate) fn put_partition(out: &mut Vec<u8>, partition: PartitionId) {
    out.extend_from_slice(partition.topic.as_bytes());
    out.extend_from_slice(&partition.index.get().to_be_bytes());
}
