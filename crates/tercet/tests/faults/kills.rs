//! Processes that are killed, stopped, or robbed of their files.

use std::fs;

use rustix::process::Signal;
use tercet_testkit::Load;
use tercet_testkit::checker::Violation;

use crate::{PATIENCE, on_three};

/// How many clients load the cluster.
const CLIENTS: u64 = 4;

/// `kill -9` of one node after the other, at any moment, before the last one has caught up.
#[test]
fn kill_random_nodes() {
    on_three("kill_random_nodes", 100, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        load.await_progress(10, PATIENCE);
        for _ in 0..run.repetitions {
            let id = run.random.node(cluster.count());
            cluster.kill(id)?;
            // The moments are part of the test: a node that was just starting is killed too.
            std::thread::sleep(run.random.millis(0, 200));
            cluster.start(id)?;
            load.await_progress(3, PATIENCE);
            std::thread::sleep(run.random.millis(0, 100));
        }
        cluster.judge(&load.finish())
    });
}

/// `kill -9` of all three at once: what was acknowledged is on their disks.
#[test]
fn kill_all_nodes() {
    on_three("kill_all_nodes", 20, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        for _ in 0..run.repetitions {
            load.await_progress(20, PATIENCE);
            std::thread::sleep(run.random.millis(0, 50));
            for id in 1..=cluster.count() {
                cluster.kill(id)?;
            }
            cluster.start_all()?;
        }
        load.await_progress(20, PATIENCE);
        cluster.judge(&load.finish())
    });
}

/// The leader is killed and its whole directory deleted: the others have everything, and the node
/// comes back by the same command, mute until it is readmitted.
#[test]
fn delete_the_leader() {
    on_three("delete_the_leader", 10, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        for _ in 0..run.repetitions {
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            cluster.kill(leader)?;
            cluster.wipe(leader)?;
            cluster.start(leader)?;
            load.await_progress(10, PATIENCE);
            cluster.await_statuses("the wiped node votes again", |statuses| {
                let votes = |role: &str| role == "follower" || role == "leader";
                statuses.iter().all(|status| status.as_ref().is_some_and(|s| votes(&s.role)))
            })?;
        }
        cluster.judge(&load.finish())
    });
}

/// A follower's log is deleted under its feet: it notices, forgets its vote, and is repaired by
/// the leader.
#[test]
fn delete_a_followers_log() {
    on_three("delete_a_followers_log", 10, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        for _ in 0..run.repetitions {
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            let follower = 1 + leader % cluster.count();
            let before = cluster.status(follower).map(|status| status.incarnation);
            for file in fs::read_dir(cluster.data(follower).join("wal"))? {
                fs::remove_file(file?.path())?;
            }
            cluster.await_statuses("the node has a new incarnation, and votes", |statuses| {
                statuses[follower - 1].as_ref().is_some_and(|status| {
                    Some(&status.incarnation) != before.as_ref()
                        && matches!(status.role.as_str(), "follower" | "leader")
                })
            })?;
        }
        cluster.judge(&load.finish())
    });
}

/// The leader's process stands still for a while and then goes on as if nothing had happened: it
/// must not acknowledge, nor answer reads, out of its past.
#[test]
fn pause_the_leader() {
    on_three("pause_the_leader", 5, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        for _ in 0..run.repetitions {
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            cluster.signal(leader, Signal::STOP)?;
            load.await_progress(20, PATIENCE);
            std::thread::sleep(run.random.millis(0, 500));
            cluster.signal(leader, Signal::CONT)?;
            load.await_progress(10, PATIENCE);
        }
        cluster.judge(&load.finish())
    });
}

/// Two of three lose their whole directories. Nobody can know what they had acknowledged: they
/// never form a second, empty cluster, and the one that remembers serves nothing alone.
#[test]
fn delete_two_of_three() {
    on_three("delete_two_of_three", 1, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        load.await_progress(20, PATIENCE);
        cluster.await_leader()?;
        let history = load.finish();
        let keeper = run.random.node(cluster.count());
        let others: Vec<usize> = (1..=cluster.count()).filter(|id| *id != keeper).collect();
        for id in &others {
            cluster.kill(*id)?;
            cluster.wipe(*id)?;
            cluster.start(*id)?;
        }
        cluster.await_statuses("the wiped nodes are quarantined", |statuses| {
            others.iter().all(|id| {
                statuses[id - 1].as_ref().is_some_and(|status| status.role == "quarantined")
            })
        })?;
        let options = tercet_client::SubmitOptions {
            timeout: std::time::Duration::from_secs(3),
            ..tercet_client::SubmitOptions::default()
        };
        let refused = cluster.run(cluster.client().submit_with(["too many are gone"], options));
        anyhow::ensure!(refused.is_err(), "two empty nodes acknowledged a value: {refused:?}");
        let file = fs::read(cluster.data(keeper).join("values.log"))?;
        for id in others {
            let role = cluster.status(id).map(|status| status.role);
            anyhow::ensure!(role.as_deref() == Some("quarantined"), "n{id} is {role:?}");
            // A leader may have repaired them before it noticed that it is alone.
            let copy = fs::read(cluster.data(id).join("values.log"))?;
            anyhow::ensure!(file.starts_with(&copy), "n{id} holds records of its own");
        }
        // What the one that remembers has is all that was acknowledged.
        let violations = tercet_testkit::checker::check(&history, &[file]);
        // What only the two had is beyond repair; anything else would be a lie.
        let lies: Vec<String> = violations
            .iter()
            .filter(|violation| !matches!(violation, Violation::Lost { .. }))
            .map(ToString::to_string)
            .collect();
        anyhow::ensure!(lies.is_empty(), "{lies:?}");
        Ok(())
    });
}

/// Two of three are lost for good, and an operator goes on from the directory of the third: what it
/// holds is there again on all nodes, with a new cluster id, and what comes is appended behind it.
#[test]
fn recover_from_one_of_three() {
    on_three("recover_from_one_of_three", 1, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        load.await_progress(20, PATIENCE);
        let before = cluster.status(cluster.await_leader()?).expect("the leader answers");
        load.finish();
        let survivor = run.random.node(cluster.count());
        let from = cluster.data(survivor);
        let recover = |arguments: &[&str]| {
            let mut command = std::process::Command::new(crate::TERCET);
            command.arg("recover").arg("--from").arg(&from).args(arguments);
            command.stdin(std::process::Stdio::null()).output().expect("the program starts")
        };
        let said = |output: &std::process::Output| {
            let (out, err) = (&output.stdout, &output.stderr);
            format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
        };
        let in_use = recover(&["--accept-loss", "--yes"]);
        anyhow::ensure!(
            !in_use.status.success() && said(&in_use).contains("in use by another process"),
            "its node runs: {in_use:?}"
        );
        cluster.stop_all()?;
        let others: Vec<usize> = (1..=cluster.count()).filter(|id| *id != survivor).collect();
        for id in &others {
            cluster.wipe(*id)?;
        }
        let kept = fs::read(from.join("values.log"))?;
        let asked = recover(&[]);
        anyhow::ensure!(
            asked.status.code() == Some(2) && said(&asked).contains("say --accept-loss"),
            "{asked:?}"
        );
        let unanswered = recover(&["--accept-loss"]);
        anyhow::ensure!(
            unanswered.status.code() == Some(1)
                && said(&unanswered).contains("nothing was changed"),
            "{unanswered:?}"
        );
        let done = recover(&["--accept-loss", "--yes"]);
        anyhow::ensure!(done.status.success() && said(&done).contains("generation 2"), "{done:?}");
        let again = recover(&["--accept-loss", "--yes"]);
        anyhow::ensure!(said(&again).contains("recovered already"), "{again:?}");
        cluster.start_all()?;
        cluster.await_leader()?;
        cluster.run(cluster.client().submit(["goes on"]))?;
        cluster.await_healed()?;
        for id in 1..=cluster.count() {
            let status = cluster.status(id).expect("all nodes answer");
            anyhow::ensure!(
                status.generation == 2 && status.cluster_id != before.cluster_id,
                "n{id}: {status:?}"
            );
            let values = fs::read(cluster.data(id).join("values.log"))?;
            anyhow::ensure!(
                values.starts_with(&kept) && values.ends_with(b"write goes on\n"),
                "n{id} has other values than the survivor"
            );
        }
        Ok(())
    });
}
