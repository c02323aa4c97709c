use rivven_core_types::{EpochEnd, Rng};

use super::*;

/// The log as the port describes it, as simply as it can be said.
#[derive(Default)]
struct Model {
    start: i64,
    end: i64,
    batches: Vec<RecordBatch>,
    epochs: Vec<(i32, i64)>,
}

impl Model {
    fn append(&mut self, batch: RecordBatch) {
        self.end = batch.header().end_offset().unwrap().get();
        self.batches.push(batch);
    }

    fn assign(&mut self, epoch: i32) {
        let end = self.end;
        self.epochs.retain(|(e, s)| *e < epoch && *s < end);
        self.epochs.push((epoch, end));
    }

    fn reset(&mut self, start: i64) {
        *self = Self {
            start,
            end: start,
            ..Self::default()
        };
    }

    fn truncate(&mut self, end: i64) {
        let mut cut = end;
        while let Some(last) = self.batches.last()
            && last.header().end_offset().unwrap().get() > end
        {
            cut = last.header().base_offset;
            self.end = cut;
            self.batches.pop();
        }
        if cut < self.start {
            return self.reset(self.start);
        }
        self.epochs.retain(|(_, s)| *s < cut);
    }

    fn trim(&mut self, start: i64) {
        if start <= self.start {
            return;
        }
        self.start = start;
        let first = self.epochs.iter().rposition(|(_, s)| *s <= start);
        if let Some(first) = first {
            self.epochs.drain(..first);
            self.epochs[0].1 = start;
        }
    }

    fn epoch_end(&self, epoch: i32) -> Option<EpochEnd> {
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            return None;
        }
        let i = self.epochs.iter().rposition(|(e, _)| *e <= epoch)?;
        let end = self.epochs.get(i + 1).map_or(self.end, |(_, s)| *s);
        Some(EpochEnd {
            epoch: e(self.epochs[i].0),
            end: o(end),
        })
    }

    fn read(&self, from: i64, limit: i64, max: usize) -> (Vec<u8>, i64) {
        let (mut bytes, mut next) = (Vec::new(), from);
        for batch in &self.batches {
            let end = batch.header().end_offset().unwrap().get();
            if end <= from {
                continue;
            }
            let fits = bytes.is_empty() || bytes.len() + batch.bytes().len() <= max;
            if end > limit.min(self.end) || !fits {
                break;
            }
            bytes.extend_from_slice(batch.bytes());
            next = end;
        }
        (bytes, next)
    }
}

fn between(rng: &mut Rng, low: i64, high: i64) -> i64 {
    let width = u64::try_from(high - low + 1).unwrap();
    low + i64::try_from(rng.below(width)).unwrap()
}

fn compare(log: &SegmentLog, model: &Model, rng: &mut Rng) {
    assert_eq!(log.log_start().get(), model.start);
    assert_eq!(log.log_end().get(), model.end);
    let stored: u64 = log.segments.iter().map(|s| s.length).sum();
    assert_eq!(log.size_bytes(), stored);
    assert!(log.log_start() <= log.durable_end() && log.durable_end() <= log.log_end());
    let last = model.epochs.last().map(|(epoch, _)| e(*epoch));
    assert_eq!(log.last_epoch(), last);
    let epoch = between(rng, 0, 60);
    let epoch = i32::try_from(epoch).unwrap() + last.map_or(0, |l| l.get() - 50).max(0);
    assert_eq!(log.epoch_end(e(epoch)), model.epoch_end(epoch));
    let from = between(rng, model.start, model.end);
    let limit = between(rng, model.start, model.end + 2);
    let max = usize::try_from(rng.below(900)).unwrap();
    let slice = log.read(o(from), o(limit), max).unwrap();
    let (bytes, next) = model.read(from, limit, max);
    // A read may stop at the end of a segment.
    assert!(bytes.starts_with(&slice.bytes));
    assert_eq!(slice.bytes.is_empty(), bytes.is_empty());
    assert!(slice.next.get() <= next);
}

fn step(log: &mut SegmentLog, model: &mut Model, rng: &mut Rng) {
    let last = model.epochs.last().map_or(-1, |(epoch, _)| *epoch);
    match rng.below(100) {
        0..60 if last >= 0 => {
            let records = usize::try_from(rng.below(4)).unwrap() + 1;
            let value = vec![b'v'; usize::try_from(rng.below(120)).unwrap()];
            let epoch = last + i32::from(rng.below(20) == 0);
            let stamped = batch(records, &value, model.end).restamped(o(model.end), e(epoch));
            if epoch == last && rng.below(2) == 0 {
                log.append_as_leader(e(epoch), &stamped).unwrap();
            } else {
                log.append_replicated_batch(&stamped).unwrap();
                if epoch != last {
                    model.assign(epoch);
                }
            }
            model.append(stamped);
        }
        0..68 => {
            let epoch = last + 1 + i32::from(rng.below(3) == 0);
            log.assign_epoch(e(epoch), o(model.end)).unwrap();
            model.assign(epoch);
        }
        68..78 => {
            let low = model.start.max(model.end - 15);
            let end = between(rng, low, model.end + 1);
            let found = log.truncate_to(o(end)).unwrap();
            model.truncate(end);
            assert_eq!(found.get(), model.end);
        }
        78..82 => {
            let start = between(rng, model.start, model.end);
            let start = if rng.below(2) == 0 {
                model.start
            } else {
                start
            };
            log.trim_start(o(start)).unwrap();
            model.trim(start);
        }
        82 => {
            let start = between(rng, 0, model.end + 100);
            log.reset_to(o(start)).unwrap();
            model.reset(start);
            if rng.below(2) == 0 && start > 2 {
                let around = at(start - 2, 1, 5);
                log.append_replicated_batch(&around).unwrap();
                model.assign(1);
                model.append(around);
            }
        }
        _ => flush(log),
    }
}

#[test]
fn the_log_does_what_a_simple_model_does() {
    let mut reopened = 0;
    for seed in 0..60 {
        let rng = &mut Rng::new(seed);
        let mut vfs = MemVfs::new();
        let (mut log, _) = open(&vfs);
        let mut model = Model::default();
        for _ in 0..400 {
            step(&mut log, &mut model, rng);
            compare(&log, &model, rng);
            if rng.below(50) == 0 {
                vfs = vfs.restart_process();
                let (again, cut) = open(&vfs);
                assert_eq!(cut, 0, "seed {seed}");
                log = again;
                log.verify().unwrap();
                compare(&log, &model, rng);
                reopened += 1;
            }
        }
    }
    assert!(reopened > 200);
}
