//! The workspace as `cargo metadata` describes it.

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::json::Json;
use crate::process::{cargo, output};

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Dev,
    Build,
}

/// One line of a `[dependencies]` table.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) features: Vec<String>,
}

/// One package of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Absolute.
    pub(crate) manifest: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) features: Vec<String>,
    /// Kind and name of each target: `("test", "three_node_cluster")`.
    pub(crate) targets: Vec<(String, String)>,
}

impl Package {
    /// The name of the folder that it is in.
    pub(crate) fn folder(&self) -> &str {
        let folder = self.manifest.parent().and_then(Path::file_name);
        folder.and_then(|f| f.to_str()).unwrap_or_default()
    }
}

/// All packages, sorted by name.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// The root of the workspace: the folder above this package.
pub(crate) fn root() -> Result<PathBuf, Failure> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let parent = manifest.parent().map(Path::to_path_buf);
    parent.ok_or_else(|| Failure::new("cannot find the workspace's root"))
}

impl Workspace {
    pub(crate) fn load() -> Result<Self, Failure> {
        let root = root()?;
        let mut command = cargo(&root);
        command.args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ]);
        let packages = packages(&Json::parse(&output(&mut command)?)?)?;
        Ok(Self { root, packages })
    }

    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|p| p.name == name)
    }
}

fn packages(metadata: &Json) -> Result<Vec<Package>, Failure> {
    let mut packages = Vec::new();
    for package in metadata.get("packages").items() {
        let targets = package.get("targets").items().iter().map(|target| {
            let kind = target.get("kind").items().first();
            Ok((
                text(kind.unwrap_or(&Json::Null))?,
                text(target.get("name"))?,
            ))
        });
        let dependencies = package.get("dependencies").items().iter().map(dependency);
        packages.push(Package {
            name: text(package.get("name"))?,
            manifest: PathBuf::from(text(package.get("manifest_path"))?),
            dependencies: dependencies.collect::<Result<_, _>>()?,
            features: package.get("features").keys().map(str::to_owned).collect(),
            targets: targets.collect::<Result<_, Failure>>()?,
        });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    if packages.is_empty() {
        return Err(Failure::new("cargo metadata names no packages"));
    }
    Ok(packages)
}

fn dependency(dependency: &Json) -> Result<Dependency, Failure> {
    Ok(Dependency {
        name: text(dependency.get("name"))?,
        kind: match dependency.get("kind").as_text() {
            None => Kind::Normal,
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            Some(other) => return Err(Failure::new(format!("dependency kind {other:?}"))),
        },
        features: dependency
            .get("features")
            .items()
            .iter()
            .map(text)
            .collect::<Result<_, _>>()?,
    })
}

fn text(json: &Json) -> Result<String, Failure> {
    json.as_text()
        .map(str::to_owned)
        .ok_or_else(|| Failure::new("cargo metadata: a text is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let text = r#"{"packages":[{"name":"rivven-isr","manifest_path":"/w/crates/isr/Cargo.toml",
            "dependencies":[{"name":"bytes","kind":null,"features":["serde"]},
                            {"name":"proptest","kind":"dev","features":[]}],
            "features":{"default":["tokio"],"tokio":[]},
            "targets":[{"kind":["lib"],"name":"rivven_isr"}]}]}"#;
        let packages = packages(&Json::parse(text).unwrap()).unwrap();
        let package = &packages[0];
        assert_eq!(package.folder(), "isr");
        assert_eq!(package.features, ["default", "tokio"]);
        assert_eq!(package.dependencies[0].features, ["serde"]);
        assert_eq!(package.dependencies[1].kind, Kind::Dev);
        assert_eq!(
            package.targets,
            [("lib".to_owned(), "rivven_isr".to_owned())]
        );
        assert!(super::packages(&Json::Null).is_err());
    }
}
