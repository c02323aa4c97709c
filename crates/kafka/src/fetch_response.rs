//! The Fetch response, written without copying records.
//!
//! The generated encoder copies every record into its buffer; this is the one message where that
//! matters, so its bytes are laid out here and compared with the generated ones in the tests.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

use crate::api::Call;
use crate::error::CurrentLeader;
use crate::frame::{EncodeError, Frame, put_header};
use crate::snapshot::BrokerInfo;

/// What stands for "unknown" in a partition's offsets.
const NO_OFFSET: i64 = -1;

/// One partition's answer.
#[derive(Debug, Clone)]
pub(crate) struct PartitionAnswer {
    pub(crate) index: i32,
    pub(crate) error: i16,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) leader: Option<CurrentLeader>,
    pub(crate) records: Bytes,
}

impl PartitionAnswer {
    /// A partition that could not be read.
    pub(crate) const fn failed(index: i32, error: i16, leader: Option<CurrentLeader>) -> Self {
        Self {
            index,
            error,
            high_watermark: NO_OFFSET,
            log_start: NO_OFFSET,
            leader,
            records: Bytes::new(),
        }
    }
}

/// One topic's answers; by name up to version 12, by id from 13.
#[derive(Debug, Clone)]
pub(crate) struct TopicAnswer {
    pub(crate) name: StrBytes,
    pub(crate) id: [u8; 16],
    pub(crate) partitions: Vec<PartitionAnswer>,
}

/// A Fetch response. Its session id is always 0: no sessions are kept (KIP-227 allows that).
#[derive(Debug, Clone, Default)]
pub(crate) struct FetchResponse {
    pub(crate) error: i16,
    pub(crate) read_committed: bool,
    pub(crate) topics: Vec<TopicAnswer>,
    /// Where the leaders named in `topics` are (KIP-951).
    pub(crate) endpoints: Vec<BrokerInfo>,
}

impl FetchResponse {
    /// Lays the response out. Records become slices of their own between the bytes around them.
    pub(crate) fn write(self, call: Call) -> Result<Frame, EncodeError> {
        let mut writer = Writer {
            parts: VecDeque::new(),
            head: BytesMut::with_capacity(256),
            version: call.version,
            flexible: call.api.is_flexible(call.version),
        };
        put_header(&mut writer.head, call);
        writer.response(self)?;
        let Writer {
            mut parts, head, ..
        } = writer;
        parts.push_back(head.freeze());
        Frame::seal(parts)
    }
}

struct Writer {
    parts: VecDeque<Bytes>,
    head: BytesMut,
    version: i16,
    flexible: bool,
}

impl Writer {
    fn response(&mut self, response: FetchResponse) -> Result<(), EncodeError> {
        self.head.put_i32(0); // throttle time
        if self.version >= 7 {
            self.head.put_i16(response.error);
            self.head.put_i32(0); // session id
        }
        self.array_length(response.topics.len())?;
        for topic in response.topics {
            if self.version >= 13 {
                self.head.put_slice(&topic.id);
            } else {
                self.string(&topic.name)?;
            }
            self.array_length(topic.partitions.len())?;
            for partition in topic.partitions {
                self.partition(partition, response.read_committed)?;
            }
            self.no_tags();
        }
        if self.version >= 16 && !response.endpoints.is_empty() {
            let mut endpoints = self.nested();
            endpoints.array_length(response.endpoints.len())?;
            for broker in &response.endpoints {
                endpoints.endpoint(broker)?;
            }
            put_varint(&mut self.head, 1);
            self.tag(0, &endpoints.head)?;
        } else {
            self.no_tags();
        }
        Ok(())
    }

    fn partition(&mut self, answer: PartitionAnswer, committed: bool) -> Result<(), EncodeError> {
        self.head.put_i32(answer.index);
        self.head.put_i16(answer.error);
        self.head.put_i64(answer.high_watermark);
        // Without transactions the last stable offset is the high watermark.
        self.head.put_i64(answer.high_watermark);
        if self.version >= 5 {
            self.head.put_i64(answer.log_start);
        }
        // Aborted transactions: none for a reader of committed records, null for the others.
        match (committed, self.flexible) {
            (true, true) => self.head.put_u8(1),
            (true, false) => self.head.put_i32(0),
            (false, true) => self.head.put_u8(0),
            (false, false) => self.head.put_i32(-1),
        }
        if self.version >= 11 {
            self.head.put_i32(-1); // preferred read replica
        }
        self.array_length(answer.records.len())?;
        if !answer.records.is_empty() {
            self.parts.push_back(self.head.split().freeze());
            self.parts.push_back(answer.records);
        }
        match answer.leader.filter(|_| self.version >= 12) {
            Some(leader) => {
                let mut tagged = self.nested();
                tagged.head.put_i32(leader.broker.get());
                tagged.head.put_i32(leader.epoch.get());
                tagged.no_tags();
                put_varint(&mut self.head, 1);
                self.tag(1, &tagged.head)?;
            }
            None => self.no_tags(),
        }
        Ok(())
    }

    fn endpoint(&mut self, broker: &BrokerInfo) -> Result<(), EncodeError> {
        self.head.put_i32(broker.id.get());
        self.string(&broker.host)?;
        self.head.put_i32(i32::from(broker.port));
        match &broker.rack {
            Some(rack) => self.string(rack.as_str())?,
            None => put_varint(&mut self.head, 0),
        }
        self.no_tags();
        Ok(())
    }

    fn nested(&self) -> Self {
        Self {
            parts: VecDeque::new(),
            head: BytesMut::new(),
            version: self.version,
            flexible: self.flexible,
        }
    }

    fn tag(&mut self, tag: u32, content: &[u8]) -> Result<(), EncodeError> {
        put_varint(&mut self.head, tag);
        let length = content.len();
        put_varint(
            &mut self.head,
            u32::try_from(length).map_err(|_| EncodeError::TooLong(length))?,
        );
        self.head.put_slice(content);
        Ok(())
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.head.put_u8(0);
        }
    }

    /// The length of an array or of bytes.
    fn array_length(&mut self, length: usize) -> Result<(), EncodeError> {
        let wide = i32::try_from(length).map_err(|_| EncodeError::TooLong(length))?;
        if self.flexible {
            put_varint(&mut self.head, wide.cast_unsigned() + 1);
        } else {
            self.head.put_i32(wide);
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), EncodeError> {
        let length = text.len();
        let narrow = i16::try_from(length).map_err(|_| EncodeError::TooLong(length))?;
        if self.flexible {
            put_varint(&mut self.head, u32::from(narrow.cast_unsigned()) + 1);
        } else {
            self.head.put_i16(narrow);
        }
        self.head.put_slice(text.as_bytes());
        Ok(())
    }
}

fn put_varint(bytes: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        bytes.put_u8(u8::try_from(value & 0x7f).unwrap_or(0x7f) | 0x80);
        value >>= 7;
    }
    bytes.put_u8(u8::try_from(value).unwrap_or(0x7f));
}
