//! What outlives the process: its boot id, and where the others were.
//!
//! A text file: `rivven-swim-state 1`, `boot N`, one `peer host:port` for each of up to 64 members, and
//! `sum HEX` (FNV-1a) over all before it. It is replaced as a whole.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use rivven_core_types::Address;

use crate::contact::MAX_SEEDS;

const HEADER: &str = "rivven-swim-state 1";
/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SavedState {
    pub(crate) boot_id: u64,
    pub(crate) peers: Vec<Address>,
}

impl SavedState {
    fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\nboot {}\n", self.boot_id);
        for peer in self.peers.iter().take(MAX_SEEDS) {
            text.push_str(&format!("peer {peer}\n"));
        }
        let sum = crate::config::fnv1a(text.as_bytes());
        text.push_str(&format!("sum {sum:016x}\n"));
        text
    }

    fn from_text(text: &str) -> Option<Self> {
        let (body, sum) = text.trim_end_matches('\n').rsplit_once('\n')?;
        let sum = u64::from_str_radix(sum.strip_prefix("sum ")?, 16).ok()?;
        let body = format!("{body}\n");
        if crate::config::fnv1a(body.as_bytes()) != sum {
            return None;
        }
        let mut lines = body.lines();
        if lines.next() != Some(HEADER) {
            return None;
        }
        let boot_id = lines.next()?.strip_prefix("boot ")?.parse().ok()?;
        let mut peers = Vec::new();
        for line in lines.take(MAX_SEEDS) {
            peers.push(line.strip_prefix("peer ")?.parse().ok()?);
        }
        Some(Self { boot_id, peers })
    }

    /// Reads the file; a missing one is a first start.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` if the file is damaged: guessing a boot id could make this
    /// life older than the last.
    pub(crate) fn load(path: &Path) -> std::io::Result<Self> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
        Self::from_text(&text).ok_or_else(|| {
            let advice = "it is damaged: remove it once no peer remembers this node's last life \
                          (swim.tombstone_ttl), or set swim.boot_id above that life's";
            std::io::Error::new(ErrorKind::InvalidData, advice)
        })
    }

    /// Replaces the file durably.
    ///
    /// # Errors
    /// The operating system's; the old file is whole then.
    pub(crate) fn store(&self, path: &Path) -> std::io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_damage_is_noticed() {
        let state = SavedState {
            boot_id: 42,
            peers: vec!["10.0.0.1:9093".parse().unwrap(), "b:1".parse().unwrap()],
        };
        let text = state.to_text();
        assert_eq!(SavedState::from_text(&text), Some(state));
        assert_eq!(SavedState::from_text(&text.replace("42", "41")), None);
        for end in 0..text.len() - 1 {
            assert_eq!(SavedState::from_text(&text[..end]), None, "{end}");
        }
    }
}
