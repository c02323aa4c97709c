use rivven_core_types::{LogStore, Rng, SyncBy};

use super::*;

/// What a log must still have: its stored batches by base offset, and how far they are durable.
struct Kept {
    start: Offset,
    durable: Offset,
    bytes: Vec<u8>,
}

fn kept(log: &SegmentLog) -> Kept {
    let durable = log.durable_end();
    Kept {
        start: log.log_start(),
        durable,
        bytes: contents(log, durable).unwrap(),
    }
}

/// Random work; the log may stop anywhere within it.
fn work(log: &mut SegmentLog, rng: &mut Rng, epoch: &mut i32) {
    // A flush that has run, but whose end the log has not heard of.
    let mut late = None;
    for _ in 0..rng.below(30) {
        match rng.below(12) {
            0 => {
                *epoch += 1;
                log.assign_epoch(e(*epoch), log.log_end()).unwrap();
            }
            1 => {
                let kept = log.log_end().since(log.log_start());
                let back = rng.below(kept.min(12) + 1);
                let end = o(log.log_end().get() - i64::try_from(back).unwrap());
                log.truncate_to(end).unwrap();
                *epoch += 1;
                log.assign_epoch(e(*epoch), log.log_end()).unwrap();
            }
            2 => {
                let kept = log.log_end().since(log.log_start());
                let start = log.log_start().checked_add(rng.below(kept + 1)).unwrap();
                if rng.below(3) == 0 {
                    log.trim_start(start).unwrap();
                }
            }
            3 | 4 => match late.take() {
                Some((end, generation)) => log.finish_flush(end, generation, Ok(())).unwrap(),
                None => flush(log),
            },
            5 if late.is_none() => {
                if let Some(ticket) = log.begin_flush() {
                    (ticket.job)(SyncBy::Job).unwrap();
                    late = Some((ticket.end, ticket.generation));
                }
            }
            _ => {
                let size = usize::try_from(rng.below(1500)).unwrap();
                let size = if rng.below(20) == 0 { 20_000 } else { size };
                let records = usize::try_from(rng.below(4)).unwrap() + 1;
                let fill = u8::try_from(rng.below(255)).unwrap();
                let batch = batch(records, &vec![fill; size / records], 0);
                log.append_as_leader(e(*epoch), &batch).unwrap();
            }
        }
    }
}

/// What a seed came to.
#[derive(Debug, Default)]
pub(super) struct Losses {
    losses: u32,
    cuts: u32,
}

/// One log through six lives. Panics if something durable is missing or something invalid is served.
pub(super) fn run(seed: u64) -> Losses {
    let mut came = Losses::default();
    let rng = &mut Rng::new(seed);
    let mut vfs = MemVfs::new();
    let mut epoch = 0;
    let config = SegmentLogConfig {
        segment_bytes: 4000,
        index_interval_bytes: 500,
        max_open_files: 2,
    };
    let open = |vfs: &MemVfs| {
        let store = SegmentLogStore::open(DIR, Arc::new(vfs.clone()), config.clone());
        let opened = store.unwrap().open_log(partition());
        opened.unwrap_or_else(|e| panic!("seed {seed}: {e}"))
    };
    let (mut log, _) = open(&vfs);
    log.assign_epoch(e(0), o(0)).unwrap();
    for _ in 0..6 {
        work(&mut log, rng, &mut epoch);
        let before = kept(&log);
        let end = log.log_end();
        vfs = if rng.below(4) == 0 {
            vfs.restart_process()
        } else {
            came.losses += 1;
            vfs.lose_power(rng)
        };
        let (reopened, cut) = open(&vfs);
        log = reopened;
        came.cuts += u32::from(cut > 0);
        store(&vfs).acknowledge_cut(partition()).unwrap();
        log.verify().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(log.log_start(), before.start, "seed {seed}");
        assert!(log.log_end() >= before.durable, "seed {seed}");
        assert!(log.log_end() <= end, "seed {seed}");
        assert_eq!(log.durable_end(), log.log_end());
        let after = contents(&log, before.durable).unwrap();
        assert!(after == before.bytes, "seed {seed}: durable bytes changed");
        epoch += 1;
        log.assign_epoch(e(epoch), log.log_end()).unwrap();
    }
    came
}

#[test]
fn no_durable_record_is_lost_and_nothing_invalid_is_served_after_power_losses() {
    let asked = std::env::var("RIVVEN_SEGMENT_LOG_SEEDS").ok();
    let seeds = asked.map_or(2_000, |seeds| seeds.parse().unwrap());
    let (mut losses, mut cuts) = (0, 0);
    for seed in 0..seeds {
        let came = run(seed);
        losses += came.losses;
        cuts += came.cuts;
    }
    assert!(losses > 6_400 && cuts > 400, "{losses} losses, {cuts} cuts");
}

#[test]
fn what_is_durable_after_a_reopen_survives_a_power_loss_at_once() {
    for seed in 0..20 {
        let vfs = MemVfs::new();
        let (mut log, _) = open(&vfs);
        fill(&mut log, 0, 20);
        // Killed with nothing flushed: segments and their names are in the page cache only.
        let vfs = vfs.restart_process();
        let (log, _) = open(&vfs);
        assert_eq!(log.durable_end(), o(40));
        let before = everything(&log);
        let (log, cut) = open(&vfs.lose_power(&mut Rng::new(seed)));
        assert_eq!((cut, everything(&log)), (0, before), "seed {seed}");
    }
}

#[test]
fn a_loss_stays_known_through_crashes_until_it_is_acknowledged() {
    let mut cuts = 0;
    for seed in 0..60 {
        let rng = &mut Rng::new(seed);
        let vfs = MemVfs::new();
        let (mut log, _) = open(&vfs);
        fill(&mut log, 0, 6);
        flush(&mut log);
        fill(&mut log, 0, 6);
        let vfs = vfs.lose_power(rng);
        let (_, cut) = open(&vfs);
        cuts += u32::from(cut > 0);
        let (_, again) = open(&vfs.lose_power(rng));
        assert_eq!(again, cut, "seed {seed}");
    }
    assert!(cuts > 5, "{cuts} cuts");
}
