//! Fuzzes every decoder; `cargo xtask fuzz` builds and runs it. See `--help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that speaks to a person"
)]

use std::process::ExitCode;

use rivven_tests::fuzz::{FuzzOptions, HELP, Request, run_fuzz, targets};

fn main() -> ExitCode {
    match FuzzOptions::parse(std::env::args().skip(1)) {
        Ok(Request::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Request::List) => {
            for target in targets() {
                println!("{:<10} {}", target.name, target.about);
            }
            ExitCode::SUCCESS
        }
        Ok(Request::Run(options)) => match run_fuzz(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failure) => {
                eprintln!("fuzz: {failure}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprint!("fuzz: {error}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}
