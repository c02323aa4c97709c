//! openraft's own suite for storage implementations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{OsVfs, SharedIoExecutor, StateMachine, Vfs};

use super::world;
use crate::instance::Context;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::types::TypeConfig;
use crate::{Identity, InlineExecutor, KvStateMachine, RaftNodeOptions, ThreadExecutor};

struct Builder {
    on_disk: bool,
    tail_cache_bytes: usize,
    /// One disk for all stores: the suite hands a snapshot of one to another.
    disk: MemVfs,
    built: AtomicU32,
}

impl Builder {
    fn new(on_disk: bool, tail_cache_bytes: usize) -> Self {
        Self {
            on_disk,
            tail_cache_bytes,
            disk: MemVfs::new(),
            built: AtomicU32::new(0),
        }
    }
}

impl StoreBuilder<TypeConfig, LogStore, Machine, Option<tempfile::TempDir>> for Builder {
    async fn build(
        &self,
    ) -> Result<(Option<tempfile::TempDir>, LogStore, Machine), StorageError<TypeConfig>> {
        let mut config = world::config("node-1");
        let (dir, vfs, io): (_, Arc<dyn Vfs>, SharedIoExecutor) = if self.on_disk {
            let dir = tempfile::tempdir().unwrap();
            config.data_dir = dir.path().to_owned();
            (Some(dir), Arc::new(OsVfs), Arc::new(ThreadExecutor))
        } else {
            let number = self.built.fetch_add(1, Ordering::Relaxed);
            config.data_dir = format!("/data-{number}").into();
            (None, Arc::new(self.disk.clone()), Arc::new(InlineExecutor))
        };
        let mut options = RaftNodeOptions {
            vfs,
            io,
            ..RaftNodeOptions::default()
        };
        options.limits.tail_cache_bytes = self.tail_cache_bytes;
        let name = world::name("node-1");
        let identity =
            Identity::load_or_create(&options.vfs, &config.data_dir, &name, &*options.entropy)
                .unwrap();
        let machine: Box<dyn StateMachine> = Box::new(KvStateMachine::new());
        let context = Arc::new(Context {
            config,
            options,
            identity: std::sync::Mutex::new(identity),
            admission: |_| Ok(()),
            genesis: machine.freeze(),
            prototype: Arc::new(std::sync::Mutex::new(machine)),
            rpc: world::Net::default().from(&name),
        });
        let store = context.open().await.unwrap();
        Ok((dir, store.log, store.machine))
    }
}

#[tokio::test]
async fn the_store_passes_openrafts_suite_in_memory() {
    let builder = Builder::new(false, 1 << 20);
    Suite::test_all(builder).await.unwrap();
}

/// Without a tail cache every durable entry is read back from the database.
#[tokio::test]
async fn the_store_passes_openrafts_suite_on_a_real_disk_without_a_cache() {
    let builder = Builder::new(true, 0);
    Suite::test_all(builder).await.unwrap();
}
