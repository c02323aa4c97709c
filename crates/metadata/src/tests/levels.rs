//! Nodes of several builds in one cluster: which level is active, and who may be in it.

use rivven_core_types::{ApplyStop, RestoreError, StateMachine};

use super::support::{Cluster, b, entry, machine, registration, topic_name};
use crate::{
    Command, CommandResult, LevelCommand, LevelRange, MetadataLevel, Registration, Rejection,
    TOPIC_OF_LEVEL_2,
};

fn range(min: u16, max: u16) -> LevelRange {
    let (min, max) = (MetadataLevel::new(min), MetadataLevel::new(max));
    LevelRange { min, max }
}

/// Registers broker `n` with a build that understands the levels `min` to `max`.
pub(super) fn upgrade(n: i32, life: u8, min: u16, max: u16) -> Command {
    let Command::RegisterBroker {
        info,
        incarnation,
        raft_id,
        log_dir,
        lossy,
    } = registration(n, life, &[])
    else {
        unreachable!("it is a registration");
    };
    Command::Level(LevelCommand::Register(Registration {
        info,
        incarnation,
        raft_id,
        log_dir,
        lossy,
        levels: range(min, max),
    }))
}

pub(super) fn raise(from: u16, to: u16) -> Command {
    let (from, to) = (MetadataLevel::new(from), MetadataLevel::new(to));
    Command::Level(LevelCommand::Raise { from, to })
}

/// A cluster whose every node runs a build that understands these levels.
pub(super) fn blank(min: u16, max: u16) -> Cluster {
    let mut c = Cluster::blank();
    let (fresh, published) = machine();
    c.machine = Box::new(fresh.supporting(range(min, max)));
    c.published = published;
    c
}

/// A command of the second level.
pub(super) fn later_command() -> Command {
    Command::DeleteTopic {
        name: topic_name(TOPIC_OF_LEVEL_2),
    }
}

/// Such a cluster, formed.
fn cluster(min: u16, max: u16) -> Cluster {
    let mut c = blank(min, max);
    c.ok(&Command::FormCluster {
        cluster_id: rivven_core_types::ClusterId::from_bytes([1; 16]),
    });
    c
}

/// With one broker of an older build in the cluster, a raised level would stop that one at the first
/// new command.
#[test]
fn the_level_rises_once_every_registered_broker_understands_it() {
    let mut c = cluster(1, 3);
    assert_eq!(c.state().next_level(), None, "nobody is registered");
    c.ok(&upgrade(1, 1, 1, 2));
    c.ok(&upgrade(2, 1, 1, 3));
    // A build that does not say understands the first level.
    c.register(3, 1, &[]);
    assert_eq!(c.state().next_level(), None);
    assert_eq!(
        c.refused(&raise(1, 2)),
        Rejection::LevelUnsupported {
            broker: Some(b(3)),
            level: MetadataLevel::new(2),
            levels: LevelRange::UNSAID,
        }
    );
    // It is restarted with the new build.
    c.ok(&upgrade(3, 1, 1, 2));
    assert_eq!(c.state().next_level(), Some(MetadataLevel::new(2)));
    assert!(matches!(
        c.refused(&raise(1, 3)),
        Rejection::LevelUnsupported { .. }
    ));
    let level = MetadataLevel::new(2);
    let raised = CommandResult::LevelActive { level };
    assert_eq!(c.ok(&raise(1, 2)), raised);
    let hash = c.state().hash();
    assert_eq!(c.ok(&raise(1, 2)), raised, "again it changes nothing");
    assert_eq!(c.state().hash(), hash);
    assert_eq!(c.state().next_level(), None);
}

#[test]
fn the_level_never_falls_and_builds_on_the_one_that_is_active() {
    let mut c = cluster(1, 9);
    c.ok(&upgrade(1, 1, 1, 9));
    let active = MetadataLevel::new(5);
    c.ok(&raise(1, 5));
    for (from, to) in [(5, 4), (1, 6), (4, 6)] {
        let found = MetadataLevel::new(from);
        let stale = Rejection::StaleLevel { found, active };
        assert_eq!(c.refused(&raise(from, to)), stale);
    }
    c.ok(&raise(5, 6));
}

/// Its leaderships would move to nobody's use: it must not even take the place of its earlier life.
#[test]
fn a_build_that_does_not_understand_the_active_level_is_not_registered() {
    let mut c = cluster(1, 9);
    for n in 1..=2 {
        c.ok(&upgrade(n, 1, 1, 9));
        c.unfence(n);
    }
    let p = c.topic(1, &[1, 2], 1);
    c.ok(&raise(1, 4));
    let before = c.state().hash();
    for refused in [
        upgrade(1, 1, 1, 3),
        upgrade(1, 1, 5, 9),
        upgrade(1, 1, 9, 1),
        upgrade(7, 1, 0, 3),
        registration(1, 1, &[]),
    ] {
        let refused = c.refused(&refused);
        let level = MetadataLevel::new(4);
        assert!(
            matches!(refused, Rejection::LevelUnsupported { level: found, .. } if found == level),
            "{refused}"
        );
        assert!(!refused.is_retriable());
    }
    assert_eq!(c.state().hash(), before);
    assert_eq!(c.partition(p).leader, Some(b(1)));
    c.ok(&upgrade(1, 1, 4, 9));
}

#[test]
fn a_removed_broker_holds_no_level_back() {
    let mut c = cluster(1, 2);
    c.ok(&upgrade(1, 1, 1, 2));
    c.register(2, 1, &[]);
    assert_eq!(c.state().next_level(), None);
    let node_epoch = c.epoch(2);
    c.ok(&Command::RemoveBroker {
        broker: b(2),
        node_epoch,
        accept_loss: true,
    });
    assert_eq!(c.state().next_level(), Some(MetadataLevel::new(2)));
    c.ok(&raise(1, 2));
}

/// Applied any earlier, it would stop the nodes that do not know it.
#[test]
fn commands_of_a_later_level_are_refused_until_it_is_active() {
    let mut c = cluster(1, 2);
    c.ok(&upgrade(1, 1, 1, 2));
    let (needed, active) = (MetadataLevel::new(2), MetadataLevel::FIRST);
    assert_eq!(later_command().level(), needed);
    let early = c.refused(&later_command());
    assert_eq!(early, Rejection::LevelTooLow { needed, active });
    assert!(early.is_retriable(), "once the nodes are upgraded");
    c.ok(&raise(1, 2));
    let name = topic_name(TOPIC_OF_LEVEL_2);
    let unknown = Rejection::UnknownTopic { name };
    assert_eq!(c.refused(&later_command()), unknown, "it is executed");
}

/// A build of the first level alone has nothing to say: it must not say it by a command that the builds
/// without levels do not know, and which would stop them.
#[test]
fn a_build_of_the_first_level_registers_as_those_without_levels_do() {
    let said = |levels| {
        let Command::Level(LevelCommand::Register(registration)) = upgrade(1, 1, 1, 1) else {
            unreachable!("it is a registration");
        };
        Registration {
            levels,
            ..registration
        }
    };
    let silent = said(LevelRange::UNSAID).into_command();
    assert_eq!(silent, registration(1, 1, &[]));
    let told = said(range(1, 2)).into_command();
    assert_eq!(told, upgrade(1, 1, 1, 2));

    let (mut one, mut other) = (cluster(1, 2), cluster(1, 2));
    assert_eq!(one.ok(&silent), other.ok(&upgrade(1, 1, 1, 1)));
    assert_eq!(one.state().hash(), other.state().hash());
}

fn image(c: &Cluster) -> Vec<u8> {
    let mut image = Vec::new();
    c.machine.freeze().write_to(&mut image).unwrap();
    image
}

/// The builds of a cluster differ: the older one meets the level in the log or in a snapshot.
#[test]
fn a_build_stops_where_a_level_begins_that_it_does_not_understand() {
    let mut c = cluster(1, 2);
    c.ok(&upgrade(1, 1, 1, 2));
    let mut older = machine().0;
    let before: Vec<_> = c.history.clone();
    older.apply(&before).unwrap();
    assert_eq!(older.hash(), c.machine.hash());
    c.ok(&raise(1, 2));
    let stop: ApplyStop = older.apply(&[entry(c.index, &raise(1, 2))]).unwrap_err();
    assert_eq!(stop.index.get(), c.index);
    assert!(stop.reason.contains("level 2 is active"), "{stop}");

    let image = image(&c);
    let refused = machine().0.restore(&mut image.as_slice()).err().unwrap();
    assert!(
        matches!(&refused, RestoreError::Unsupported(reason) if reason.contains("level 2 is active")),
        "{refused}"
    );
    let same = machine().0.supporting(range(2, 3));
    let restored = same.restore(&mut image.as_slice()).unwrap();
    assert_eq!(restored.hash(), c.machine.hash());
}

/// What such a level has added would otherwise be met first and be taken for damage.
#[test]
fn an_image_of_a_later_level_is_told_from_a_damaged_one_before_its_other_records() {
    let mut c = cluster(1, 2);
    c.ok(&upgrade(1, 1, 1, 2));
    c.ok(&raise(1, 2));
    let mut image = image(&c);
    let record = |from: usize| {
        let length = u32::from_le_bytes(image[from..from + 4].try_into().unwrap());
        from + 4 + usize::try_from(length).unwrap()
    };
    let after_level = record(record(0));
    image[after_level + 4..].fill(0xff);
    let older = machine().0.restore(&mut image.as_slice()).err().unwrap();
    assert!(matches!(older, RestoreError::Unsupported(_)), "{older}");
    // To a build of the level it is damaged.
    image[after_level + 4] = 3;
    let same = machine().0.supporting(range(1, 2));
    let damaged = same.restore(&mut image.as_slice()).err().unwrap();
    assert!(matches!(damaged, RestoreError::Malformed(_)), "{damaged}");
}

/// Every node begins with the first level, in its first image as in its log: a build that is beyond it
/// goes through what was raised since.
#[test]
fn a_build_beyond_the_first_level_reads_the_log_and_the_images_of_before() {
    let mut c = cluster(1, 3);
    let genesis = image(&blank(1, 3));
    c.ok(&upgrade(1, 1, 1, 3));
    let early = image(&c);
    c.ok(&raise(1, 2));

    let later = machine().0.supporting(range(2, 3));
    let mut replayed = later.restore(&mut genesis.as_slice()).unwrap();
    replayed.apply(&c.history).unwrap();
    assert_eq!(replayed.hash(), c.machine.hash());
    let mut restored = later.restore(&mut early.as_slice()).unwrap();
    restored.apply(&c.history[c.history.len() - 1..]).unwrap();
    assert_eq!(restored.hash(), c.machine.hash());
}
