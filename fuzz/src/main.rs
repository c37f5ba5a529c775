//! Reads inputs with a target and says what they took; writes what a fuzzer begins with. Needs no
//! fuzzer itself: `cargo run --release -p tercet-fuzz -- replay TARGET FILE…`.
#![allow(clippy::print_stdout, reason = "a tool for people")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tercet_fuzz::{SLOW, TARGETS, Target, corpus, measure, target};

#[derive(Parser)]
#[command(name = "tercet-fuzz", about = "Reads inputs with a fuzz target")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Name, longest input and memory of each target
    List,
    /// Reads files with a target: panics as the target does, or says what each took
    Replay {
        /// The target
        target: String,
        /// The inputs
        files: Vec<PathBuf>,
    },
    /// Writes each target's seeds, stored inputs and words into a folder, as files
    Prepare {
        /// The folder
        folder: PathBuf,
    },
    /// Stores the files of a folder as a target's inputs, and no others
    Store {
        /// The target
        target: String,
        /// The folder
        folder: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::List => {
            for target in TARGETS {
                println!("{} {} {}", target.name, target.bytes_max, target.memory_max);
            }
        }
        Command::Replay { target: name, files } => {
            let target = known(&name)?;
            for file in files {
                let input = std::fs::read(&file).with_context(|| file.display().to_string())?;
                let cost = measure(target, &input);
                let note = if cost.time > SLOW { ", which is slow" } else { "" };
                println!(
                    "{}: {} bytes took {} KiB and {:.1} ms{note}",
                    file.display(),
                    input.len(),
                    cost.memory / 1024,
                    cost.time.as_secs_f64() * 1000.0
                );
            }
        }
        Command::Prepare { folder } => {
            for target in TARGETS {
                let folder = folder.join(target.name);
                write_files(&folder.join("seeds"), &(target.seeds)())?;
                write_files(&folder.join("corpus"), &corpus::stored(target)?)?;
                let quoted = |word: String| {
                    let byte = |byte: u8| format!("\\x{byte:02x}");
                    format!("\"{}\"\n", word.bytes().map(byte).collect::<String>())
                };
                let words: String = (target.words)().into_iter().map(quoted).collect();
                // libFuzzer takes no empty file.
                let words = format!("# The words of {}\n{words}", target.name);
                std::fs::write(folder.join("words"), words)?;
            }
        }
        Command::Store { target: name, folder } => {
            let target = known(&name)?;
            let mut inputs = Vec::new();
            for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                inputs.push(std::fs::read(entry?.path())?);
            }
            let count = inputs.len();
            let bytes = corpus::store(target, inputs)?;
            println!("{name}: {count} inputs are stored in {} KiB", bytes.div_ceil(1024));
        }
    }
    Ok(())
}

fn known(name: &str) -> anyhow::Result<&'static Target> {
    target(name).with_context(|| format!("there is no target {name}: see tercet-fuzz list"))
}

/// Makes a folder of these inputs and no others; each is named by its number.
fn write_files(folder: &Path, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    for (number, input) in inputs.iter().enumerate() {
        std::fs::write(folder.join(format!("{number:04}")), input)?;
    }
    Ok(())
}
