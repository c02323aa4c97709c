//! Mistakes that whole clusters do not show within a few seeds, and the crate whose tests plant and find
//! them: a simulation of one part plays a hundred times as many histories, and loses power at every write.

/// The name of the bug, and the package whose tests named `planted` find it.
pub(crate) const SUITES: [(&str, &str); 16] = [
    ("isr.equal-epoch-settles-a-proposal", "rivven-isr"),
    ("isr.joins-without-the-epochs-records", "rivven-isr"),
    ("isr.leads-an-epoch-twice", "rivven-isr"),
    ("isr.refused-proposal-is-forgotten", "rivven-isr"),
    ("isr.takes-overtaken-progress", "rivven-isr"),
    ("metadata.another-life-may-join", "rivven-metadata"),
    ("metadata.recovers-by-length-alone", "rivven-metadata"),
    ("metadata.recovers-without-everybody", "rivven-metadata"),
    ("metadata.takes-an-old-in-sync-set", "rivven-metadata"),
    ("raft-store.committed-beyond-the-log", "rivven-raft-store"),
    ("raft-store.core-death-not-noticed", "rivven-raft-store"),
    ("raft-store.dead-core-acknowledges", "rivven-raft-store"),
    ("raft-store.snapshot-without-barrier", "rivven-raft-store"),
    ("raft-store.truncation-not-stored", "rivven-raft-store"),
    ("segment-log.flush-outlives-a-cut", "rivven-segment-log"),
    ("segment-log.torn-batch-is-served", "rivven-segment-log"),
];

/// The package whose tests find this bug, if it is not the swarm's to find.
#[cfg(feature = "planted")]
pub(crate) fn suite_of(bug: &str) -> Option<&'static str> {
    let suite = SUITES.iter().find(|(name, _)| *name == bug);
    suite.map(|(_, package)| *package)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use rivven_core_types::PLANTED_BUGS;

    use super::SUITES;

    /// The sources of a crate's tests.
    fn tests_of(package: &str) -> String {
        let part = package.trim_start_matches("rivven-");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
        let mut folders = vec![
            root.join(part).join("src/tests"),
            root.join(part).join("src/core/tests"),
        ];
        let mut text = String::new();
        while let Some(folder) = folders.pop() {
            let found = std::fs::read_dir(folder).into_iter().flatten();
            let paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
            for path in paths {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    text += &std::fs::read_to_string(path).unwrap();
                }
            }
        }
        text
    }

    #[test]
    fn every_suite_seeks_a_bug_of_its_own_crate_that_is_listed_and_that_its_tests_name() {
        for (bug, package) in SUITES {
            assert!(
                PLANTED_BUGS.iter().any(|listed| listed.name == bug),
                "{bug}"
            );
            let part = bug.split('.').next().unwrap_or_default();
            assert_eq!(package, format!("rivven-{part}"));
            assert!(
                tests_of(package).contains(&format!("\"{bug}\"")),
                "no test of {package} plants {bug}"
            );
        }
    }
}
