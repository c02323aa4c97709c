//! What is known of the members, as others see it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::{MonoTime, NodeInfo, NodeName};

/// What is believed of a member. The order is that of precedence among evidence of equal boot id and
/// incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Has not answered, neither directly nor by others; may still refute.
    Suspect,
    /// Has not refuted in time. Comes back by refuting or by a newer boot id.
    Dead,
    /// Has said that it leaves. Comes back by a newer boot id.
    Left,
}

impl MemberState {
    /// Whether the member takes part: alive or suspected.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    /// All states, for metrics.
    pub const ALL: [Self; 4] = [Self::Alive, Self::Suspect, Self::Dead, Self::Left];

    /// The state as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who and where.
    pub info: Arc<NodeInfo>,
    /// What is believed of it.
    pub state: MemberState,
    /// Which life of its process; grows with every restart.
    pub boot_id: u64,
    /// How often it has refuted within this life.
    pub incarnation: u64,
    /// What it says of itself besides; at most 512 bytes, of the application's own making.
    pub metadata: Bytes,
    /// Since when it is in this state here, on this node's own clock, to 65 ms.
    pub since: MonoTime,
}

/// The whole membership at one moment, this node included. A reader that misses some views has missed
/// nothing that [`MembershipView::changes_since`] does not tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipView {
    /// Grows with every change.
    pub version: u64,
    /// This node's name.
    pub local: NodeName,
    /// All members, by name, this node and tombstones included.
    pub members: Vec<Member>,
    /// The boot id of a newer life of this node's own name, if one was seen: two nodes have one name,
    /// or this node's boot id went back. Peers then ignore this node.
    pub superseded_by: Option<u64>,
}

impl MembershipView {
    /// The member of that name.
    pub fn get(&self, name: &NodeName) -> Option<&Member> {
        let found = self.members.binary_search_by(|m| m.info.name.cmp(name));
        found.ok().and_then(|index| self.members.get(index))
    }

    /// Members that are alive or suspected, this node included.
    pub fn live(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.state.is_live())
    }

    /// What differs from an `earlier` view, by name: what a reader acts on after it has missed any
    /// number of views. A restart shows as a changed boot id even when both views say alive.
    pub fn changes_since(&self, earlier: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for member in &self.members {
            let before = earlier.get(&member.info.name);
            let same = before.is_some_and(|before| {
                before.state == member.state
                    && before.boot_id == member.boot_id
                    && before.info == member.info
                    && before.metadata == member.metadata
            });
            if !same {
                changes.push(Change {
                    name: member.info.name.clone(),
                    before: before.cloned(),
                    after: Some(member.clone()),
                });
            }
        }
        for before in &earlier.members {
            if self.get(&before.info.name).is_none() {
                changes.push(Change {
                    name: before.info.name.clone(),
                    before: Some(before.clone()),
                    after: None,
                });
            }
        }
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        changes
    }
}

/// How one member differs between two views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which member.
    pub name: NodeName,
    /// As it was; `None` if it was unknown.
    pub before: Option<Member>,
    /// As it is; `None` if it is forgotten.
    pub after: Option<Member>,
}
