//! `cargo xtask features`: every way to pick the crates compiles.

use crate::args::Args;
use crate::process::{cargo, run as run_process};
use crate::report::Report;
use crate::workspace::{Package, Workspace};
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "features",
    about: "checks that the facade compiles with each feature, none and all, and every crate bare",
    help: "Usage: cargo xtask features [--json]\n\n\
        cargo check of rivven-cluster with each feature alone, with none and with all, and of every\n\
        other crate without default features and with each of its features alone.",
    passes_on: false,
    run,
};

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    args.expect_none()?;
    let workspace = Workspace::load()?;
    let mut report = Report::new("features");
    for package in workspace.packages.iter().filter(|p| p.name != "xtask") {
        for (label, flags) in selections(package) {
            let case = format!("{} {label}", package.name);
            println!("features: {case}");
            let mut check = cargo(&workspace.root);
            check.args(["check", "--quiet", "--package", &package.name]);
            let ok = run_process(check.args(flags))?;
            if !ok {
                println!("error: {case} does not compile");
            }
            report.check(case, ok);
        }
    }
    Ok(report)
}

/// The sets of features to try, with a name for each.
fn selections(package: &Package) -> Vec<(String, Vec<String>)> {
    let bare = || vec!["--no-default-features".to_owned()];
    let mut selections = vec![("with no features".to_owned(), bare())];
    let named = package.features.iter().filter(|f| *f != "default");
    for feature in named {
        let mut flags = bare();
        flags.extend(["--features".to_owned(), feature.clone()]);
        selections.push((format!("with {feature}"), flags));
    }
    if !package.features.is_empty() {
        selections.push((
            "with all features".to_owned(),
            vec!["--all-features".to_owned()],
        ));
    }
    selections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(features: &[&str]) -> Vec<String> {
        let package = Package {
            name: "x".to_owned(),
            manifest: "/x/Cargo.toml".into(),
            dependencies: Vec::new(),
            features: features.iter().map(ToString::to_string).collect(),
            targets: Vec::new(),
        };
        selections(&package)
            .into_iter()
            .map(|(label, _)| label)
            .collect()
    }

    #[test]
    fn each_feature_is_tried_alone_none_and_all() {
        assert_eq!(
            labels(&["default", "raft", "swim"]),
            [
                "with no features",
                "with raft",
                "with swim",
                "with all features"
            ]
        );
        assert_eq!(labels(&[]), ["with no features"]);
    }
}
