//! Anti-entropy: tables that differ are made equal, whatever gossip missed.
//!
//! Every ping and answer carries four bytes that sum up the sender's table. Where the sums stay unequal
//! the node asks for a comparison: it sends 256 sums, one per bucket of members; the peer answers with
//! what it holds in the buckets that differ, and gets the same back.

use rivven_core_types::planted;

use crate::detector::Detector;
use crate::event::{DropReason, Output};
use crate::letter::{Mail, put_update, update_of};
use crate::message::{BUCKETS, Message};
use crate::micros::Micros;
use crate::profile::Endpoint;
use crate::table::bucket_of;

/// Unequal sums in a row before a comparison is asked for, once nothing has changed here for two
/// periods: while news is on its way, sums differ without anything being missing.
const PATIENCE: u32 = 3;
/// Unequal sums in a row before a comparison is asked for although things change.
const GREAT_PATIENCE: u32 = 16;
/// Most datagrams with which one comparison is answered.
const MAX_DATAGRAMS: usize = 40;
/// Comparisons answered per period.
const MAX_ANSWERS_PER_PERIOD: u32 = 32;

/// How this node's table compares with others'.
#[derive(Debug)]
pub(crate) struct Comparison {
    unequal: u32,
    changed_at: Micros,
    next_at: Micros,
    /// Who was asked, until when its answer counts.
    asked: Option<(Endpoint, Micros)>,
    answers_left: u32,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            unequal: 0,
            changed_at: Micros(0),
            next_at: Micros(0),
            asked: None,
            answers_left: MAX_ANSWERS_PER_PERIOD,
        }
    }
}

impl Comparison {
    pub(crate) fn changed(&mut self, now: Micros) {
        self.changed_at = self.changed_at.max(now);
    }

    pub(crate) const fn refill(&mut self) {
        self.answers_left = MAX_ANSWERS_PER_PERIOD;
    }
}

impl Detector {
    /// A peer's table sums up to `digest`.
    pub(crate) fn compare(&mut self, now: Micros, mail: &Mail, digest: u32, out: &mut Vec<Output>) {
        if digest == self.table.digest() || planted("swim.never-compares") {
            self.comparison.unequal = 0;
            return;
        }
        let comparison = &mut self.comparison;
        comparison.unequal = comparison.unequal.saturating_add(1);
        let quiet = now - comparison.changed_at >= self.timing.interval.times(2);
        let wanted = if quiet { PATIENCE } else { GREAT_PATIENCE };
        if comparison.unequal >= wanted && comparison.next_at <= now && !self.me.left {
            self.request_sync(now, mail, out);
        }
    }

    pub(crate) fn request_sync(&mut self, now: Micros, mail: &Mail, out: &mut Vec<Output>) {
        let interval = self.timing.interval;
        let jitter = Micros(self.rng.below(interval.0));
        self.comparison.unequal = 0;
        self.comparison.next_at = now + interval.times(2) + jitter;
        self.comparison.asked = Some((mail.sender, now + interval.times(2)));
        let mut sums = Vec::with_capacity(BUCKETS * 4);
        for sum in self.table.sums() {
            sums.extend_from_slice(&sum.to_be_bytes());
        }
        let mut letter = self.answer(mail);
        letter.introduce = true;
        self.send(now, &letter, Message::SyncRequest { sums: &sums }, out);
    }

    pub(crate) fn answer_sync(
        &mut self,
        now: Micros,
        mail: &Mail,
        sums: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let mut buckets = [0u8; BUCKETS / 8];
        let theirs = sums.chunks_exact(4);
        for (bucket, (theirs, ours)) in theirs.zip(self.table.sums()).enumerate() {
            if theirs != ours.to_be_bytes() {
                set_bit(&mut buckets, bucket);
            }
        }
        if buckets.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let left = self.comparison.answers_left.checked_sub(1);
        self.comparison.answers_left = left.ok_or(DropReason::Overloaded)?;
        let message = Message::SyncRows { buckets: &buckets };
        self.send_rows(now, mail, message, &buckets, out);
        Ok(())
    }

    pub(crate) fn finish_sync(
        &mut self,
        now: Micros,
        mail: &Mail,
        buckets: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        // Only who was asked gets an answer, once.
        let asked = self.comparison.asked.take();
        let Some((_, until)) = asked.filter(|(peer, _)| *peer == mail.sender) else {
            self.comparison.asked = asked;
            return Ok(());
        };
        if until >= now {
            let digest = self.table.digest();
            self.send_rows(now, mail, Message::Gossip { digest }, buckets, out);
        }
        Ok(())
    }

    /// Sends what is held in these buckets, this node included, in as many datagrams as it takes up to
    /// the bound; what is left over the next comparison brings.
    fn send_rows(
        &mut self,
        now: Micros,
        mail: &Mail,
        first: Message<'_>,
        buckets: &[u8],
        out: &mut Vec<Output>,
    ) {
        let mut letter = self.answer(mail);
        letter.about = None;
        let end = self.envelope.body_end();
        let ttl = self.timing.tombstone_ttl;
        let digest = self.table.digest();
        let mut bytes = self.envelope.begin(&letter.binding);
        first.put(&mut bytes, letter.ask_introduction);
        let mut sent = 0;
        if bucket_bit(buckets, bucket_of(self.me.id())) {
            put_update(&mut bytes, end, &self.me.update(true));
        }
        // Not always from the same end: what does not fit this time does the next.
        let total = self.table.len();
        let skip = usize::try_from(self.rng.below(total as u64 + 1)).unwrap_or(0);
        let rows = self
            .table
            .iter()
            .skip(skip)
            .chain(self.table.iter().take(skip));
        for (slot, profile, _) in rows {
            if !bucket_bit(buckets, bucket_of(profile.id())) {
                continue;
            }
            let Some(update) = update_of(&self.table, slot, now, ttl, true) else {
                continue;
            };
            if put_update(&mut bytes, end, &update) {
                continue;
            }
            sent += 1;
            if sent == MAX_DATAGRAMS {
                break;
            }
            let payload = self.envelope.seal(bytes, &letter.binding);
            let to = letter.to.clone();
            out.push(Output::Send { to, payload });
            bytes = self.envelope.begin(&letter.binding);
            Message::Gossip { digest }.put(&mut bytes, false);
            put_update(&mut bytes, end, &update);
        }
        let payload = self.envelope.seal(bytes, &letter.binding);
        let to = letter.to.clone();
        out.push(Output::Send { to, payload });
    }
}

fn set_bit(buckets: &mut [u8], bucket: usize) {
    if let Some(byte) = buckets.get_mut(bucket / 8) {
        *byte |= 1 << (bucket % 8);
    }
}

fn bucket_bit(buckets: &[u8], bucket: usize) -> bool {
    let byte = buckets.get(bucket / 8).copied().unwrap_or(0);
    byte >> (bucket % 8) & 1 == 1
}
