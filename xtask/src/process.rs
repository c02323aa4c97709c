//! Running other programs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;

/// `cargo`, the one that runs this program, in the workspace's root, without what that one says of
/// the package that it runs: build scripts that look at it (ring) would be run again, and everything
/// above them be compiled again, whenever another program had built last.
pub(crate) fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
}

fn text_of(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start {}: {error}", text_of(command)))
}

/// Runs with the terminal's own streams. Returns whether it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<bool, Failure> {
    let status = command.status();
    status
        .map(|status| status.success())
        .map_err(|error| cannot_start(command, &error))
}

/// Runs, showing the standard output as it comes and handing each line to `each`.
pub(crate) fn run_lines(
    command: &mut Command,
    mut each: impl FnMut(&str),
) -> Result<bool, Failure> {
    command.stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            // A reader that went away must not end the checks.
            let _shown = std::io::stdout().write_all(&line);
            each(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    let status = child.wait();
    status
        .map(|status| status.success())
        .map_err(|error| cannot_start(command, &error))
}

/// Runs and returns the standard output; a failure carries the standard error.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .output()
        .map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::new(format!(
            "{} failed:\n{}",
            text_of(command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        )))
    }
}

/// Whether the command can be started and succeeds, its output aside.
pub(crate) fn works(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Whether the environment demands a tool: `REQUIRE` lists such names, separated by commas.
pub(crate) fn is_required(tool: &str) -> bool {
    std::env::var("REQUIRE").is_ok_and(|list| lists(&list, tool))
}

fn lists(list: &str, tool: &str) -> bool {
    list.split(',').any(|name| name.trim() == tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_is_a_whole_word() {
        assert!(lists("kcat, deny", "deny"));
        assert!(!lists("kcat,denyx", "deny"));
        assert!(!lists("", "deny"));
    }

    #[test]
    fn lines_are_seen_and_the_exit_code_counts() {
        let mut seen = Vec::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; printf two; exit 3"]);
        let ok = run_lines(&mut shell, |line| seen.push(line.to_owned())).unwrap();
        assert!(!ok);
        assert_eq!(seen, ["one", "two"]);
        assert!(output(Command::new("sh").args(["-c", "exit 1"])).is_err());
        assert!(!works(&mut Command::new("/nonexistent/program")));
    }
}
