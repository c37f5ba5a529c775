//! `cargo xtask bench-guard`: how many instructions the core, the codec and the log take for what they
//! do most, against `bench/micro/instructions.json`.
//!
//! A clock says something else each time; a count does not. It depends on the compiler and on the C
//! library, whose names stand beside the numbers: with others nothing is judged.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::{cargo, exists, output, step};

const FILE: &str = "bench/micro/instructions.json";
/// By how many percent a count may differ.
const MARGIN: u64 = 3;

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Take the counts that differ as what is right from now on (writes into the tree)
    #[arg(long, requires = "reason")]
    update: bool,
    /// Why they differ; stands beside the numbers
    #[arg(long, requires = "update")]
    reason: Option<String>,
    /// Count each one twice: both must be the same
    #[arg(long)]
    twice: bool,
}

/// What a run came to, when nothing failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Judged,
    /// There is no valgrind: nothing was counted.
    NotRun,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
struct Baseline {
    compiler: String,
    libc: String,
    benches: BTreeMap<String, Known>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Known {
    instructions: u64,
    reason: String,
}

/// One bench, as the file has it and as it was counted now.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Verdict {
    Same {
        percent: f64,
    },
    Differs {
        percent: f64,
    },
    /// The file does not have it.
    New,
    /// It is in the file alone.
    Gone,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    if !exists("valgrind") {
        println!("bench-guard: not run: valgrind is missing (apt-get install valgrind)");
        return Ok(Outcome::NotRun);
    }
    let package = ["--release", "--locked", "--quiet", "--package", "tercet-micro"];
    step("build of the benches", cargo(&["build"]).args(package))?;
    let program = Path::new("target/release/tercet-micro");
    println!("\n== instructions");
    let mut counts = BTreeMap::new();
    for name in names(program)? {
        let counted = count(program, &name)?;
        if args.twice && count(program, &name)? != counted {
            bail!("{name}: two counts differ: something in it is left to chance");
        }
        counts.insert(name, counted);
    }
    let baseline: Baseline = match std::fs::read(FILE) {
        Ok(bytes) => serde_json::from_slice(&bytes).context(FILE)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Baseline::default(),
        Err(error) => return Err(error).context(FILE),
    };
    let verdicts = judge(&baseline.benches, &counts);
    print(&baseline.benches, &counts, &verdicts);
    let (compiler, libc) = (compiler()?, libc()?);
    let comparable = (&baseline.compiler, &baseline.libc) == (&compiler, &libc);
    if let Some(reason) = &args.reason {
        // Where all was counted otherwise, all of it is new.
        let kept = if comparable { baseline.benches } else { BTreeMap::new() };
        let benches = updated(&kept, &counts, reason);
        let text = serde_json::to_string_pretty(&Baseline { compiler, libc, benches })? + "\n";
        std::fs::write(FILE, text).context(FILE)?;
        println!("\n{FILE} is written");
        return Ok(Outcome::Judged);
    }
    if !comparable {
        println!(
            "\nnot judged: the file was made with {} and {}, and this is {compiler} and {libc}",
            baseline.compiler, baseline.libc
        );
        return Ok(Outcome::Judged);
    }
    if verdicts.values().all(|verdict| matches!(verdict, Verdict::Same { .. })) {
        return Ok(Outcome::Judged);
    }
    bail!(
        "counts of instructions differ from {FILE} by more than {MARGIN} %. If that is meant: \
         cargo xtask bench-guard --update --reason \"why\""
    )
}

fn judge(
    known: &BTreeMap<String, Known>,
    counts: &BTreeMap<String, u64>,
) -> BTreeMap<String, Verdict> {
    known
        .keys()
        .chain(counts.keys())
        .map(|name| {
            let verdict = match (known.get(name), counts.get(name)) {
                (Some(known), Some(now)) => {
                    let percent = (*now as f64 / known.instructions as f64 - 1.0) * 100.0;
                    if now.abs_diff(known.instructions) * 100 <= known.instructions * MARGIN {
                        Verdict::Same { percent }
                    } else {
                        Verdict::Differs { percent }
                    }
                }
                (None, _) => Verdict::New,
                (Some(_), None) => Verdict::Gone,
            };
            (name.clone(), verdict)
        })
        .collect()
}

/// What the file has from now on. A count within the margin stays as it was: many small steps shall
/// be seen as well as a large one.
fn updated(
    known: &BTreeMap<String, Known>,
    counts: &BTreeMap<String, u64>,
    reason: &str,
) -> BTreeMap<String, Known> {
    let verdicts = judge(known, counts);
    let next = |(name, now): (&String, &u64)| {
        let known = match verdicts[name] {
            Verdict::Same { .. } => known[name].clone(),
            Verdict::Differs { .. } | Verdict::New | Verdict::Gone => {
                Known { instructions: *now, reason: reason.to_owned() }
            }
        };
        (name.clone(), known)
    };
    counts.iter().map(next).collect()
}

fn print(
    known: &BTreeMap<String, Known>,
    counts: &BTreeMap<String, u64>,
    verdicts: &BTreeMap<String, Verdict>,
) {
    println!("{:<24} {:>12} {:>12} {:>9}", "bench", "baseline", "now", "change");
    for (name, verdict) in verdicts {
        let shown = |number: Option<u64>| number.map_or("–".to_owned(), |n| n.to_string());
        let (change, word) = match verdict {
            Verdict::Same { percent } => (format!("{percent:+.2} %"), ""),
            Verdict::Differs { percent } if *percent > 0.0 => (format!("{percent:+.2} %"), "more"),
            Verdict::Differs { percent } => (format!("{percent:+.2} %"), "fewer"),
            Verdict::New => (String::new(), "new"),
            Verdict::Gone => (String::new(), "gone"),
        };
        let line = format!(
            "{name:<24} {:>12} {:>12} {change:>9}  {word}",
            shown(known.get(name).map(|known| known.instructions)),
            shown(counts.get(name).copied()),
        );
        println!("{}", line.trim_end());
    }
}

fn names(program: &Path) -> anyhow::Result<Vec<String>> {
    let text = output(Command::new(program))?;
    let first = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    Ok(text.lines().map(first).collect())
}

/// The instructions of the part of a bench that is measured.
fn count(program: &Path, name: &str) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*measured_part*")
        .arg(program)
        .arg(name)
        // The environment is on the program's stack, and moves what is behind it.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.output().context("valgrind cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} under valgrind ({}):\n{said}", output.status);
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, number) = collected.with_context(|| format!("{name}: no count in:\n{said}"))?;
    let number: u64 = number.trim().parse().with_context(|| format!("{name}: {number}"))?;
    if number == 0 {
        bail!("{name}: nothing was counted: is its name still measured_part?");
    }
    Ok(number)
}

fn compiler() -> anyhow::Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.arg("-vV");
    let text = output(command)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    Ok(format!("{} for {host}", text.lines().next().unwrap_or_default()))
}

/// It has `memcpy` and `malloc`.
fn libc() -> anyhow::Result<String> {
    let mut command = Command::new("getconf");
    command.arg("GNU_LIBC_VERSION");
    Ok(output(command)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn known(counts: &[(&str, u64)], reason: &str) -> BTreeMap<String, Known> {
        let known = |count| Known { instructions: count, reason: reason.to_owned() };
        counts.iter().map(|(name, count)| ((*name).to_owned(), known(*count))).collect()
    }

    #[test]
    fn what_differs_by_more_than_the_margin_is_seen() {
        let before = known(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000), ("e", 9)], "");
        let now = counts(&[("a", 1030), ("b", 970), ("c", 1031), ("d", 969), ("f", 9)]);
        let verdicts = judge(&before, &now);
        let is_same = |name: &str| matches!(verdicts[name], Verdict::Same { .. });
        assert_eq!(["a", "b", "c", "d"].map(is_same), [true, true, false, false]);
        assert!(matches!(verdicts["c"], Verdict::Differs { percent } if percent > 0.0));
        assert!(matches!(verdicts["d"], Verdict::Differs { percent } if percent < 0.0));
        assert_eq!((verdicts["e"], verdicts["f"]), (Verdict::Gone, Verdict::New));
    }

    #[test]
    fn an_update_takes_only_what_differs() {
        let before = known(&[("a", 1000), ("b", 1000), ("c", 1)], "old");
        let next = updated(&before, &counts(&[("a", 1010), ("b", 2000), ("d", 5)]), "new");
        let mut expected = known(&[("b", 2000), ("d", 5)], "new");
        expected.extend(known(&[("a", 1000)], "old"));
        assert_eq!(next, expected);
    }
}
