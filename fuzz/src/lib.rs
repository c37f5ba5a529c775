//! Everything of Tercet that reads bytes which somebody else wrote, as functions of bytes.
//!
//! A target is a plain function: it panics if a promise is broken, and else returns. So the same
//! function is run by libFuzzer (`fuzz/engine`, `cargo xtask fuzz`), and on the stored inputs in
//! every test run (`tests/replay.rs`). What is promised for all of them, besides what each target
//! checks: no panic, no memory that does not follow what has arrived (a length field never
//! allocates), and no input that takes long.
//!
//! It must not know how libFuzzer works, and holds no second copy of a decoder: what stands here of
//! formats is how to mend checksums, so that a fuzzer gets behind them.

mod bytes_of;
pub mod corpus;
mod history;
mod targets;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use peak_alloc::PeakAlloc;

pub use targets::TARGETS;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What no input may take longer than, in processor time.
pub const SLOW: Duration = Duration::from_millis(100);

/// Something that reads foreign bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the executable, and of the folders of its inputs.
    pub name: &'static str,
    /// What is read, and what is checked.
    pub about: &'static str,
    /// Reads; panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the code that writes what is read here.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that inputs are made of.
    pub words: fn() -> Vec<String>,
    /// The longest input that is tried.
    pub bytes_max: usize,
    /// How much memory one input may take at a time.
    pub memory_max: usize,
}

/// What an input took.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cost {
    /// The most bytes that were allocated at a time, above what was there before.
    pub memory: usize,
    /// Processor time of this thread.
    pub time: Duration,
}

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Memory is counted for the whole process: one input at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Lets a target read an input.
///
/// # Panics
/// If a promise is broken, the budget of memory included.
pub fn measure(target: &Target, input: &[u8]) -> Cost {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let begun = processor_time();
    (target.run)(input);
    let time = processor_time().saturating_sub(begun);
    let memory = MEMORY.peak_usage().saturating_sub(before);
    assert!(
        memory <= target.memory_max,
        "{memory} bytes of memory for an input of {} bytes: {} takes {} at most",
        input.len(),
        target.name,
        target.memory_max
    );
    Cost { memory, time }
}

/// What the fuzzer calls.
///
/// # Panics
/// If a promise is broken, or if the input took several times as long as any may: the engine's code
/// is slower by its counters.
pub fn fuzz(name: &str, input: &[u8]) {
    let target = target(name).expect("an executable is named after its target");
    let Cost { time, .. } = measure(target, input);
    assert!(time < 5 * SLOW, "{time:?} for an input of {} bytes", input.len());
}

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let part = |n: i64| u64::try_from(n).expect("the processor's time goes forward");
    Duration::from_secs(part(now.tv_sec)) + Duration::from_nanos(part(now.tv_nsec))
}
