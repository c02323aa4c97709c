//! The workspace's own commands: `cargo xtask <command>`. Standard library only, so that it is
//! compiled in a second on a bare machine.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its standard streams"
)]

mod args;
mod bench;
mod certs;
mod chaos;
mod ci;
mod demo;
mod deny;
mod features;
mod fuzz;
mod json;
mod mutants;
mod process;
mod report;
mod sim;
mod test;
mod tidy;
mod workspace;

use std::fmt;
use std::process::ExitCode;

use crate::args::Args;
use crate::report::Report;

/// Why a command could not do its work at all; a check that found something is a [`Report`].
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    about: &'static str,
    help: &'static str,
    /// Whether it takes arguments of its own and hands them on, `--json` included.
    passes_on: bool,
    run: fn(&Args) -> Result<Report, Failure>,
}

/// Every command, in the order in which the help lists them.
pub(crate) const COMMANDS: [Command; 12] = [
    ci::COMMAND,
    tidy::COMMAND,
    deny::COMMAND,
    test::COMMAND,
    features::COMMAND,
    sim::COMMAND,
    demo::COMMAND,
    chaos::COMMAND,
    fuzz::COMMAND,
    mutants::COMMAND,
    certs::COMMAND,
    bench::COMMAND,
];

fn usage() -> String {
    let mut text = "Usage: cargo xtask <command> [--json] [arguments]\n\nCommands:\n".to_owned();
    for command in &COMMANDS {
        text.push_str(&format!("  {:<9} {}\n", command.name, command.about));
    }
    text.push_str(
        "\n--json prints one JSON object as the last line; <command> --help says more.\n\
         Every command exits with 1 if it failed and 2 if it was called wrongly.\n",
    );
    text
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(name) = words.next() else {
        eprint!("{}", usage());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some(command) = COMMANDS.iter().find(|c| c.name == name) else {
        eprintln!("There is no command {name:?}.\n");
        eprint!("{}", usage());
        return ExitCode::from(2);
    };
    let args = Args::new(words.collect(), command.passes_on);
    if args.help {
        println!(
            "cargo xtask {}: {}\n\n{}",
            command.name, command.about, command.help
        );
        return ExitCode::SUCCESS;
    }
    match (command.run)(&args) {
        Ok(report) => {
            if args.json {
                println!("{}", report.to_json());
            }
            ExitCode::from(u8::from(!report.is_ok()))
        }
        Err(failure) => {
            eprintln!("{}: {failure}", command.name);
            if args.json {
                println!("{}", Report::failed(command.name).to_json());
            }
            ExitCode::FAILURE
        }
    }
}
