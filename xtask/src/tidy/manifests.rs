//! What every Cargo.toml must say, the profiles, and what lies at the top.

use super::Finding;
use crate::workspace::Package;

/// The lines of a TOML file with the table that each is in. No value of ours spans lines in a way
/// that matters to these rules.
fn lines(toml: &str) -> impl Iterator<Item = (String, String)> {
    let mut table = String::new();
    toml.lines().filter_map(move |line| {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            table = name.trim().to_owned();
        }
        let squeezed = line.split_whitespace().collect();
        Some((table.clone(), squeezed))
    })
}

fn says(toml: &str, table: &str, line: &str) -> bool {
    lines(toml).any(|(t, l)| t == table && l == line)
}

pub(super) fn check_packages(
    packages: &[Package],
    read: impl Fn(&Package) -> String,
) -> Vec<Finding> {
    packages
        .iter()
        .flat_map(|package| check_package(package, &read(package)))
        .collect()
}

fn check_package(package: &Package, toml: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let folder = package.folder();
    let expected = match folder {
        "xtask" => "xtask".to_owned(),
        "rivven-cluster" => "rivven-cluster".to_owned(),
        other => format!("rivven-{other}"),
    };
    if package.name != expected {
        let text = format!("the folder {folder} holds the package {expected}");
        findings.push(Finding::new("package-name", &package.name, text));
    }
    for (table, line) in [
        ("lints", "workspace=true"),
        ("package", "license.workspace=true"),
        ("package", "rust-version.workspace=true"),
        ("package", "edition.workspace=true"),
        ("package", "version.workspace=true"),
    ] {
        if !says(toml, table, line) {
            let text = format!("[{table}] does not say {line}");
            findings.push(Finding::new("manifest", &package.name, text));
        }
    }
    findings
}

/// Unwinding stays on in every profile: what supervises a Raft node rests on it.
pub(super) fn check_profiles(root: &str, config: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |text: String| findings.push(Finding::new("profile", "Cargo.toml", text));
    let mut profiles: Vec<String> = vec!["profile.dev".to_owned(), "profile.release".to_owned()];
    for (table, line) in lines(root).chain(lines(config)) {
        let of_profile = table.starts_with("profile.");
        if of_profile && table.matches('.').count() == 1 && !profiles.contains(&table) {
            profiles.push(table);
        }
        if line.starts_with("panic") && line.contains("\"abort\"") || line.contains("panic=abort") {
            find(format!("{line}: a panic must unwind"));
        }
    }
    for profile in profiles {
        // A profile without the line inherits another's, which the next reader would have to find.
        let unwinds =
            says(root, &profile, "panic=\"unwind\"") || says(config, &profile, "panic=\"unwind\"");
        if !unwinds {
            find(format!("[{profile}] does not say panic = \"unwind\""));
        }
    }
    findings
}

/// Nothing lies at the top but what a newcomer expects there.
pub(super) fn check_top_level(entries: &[String]) -> Vec<Finding> {
    const ALLOWED: [&str; 11] = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "clippy.toml",
        "crates/",
        "deny.toml",
        "docs/",
        "rustfmt.toml",
        "tests/",
        "xtask/",
    ];
    let is_build_output = |name: &str| name == "target/" || name.starts_with("target-");
    let mut findings: Vec<Finding> = entries
        .iter()
        .filter(|name| !name.starts_with('.') && !is_build_output(name))
        .filter(|name| !ALLOWED.contains(&name.as_str()))
        .map(|name| Finding::new("top-level", name, "does not belong at the top"))
        .collect();
    for name in ALLOWED {
        if !entries.iter().any(|entry| entry == name) {
            findings.push(Finding::new("top-level", name, "is missing"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"x\"\nversion.workspace = true\n\
        edition.workspace = true # why\nrust-version.workspace = true\n\
        license.workspace = true\n\n[lints]\nworkspace = true\n";

    fn package(name: &str, folder: &str) -> Package {
        Package {
            name: name.to_owned(),
            manifest: format!("/w/crates/{folder}/Cargo.toml").into(),
            dependencies: Vec::new(),
            features: Vec::new(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_package_is_named_after_its_folder() {
        assert_eq!(check_package(&package("rivven-swim", "swim"), GOOD), []);
        assert_eq!(
            check_package(&package("rivven-cluster", "rivven-cluster"), GOOD),
            []
        );
        let found = check_package(&package("swim", "swim"), GOOD);
        assert_eq!(found[0].rule, "package-name");
    }

    #[test]
    fn every_package_inherits_from_the_workspace() {
        for line in [
            "license.",
            "edition.",
            "rust-version.",
            "version.",
            "workspace = true\n",
        ] {
            let bad = GOOD.replacen(line, "x", 1);
            let found = check_package(&package("rivven-swim", "swim"), &bad);
            assert!(!found.is_empty(), "{line}");
        }
        let without_lints = GOOD.replace("[lints]", "[features]");
        let found = check_package(&package("rivven-swim", "swim"), &without_lints);
        assert_eq!(found[0].rule, "manifest");
    }

    #[test]
    fn every_profile_unwinds() {
        let good = "[profile.dev]\npanic = \"unwind\"\n[profile.dev.package.\"*\"]\nopt-level = 2\n\
            [profile.release]\npanic = \"unwind\"\n";
        assert_eq!(check_profiles(good, ""), []);
        assert_eq!(
            check_profiles(&good.replacen("unwind", "abort", 1), "").len(),
            2
        );
        let more = format!("{good}[profile.bench]\nopt-level = 3\n");
        assert_eq!(check_profiles(&more, "").len(), 1);
        assert_eq!(check_profiles("", "").len(), 2);
        let flags = "[build]\nrustflags = [\"-Cpanic=abort\"]\n";
        assert_eq!(check_profiles(good, flags).len(), 1);
    }

    #[test]
    fn strangers_at_the_top_are_found_and_so_is_what_is_missing() {
        let mut entries: Vec<String> = [
            ".git/",
            "Cargo.lock",
            "Cargo.toml",
            "LICENSE",
            "README.md",
            "clippy.toml",
            "crates/",
            "deny.toml",
            "docs/",
            "rustfmt.toml",
            "target/",
            "tests/",
            "xtask/",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(check_top_level(&entries), []);
        entries.push("notes.md".to_owned());
        entries.retain(|name| name != "LICENSE");
        let found: Vec<String> = check_top_level(&entries)
            .into_iter()
            .map(|f| f.place)
            .collect();
        assert_eq!(found, ["notes.md", "LICENSE"]);
    }
}
