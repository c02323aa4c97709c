//! Bodies that come in parts, put together.

use bytes::{Bytes, BytesMut};

use super::codec::{Frame, PART_BYTES};
use super::header::FrameHeader;
use crate::error::FrameError;

/// Bodies in parts that one direction of a connection may have begun and not ended. The sender begins
/// no more, so that the receiver's memory is bounded by this many of the lane's longest.
pub const MAX_OPEN_BODIES: usize = 4;

/// Puts bodies together that come in parts. `T` is what the receiver holds for the memory of one.
#[derive(Debug)]
pub struct Assembler<T> {
    open: Vec<Assembly<T>>,
}

#[derive(Debug)]
struct Assembly<T> {
    header: FrameHeader,
    meta: Bytes,
    /// `None`: there is no memory for it, its parts are dropped as they come.
    kept: Option<(BytesMut, T)>,
    missing: usize,
}

impl<T> Default for Assembler<T> {
    fn default() -> Self {
        Self { open: Vec::new() }
    }
}

impl<T> Assembler<T> {
    /// Whether no body has been begun and not ended.
    pub const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Begins the body that `frame` announces. Without a `ticket` its parts are dropped. The memory for
    /// all of it is taken here: the ticket stands for it. After an error the connection must be closed.
    pub fn begin(&mut self, frame: Frame, ticket: Option<T>) -> Result<(), FrameError> {
        if self.open.len() >= MAX_OPEN_BODIES {
            return Err(FrameError::Parts("too many at once"));
        }
        let Frame { header, meta, .. } = frame;
        if self.position(header.correlation).is_some() {
            return Err(FrameError::Parts("one was announced twice"));
        }
        let missing = usize::try_from(header.body_len).unwrap_or(usize::MAX);
        if missing <= PART_BYTES {
            return Err(FrameError::Parts("one is short enough for a single frame"));
        }
        self.open.push(Assembly {
            header,
            meta,
            kept: ticket.map(|ticket| (BytesMut::with_capacity(missing), ticket)),
            missing,
        });
        Ok(())
    }

    /// Takes a part; the whole, as one frame, when it was the last one of a body that is kept. After an
    /// error the connection must be closed.
    pub fn part(&mut self, frame: &Frame) -> Result<Option<(Frame, T)>, FrameError> {
        let at = self.position(frame.header.correlation);
        let at = at.ok_or(FrameError::Parts("one that was not announced"))?;
        let Some(assembly) = self.open.get_mut(at) else {
            return Ok(None);
        };
        let length = frame.body.len();
        if length == 0 || !frame.meta.is_empty() || length > assembly.missing {
            return Err(FrameError::Parts("one that does not fit its announcement"));
        }
        assembly.missing -= length;
        if let Some((body, _)) = &mut assembly.kept {
            body.extend_from_slice(&frame.body);
        }
        if assembly.missing > 0 {
            return Ok(None);
        }
        let Assembly {
            mut header,
            meta,
            kept,
            ..
        } = self.open.swap_remove(at);
        header.in_parts = false;
        Ok(kept.map(|(body, ticket)| {
            let body = body.freeze();
            (Frame { header, meta, body }, ticket)
        }))
    }

    /// The bodies that are kept and not whole yet, by their correlation ids.
    pub fn half_read(&self) -> impl Iterator<Item = u32> + '_ {
        let kept = self.open.iter().filter(|open| open.kept.is_some());
        kept.map(|open| open.header.correlation)
    }

    /// Gives back the memory of those bodies of which `over` says, by announcement and ticket, that
    /// nobody waits for them any more. Parts of them that still come are dropped.
    pub fn release(&mut self, over: impl Fn(&FrameHeader, &T) -> bool) {
        for open in &mut self.open {
            let header = &open.header;
            open.kept.take_if(|(_, ticket)| over(header, ticket));
        }
    }

    /// Forgets the body that the sender has given up. It sends no more parts of it.
    pub fn forget(&mut self, correlation: u32) {
        if let Some(at) = self.position(correlation) {
            self.open.swap_remove(at);
        }
    }

    fn position(&self, correlation: u32) -> Option<usize> {
        self.open
            .iter()
            .position(|open| open.header.correlation == correlation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FrameType;

    fn announced(correlation: u32, length: usize) -> Frame {
        let mut header = FrameHeader::new(1, FrameType::Request);
        header.correlation = correlation;
        header.in_parts = true;
        header.body_len = u32::try_from(length).unwrap();
        Frame {
            header,
            meta: Bytes::from_static(b"meta"),
            body: Bytes::new(),
        }
    }

    fn part(correlation: u32, body: &[u8]) -> Frame {
        let mut header = FrameHeader::new(1, FrameType::Part);
        header.correlation = correlation;
        Frame {
            header,
            meta: Bytes::new(),
            body: Bytes::copy_from_slice(body),
        }
    }

    const LENGTH: usize = PART_BYTES + 10;

    #[test]
    fn parts_that_do_not_fit_together_are_errors() {
        let wrong = |frames: &[Frame]| {
            let mut assembler = Assembler::default();
            assembler.begin(announced(1, LENGTH), Some(())).unwrap();
            frames.iter().try_fold((), |(), frame| {
                let outcome = if frame.header.in_parts {
                    assembler.begin(frame.clone(), Some(()))
                } else {
                    assembler.part(frame).map(|_| ())
                };
                assert!(matches!(outcome, Ok(()) | Err(FrameError::Parts(_))));
                outcome
            })
        };
        let whole = vec![0; PART_BYTES];
        assert!(wrong(&[part(1, &whole), part(1, &[0; 10])]).is_ok());
        assert!(wrong(&[part(1, &whole), part(1, &[0; 11])]).is_err());
        assert!(wrong(&[part(2, &whole)]).is_err());
        assert!(wrong(&[part(1, &[])]).is_err());
        assert!(wrong(&[part(1, &whole), part(1, &[0; 10]), part(1, &[0])]).is_err());
        assert!(wrong(&[announced(1, LENGTH)]).is_err());
        assert!(wrong(&[announced(2, PART_BYTES)]).is_err());
        let many: Vec<_> = (2..6).map(|n| announced(n, LENGTH)).collect();
        assert!(wrong(&many[..3]).is_ok());
        assert!(wrong(&many).is_err());
    }

    #[test]
    fn what_is_given_up_or_has_no_ticket_leaves_nothing() {
        let mut assembler = Assembler::default();
        assembler.begin(announced(1, LENGTH), Some(())).unwrap();
        assembler.begin(announced(2, LENGTH), None).unwrap();
        assert_eq!(assembler.half_read().collect::<Vec<_>>(), [1]);
        assembler.forget(1);
        assert!(assembler.part(&part(1, &[0])).is_err());
        assert_eq!(assembler.part(&part(2, &vec![0; PART_BYTES])), Ok(None));
        assert_eq!(assembler.part(&part(2, &[0; 10])), Ok(None));
        assert!(assembler.is_empty());
    }

    #[test]
    fn what_is_released_gives_its_ticket_back_and_takes_its_late_parts() {
        let mut assembler = Assembler::default();
        let tickets = [std::rc::Rc::new(()), std::rc::Rc::new(())];
        for (id, ticket) in (1..).zip(&tickets) {
            let ticket = Some(std::rc::Rc::clone(ticket));
            assembler.begin(announced(id, LENGTH), ticket).unwrap();
        }
        assembler.release(|header, _| header.correlation == 1);
        assert_eq!(tickets.each_ref().map(std::rc::Rc::strong_count), [1, 2]);
        assert_eq!(assembler.half_read().collect::<Vec<_>>(), [2]);
        for id in [1, 2] {
            assert_eq!(assembler.part(&part(id, &vec![0; PART_BYTES])), Ok(None));
        }
        assert_eq!(assembler.part(&part(1, &[0; 10])), Ok(None));
        assert!(assembler.part(&part(2, &[0; 10])).unwrap().is_some());
        assert!(assembler.is_empty());
    }

    proptest! {
        #[test]
        fn bodies_interleaved_in_any_order_come_out_whole(
            lengths in proptest::collection::vec(PART_BYTES + 1..4 * PART_BYTES, 1..=MAX_OPEN_BODIES),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 64),
            step in 1usize..PART_BYTES,
        ) {
            let mut assembler = Assembler::default();
            let bodies: Vec<Vec<u8>> = lengths
                .iter()
                .map(|&length| (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect())
                .collect();
            for (id, length) in (1u32..).zip(&lengths) {
                assembler.begin(announced(id, *length), Some(id)).unwrap();
            }
            let mut sent = vec![0; bodies.len()];
            let mut whole = Vec::new();
            let mut order = order.into_iter().cycle();
            while whole.len() < bodies.len() {
                let at = order.next().unwrap().index(bodies.len());
                let at = (0..bodies.len()).map(|n| (at + n) % bodies.len()).find(|&at| sent[at] < bodies[at].len()).unwrap();
                let end = (sent[at] + step).min(bodies[at].len());
                let id = u32::try_from(at).unwrap() + 1;
                if let Some((frame, ticket)) = assembler.part(&part(id, &bodies[at][sent[at]..end])).unwrap() {
                    prop_assert_eq!(ticket, id);
                    prop_assert!(!frame.header.in_parts);
                    prop_assert_eq!(&frame.body[..], &bodies[at][..]);
                    whole.push(id);
                }
                sent[at] = end;
            }
            prop_assert!(assembler.is_empty());
        }
    }
}
