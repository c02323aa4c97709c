//! Where the node's binary is, and building it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::sync::OnceCell;

use crate::failure::{Doing, Failure};

/// The path of the binary, once it has been built.
static BINARY: OnceCell<PathBuf> = OnceCell::const_new();

/// The path of a freshly built `rivven-node`; built once per process, into the target directory and
/// with the profile of the program that runs. `RIVVEN_NODE` names another binary instead.
pub async fn node_binary() -> Result<PathBuf, Failure> {
    let build = || async {
        let built = tokio::task::spawn_blocking(build).await;
        built.doing(|| "building rivven-node".to_owned())?
    };
    BINARY.get_or_try_init(build).await.cloned()
}

fn build() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("RIVVEN_NODE") {
        return Ok(PathBuf::from(path));
    }
    let profile_dir = profile_dir()?;
    let target = profile_dir.parent().unwrap_or(&profile_dir);
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // As `cargo xtask` calls it: build scripts that look at the package that runs would make cargo
    // compile their dependants again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    let output = command
        .current_dir(workspace_root())
        .args([
            "build",
            "--quiet",
            "--package",
            "rivven-node",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .doing(|| "cannot run cargo".to_owned())?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!(
            "cargo build --package rivven-node failed:\n{errors}"
        )));
    }
    Ok(profile_dir.join(format!("rivven-node{}", std::env::consts::EXE_SUFFIX)))
}

/// `target/<profile>`: where the running program is, or the directory above its `deps`.
fn profile_dir() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let dir = program.parent().unwrap_or(&program);
    let above = dir.parent().filter(|_| dir.ends_with("deps"));
    Ok(above.unwrap_or(dir).to_owned())
}

/// The root of the workspace that this was built from.
pub fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
