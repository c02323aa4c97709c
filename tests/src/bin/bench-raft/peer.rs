//! The same loads on etcd, when the bench is built to compare and etcd is installed.

use rivven_tests::Failure;

use crate::Options;
use crate::load::Seen;

#[cfg(not(feature = "compare"))]
mod none {
    use super::{Failure, Options, Seen};

    fn say(options: &Options) {
        if options.compare {
            eprintln!(
                "SKIPPED: built without the feature `compare`; etcd's figures are as recorded"
            );
        }
    }

    pub(crate) async fn writes(options: &Options, _: &[usize]) -> Result<Vec<Seen>, Failure> {
        say(options);
        Ok(Vec::new())
    }

    pub(crate) async fn reads(options: &Options, _: usize) -> Result<Option<[Seen; 2]>, Failure> {
        say(options);
        Ok(None)
    }
}

#[cfg(feature = "compare")]
mod some {
    use std::sync::Arc;

    use super::{Failure, Options, Seen};
    use crate::cases::check;
    use crate::etcd::{Connections, Etcd};
    use crate::load::{Load, Operation, Target};

    async fn start(options: &Options) -> Result<Option<Etcd>, Failure> {
        if !options.compare {
            return Ok(None);
        }
        let etcd = Etcd::start().await?;
        if etcd.is_none() {
            eprintln!("SKIPPED: there is no etcd; its figures are as recorded");
        }
        Ok(etcd)
    }

    async fn run(
        options: &Options,
        what: &str,
        targets: &[Connections],
        operation: Operation,
        clients: usize,
    ) -> Result<Seen, Failure> {
        eprintln!("etcd, {what}, {clients} clients");
        let load = Load {
            targets: targets.iter().cloned().map(Target::Etcd).collect(),
            operation,
            clients,
            time: options.seconds,
            requests: u64::MAX,
            pace: None,
            stop: Arc::default(),
        };
        let seen = load.run().await?;
        check(&seen)?;
        Ok(seen)
    }

    /// One run of writes at the leader per number of clients; none if there is no etcd.
    pub(crate) async fn writes(options: &Options, clients: &[usize]) -> Result<Vec<Seen>, Failure> {
        let mut all = Vec::new();
        if let Some(etcd) = start(options).await? {
            let [leader, _] = etcd.connect().await?;
            for clients in clients {
                all.push(run(options, "writes", &leader, Operation::Write, *clients).await?);
            }
        }
        Ok(all)
    }

    /// Linearizable reads at the leader and at the followers.
    pub(crate) async fn reads(
        options: &Options,
        clients: usize,
    ) -> Result<Option<[Seen; 2]>, Failure> {
        let Some(etcd) = start(options).await? else {
            return Ok(None);
        };
        let [leader, followers] = etcd.connect().await?;
        // As many keys as ours holds.
        let fill = Load {
            targets: leader.iter().cloned().map(Target::Etcd).collect(),
            operation: Operation::Write,
            clients: 256,
            time: std::time::Duration::from_secs(60),
            requests: 10_000,
            pace: None,
            stop: Arc::default(),
        };
        check(&fill.run().await?)?;
        Ok(Some([
            run(
                options,
                "reads at the leader",
                &leader,
                Operation::Read,
                clients,
            )
            .await?,
            run(
                options,
                "reads at the followers",
                &followers,
                Operation::Read,
                clients,
            )
            .await?,
        ]))
    }
}

#[cfg(not(feature = "compare"))]
pub(crate) use none::{reads, writes};
#[cfg(feature = "compare")]
pub(crate) use some::{reads, writes};
