//! One node of a Rivven cluster. See `rivven-node --help`.

use std::io::Write as _;
use std::process::ExitCode;

use rivven_node::cli::{self, Request};

fn main() -> ExitCode {
    match cli::parse(std::env::args().skip(1)) {
        Ok(Request::Help(text)) => say(text),
        Ok(Request::Raft(command)) => match cli::raft::run(&command) {
            Ok(outcome) if outcome.is_sound => say(&outcome.text),
            Ok(outcome) => {
                say(&outcome.text);
                ExitCode::from(3)
            }
            Err(error) => complain(&error, 1),
        },
        Ok(Request::Cluster(command)) => match cli::cluster::run(&command) {
            Ok(text) => say(&text),
            Err(error) => complain(&error, 1),
        },
        Ok(Request::Group(command)) => match cli::group::run(&command) {
            Ok(text) => say(&text),
            Err(error) => complain(&error, 1),
        },
        Ok(Request::Placement(call)) => match cli::placement::run(&call) {
            Ok(text) => say(&text),
            Err(error) => complain(&error, 1),
        },
        Ok(Request::Version) => say(concat!("rivven-node ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Request::Check(path)) => match rivven_node::config::load(&path) {
            Ok(_) => say(&format!("{}: valid\n", path.display())),
            Err(error) => complain(&error.to_string(), 1),
        },
        Ok(Request::Certs(options)) => match rivven_node::certs::make(&options) {
            Ok(said) => say(&said),
            Err(error) => complain(&error.to_string(), 1),
        },
        Ok(Request::Log { data_dir, verify }) => match rivven_node::logs::report(&data_dir, verify)
        {
            Ok((text, sound)) => {
                let code = say(&text);
                if sound { code } else { ExitCode::FAILURE }
            }
            Err(error) => complain(&error, 1),
        },
        Ok(Request::Run(path)) => match rivven_node::run(&path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string(), 1),
        },
        Err(error) => complain(&format!("{error}\n\n{}", cli::HELP), 2),
    }
}

fn say(text: &str) -> ExitCode {
    // A closed standard output is the reader's wish, not a failure.
    drop(std::io::stdout().write_all(text.as_bytes()));
    ExitCode::SUCCESS
}

fn complain(text: &str, code: u8) -> ExitCode {
    drop(writeln!(std::io::stderr(), "rivven-node: {text}"));
    ExitCode::from(code)
}
