//! Figures of the transport between two processes on one host.
//!
//! The client is this process; the server is another one, started from the same program. Both run what
//! a node runs: the control and rpc lanes on a runtime of one thread, the bulk lane on another runtime.
//! Arguments: a part of a case's name to run those alone; `--secs N` per measurement.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people: it speaks on its standard streams and stops at what is odd"
)]

mod bare;
mod cases;
mod figures;
mod mode;
mod server;
mod tonic;

use std::time::Duration;

use crate::cases::Bench;
use crate::mode::Mode;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = words.iter().position(|word| word == "--server") {
        server::run(&words[at + 1], words.get(at + 2).map(String::as_str));
        return;
    }
    let mut secs = 1.0;
    let mut wanted = String::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            // What cargo and the front door add.
            "--bench" | "--compare" => {}
            "--secs" => secs = words.next().unwrap().parse().unwrap(),
            _ => wanted = word,
        }
    }
    let bench = Bench {
        wanted,
        length: Duration::from_secs_f64(secs),
    };
    figures::machine();
    let mut limits = bare::measure(&bench);
    limits.tonic = tonic::measure(&bench);
    for mode in Mode::ALL {
        bench.run(mode, &limits);
    }
}
