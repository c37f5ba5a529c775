//! Tercet: a replicated log that you can trust, and watch. One binary for all of it.

mod allocator;
mod args;
mod commands;
mod config;
mod dev;
mod output;
mod shell;

use std::process::ExitCode;

use clap::Parser;

use crate::output::Failure;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let result = commands::run(args);
    dev::give_way_to_signal();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.downcast_ref::<Failure>().map_or(1, |failure| failure.code);
            output::error(&format!("{error:#}"));
            ExitCode::from(code)
        }
    }
}
