//! Documents that must not drift from the code.

use std::collections::BTreeSet;

use super::Finding;
use super::sources::Source;
use crate::COMMANDS;
use crate::workspace::Workspace;

/// The cargo commands besides `xtask` that a reader may be told to run.
const CARGO_COMMANDS: [&str; 8] = [
    "add", "build", "clippy", "doc", "fmt", "install", "run", "test",
];

/// Every `cargo` line in a code block of README.md must be one that works.
pub(super) fn check_readme(readme: &str, workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_block = false;
    for (number, line) in readme.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            in_block = !in_block;
        }
        let command = line.trim_start_matches("$ ");
        if !in_block || !command.starts_with("cargo ") {
            continue;
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        if let Some(why) = what_is_wrong(&words, workspace) {
            let place = format!("README.md:{}", number + 1);
            findings.push(Finding::new("readme-command", place, why));
        }
    }
    findings
}

fn what_is_wrong(words: &[&str], workspace: &Workspace) -> Option<String> {
    let cargo = words.get(1).copied().unwrap_or_default();
    if cargo == "xtask" {
        let name = words.get(2).copied().unwrap_or_default();
        let known = name == "help" || COMMANDS.iter().any(|c| c.name == name);
        return (!known).then(|| format!("cargo xtask has no command {name:?}"));
    }
    if !CARGO_COMMANDS.contains(&cargo) {
        return Some(format!("cargo {cargo} is not a command that a reader has"));
    }
    let end = words.iter().position(|w| *w == "--" || w.starts_with('#'));
    let words = words.get(..end.unwrap_or(words.len())).unwrap_or_default();
    for (flag, value) in words.iter().zip(words.iter().skip(1)) {
        let value = value.trim_matches(['\'', '"']);
        let missing = match *flag {
            "-p" | "--package" => workspace.package(value).is_none(),
            "--test" | "--bin" | "--example" | "--bench" => {
                let kind = flag.trim_start_matches('-');
                let mut targets = workspace.packages.iter().flat_map(|p| &p.targets);
                value != "*" && !targets.any(|(k, name)| k == kind && name == value)
            }
            _ => false,
        };
        if missing {
            return Some(format!("there is no {flag} {value}"));
        }
    }
    None
}

/// Every line of the architecture that states an invariant names, in backticks, a test that holds it.
pub(super) fn check_invariants(document: &str, sources: &[Source]) -> Vec<Finding> {
    const RULE: &str = "invariant-test";
    const PATH: &str = "docs/architecture.md";
    if document.is_empty() {
        return vec![Finding::new(RULE, PATH, "is missing")];
    }
    let tests: BTreeSet<&str> = sources.iter().flat_map(Source::test_functions).collect();
    let mut findings = Vec::new();
    for (number, line) in document.lines().enumerate() {
        if !line.contains("Invariant") || line.starts_with('#') {
            continue;
        }
        // Every second part of the line stands in backticks.
        let mut quoted = line.split('`').skip(1).step_by(2);
        if !quoted.any(|word| tests.contains(word)) {
            let place = format!("{PATH}:{}", number + 1);
            let text = "names no test of the tree in backticks";
            findings.push(Finding::new(RULE, place, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::workspace::Package;

    fn workspace() -> Workspace {
        Workspace {
            root: PathBuf::new(),
            packages: vec![Package {
                name: "rivven-cluster".to_owned(),
                manifest: PathBuf::new(),
                dependencies: Vec::new(),
                features: Vec::new(),
                targets: vec![("test".to_owned(), "three_node_cluster".to_owned())],
            }],
        }
    }

    fn found(command: &str) -> usize {
        let readme = format!("cargo nonsense in prose\n```bash\n{command}\n```\n");
        check_readme(&readme, &workspace()).len()
    }

    #[test]
    fn commands_of_the_readme_exist() {
        for good in [
            "cargo xtask ci",
            "$ cargo xtask tidy --json",
            "cargo test -p rivven-cluster --lib",
            "cargo test -p rivven-cluster --test '*'",
            "cargo test -p rivven-cluster --test three_node_cluster -- --test nothing",
            "cargo build --release   # -p comment",
            "curl cargo bogus",
        ] {
            assert_eq!(found(good), 0, "{good}");
        }
        for bad in [
            "cargo xtask bogus",
            "cargo xtask",
            "cargo bogus",
            "cargo test -p rivven-bogus",
            "cargo test -p rivven-cluster --test bogus",
            "cargo run --bin bogus",
        ] {
            assert_eq!(found(bad), 1, "{bad}");
        }
    }

    #[test]
    fn an_invariant_without_its_test_is_found() {
        let text = "#[cfg(test)]\nmod tests { fn acks_are_kept() {} }\nfn helper() {}";
        let sources = [Source::new("crates/isr/src/lib.rs", text)];
        let check = |line: &str| check_invariants(line, &sources).len();
        assert_eq!(
            check("**Invariant:** kept (`Isr`, test `acks_are_kept`)."),
            0
        );
        assert_eq!(check("## Invariants"), 0);
        assert_eq!(check("**Invariant:** kept."), 1);
        assert_eq!(check("**Invariant:** kept (`no_such_test`)."), 1);
        assert_eq!(check("**Invariant:** kept (`helper`)."), 1);
        assert_eq!(check(""), 1);
    }
}
