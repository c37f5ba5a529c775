//! Every stored input, and every seed, is read by its target: those that found something once, and
//! those that reach what others do not.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tercet_fuzz::{Cost, SLOW, TARGETS, Target, corpus, measure};

/// How many times slower than promised an input may be here: on a machine that is busy and in a
/// build that is not the fastest, this still finds what takes the square of its length.
const PATIENCE: u32 = 20;

/// Memory is counted for the whole process: no other test may allocate or free meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_TEST: Mutex<()> = Mutex::new(());
    ONE_TEST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// Each name, with the input.
fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut inputs: Vec<(String, Vec<u8>)> = (target.seeds)()
        .into_iter()
        .enumerate()
        .map(|(number, seed)| (format!("seed {number} of {}", target.name), seed))
        .collect();
    for (number, input) in corpus::stored(target).unwrap().into_iter().enumerate() {
        inputs.push((format!("input {number} of corpus/{}.bin", target.name), input));
    }
    for path in files(&here.join("crashes").join(target.name)) {
        let input = std::fs::read(&path).unwrap();
        inputs.push((path.display().to_string(), input));
    }
    inputs
}

#[test]
fn every_stored_input_is_read() {
    let _alone = alone();
    memory_is_counted();
    let mut failures = Vec::new();
    println!("| target | inputs | most memory | slowest |");
    for target in TARGETS {
        let inputs = inputs(target);
        // What is made once, by whoever comes first, is not an input's cost.
        (target.run)(b"");
        let mut most = Cost::default();
        for (name, input) in &inputs {
            match catch_unwind(AssertUnwindSafe(|| measure(target, input))) {
                Ok(cost) => {
                    if cost.time > SLOW * PATIENCE {
                        failures.push(format!("{name}: {:?}", cost.time));
                    }
                    most.memory = most.memory.max(cost.memory);
                    most.time = most.time.max(cost.time);
                }
                Err(_) => failures.push(format!("{name}: see the panic above")),
            }
        }
        let slow = if most.time > SLOW { " (more than is promised)" } else { "" };
        println!(
            "| {} | {} | {} KiB | {:.1} ms{slow} |",
            target.name,
            inputs.len(),
            most.memory / 1024,
            most.time.as_secs_f64() * 1000.0
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Stored inputs belong to targets; nothing is stored that nobody reads.
#[test]
fn every_stored_input_has_its_target() {
    let _alone = alone();
    for folder in ["corpus", "crashes"] {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let Ok(entries) = std::fs::read_dir(here) else { continue };
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let target = if folder == "corpus" { name.strip_suffix(".bin") } else { Some(&*name) };
            assert!(target.and_then(tercet_fuzz::target).is_some(), "{folder}/{name}");
        }
    }
}

/// A target has its executable for libFuzzer, and its line in the table.
#[test]
fn every_target_is_known_everywhere() {
    let _alone = alone();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(here.join(path)).unwrap();
    let (page, manifest) = (read("README.md"), read("engine/Cargo.toml"));
    for Target { name, .. } in TARGETS {
        assert!(page.contains(&format!("| `{name}` |")), "{name} in README.md");
        let path = format!("fuzz_targets/{name}.rs");
        let lines = format!("name = \"{name}\"\npath = \"{path}\"");
        assert!(manifest.contains(&lines), "{name} in engine/Cargo.toml");
        let program = read(&format!("engine/{path}"));
        assert!(program.contains(&format!("fuzz(\"{name}\", input)")), "{path}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// The budgets are checks that can fail. A part of another test, because what a test that ends gives
/// back would be counted, too.
fn memory_is_counted() {
    let target = Target {
        name: "greedy",
        about: "",
        run: |input| drop(std::hint::black_box(vec![0_u8; input.len() * 4096])),
        seeds: Vec::new,
        words: Vec::new,
        bytes_max: 0,
        memory_max: 1 << 20,
    };
    // The harness gives a little back meanwhile.
    assert!(measure(&target, &[0; 100]).memory >= 80 * 4096);
    let refused = catch_unwind(|| measure(&target, &[0; 1000])).unwrap_err();
    let text = refused.downcast_ref::<String>().unwrap();
    assert!(text.contains("bytes of memory"), "{text}");
}

#[test]
fn time_is_counted() {
    let _alone = alone();
    let begun = std::time::Instant::now();
    let mut longest = Duration::ZERO;
    let target = Target {
        name: "busy",
        about: "",
        run: |_| {
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
        },
        seeds: Vec::new,
        words: Vec::new,
        bytes_max: 0,
        memory_max: usize::MAX,
    };
    while longest < Duration::from_millis(10) && begun.elapsed() < Duration::from_secs(10) {
        longest = longest.max(measure(&target, b"").time);
    }
    assert!(longest >= Duration::from_millis(10), "{longest:?}");
}
