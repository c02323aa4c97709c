//! The demo of a three-node cluster; `cargo xtask demo` builds and runs it. See `--help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that speaks to a person"
)]

use std::process::ExitCode;

use rivven_tests::demo::{DemoOptions, HELP, Request, run_demo};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports of a program that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let options = match DemoOptions::parse(std::env::args().skip(1)) {
        Ok(Request::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(options)) => options,
        Err(error) => {
            eprint!("demo: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(until_interrupted(options)),
        Err(error) => {
            eprintln!("demo: cannot start a runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; a signal drops it, and with it the processes of its cluster.
async fn until_interrupted(options: DemoOptions) -> ExitCode {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        eprintln!("demo: cannot listen for signals");
        return ExitCode::FAILURE;
    };
    tokio::select! {
        is_ok = run_demo(options) => if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        _ = interrupt.recv() => stopped(),
        _ = terminate.recv() => stopped(),
    }
}

fn stopped() -> ExitCode {
    eprintln!("\ndemo: interrupted; the nodes are stopped and their files removed");
    ExitCode::from(INTERRUPTED)
}
