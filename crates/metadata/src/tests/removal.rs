//! Removing a broker for good, and what another life of its name takes over.

use rivven_core_types::FencedState;

use super::support::{Cluster, b, registration};
use crate::{Command, CommandResult, Rejection};

fn removal(c: &Cluster, broker: i32, accept_loss: bool) -> Command {
    Command::RemoveBroker {
        broker: b(broker),
        node_epoch: c.epoch(broker),
        accept_loss,
    }
}

#[test]
fn a_removed_life_never_comes_back_and_another_takes_its_replicas_over() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[3, 1, 2], 2);
    c.fence(3);
    c.expect(p, Some(1), &[1, 2], &[], &[1, 2]);
    let remove = removal(&c, 3, false);
    c.ok(&remove);
    assert_eq!(c.state().broker(b(3)).unwrap().state, FencedState::Removed);
    let hash = c.state().hash();
    c.ok(&remove);
    assert_eq!(c.state().hash(), hash, "done again it changes nothing");
    let gone = Rejection::BrokerRemoved { broker: b(3) };
    let node_epoch = c.epoch(3);
    for command in [
        registration(3, 1, &[]),
        Command::UnfenceBroker {
            broker: b(3),
            node_epoch,
        },
        Command::FenceBroker {
            broker: b(3),
            node_epoch,
        },
        Command::BeginControlledShutdown {
            broker: b(3),
            node_epoch,
        },
    ] {
        assert_eq!(c.refused(&command), gone);
    }
    c.register(3, 2, &[]);
    c.unfence(3);
    assert!(c.state().broker(b(3)).unwrap().is_active());
    assert!(c.state().partition(&p).unwrap().is_replica(b(3)));
    c.alter(p, &[3, 1, 2]);
    c.expect(p, Some(1), &[3, 1, 2], &[], &[3, 1, 2]);
}

#[test]
fn an_active_broker_with_replicas_is_not_removed() {
    let mut c = Cluster::with_brokers(3);
    c.topic(1, &[1, 2], 1);
    c.topic(2, &[2, 1], 1);
    let in_use = Rejection::BrokerInUse {
        broker: b(1),
        replicas: 2,
    };
    assert_eq!(c.refused(&removal(&c, 1, true)), in_use);
    // One without replicas goes, active or not.
    let done = c.run(&removal(&c, 3, false));
    assert!(matches!(
        done,
        CommandResult::BrokerChanged {
            state: FencedState::Removed,
            ..
        }
    ));
}

#[test]
fn the_last_electable_replica_goes_only_if_the_loss_is_accepted() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2], 2);
    c.fence(2);
    c.fence(1);
    c.expect(p, None, &[], &[1, 2], &[1, 2]);
    // Either may go, since the other holds every committed record; then no more.
    c.ok(&removal(&c, 2, false));
    c.expect(p, None, &[], &[1], &[1, 2]);
    let refused = c.refused(&removal(&c, 1, false));
    let last = Rejection::LastElectableReplica {
        broker: b(1),
        partition: p,
    };
    assert_eq!(refused, last);
    c.ok(&removal(&c, 1, true));
    c.expect(p, None, &[], &[], &[1, 2]);
    c.register(1, 2, &[]);
    c.unfence(1);
    c.expect(p, None, &[], &[], &[1, 2]);
}

#[test]
fn a_removal_meant_for_an_earlier_life_is_refused() {
    let mut c = Cluster::with_brokers(2);
    let stale = removal(&c, 2, true);
    c.register(2, 1, &[]);
    assert!(matches!(
        c.refused(&stale),
        Rejection::StaleNodeEpoch { .. }
    ));
}
