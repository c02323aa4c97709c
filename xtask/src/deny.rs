//! `cargo xtask deny`: what the crates depend on, each judged by itself.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use crate::args::Args;
use crate::process::{cargo, is_required, output, run as run_process, works};
use crate::report::Report;
use crate::workspace::Workspace;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "deny",
    about: "checks every crate's dependencies: bans, licenses, sources, advisories, C code",
    help: "Usage: cargo xtask deny [--json]\n\n\
        Runs cargo-deny with deny.toml for each crate as the only root, and checks with cargo tree\n\
        that the crates that promise it need no C compiler.\n\
        Advisories are checked if $RIVVEN_ADVISORY_DB (default: target/advisory-db) is a cargo-deny\n\
        database folder, and reported as SKIPPED otherwise. REQUIRE=deny makes a skip a failure.",
    passes_on: false,
    run,
};

const INSTALL: &str = "cargo install cargo-deny --locked --version 0.20.2";

/// The crates that promise to need no C compiler, without default features and with them.
const PURE: [&str; 8] = [
    "rivven-core-types",
    "rivven-swim",
    "rivven-raft-store",
    "rivven-isr",
    "rivven-placement",
    "rivven-consumer-groups",
    "rivven-metadata",
    "rivven-segment-log",
];
/// Who uses plain TCP compiles no TLS and no QUIC.
const TCP_ONLY: [(&str, &[&str]); 2] = [
    ("rivven-transport", &["rcgen", "ring", "rustls", "quinn"]),
    ("rivven-cluster", &["rcgen", "ring", "rustls", "quinn"]),
];
/// Packages that mean C code or a search for a C library.
const C_CODE: [&str; 7] = [
    "aws-lc-rs",
    "bindgen",
    "cc",
    "cmake",
    "pkg-config",
    "ring",
    "vcpkg",
];
/// Packages named like bindings that are pure Rust declarations.
const PURE_SYS: [&str; 6] = [
    "js-sys",
    "linux-raw-sys",
    "r-efi",
    "wasi-sys",
    "web-sys",
    "windows-sys",
];

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    args.expect_none()?;
    let workspace = Workspace::load()?;
    let mut report = Report::new("deny");
    check_c_code(&workspace, &mut report)?;
    check_tcp_only(&workspace, &mut report)?;
    if !works(cargo(&workspace.root).args(["deny", "--version"])) {
        println!("SKIPPED cargo-deny: it is not installed. To install it: {INSTALL}");
        report.skipped.push("cargo-deny".to_owned());
        if is_required("deny") {
            report.check("cargo-deny", false);
        }
        return Ok(report);
    }
    // What is not downloaded yet, for other targets too. Without a network the checks below say
    // themselves what they miss.
    let _offline = works(cargo(&workspace.root).args(["fetch", "--locked", "--quiet"]));
    let config = workspace.root.join("deny.toml");
    for package in &workspace.packages {
        let mut check = cargo_deny(&workspace.root, &config);
        check.arg("--manifest-path").arg(&package.manifest);
        check.args(["check", "bans", "licenses", "sources"]);
        judge(&mut report, &package.name, &mut check)?;
    }
    check_advisories(&workspace, &config, &mut report)?;
    Ok(report)
}

fn judge(report: &mut Report, name: &str, check: &mut Process) -> Result<(), Failure> {
    println!("deny: {name}");
    let ok = run_process(check)?;
    report.check(name, ok);
    Ok(())
}

fn cargo_deny(root: &Path, config: &Path) -> Process {
    let mut command = cargo(root);
    command.args(["deny", "--offline", "--log-level", "error", "--config"]);
    command.arg(config);
    command
}

fn check_advisories(
    workspace: &Workspace,
    config: &Path,
    report: &mut Report,
) -> Result<(), Failure> {
    let target = workspace.root.join("target");
    let database = std::env::var_os("RIVVEN_ADVISORY_DB")
        .map_or_else(|| target.join("advisory-db"), PathBuf::from);
    if !holds_database(&database) {
        println!("SKIPPED advisories (no database)");
        report.skipped.push("advisories".to_owned());
        if is_required("deny") {
            report.check("advisories", false);
        }
        return Ok(());
    }
    let fail =
        |what: &Path, error: std::io::Error| Failure::new(format!("{}: {error}", what.display()));
    let text = std::fs::read_to_string(config).map_err(|e| fail(config, e))?;
    std::fs::create_dir_all(&target).map_err(|e| fail(&target, e))?;
    let moved = target.join("deny-advisories.toml");
    std::fs::write(&moved, with_database(&text, &database)?).map_err(|e| fail(&moved, e))?;
    let mut check = cargo_deny(&workspace.root, &moved);
    check.args(["--workspace", "check", "advisories"]);
    judge(report, "advisories", &mut check)
}

/// Whether the folder holds a clone as cargo-deny names it: `advisory-db-<hash of the URL>`.
fn holds_database(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("advisory-db-") && entry.path().join(".git").exists()
        })
    })
}

/// The policy with another place of the database.
fn with_database(policy: &str, database: &Path) -> Result<String, Failure> {
    let mut found = false;
    let lines = policy.lines().map(|line| {
        if line.starts_with("db-path") {
            found = true;
            format!(
                "db-path = {}\n",
                crate::json::quote(&database.to_string_lossy())
            )
        } else {
            format!("{line}\n")
        }
    });
    let moved: String = lines.collect();
    if found {
        Ok(moved)
    } else {
        Err(Failure::new("deny.toml has no db-path under [advisories]"))
    }
}

fn check_c_code(workspace: &Workspace, report: &mut Report) -> Result<(), Failure> {
    for name in PURE {
        for features in [&["--no-default-features"][..], &[]] {
            let mut tree = cargo(&workspace.root);
            tree.args(["tree", "--package", name, "--edges", "normal,build"]);
            tree.args(["--prefix", "none", "--format", "{p}"])
                .args(features);
            let tree = output(&mut tree)?;
            let found = c_code(&tree);
            let case = match features {
                [] => format!("{name} needs no C compiler"),
                _ => format!("{name} needs no C compiler (no default features)"),
            };
            if !found.is_empty() {
                println!("error: {case}, but it depends on {}", found.join(", "));
            }
            report.check(case, found.is_empty());
        }
    }
    Ok(())
}

fn check_tcp_only(workspace: &Workspace, report: &mut Report) -> Result<(), Failure> {
    for (name, banned) in TCP_ONLY {
        let mut tree = cargo(&workspace.root);
        tree.args(["tree", "--package", name, "--edges", "normal,build"]);
        tree.args(["--prefix", "none", "--format", "{p}"]);
        let tree = output(&mut tree)?;
        let names = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let found: Vec<&str> = names.filter(|name| banned.contains(name)).collect();
        let case = format!("{name} by default pulls neither TLS nor QUIC");
        if !found.is_empty() {
            println!("error: {case}, but it depends on {}", found.join(", "));
        }
        report.check(case, found.is_empty());
    }
    Ok(())
}

/// The packages of a `cargo tree --prefix none` that bring C code.
fn c_code(tree: &str) -> Vec<&str> {
    let mut found: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| {
            C_CODE.contains(name) || (name.ends_with("-sys") && !PURE_SYS.contains(name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_code_is_found_in_a_tree() {
        let tree = "rivven-swim v0.1.0 (/w)\nring v0.17.14\nzstd-sys v2.1.3\nwindows-sys v0.61.2\n\
            libc v0.2.1\ncc v1.2.0\nring v0.17.14 (*)\n";
        assert_eq!(c_code(tree), ["cc", "ring", "zstd-sys"]);
        assert!(c_code("bytes v1.12.2\nlinux-raw-sys v0.12.0\n").is_empty());
    }

    #[test]
    fn the_database_is_put_into_the_policy() {
        let moved = with_database(
            "[advisories]\ndb-path = \"x\"\nyanked = \"deny\"\n",
            Path::new("/d b"),
        );
        assert_eq!(
            moved.unwrap(),
            "[advisories]\ndb-path = \"/d b\"\nyanked = \"deny\"\n"
        );
        assert!(with_database("[advisories]\n", Path::new("/d")).is_err());
        assert!(!holds_database(Path::new("/nonexistent")));
    }
}
