//! What a fuzzer needs to get behind the checksum. Only with feature `fuzzing`.

use rivven_core_types::NodeName;

use crate::profile::MemberId;

/// Puts the checksum of a changed datagram right, as an unauthenticated sender to `receiver` makes it.
pub fn reseal(receiver: &NodeName, datagram: &mut [u8]) {
    crate::envelope::reseal(MemberId::of(receiver), datagram);
}
