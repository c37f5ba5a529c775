//! `cargo xtask dist`: the program to put on machines, built for what a node does most.
//!
//! The compiler lays code out by guesses at which branches are taken and which calls are hot. Here it
//! is told: a first build counts while real clusters serve real loads, a second one uses the counts
//! (profile-guided optimization). Nothing else differs from `cargo build --profile dist`: the same
//! sources, checks and assertions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::{cargo, output, step};

/// What the counts are taken from: the loads of docs/performance.md, and larger values. Each is a
/// cluster of three nodes of its own; what it starts, elects, recovers and stops with counts as well.
const LOADS: [(&str, &str); 9] = [
    ("submits, 1 client", "submit --clients 1"),
    ("submits, 64 clients", "submit --clients 64 --connections 8"),
    ("submits, 64 in flight", "submit --stream --clients 8 --in-flight 8"),
    ("submits, 256 in flight", "submit --stream --clients 8 --in-flight 32"),
    ("submits of 4 KiB", "submit --stream --clients 8 --in-flight 8 --size 4096"),
    ("submits of 64 KiB", "submit --stream --clients 8 --in-flight 2 --size 65536"),
    ("reads, 64 clients", "read --clients 64 --connections 8"),
    ("reads, 64 in flight", "read --stream --clients 8 --in-flight 8"),
    ("readers that follow", "tail --clients 8"),
];

/// Builds it, and says where it is.
pub(crate) fn run() -> anyhow::Result<PathBuf> {
    let begun = Instant::now();
    let compiler = Compiler::find()?;
    let merge = compiler.llvm_profdata()?;
    let program = program()?;
    let dir = program.parent().context("it is in a directory")?;
    let counts = dir.join("counts");
    // Counts of an earlier program would be taken for this one's.
    remove(&counts)?;
    let counting = format!("-Cprofile-generate={}", counts.display());
    let counting = compiler.build("a program that counts", &dir.join("counting"), &counting)?;

    for (name, arguments) in LOADS {
        let mut command = Command::new(&counting);
        command.arg("bench").args(arguments.split_whitespace());
        command.args(["--start", "3", "--duration", "4s", "--warm-up", "1s"]);
        // It would say where the counts go.
        command.env_remove("LLVM_PROFILE_FILE");
        step(&format!("counts of {name}"), &mut command)?;
    }

    let profile = dir.join("tercet.profdata");
    let mut command = Command::new(merge);
    command.arg("merge").arg("-o").arg(&profile).arg(&counts);
    step("counts put together", &mut command)?;
    // Cargo sees the name of the profile and not what is in it: nothing built with another one stays.
    let using = dir.join("using");
    remove(&using)?;
    let flag = format!("-Cprofile-use={}", profile.display());
    let built = compiler.build("the program that uses them", &using, &flag)?;

    std::fs::copy(&built, &program).with_context(|| program.display().to_string())?;
    let mut command = Command::new(&program);
    command.arg("--version");
    println!(
        "\n{}, {:.1} MB, in {:.0} min: {}",
        output(command)?.trim(),
        std::fs::metadata(&program)?.len() as f64 / 1e6,
        begun.elapsed().as_secs_f64() / 60.0,
        program.display(),
    );
    Ok(program)
}

/// Where it is, once it was built.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    Ok(target_dir()?.join("dist-profiled/tercet"))
}

/// Fails, and says what to do about it, where the toolchain lacks what it takes.
pub(crate) fn check_tools() -> anyhow::Result<()> {
    Compiler::find()?.llvm_profdata().map(drop)
}

struct Compiler {
    host: String,
    sysroot: PathBuf,
}

impl Compiler {
    fn find() -> anyhow::Result<Self> {
        let ask = |what: &str| {
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let mut command = Command::new(rustc);
            command.args(["--print", what]);
            anyhow::Ok(output(command)?.trim().to_owned())
        };
        Ok(Self { host: ask("host-tuple")?, sysroot: ask("sysroot")?.into() })
    }

    /// The tool of this very compiler: those of a system's LLVM often read other versions only.
    fn llvm_profdata(&self) -> anyhow::Result<PathBuf> {
        let tool = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/llvm-profdata");
        if !tool.is_file() {
            bail!(
                "{} is missing: rustup component add llvm-tools. Without it: \
                 cargo build --profile dist",
                tool.display()
            );
        }
        Ok(tool)
    }

    /// Builds the program with one more flag, and says where it is.
    fn build(&self, what: &str, target: &Path, flag: &str) -> anyhow::Result<PathBuf> {
        // With --target, the flags are not for build scripts and macros, which would count, too.
        let mut command = cargo(&["build", "--profile", "dist", "--locked", "--package", "tercet"]);
        command.args(["--target", &self.host]).arg("--target-dir").arg(target);
        // Encoded: in RUSTFLAGS a path with a space would be two flags.
        let given = std::env::var("RUSTFLAGS").unwrap_or_default();
        let flags: Vec<&str> = given.split_whitespace().chain([flag]).collect();
        step(what, command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")))?;
        Ok(target.join(&self.host).join("dist/tercet"))
    }
}

/// A directory of an earlier run.
fn remove(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| dir.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Where cargo builds, whole: the program that counts runs elsewhere.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let text = output(cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata: target_directory")?;
    Ok(dir.into())
}
