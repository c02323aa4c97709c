//! `cargo xtask tidy`: the rules of the house that no compiler knows.

mod docs;
mod edges;
mod lexer;
mod manifests;
mod planted;
mod sources;

use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::report::Report;
use crate::workspace::Workspace;
use crate::{Command, Failure};
use sources::Source;

pub(crate) const COMMAND: Command = Command {
    name: "tidy",
    about: "checks the rules of the workspace that no compiler knows",
    help: "Usage: cargo xtask tidy [--json]\n\n\
        Layers (who may depend on whom), manifests, profiles, file lengths, forbidden words, sleeps\n\
        and ignored tests, commands named in README.md, invariants in docs/architecture.md, planted bugs.\n\
        A test may sleep if a comment beside it says `sleep-ok: <why>`: a poll with a deadline, or a\n\
        simulated delay on a paused clock that another file pauses.",
    passes_on: false,
    run,
};

/// A rule that something breaks, or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    rule: &'static str,
    place: String,
    text: String,
    is_warning: bool,
}

impl Finding {
    fn new(rule: &'static str, place: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            rule,
            place: place.into(),
            text: text.into(),
            is_warning: false,
        }
    }
}

/// The rules, in the order in which they are reported.
const RULES: [&str; 12] = [
    "layers",
    "package-name",
    "manifest",
    "profile",
    "file-length",
    "forbidden-word",
    "sleep",
    "ignored-test",
    "readme-command",
    "invariant-test",
    "planted-bug",
    "top-level",
];

/// Most bytes of a file that is read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    args.expect_none()?;
    let workspace = Workspace::load()?;
    let sources = load_sources(&workspace.root)?;
    let read = |path: &str| read(&workspace.root.join(path));
    let findings = [
        edges::check(&workspace.packages),
        manifests::check_packages(&workspace.packages, |p| read_optional(&p.manifest)),
        manifests::check_profiles(
            &read("Cargo.toml")?,
            &read_optional_at(&workspace, ".cargo/config.toml"),
        ),
        manifests::check_top_level(&entries(&workspace.root)?),
        sources::check(&sources),
        planted::check(&sources),
        docs::check_readme(&read_optional_at(&workspace, "README.md"), &workspace),
        docs::check_invariants(
            &read_optional_at(&workspace, "docs/architecture.md"),
            &sources,
        ),
    ]
    .concat();
    Ok(report(&findings, sources.len()))
}

fn report(findings: &[Finding], files: usize) -> Report {
    let mut report = Report::new("tidy");
    for finding in findings {
        let kind = if finding.is_warning {
            "warning"
        } else {
            "error"
        };
        println!(
            "{kind}[{}] {}: {}",
            finding.rule, finding.place, finding.text
        );
    }
    for rule in RULES {
        let broken = findings.iter().any(|f| f.rule == rule && !f.is_warning);
        report.check(rule, !broken);
    }
    report.count("files", "read", files);
    let errors = findings.iter().filter(|f| !f.is_warning).count();
    let warnings = findings.len() - errors;
    println!("tidy: {files} files, {errors} errors, {warnings} warnings");
    report
}

fn read(path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(fail)?.len();
    if length > MAX_FILE_BYTES {
        return Err(Failure::new(format!("{}: {length} bytes", path.display())));
    }
    std::fs::read_to_string(path).map_err(fail)
}

/// The file's text, empty if it is missing: the rules on it then say so.
fn read_optional(path: &Path) -> String {
    read(path).unwrap_or_default()
}

fn read_optional_at(workspace: &Workspace, path: &str) -> String {
    read_optional(&workspace.root.join(path))
}

/// The names in a folder, sorted; folders end in '/'.
fn entries(folder: &Path) -> Result<Vec<String>, Failure> {
    let fail = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(fail)?.is_dir() {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// All Rust files of the workspace, by path relative to the root.
fn load_sources(root: &Path) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    let mut folders = ["crates", "tests", "xtask"].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        for name in entries(&root.join(&folder))? {
            match name.strip_suffix('/') {
                Some("target") => {}
                Some(inner) => folders.push(folder.join(inner)),
                None if name.ends_with(".rs") => {
                    let path = folder.join(&name);
                    let text = read(&root.join(&path))?;
                    sources.push(Source::new(path.to_string_lossy(), &text));
                }
                None => {}
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources::mark_test_modules(&mut sources);
    Ok(sources)
}
