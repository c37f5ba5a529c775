//! `tercet bench` on clusters that it starts itself, and on one that is there.

use std::path::Path;
use std::process::Command;

use crate::{TERCET, on_three};

fn bench(dir: &Path, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    bench_with(dir, arguments, &[])
}

fn bench_with(
    dir: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<serde_json::Value> {
    let output = Command::new(TERCET)
        .envs(environment.iter().copied())
        .args(["bench", "--json", "--duration", "1s", "--warm-up", "200ms"])
        .args(arguments)
        .current_dir(dir)
        .output()?;
    let (told, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(serde_json::from_str(&told)?)
}

/// Each kind of load does something, is measured, and what the bench made for itself is gone.
#[test]
fn a_bench_starts_a_cluster_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |arguments: &[&str]| {
        let mut all = vec!["--start", "3"];
        all.extend(arguments);
        let report = bench(dir.path(), &all).expect("the bench runs");
        assert!(report["records"].as_u64().is_some_and(|count| count > 0), "{report}");
        assert_eq!(report["errors"], serde_json::json!({}), "{report}");
        report
    };
    run(&["submit", "--clients", "4", "--stream", "--in-flight", "8", "--records", "2"]);
    run(&["submit", "--clients", "4", "--submitter", "--in-flight", "8"]);
    run(&["read", "--clients", "4"]);
    run(&["read", "--clients", "4", "--stream", "--in-flight", "8"]);
    run(&["tail", "--clients", "3", "--rate", "200"]);
    let report = run(&[
        "submit",
        "--clients",
        "4",
        "--rate",
        "100",
        "--html",
        "page.html",
        "--histogram",
        "latency.hgrm",
    ]);
    // Unless the machine stood still, what was asked for was done.
    assert!(report["records"].as_u64().is_some_and(|count| count <= 110), "{report}");
    let mut left: Vec<String> = std::fs::read_dir(dir.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["latency.hgrm", "page.html"]);
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("the page");
    assert_eq!(page.matches("<svg").count(), 3);
}

/// Clients are served alike by the thread that owns the log and by threads of their own, whatever
/// this machine would take.
#[test]
fn whichever_thread_serves() {
    let dir = tempfile::tempdir().expect("a directory");
    for threads in ["0", "1", "3"] {
        for what in [
            &["submit", "--clients", "9", "--connections", "3", "--to", "all"][..],
            &["submit", "--clients", "3", "--stream", "--in-flight", "50"],
            &["read", "--clients", "9", "--connections", "3", "--to", "all"],
        ] {
            let mut all = vec!["--start", "3"];
            all.extend(what);
            let report = bench_with(dir.path(), &all, &[("TERCET_API_THREADS", threads)])
                .expect("the bench runs");
            assert!(report["records"].as_u64().is_some_and(|count| count > 0), "{report}");
            assert_eq!(report["errors"], serde_json::json!({}), "{threads} threads: {report}");
        }
    }
}

/// On a cluster that is there, everything acknowledged to the bench is in its log; without a leader
/// the bench says so.
#[test]
fn a_bench_of_a_cluster_that_is_there() {
    on_three("a_bench_of_a_cluster_that_is_there", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let nodes = cluster.addresses().join(",");
        let dir = cluster.dir().to_owned();
        let report = bench(&dir, &["submit", "--node", &nodes, "--to", "all", "--clients", "6"])?;
        let count = report["records"].as_u64().unwrap_or(0);
        let next = cluster.run(cluster.client().tail(false))?.next_seq;
        anyhow::ensure!(count > 0 && next > count, "{count} acknowledged, {next} is next");
        for id in 2..=3 {
            cluster.kill(id)?;
        }
        cluster.await_statuses("the node that is left leads no more", |statuses| {
            statuses[0].as_ref().is_some_and(|status| status.role != "leader")
        })?;
        let output = Command::new(TERCET).args(["bench", "--node", &nodes]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.code() == Some(3) && said.contains("there is no leader"),
            "{said}"
        );
        Ok(())
    });
}
