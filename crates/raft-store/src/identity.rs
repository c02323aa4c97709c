//! Who a node is: the file `IDENTITY` in the data directory.
//!
//! It is written before the Raft store exists, and says afterwards which stores were made. An
//! identity whose store has gone is therefore noticed (see [`RaftStoreError::StoreLost`]): under the
//! same Raft id an empty store could vote twice in one term. KIP-853 guards its voters with a
//! directory id for the same reason.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rivven_core_types::{
    ClusterId, Entropy, Incarnation, LogDirId, NodeName, RaftGroupId, RaftNodeId, Vfs,
};

use crate::error::RaftStoreError;

/// Name of the identity file within the data directory.
const FILE_NAME: &str = "IDENTITY";
/// The format that this build writes.
const FORMAT: u32 = 1;
/// Longest identity file, in bytes.
const MAX_FILE_BYTES: usize = 16 * 1024;
/// Most Raft groups of one node.
const MAX_GROUPS: usize = 64;

/// Changes of identity files go through here, so that two groups of one process never overwrite
/// each other's change with a stale copy.
static CHANGES: Mutex<()> = Mutex::new(());

/// The identity of one life of a data directory.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Format of the file.
    pub format: u32,
    /// The cluster this node belongs to; `None` until it has joined one.
    pub cluster_id: Option<ClusterId>,
    /// The operator's name of the node.
    pub node_name: NodeName,
    /// This life of the data directory.
    pub incarnation: Incarnation,
    /// The id within Raft, derived from name and incarnation.
    pub raft_id: RaftNodeId,
    /// The id of the log directory (KIP-858).
    pub log_dir_id: LogDirId,
    /// The groups whose store has been made and must therefore exist.
    pub stores_created: BTreeSet<RaftGroupId>,
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.body() == other.body()
    }
}

impl Identity {
    /// Loads the identity of `data_dir`, or makes and durably writes a new one in a blank directory.
    /// Blocks on the disk; call it at start-up or on an I/O thread.
    ///
    /// # Errors
    /// [`RaftStoreError::Corrupt`], [`RaftStoreError::FormatTooNew`],
    /// [`RaftStoreError::ForeignIdentity`] when the directory belongs to another name, or
    /// [`RaftStoreError::Io`]. A present file is never replaced.
    pub fn load_or_create(
        vfs: &Arc<dyn Vfs>,
        data_dir: &Path,
        name: &NodeName,
        entropy: &dyn Entropy,
    ) -> Result<Self, RaftStoreError> {
        let path = data_dir.join(FILE_NAME);
        vfs.create_dir_all(data_dir)
            .map_err(RaftStoreError::io("create the directory", data_dir))?;
        let exists = vfs
            .exists(&path)
            .map_err(RaftStoreError::io("look for", &path))?;
        if exists {
            let identity = Self::load(vfs, &path)?;
            if identity.node_name == *name {
                return Ok(identity);
            }
            return Err(RaftStoreError::ForeignIdentity {
                path,
                expected: name.clone(),
                found: identity.node_name,
            });
        }
        let incarnation = Incarnation::random(entropy);
        let identity = Self {
            format: FORMAT,
            cluster_id: None,
            node_name: name.clone(),
            incarnation,
            raft_id: RaftNodeId::derive(name, &incarnation),
            log_dir_id: LogDirId::random(entropy),
            stores_created: BTreeSet::new(),
            vfs: Arc::clone(vfs),
            path,
        };
        identity.write()?;
        Ok(identity)
    }

    /// Reads the identity of `data_dir` without making one. Blocks on the disk.
    ///
    /// # Errors
    /// [`RaftStoreError::Io`] when there is none; [`RaftStoreError::Corrupt`],
    /// [`RaftStoreError::FormatTooNew`].
    pub fn read(vfs: &Arc<dyn Vfs>, data_dir: &Path) -> Result<Self, RaftStoreError> {
        Self::load(vfs, &data_dir.join(FILE_NAME))
    }

    /// Sets the cluster, durably. Setting the same one again does nothing.
    ///
    /// # Errors
    /// [`RaftStoreError::ForeignCluster`] when another one is set already (nothing changed), or an
    /// I/O error.
    pub fn set_cluster_id(&mut self, cluster: ClusterId) -> Result<(), RaftStoreError> {
        self.change(|stored| match stored.cluster_id {
            Some(ours) if ours != cluster => Err(RaftStoreError::ForeignCluster {
                ours,
                theirs: cluster,
            }),
            _ => {
                stored.cluster_id = Some(cluster);
                Ok(())
            }
        })
    }

    /// Whether the store of `group` was made, and must therefore exist.
    pub fn store_created(&self, group: RaftGroupId) -> bool {
        self.stores_created.contains(&group)
    }

    /// The identity as the file has it now: another holder may have set the cluster since.
    ///
    /// # Errors
    /// As [`Identity::load_or_create`].
    pub fn reload(&mut self) -> Result<(), RaftStoreError> {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        *self = self.stored()?;
        Ok(())
    }

    pub(crate) fn mark_store_created(&mut self, group: RaftGroupId) -> Result<(), RaftStoreError> {
        self.change(|stored| {
            stored.stores_created.insert(group);
            Ok(())
        })
    }

    fn change(
        &mut self,
        edit: impl FnOnce(&mut Self) -> Result<(), RaftStoreError>,
    ) -> Result<(), RaftStoreError> {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stored = self.stored()?;
        let before = stored.body();
        edit(&mut stored)?;
        if stored.body() != before {
            stored.write()?;
        }
        *self = stored;
        Ok(())
    }

    fn stored(&self) -> Result<Self, RaftStoreError> {
        let stored = Self::load(&self.vfs, &self.path)?;
        if stored.incarnation == self.incarnation {
            return Ok(stored);
        }
        Err(RaftStoreError::corrupt(
            &self.path,
            "identity",
            "the incarnation changed under us",
        ))
    }

    fn write(&self) -> Result<(), RaftStoreError> {
        let body = self.body();
        let text = format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()));
        self.vfs
            .write_file_atomically(&self.path, text.as_bytes())
            .map_err(RaftStoreError::io("write", &self.path))
    }

    fn body(&self) -> String {
        let mut text = String::from(
            "# Identity of this rivven node. Never edit or copy it; to rejoin as a new node, move\n\
             # the whole data directory away.\n",
        );
        let cluster = self
            .cluster_id
            .map_or_else(|| "none".to_owned(), |id| id.to_string());
        let stores: Vec<_> = self
            .stores_created
            .iter()
            .map(ToString::to_string)
            .collect();
        let fields = [
            ("format", self.format.to_string()),
            ("node_name", self.node_name.to_string()),
            ("incarnation", self.incarnation.to_string()),
            ("raft_id", self.raft_id.to_string()),
            ("log_dir_id", self.log_dir_id.to_string()),
            ("cluster_id", cluster),
            ("stores_created", stores.join(",")),
        ];
        for (key, value) in fields {
            // Writing to a String cannot fail.
            writeln!(text, "{key} = {value}").unwrap_or_default();
        }
        text
    }

    fn load(vfs: &Arc<dyn Vfs>, path: &Path) -> Result<Self, RaftStoreError> {
        let bytes = vfs
            .read_file(path, MAX_FILE_BYTES)
            .map_err(RaftStoreError::io("read", path))?;
        let corrupt = |reason: String| RaftStoreError::corrupt(path, "identity", reason);
        let text = String::from_utf8(bytes).map_err(|e| corrupt(e.to_string()))?;
        let body = text
            .find("crc32c = ")
            .and_then(|at| text.split_at_checked(at))
            .ok_or_else(|| corrupt("no line `crc32c`".to_owned()))?;
        let sum = format!("crc32c = {:08x}\n", crc32c::crc32c(body.0.as_bytes()));
        if body.1 != sum {
            return Err(corrupt("the checksum does not match".to_owned()));
        }
        let fields = Fields { path, body: body.0 };
        let format: u32 = fields.get("format")?;
        if format > FORMAT {
            return Err(RaftStoreError::FormatTooNew {
                path: path.to_owned(),
                found: format,
                supported: FORMAT,
            });
        }
        let cluster = fields.text("cluster_id")?;
        let cluster_id = if cluster == "none" {
            None
        } else {
            Some(fields.get("cluster_id")?)
        };
        Ok(Self {
            format,
            cluster_id,
            node_name: fields.get("node_name")?,
            incarnation: fields.get("incarnation")?,
            raft_id: RaftNodeId::new(fields.get("raft_id")?),
            log_dir_id: fields.get("log_dir_id")?,
            stores_created: fields.groups("stores_created")?,
            vfs: Arc::clone(vfs),
            path: path.to_owned(),
        })
    }
}

struct Fields<'a> {
    path: &'a Path,
    body: &'a str,
}

impl Fields<'_> {
    fn text(&self, key: &str) -> Result<&str, RaftStoreError> {
        let found = self.body.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim())
        });
        found.ok_or_else(|| RaftStoreError::corrupt(self.path, "identity", format!("no {key}")))
    }

    fn parse<T: FromStr>(&self, key: &str, value: &str) -> Result<T, RaftStoreError>
    where
        T::Err: std::fmt::Display,
    {
        value.parse().map_err(|e: T::Err| {
            RaftStoreError::corrupt(self.path, "identity", format!("{key}: {e}"))
        })
    }

    fn get<T: FromStr>(&self, key: &str) -> Result<T, RaftStoreError>
    where
        T::Err: std::fmt::Display,
    {
        self.parse(key, self.text(key)?)
    }

    fn groups(&self, key: &str) -> Result<BTreeSet<RaftGroupId>, RaftStoreError> {
        let numbers = self
            .text(key)?
            .split(',')
            .filter(|n| !n.is_empty())
            .take(MAX_GROUPS);
        numbers
            .map(|n| self.parse(key, n).map(RaftGroupId::new))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::Rng;
    use rivven_core_types::test_util::{MemVfs, SeededEntropy};

    fn open(vfs: &MemVfs, name: &str) -> Result<Identity, RaftStoreError> {
        let name = NodeName::new(name).unwrap();
        let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
        Identity::load_or_create(&vfs, Path::new("/d"), &name, &SeededEntropy::new(1))
    }

    #[test]
    fn an_identity_survives_power_loss_and_keeps_its_cluster() {
        let vfs = MemVfs::new();
        let mut first = open(&vfs, "node-1").unwrap();
        let mut copy = first.clone();
        let cluster = ClusterId::from_bytes([3; 16]);
        first.set_cluster_id(cluster).unwrap();
        copy.mark_store_created(RaftGroupId::METADATA).unwrap();
        assert_eq!(
            copy.cluster_id,
            Some(cluster),
            "a stale copy must not undo the change"
        );
        let vfs = vfs.lose_power(&mut Rng::new(1));
        let mut again = open(&vfs, "node-1").unwrap();
        assert_eq!(again.raft_id, first.raft_id);
        assert_eq!(again.cluster_id, Some(cluster));
        assert!(again.store_created(RaftGroupId::METADATA));
        let other = ClusterId::from_bytes([4; 16]);
        assert!(matches!(
            again.set_cluster_id(other),
            Err(RaftStoreError::ForeignCluster { .. })
        ));
        assert_eq!(open(&vfs, "node-1").unwrap().cluster_id, Some(cluster));
    }

    #[test]
    fn another_name_and_any_flipped_bit_are_refused() {
        let vfs = MemVfs::new();
        open(&vfs, "node-1").unwrap();
        assert!(matches!(
            open(&vfs, "node-2"),
            Err(RaftStoreError::ForeignIdentity { .. })
        ));
        let path = Path::new("/d/IDENTITY");
        let length = vfs.read_file(path, 10_000).unwrap().len();
        for byte in (0..length).step_by(7) {
            vfs.flip_bit(path, byte, 0).unwrap();
            assert!(open(&vfs, "node-1").is_err(), "byte {byte}");
            vfs.flip_bit(path, byte, 0).unwrap();
        }
        assert!(open(&vfs, "node-1").is_ok());
    }
}
