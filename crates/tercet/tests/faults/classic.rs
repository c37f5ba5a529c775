//! `serve --classic`: what a person reads along.

use std::process::Command;

use anyhow::ensure;
use tercet_testkit::StartOptions;

use crate::{TERCET, on_three, on_three_with};

/// The classic lines among all that a node said.
fn told(log: &str) -> Vec<&str> {
    let starts = ["node", "Leader node", "Vote ", "Pre-vote ", "Successfully ", "Backtracking "];
    log.lines().filter(|line| starts.iter().any(|start| line.starts_with(start))).collect()
}

#[test]
fn classic_lines_tell_what_happens() {
    on_three_with("classic_lines_tell_what_happens", 1, &["--classic"], |cluster, _| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        cluster.run(async { cluster.client().submit(["55"]).await })?;
        cluster.run(async { cluster.client().submit(["a\nb", "c"]).await })?;
        cluster.await_healed()?;
        cluster.stop_all()?;
        for id in 1..=cluster.count() {
            let log = cluster.log(id);
            let told = told(&log);
            let applied: Vec<&str> = told
                .iter()
                .filter_map(|line| line.strip_prefix(&format!("node{id} applying entry ")))
                .filter_map(|line| line.split_once("): ").map(|(_, value)| value))
                .collect();
            ensure!(applied == ["55", "a\\nb", "c"], "{id}: {log}");
            let elected = told.contains(&format!("node{id} is now the leader.").as_str());
            ensure!(elected || id != leader, "{id}: {log}");
            let committed = format!("Leader node{id} committed entr");
            let commits = told.iter().any(|line| line.starts_with(&committed));
            ensure!(elected || !commits, "only who leads commits, {id}: {log}");
            ensure!(commits || id != leader, "{id}: {log}");
        }
        ensure!(told(&cluster.log(leader)).iter().any(|line| line.starts_with("Successfully")));
        Ok(())
    });
}

/// Only lines of data on standard output, without `--classic` just the one; and with the lab, too.
#[test]
fn classic_lines_are_asked_for() {
    on_three("classic_lines_are_asked_for", 1, |cluster, _| {
        cluster.start(1)?;
        cluster.start(2)?;
        let arguments = vec!["--lab".to_owned(), "--classic".to_owned(), "--json".to_owned()];
        cluster.start_with(3, &StartOptions { arguments, ..StartOptions::default() })?;
        cluster.await_leader()?;
        cluster.run(async { cluster.client().submit(["55"]).await })?;
        cluster.await_healed()?;
        cluster.stop_all()?;
        ensure!(told(&cluster.log(1)).is_empty() && told(&cluster.log(2)).is_empty());
        let log = cluster.log(3);
        let applied = log.lines().any(|line| {
            line.starts_with(r#"{"classic":"node3 applying entry "#) && line.ends_with(r#"): 55"}"#)
        });
        ensure!(applied, "{log}");
        Ok(())
    });
}

#[test]
fn the_lab_speaks_classic_words() {
    let run = |arguments: &[&str]| {
        let output = Command::new(TERCET).args(["lab", "run"]).args(arguments).output();
        output.expect("the program runs")
    };
    let output = run(&["election", "--watch", "--classic"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("n1 Vote granted to node3 for term 2"), "{said}");
    assert!(said.contains("n3 node3 is now the leader."), "{said}");
    assert!(!said.contains("asks for votes"), "{said}");
    assert_eq!(run(&["election", "--classic"]).status.code(), Some(2), "it needs --watch");
}
