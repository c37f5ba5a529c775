//! Runs one bench once, for a counter of instructions: `tercet-micro NAME` under
//! `valgrind --tool=callgrind --toggle-collect='*measured_part*'`. Without a name it says what there
//! is.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for xtask")]

use std::process::ExitCode;

use tercet_micro::all;

/// What is counted: nothing but what the path does. By its name the counter knows it.
#[inline(never)]
fn measured_part(body: &mut dyn FnMut()) {
    body();
}

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        for bench in all() {
            println!("{}\t{}", bench.name, bench.what);
        }
        return ExitCode::SUCCESS;
    };
    let Some(bench) = all().into_iter().find(|bench| bench.name == name) else {
        eprintln!("{name} is no bench: without a name this program says what there is");
        return ExitCode::FAILURE;
    };
    // Once for what happens only the first time: tables that are made, features that are detected.
    (bench.prepare)()();
    measured_part(&mut (bench.prepare)());
    ExitCode::SUCCESS
}
