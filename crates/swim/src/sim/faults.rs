//! What the network does to datagrams, and what a run counts.

/// What goes wrong on the way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Lost datagrams in a thousand, each for itself.
    pub loss_per_mille: u64,
    /// Bursts in which a node's incoming datagrams are all lost, per node and minute.
    pub bursts_per_minute: u64,
    /// How long a burst lasts, in milliseconds.
    pub burst_ms: u64,
    /// Duplicated datagrams in a thousand.
    pub duplicates_per_mille: u64,
    /// Datagrams in a thousand that come up to 30 ms late, behind later ones.
    pub reordered_per_mille: u64,
    /// Datagrams in a thousand that come again up to 5 s later.
    pub replayed_per_mille: u64,
    /// Datagrams in a thousand that lose their ends or have a bit flipped.
    pub damaged_per_mille: u64,
}

/// What a run counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The longest one.
    pub longest: usize,
    /// Datagrams that arrived.
    pub delivered: u64,
    /// Probes that failed.
    pub failed_probes: u64,
    /// Suspicions, each observer's counted.
    pub suspicions: u64,
    /// Times that an observer took a running node for dead.
    pub false_deaths: u64,
}
