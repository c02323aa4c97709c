//! Looking at the store of a node that does not run: what is in it, whether it is sound, and, as a
//! last resort, making its owner the only voter.
//!
//! Everything but [`force_single`] reads alone: the database is copied into memory first, so that not
//! even redb's own repair touches the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;
use rivven_core_types::{
    Incarnation, LogIndex, NodeName, OpenMode, RaftGroupId, RaftNodeId, Term, Vfs,
};

use crate::db::{Change, Db, database_path};
use crate::error::RaftStoreError;
use crate::identity::Identity;
use crate::snapshot::SnapshotDir;
use crate::status::Member;
use crate::supervisor::member;
use crate::types::{Entry, LastMembership, LogId, LogIdRecord, Membership, PeerNode};

/// Greatest database that is looked at, in bytes: it is held in memory.
const MAX_DATABASE_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Greatest snapshot that is looked at, in bytes.
const MAX_SNAPSHOT_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Entries that are read at once.
const READ_ENTRIES: u64 = 1_024;

/// A position in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The term of the entry.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
}

impl From<LogId> for LogPosition {
    fn from(id: LogId) -> Self {
        Self {
            term: Term::new(id.leader_id.term),
            index: LogIndex::new(id.index),
        }
    }
}

/// A snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotReport {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it covers; an error when it is damaged.
    pub last: Result<Option<LogPosition>, String>,
    /// Whether the store names it as its newest.
    pub is_recorded: bool,
    /// Whether the store names it as the one before the newest, for the case that that is damaged.
    pub is_previous: bool,
}

/// What the store of one group holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreReport {
    /// The owner.
    pub node: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its id within Raft.
    pub raft_id: RaftNodeId,
    /// The cluster, once joined.
    pub cluster: Option<rivven_core_types::ClusterId>,
    /// The group.
    pub group: RaftGroupId,
    /// The vote: its term, for whom, and whether that one was elected.
    pub vote: Option<(Term, RaftNodeId, bool)>,
    /// The last entry removed behind a snapshot.
    pub purged: Option<LogPosition>,
    /// The least index that the log holds.
    pub first: LogIndex,
    /// The last entry.
    pub last: Option<LogPosition>,
    /// How far the log was known to be committed.
    pub committed: Option<LogPosition>,
    /// Entries in the log.
    pub entries: u64,
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// The newest membership, its voters first.
    pub voters: Vec<Member>,
    /// Members that do not vote.
    pub learners: Vec<Member>,
    /// The snapshot files of the group.
    pub snapshots: Vec<SnapshotReport>,
    /// What contradicts itself; empty when the store is sound.
    pub problems: Vec<String>,
}

/// One entry of the log, without its command's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryReport {
    /// Where it stands.
    pub at: LogPosition,
    /// `blank`, `command` or `membership`.
    pub kind: &'static str,
    /// Bytes of its command.
    pub bytes: usize,
}

fn identity_of(vfs: &Arc<dyn Vfs>, data_dir: &Path) -> Result<Identity, RaftStoreError> {
    Identity::read(vfs, data_dir)
}

fn open_copy(
    vfs: &dyn Vfs,
    data_dir: &Path,
    group: RaftGroupId,
) -> Result<(Db, u64), RaftStoreError> {
    let path = database_path(data_dir, group);
    let file = vfs
        .open(&path, OpenMode::Read)
        .map_err(RaftStoreError::io("open", &path))?;
    if !file.try_lock().map_err(RaftStoreError::io("lock", &path))? {
        return Err(RaftStoreError::AlreadyOpen { path });
    }
    let length = file.len().map_err(RaftStoreError::io("read", &path))?;
    if length > MAX_DATABASE_BYTES {
        let reason = format!("{length} bytes; at most {MAX_DATABASE_BYTES} are looked at");
        return Err(RaftStoreError::corrupt(path, "database", reason));
    }
    Ok((Db::open_copy(&*file, &path, group)?, length))
}

/// Reads and checks the whole store of a group.
///
/// # Errors
/// [`RaftStoreError::AlreadyOpen`] while the node runs; [`RaftStoreError::Corrupt`],
/// [`RaftStoreError::FormatTooNew`] and [`RaftStoreError::Io`] when nothing can be said beyond that.
pub fn inspect(
    vfs: &Arc<dyn Vfs>,
    data_dir: &Path,
    group: RaftGroupId,
) -> Result<StoreReport, RaftStoreError> {
    let identity = identity_of(vfs, data_dir)?;
    let (db, database_bytes) = open_copy(&**vfs, data_dir, group)?;
    let owner = db.incarnation()?;
    let stored = db.load(0)?;
    let position = |id: Option<LogId>| id.map(LogPosition::from);
    let mut membership = LastMembership::default();
    let mut covered = None;
    let mut snapshots = Vec::new();
    let dir = SnapshotDir::existing(Arc::clone(vfs), data_dir, group, MAX_SNAPSHOT_BYTES);
    let recorded = stored.snapshot.map(|s| dir.path(Some(s.last)));
    let previous = stored.previous.map(|s| dir.path(Some(s.last)));
    for path in dir.files()? {
        let is_recorded = recorded.as_ref() == Some(&path);
        let is_previous = previous.as_ref() == Some(&path);
        let checked = dir.verify(&path);
        let last = match &checked {
            Ok(verified) => Ok(verified.header.last.map(|id| LogId::from(id).into())),
            Err(error) => Err(error.to_string()),
        };
        if let (true, Ok(verified)) = (is_recorded, &checked)
            && let Ok(meta) = verified.header.meta()
        {
            membership = meta.last_membership;
            covered = meta.last_log_id.map(|id| id.index);
        }
        let bytes = checked.map_or(0, |verified| verified.file.bytes);
        snapshots.push(SnapshotReport {
            path,
            bytes,
            last,
            is_recorded,
            is_previous,
        });
    }
    let end = stored.last.map_or(0, |id| id.index + 1);
    let mut entries = 0;
    each_entry(&db, stored.begin..end, |entry| {
        entries += 1;
        // After a crash the log may still hold what the snapshot has replaced.
        let is_newer = covered.is_none_or(|covered| entry.log_id.index > covered);
        if let (EntryPayload::Membership(found), true) = (&entry.payload, is_newer) {
            membership = LastMembership::new(Some(entry.log_id), found.clone());
        }
    })?;
    let mut report = StoreReport {
        node: identity.node_name.clone(),
        incarnation: identity.incarnation,
        raft_id: identity.raft_id,
        cluster: identity.cluster_id,
        group,
        vote: stored
            .vote
            .map(|v| (Term::new(v.term), RaftNodeId::new(v.node), v.committed)),
        purged: position(stored.purged.map(LogId::from)),
        first: LogIndex::new(stored.begin),
        last: position(stored.last),
        committed: position(stored.committed.map(LogId::from)),
        entries,
        database_bytes,
        voters: members(membership.membership(), true),
        learners: members(membership.membership(), false),
        snapshots,
        problems: Vec::new(),
    };
    if owner != Some(identity.incarnation) {
        let text = format!("the database belongs to incarnation {owner:?}, not to the identity's");
        report.problems.push(text);
    }
    find_problems(&mut report, recorded.as_deref());
    Ok(report)
}

fn members(membership: &Membership, voters: bool) -> Vec<Member> {
    let ids: Vec<u64> = if voters {
        membership.voter_ids().collect()
    } else {
        membership.learner_ids().collect()
    };
    let known = |id: u64| Some(member(id, membership.get_node(&id)?));
    ids.into_iter().filter_map(known).collect()
}

/// What each record says may be sound, and still contradict another.
fn find_problems(report: &mut StoreReport, recorded: Option<&Path>) {
    let mut problems = Vec::new();
    let last_term = report.last.map_or(Term::new(0), |last| last.term);
    let voted = report.vote.map_or(Term::new(0), |(term, ..)| term);
    if voted < last_term {
        problems.push(format!(
            "the vote is of term {voted}, the log reaches term {last_term}: the vote was lost"
        ));
    }
    let index = |at: Option<LogPosition>| at.map(|at| at.index);
    if index(report.committed) > index(report.last) {
        problems.push("the committed index lies beyond the log".to_owned());
    }
    if let Some(recorded) = recorded {
        let found = report.snapshots.iter().find(|s| s.is_recorded);
        match found.map(|s| &s.last) {
            None => problems.push(format!("the snapshot {} is missing", recorded.display())),
            Some(Err(reason)) => problems.push(reason.clone()),
            Some(Ok(last)) => {
                let covered = index(*last);
                if index(report.purged) > covered {
                    problems.push("the log is purged beyond what the snapshot covers".to_owned());
                }
            }
        }
    } else if report.purged.is_some() {
        problems.push("the log is purged, and no snapshot is recorded".to_owned());
    }
    let is_known = |m: &&Member| m.raft_id == report.raft_id;
    let everybody = report.voters.iter().chain(&report.learners);
    if !report.voters.is_empty() && everybody.clone().all(|m| !is_known(&m)) {
        problems.push("this node is no member of its group: it was removed".to_owned());
    }
    report.problems.extend(problems);
}

fn each_entry(
    db: &Db,
    range: std::ops::Range<u64>,
    mut look: impl FnMut(&Entry),
) -> Result<(), RaftStoreError> {
    let mut next = range.start;
    while next < range.end {
        let upto = range.end.min(next.saturating_add(READ_ENTRIES));
        let entries = db.entries(next..upto, usize::MAX)?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        next = last.log_id.index + 1;
        entries.iter().for_each(&mut look);
    }
    Ok(())
}

/// Tells of every entry of the log, in order.
///
/// # Errors
/// As [`inspect`].
pub fn dump(
    vfs: &Arc<dyn Vfs>,
    data_dir: &Path,
    group: RaftGroupId,
    mut tell: impl FnMut(EntryReport),
) -> Result<(), RaftStoreError> {
    let (db, _) = open_copy(&**vfs, data_dir, group)?;
    let stored = db.load(0)?;
    let end = stored.last.map_or(0, |id| id.index + 1);
    each_entry(&db, stored.begin..end, |entry| {
        let (kind, bytes) = match &entry.payload {
            EntryPayload::Blank => ("blank", 0),
            EntryPayload::Normal(command) => ("command", command.0.len()),
            EntryPayload::Membership(_) => ("membership", 0),
        };
        tell(EntryReport {
            at: entry.log_id.into(),
            kind,
            bytes,
        });
    })
}

/// Makes the owner of this store the only voter of the group, by an entry at the end of its log: the
/// way back when a majority of the voters is lost for good. Whatever only the lost ones held is lost.
/// **No other former member may ever be started again with its data directory**: it would be a second
/// cluster with the same id.
///
/// # Errors
/// As [`inspect`]; [`RaftStoreError::MembershipRefused`] when the store is damaged or was never part
/// of a group. Nothing changed then.
pub fn force_single(
    vfs: &Arc<dyn Vfs>,
    data_dir: &Path,
    group: RaftGroupId,
) -> Result<LogPosition, RaftStoreError> {
    let report = inspect(vfs, data_dir, group)?;
    let refused = |reason: String| Err(RaftStoreError::MembershipRefused(reason));
    if let Some(problem) = report.problems.first() {
        return refused(format!("the store is not sound: {problem}"));
    }
    let own = report
        .voters
        .iter()
        .chain(&report.learners)
        .find(|m| m.raft_id == report.raft_id);
    // openraft removes what does not lie beyond the snapshot when it starts, so that the entry goes
    // behind both.
    let recorded = report.snapshots.iter().find(|s| s.is_recorded);
    let covered = recorded.and_then(|s| s.last.clone().ok().flatten());
    let index = |at: Option<LogPosition>| at.map(|at| at.index);
    let ahead = covered.filter(|_| index(covered) > index(report.last));
    let (Some(own), Some(last)) = (own, ahead.or(report.last)) else {
        return refused("this store was never part of a group".to_owned());
    };
    let node = PeerNode {
        name: own.name.clone(),
        address: own.address.clone(),
    };
    let id = own.raft_id.get();
    let voters = std::collections::BTreeSet::from([id]);
    let nodes = std::collections::BTreeMap::from([(id, node)]);
    let membership = match Membership::new(vec![voters], nodes) {
        Ok(membership) => membership,
        Err(error) => return refused(error.to_string()),
    };
    let entry = Entry {
        log_id: LogId::new_term_index(last.term.get(), last.index.get() + 1),
        payload: EntryPayload::Membership(membership),
    };
    let at = entry.log_id.into();
    let db = Db::open(&**vfs, &database_path(data_dir, group), group)?;
    let purge = ahead.map(|at| {
        Change::Purge(LogIdRecord {
            term: at.term.get(),
            index: at.index.get(),
        })
    });
    let changes: Vec<Change> = purge
        .into_iter()
        .chain([Change::Append(vec![entry])])
        .collect();
    db.commit(&changes)?;
    Ok(at)
}
