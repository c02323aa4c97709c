//! The frame codec: a fixed header of 24 bytes, a message part (postcard), a body (raw bytes), and,
//! on a connection with a session key, a seal of 16 bytes.

mod codec;
mod header;
mod parts;
mod seal;

pub use codec::{
    Frame, FrameDecoder, FrameEncoder, GROWTH_STEP_BYTES, MAX_SLICES, PART_BYTES, WriteBatch,
    lane_limit,
};
pub use header::{FrameHeader, FrameType, HEADER_BYTES};
pub use parts::{Assembler, MAX_OPEN_BODIES};
pub use seal::{FrameSeal, SEAL_BYTES};
