//! `tercet doctor`: what it says is whole, and it leaves nothing behind. What it finds is the
//! machine's, and no test of ours.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, TERCET};

const WORDS: [&str; 3] = ["good", "slow", "unfit"];

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).expect("the directory is there").next().is_none()
}

#[test]
fn a_doctor_says_what_it_measured_and_what_that_means() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(TERCET)
        .args(["doctor", "--json"])
        .arg(dir.path())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&said);
    for sync in ["sync_growing", "sync_zeroed"] {
        let of = |name: &str| report[sync][name].as_u64().expect(name);
        assert!(of("p50_us") <= of("p99_us") && of("count") > 0, "{report}");
    }
    for rate in ["sequential_write", "sequential_read"] {
        let of = |name: &str| report[rate][name].as_u64().expect(name);
        assert!(of("bytes") > 0 && of("bytes_per_second") > 0, "{report}");
    }
    for number in ["step_ns", "read_ns", "wall_jump_us"] {
        assert!(report["clock"][number].is_u64(), "{report}");
    }
    let findings = report["findings"].as_array().expect("a list");
    let rank = |value: &serde_json::Value| {
        let word = value.as_str().expect("a word");
        WORDS.iter().position(|known| *known == word).expect("one of three words")
    };
    assert!(findings.iter().all(|finding| finding["words"].is_string()), "{report}");
    let worst = findings.iter().map(|finding| rank(&finding["verdict"])).max();
    assert_eq!(worst, Some(rank(&report["verdict"])), "the verdict is that of the worst");
    assert_eq!(output.status.code(), [Some(0), Some(2), Some(3)][rank(&report["verdict"])]);
    assert!(is_empty(dir.path()));
}

#[test]
fn a_doctor_that_is_interrupted_leaves_nothing_behind() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(TERCET)
            .arg("doctor")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let begun = Instant::now();
        // It listens to signals before it measures; the file has something in it from then on.
        let has_begun = || {
            let file = fs::metadata(dir.path().join(".tercet-doctor"));
            file.is_ok_and(|file| file.len() > 0)
        };
        while !has_begun() {
            assert!(begun.elapsed() < PATIENCE, "it begins");
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        assert!(is_empty(dir.path()));
    }
}
