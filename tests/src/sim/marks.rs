//! Things that must happen sometimes: a swarm that never gets there proves nothing about them.

/// A coverage mark and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// An in-sync set shrank to one replica.
    AloneInSync,
    /// A partition had no leader.
    Leaderless,
    /// A replica outside of the in-sync set was eligible to lead (KIP-966).
    Eligible,
    /// A replica joined an in-sync set again.
    Joined,
    /// The controller asked the brokers how far their logs reach (D9). Counted and not demanded: it takes a
    /// torn tail on every node at once, which few seeds have.
    LogsClaimed,
    /// A partition without electable replicas got a leader again.
    Recovered,
    /// A Raft snapshot was sent to its end.
    SnapshotSent,
    /// A follower cut its log.
    LogCut,
    /// Writes were refused because the in-sync set was too small.
    TooFewInSync,
    /// A write was appended and timed out.
    WriteTimedOut,
    /// A new leader did not know its high watermark yet (KIP-207).
    EndNotKnown,
    /// A client knew an older leader epoch (KIP-320).
    ClientFenced,
    /// A log failed and went offline.
    LogOffline,
    /// A node gave up and was restarted.
    NodeGaveUp,
    /// A start failed.
    StartFailed,
    /// The power went in the midst of a commit.
    PowerLostInCommit,
    /// The power went just after a snapshot had been received.
    PowerLostOnSnapshot,
    /// A node came back without its logs.
    LogsWiped,
    /// The controller was replaced.
    ControllerReplaced,
    /// Clocks of nodes were moved.
    ClockMoved,
    /// A write with acks=0 or acks=1 was acknowledged.
    LooseAck,
    /// A topic was deleted.
    TopicDeleted,
    /// The replicas of a topic were reassigned.
    Reassigned,
    /// A preferred leader was elected.
    PreferredLeader,
    /// A group's offset was committed.
    OffsetCommitted,
    /// A process stood still.
    Paused,
    /// The controller stood still for so long that it was replaced, and woke up believing that it leads.
    WokeDeposed,
    /// A member of a group got other partitions by the consumer protocol.
    GroupRebalanced,
    /// A round of joins of the classic protocol ended with everybody's share.
    ClassicRound,
    /// A member of a group had been taken for gone.
    MemberFenced,
    /// A member committed an offset.
    MemberCommitted,
    /// A member's commit was refused.
    CommitFenced,
    /// A bit of a stored log was flipped.
    BitFlipped,
    /// A damaged log was made anew.
    DamageHealed,
    /// A blank node joined.
    NodeJoined,
    /// A node left for good.
    NodeLeft,
    /// The one that left had a vote, which another got.
    VoterReplaced,
}

impl Mark {
    /// All marks that a campaign must hit.
    pub const ALL: [Self; 33] = [
        Self::AloneInSync,
        Self::Leaderless,
        Self::Eligible,
        Self::Joined,
        Self::Recovered,
        Self::SnapshotSent,
        Self::LogCut,
        Self::TooFewInSync,
        Self::WriteTimedOut,
        Self::EndNotKnown,
        Self::ClientFenced,
        Self::LogOffline,
        Self::NodeGaveUp,
        Self::StartFailed,
        Self::PowerLostInCommit,
        Self::PowerLostOnSnapshot,
        Self::LogsWiped,
        Self::ControllerReplaced,
        Self::ClockMoved,
        Self::LooseAck,
        Self::TopicDeleted,
        Self::Reassigned,
        Self::PreferredLeader,
        Self::OffsetCommitted,
        Self::Paused,
        Self::WokeDeposed,
        Self::GroupRebalanced,
        Self::ClassicRound,
        Self::MemberFenced,
        Self::MemberCommitted,
        Self::CommitFenced,
        Self::BitFlipped,
        Self::DamageHealed,
    ];

    /// Those that a campaign in which nodes come and go must hit as well.
    pub const OF_MEMBERS: [Self; 3] = [Self::NodeJoined, Self::NodeLeft, Self::VoterReplaced];

    /// Its name among the counters of a run.
    pub fn counter(self) -> String {
        format!("mark: {self:?}")
    }
}
