//! Chaos on real processes; `cargo xtask chaos` builds and runs it. See `--help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that speaks to a person"
)]

use std::future::Future;
use std::process::ExitCode;

use rivven_tests::Failure;
use rivven_tests::chaos::{ChaosOptions, HELP, Nemesis, Request, run_chaos, run_proxy};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports of a program that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // The program starts itself again as a proxy.
    if let [flag, listen, target, seed] = words.as_slice()
        && flag == "--proxy"
    {
        let parsed = (listen.parse(), target.parse(), seed.parse());
        let (Ok(listen), Ok(target), Ok(seed)) = parsed else {
            eprintln!("chaos: --proxy LISTEN TARGET SEED");
            return ExitCode::from(2);
        };
        return run(async move { run_proxy(listen, target, seed).await.map(|()| true) });
    }
    match ChaosOptions::parse(words.into_iter()) {
        Ok(Request::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Request::List) => {
            for nemesis in Nemesis::ALL {
                println!("{:<12} {}", nemesis.name(), nemesis.about());
            }
            ExitCode::SUCCESS
        }
        Ok(Request::Run(options)) => run(run_chaos(options)),
        Err(error) => {
            eprint!("chaos: {error}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn run(work: impl Future<Output = Result<bool, Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(until_interrupted(work)),
        Err(error) => {
            eprintln!("chaos: cannot start a runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs; a signal drops the work, and with it the processes, namespaces and mounts.
async fn until_interrupted(work: impl Future<Output = Result<bool, Failure>>) -> ExitCode {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        eprintln!("chaos: cannot listen for signals");
        return ExitCode::FAILURE;
    };
    tokio::select! {
        outcome = work => match outcome {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failure) => {
                eprintln!("chaos: {failure}");
                ExitCode::FAILURE
            }
        },
        _ = interrupt.recv() => ExitCode::from(INTERRUPTED),
        _ = terminate.recv() => ExitCode::from(INTERRUPTED),
    }
}
