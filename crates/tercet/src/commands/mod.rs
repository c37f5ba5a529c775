//! What the binary can do, one function per command.

mod bench;
mod client;
mod doctor;
mod inspect;
mod lab;
mod lab_hosts;
mod play;
mod recover;
mod serve;
mod sim;
mod status;
mod trace;

use clap::CommandFactory as _;

use crate::args::{Args, Command, ConfigCommand};
use crate::{config, dev, output};

pub(crate) use client::{open, read_all, submit_sentence, value_to_json};
pub(crate) use lab_hosts::token as lab_token;
pub(crate) use play::play;
pub(crate) use status::{explain_of, status_of};
pub(crate) use trace::{Trace, view_json};

/// Runs a command; says the exit code.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let json = args.json;
    match args.command {
        Command::Dev(dev) => dev::run(&dev, json),
        Command::Serve(serve) => serve::run(&serve, &args.log, args.log_json, json),
        Command::Submit(submit) => block_on(client::submit(submit, json)),
        Command::Read(read) => block_on(client::read(read, json)),
        Command::Tail(tail) => block_on(client::tail(tail, json)),
        Command::Status(status) => block_on(status::status(status, json)),
        Command::Explain(nodes) => block_on(status::explain(nodes, json)),
        Command::Transfer(transfer) => block_on(client::transfer(transfer, json)),
        Command::Verify { dirs } => inspect::verify(&dirs, json),
        Command::Inspect { dir, entries } => inspect::inspect(&dir, entries, json),
        Command::Recover { from, accept_loss, yes } => recover::run(&from, accept_loss, yes, json),
        Command::Sh(args) => dev::sh(&args, json),
        Command::Do(args) => dev::run_lines(&args, json),
        Command::Lab { command } => lab::run(command, json),
        Command::Sim(sim) => sim::run(&sim, json),
        Command::Bench(bench) => bench::run(&bench, json),
        Command::Doctor { dir } => doctor::run(&dir, json),
        Command::Config { command: ConfigCommand::Check { file } } => {
            let args = crate::args::ServeArgs { config: Some(file), ..Default::default() };
            let config = config::server_config(&args)?;
            output::line(format!(
                "ok: node {} of {} in \"{}\", data in {}, clients at {}",
                config.node,
                config.members.len(),
                config.cluster_name,
                config.data.display(),
                config.listen
            ))?;
            Ok(0)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "tercet", &mut script);
            output::line(script)?;
            Ok(0)
        }
    }
}

/// A runtime for a client's commands: one thread is enough.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn block_on(command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    runtime()?.block_on(command)
}
