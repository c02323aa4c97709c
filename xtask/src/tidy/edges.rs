//! Who may depend on whom. Dependencies point one way; siblings never see each other.

use super::Finding;
use crate::workspace::{Kind, Package};

const RULE: &str = "layers";
const CORE: &str = "rivven-core-types";
const SIBLINGS: [&str; 8] = [
    "rivven-transport",
    "rivven-swim",
    "rivven-raft-store",
    "rivven-isr",
    "rivven-placement",
    "rivven-consumer-groups",
    "rivven-metadata",
    "rivven-segment-log",
];
/// The harness, which may look at everything.
const HARNESS: &str = "rivven-tests";

/// Which of the workspace's packages `package` may depend on; `None` for a package without a place.
fn may_see(package: &str, other: &str) -> Option<bool> {
    let sibling = SIBLINGS.contains(&other);
    Some(match package {
        CORE | "xtask" => false,
        sibling if SIBLINGS.contains(&sibling) => other == CORE,
        "rivven-coordinator" => other == CORE || sibling,
        "rivven-cluster" => other == CORE || sibling || other == "rivven-coordinator",
        "rivven-kafka" => matches!(other, CORE | "rivven-coordinator"),
        "rivven-node" => matches!(
            other,
            CORE | "rivven-coordinator" | "rivven-cluster" | "rivven-kafka"
        ),
        HARNESS => true,
        _ => return None,
    })
}

pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |place: &str, text: String| findings.push(Finding::new(RULE, place, text));
    for package in packages {
        let name = package.name.as_str();
        if may_see(name, CORE).is_none() {
            find(
                name,
                "has no place in the layers: give it one in the tidy rule".to_owned(),
            );
            continue;
        }
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            if name == "xtask" {
                find(
                    name,
                    format!("depends on {other}; it uses the standard library only"),
                );
                continue;
            }
            if other == "xtask" || (!other.starts_with("rivven-")) {
                continue;
            }
            // The facade declares the test of three node processes, which the harness carries out.
            let harnessed = name == "rivven-cluster" && other == HARNESS;
            let tests_only =
                dependency.kind == Kind::Dev && (harnessed || (other == CORE && name != CORE));
            if !tests_only && may_see(name, other) != Some(true) {
                let kind = match dependency.kind {
                    Kind::Normal => "depends on",
                    Kind::Dev => "depends in its tests on",
                    Kind::Build => "depends in its build on",
                };
                find(
                    name,
                    format!("{kind} {other}, which its layer must not see"),
                );
            }
            let test_util = dependency.features.iter().any(|f| f == "test-util");
            if test_util && dependency.kind != Kind::Dev && name != HARNESS {
                find(
                    name,
                    format!("enables test-util of {other} outside its tests"),
                );
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::workspace::Dependency;

    fn check_one(name: &str, other: &str, kind: Kind, features: &[&str]) -> usize {
        let dependency = Dependency {
            name: other.to_owned(),
            kind,
            features: features.iter().map(ToString::to_string).collect(),
        };
        check(&[Package {
            name: name.to_owned(),
            manifest: PathBuf::new(),
            dependencies: vec![dependency],
            features: Vec::new(),
            targets: Vec::new(),
        }])
        .len()
    }

    #[test]
    fn the_layers_point_one_way() {
        for (name, other) in [
            ("rivven-swim", CORE),
            ("rivven-swim", "bytes"),
            ("rivven-coordinator", "rivven-swim"),
            ("rivven-cluster", "rivven-coordinator"),
            ("rivven-kafka", "rivven-coordinator"),
            ("rivven-node", "rivven-kafka"),
            (HARNESS, "rivven-isr"),
        ] {
            assert_eq!(
                check_one(name, other, Kind::Normal, &[]),
                0,
                "{name} {other}"
            );
        }
    }

    #[test]
    fn edges_outside_the_layers_are_found() {
        for kind in [Kind::Normal, Kind::Dev, Kind::Build] {
            for (name, other) in [
                ("rivven-swim", "rivven-isr"),
                (CORE, "rivven-swim"),
                ("rivven-raft-store", "rivven-coordinator"),
                ("rivven-kafka", "rivven-consumer-groups"),
                ("rivven-kafka", "rivven-cluster"),
                ("rivven-coordinator", "rivven-cluster"),
                ("rivven-new", CORE),
                ("xtask", "serde"),
            ] {
                assert_eq!(check_one(name, other, kind, &[]), 1, "{name} {other}");
            }
        }
    }

    #[test]
    fn only_the_tests_of_the_facade_see_the_harness() {
        let found = |name, kind| check_one(name, HARNESS, kind, &[]);
        assert_eq!(found("rivven-cluster", Kind::Dev), 0);
        assert_eq!(found("rivven-cluster", Kind::Normal), 1);
        assert_eq!(found("rivven-coordinator", Kind::Dev), 1);
    }

    #[test]
    fn test_helpers_stay_in_tests() {
        let found = |kind| check_one("rivven-swim", CORE, kind, &["test-util"]);
        assert_eq!(found(Kind::Normal), 1);
        assert_eq!(found(Kind::Dev), 0);
        assert_eq!(check_one(HARNESS, CORE, Kind::Normal, &["test-util"]), 0);
    }
}
