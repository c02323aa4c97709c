//! The API contract: the code of the seed document compiles and does what it says. The lines are its
//! own; only what it leaves to the reader (addresses, ids) is added around them.

#[cfg(feature = "raft")]
mod groups;

use std::time::Duration;

use rivven_core_types::{
    BatchBuilder, BrokerId, LeaderEpoch, NodeInfo, Offset, PartitionId, TopicId,
};

fn node(name: &str, port: u16, rack: &str) -> NodeInfo {
    let client = format!("127.0.0.1:{port}").parse().unwrap();
    let cluster = format!("127.0.0.1:{port}").parse().unwrap();
    NodeInfo::new(name.parse().unwrap(), client, cluster).with_rack(rack.parse().unwrap())
}

#[cfg(feature = "raft")]
#[tokio::test(flavor = "multi_thread")]
async fn raft_consensus_as_in_the_seed() -> Result<(), Box<dyn std::error::Error>> {
    use crate::{RaftNode, RaftNodeConfig};
    use rivven_core_types::{ProposeError, RaftGroupId};

    let dir = tempfile::tempdir()?;
    let config = RaftNodeConfig {
        node_id: "node-1".to_string(),
        standalone: false,
        data_dir: dir.path().into(),
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 150,
        election_timeout_max_ms: 300,
        snapshot_threshold: 10000,
        initial_members: vec![],
    };

    let mut node = RaftNode::with_config(config.clone()).await?;
    node.start().await?;

    // Without members it waits to be told them, and says so.
    let refused = node
        .propose(rivven_raft_store::KvCommand::put("k", "v").encode()?)
        .await;
    assert_eq!(refused.unwrap_err(), ProposeError::NotInitialized);
    assert_eq!(node.handle().group(), RaftGroupId::METADATA);
    node.shutdown().await;

    // Alone it leads itself, durably: what was acknowledged is there after a restart.
    let alone_dir = tempfile::tempdir()?;
    let config = RaftNodeConfig {
        standalone: true,
        data_dir: alone_dir.path().into(),
        ..config
    };
    let mut node = RaftNode::with_config(config.clone()).await?;
    node.start().await?;
    node.propose(rivven_raft_store::KvCommand::put("k", "v").encode()?)
        .await?;
    node.shutdown().await;
    drop(node);
    let mut node = RaftNode::with_config(config).await?;
    node.start().await?;
    assert_eq!(node.kv_get(b"k").await?.as_deref(), Some(&b"v"[..]));
    node.shutdown().await;
    Ok(())
}

#[cfg(feature = "swim")]
#[tokio::test]
async fn swim_gossip_as_in_the_seed() -> Result<(), Box<dyn std::error::Error>> {
    use crate::{Membership, SwimConfig};

    let free_port = || {
        std::net::UdpSocket::bind("127.0.0.1:0")?
            .local_addr()
            .map(|a| a.port())
    };
    let seed_node = node("node-2", free_port()?, "rack-2");
    let local_node = node("node-1", free_port()?, "rack-1");
    let seeds = vec![seed_node.cluster_addr.to_string()];
    let (_shutdown, shutdown_rx) = tokio::sync::watch::channel(false);
    let seed = Membership::new(seed_node, SwimConfig::default(), shutdown_rx.clone()).await?;

    let config = SwimConfig {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(50),
        indirect_probes: 3,
        suspicion_multiplier: 3,
        ..Default::default()
    };

    let membership = Membership::new(local_node, config, shutdown_rx).await?;
    membership.join(&seeds).await?;

    assert!(
        membership
            .members()
            .iter()
            .any(|m| m.info.name.as_str() == "node-2")
    );
    let learnt = async {
        let mut views = seed.events();
        let knows = views.wait_for(|v| v.members.iter().any(|m| m.info.name.as_str() == "node-1"));
        knows.await.is_ok()
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), learnt).await?,
        "the seed knows it too"
    );
    Ok(())
}

#[tokio::test]
async fn isr_replication_as_in_the_seed() -> Result<(), Box<dyn std::error::Error>> {
    use crate::{ReplicationConfig, ReplicationManager};
    use rivven_isr::{Acks, Produce, ReplicationError};

    let node_id = BrokerId::new(1);
    let partition_id = PartitionId::new(TopicId::from_bytes([1; 16]), 0);
    let (replica_id, fetch_offset) = (BrokerId::new(2), Offset::ZERO);
    let is_leader = true;

    let config = ReplicationConfig {
        min_isr: 2,
        replica_lag_max_messages: 1000,
        replica_lag_max_time: Duration::from_secs(10),
        ..Default::default()
    };

    let manager = ReplicationManager::new(node_id, config);
    let partition = manager.get_or_create(partition_id, is_leader);

    // A replica that is not assigned moves nothing, and the caller is told.
    let refused = manager
        .handle_replica_fetch(&partition_id, &replica_id, fetch_offset)
        .await;
    assert!(
        matches!(refused, Err(ReplicationError::UnknownReplica { .. })),
        "{refused:?}"
    );

    // The cluster assigns a second replica, which is not in sync yet.
    manager
        .apply(assignment(partition_id, &[1, 2], &[1]))
        .await?;

    // acks=all with too few in-sync replicas is no acks=all: refused before the append.
    let batch = BatchBuilder::new(0)
        .record(0, None, Some(b"record"))
        .build()?;
    let timeout = Duration::from_secs(5);
    let mut produce = Produce {
        partition: partition_id,
        batch,
        acks: Acks::All,
        timeout,
    };
    let alone = manager.produce(produce.clone()).await;
    assert!(
        matches!(alone, Err(ReplicationError::NotEnoughReplicas { .. })),
        "{alone:?}"
    );
    produce.acks = Acks::Leader;
    assert_eq!(manager.produce(produce).await?.base_offset, Offset::ZERO);

    // Handle follower fetch and update ISR
    manager
        .handle_replica_fetch(&partition_id, &replica_id, fetch_offset)
        .await?;

    let status = partition.status().expect("it exists");
    assert_eq!(status.log_end, Offset::new(1)?);
    assert_eq!(
        status.high_watermark,
        Offset::ZERO,
        "one copy is not committed under min ISR 2"
    );
    manager.shutdown().await;
    Ok(())
}

/// The cluster's record of a partition that broker 1 leads.
fn assignment(id: PartitionId, replicas: &[i32], isr: &[i32]) -> rivven_isr::MetadataUpdate {
    use rivven_core_types::{Durability, NodeEpoch, PartitionEpoch, PartitionState, RecoveryState};

    let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId::new).collect::<Vec<_>>();
    let name = |id: &BrokerId| format!("node-{id}").parse().expect("valid");
    rivven_isr::MetadataUpdate {
        local: rivven_isr::LocalBroker {
            id: BrokerId::new(1),
            node_epoch: NodeEpoch::new(1),
        },
        brokers: brokers(replicas)
            .iter()
            .map(|b| (*b, (name(b), NodeEpoch::new(1))))
            .collect(),
        ineligible: std::collections::BTreeSet::new(),
        log_configs: std::collections::BTreeMap::new(),
        changed: vec![PartitionState {
            id,
            replicas: brokers(replicas),
            isr: brokers(isr),
            elr: Vec::new(),
            last_known_isr: Vec::new(),
            leader: Some(BrokerId::new(1)),
            leader_epoch: LeaderEpoch::new(1),
            partition_epoch: PartitionEpoch::new(1),
            recovery: RecoveryState::Recovered,
            min_isr: 2,
            durability: Durability::Fsync,
        }],
        removed: Vec::new(),
    }
}

#[test]
fn partition_placement_as_in_the_seed() -> Result<(), Box<dyn std::error::Error>> {
    use crate::{PartitionPlacer, PlacementConfig, PlacementStrategy};

    let nodes = [
        node("a", 1, "r1"),
        node("b", 2, "r2"),
        node("c", 3, "r3"),
        node("d", 4, "r1"),
    ];

    let config = PlacementConfig {
        strategy: PlacementStrategy::ConsistentHash,
        rack_aware: true,
        virtual_nodes: 150,
        max_partitions_per_node: 0,
    };

    let mut placer = PartitionPlacer::new(config);
    for node in &nodes {
        placer.add_node(node);
    }

    let replicas = placer.assign_partition("orders", 0, 3)?;

    let racks: std::collections::BTreeSet<_> = replicas
        .iter()
        .map(|name| &nodes.iter().find(|n| n.name == *name).expect("known").rack)
        .collect();
    assert_eq!(racks.len(), 3, "one replica in each rack");
    Ok(())
}

#[cfg(feature = "quic")]
#[tokio::test(flavor = "multi_thread")]
async fn quic_transport_as_in_the_seed() -> Result<(), Box<dyn std::error::Error>> {
    use std::sync::Arc;

    use rivven_cluster::quic_transport::{QuicConfig, QuicTransport, TlsConfig};
    use rivven_core_types::{
        Lane, PeerIdentity, Reply, RpcHandler, RpcKind, RpcRequest, RpcResponse,
    };

    use crate as rivven_cluster;

    struct Echo;
    impl RpcHandler for Echo {
        fn handle(&self, _peer: &PeerIdentity, request: RpcRequest) -> Reply {
            let (meta, body) = (request.meta, request.body);
            Reply::Now(Ok(RpcResponse { meta, body }))
        }
    }
    let bind_addr = "127.0.0.1:0".parse()?;
    let request = RpcRequest {
        kind: RpcKind::PROPOSE,
        lane: Lane::Rpc,
        meta: b"hello".as_slice().into(),
        body: vec![1; 100_000].into(),
        deadline: Duration::from_secs(20),
    };

    let config = QuicConfig::high_throughput();
    let tls = TlsConfig::self_signed("rivven-cluster")?;

    let peer = QuicTransport::new(bind_addr, config.clone(), tls.clone()).await?;
    peer.set_handler(Arc::new(Echo));
    peer.start().await?;
    let peer_id = peer.name().clone();

    let transport = QuicTransport::new(bind_addr, config, tls).await?;
    transport.start().await?;
    transport.add_peer(peer_id.clone(), peer.local_addr());

    let response = transport.send(&peer_id, request).await?;
    assert_eq!(response.meta, "hello");
    assert_eq!(response.body.len(), 100_000);
    Ok(())
}
