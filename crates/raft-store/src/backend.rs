//! redb's file through the [`VfsFile`] port, so that the simulator can lose and fail its writes.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;
use rivven_core_types::VfsFile;

#[derive(Debug)]
pub(crate) struct VfsBackend(pub(crate) Arc<dyn VfsFile>);

impl StorageBackend for VfsBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
