//! Processes that are killed, stopped, or robbed of their files.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tercet_testkit::checker::Violation;
use tercet_testkit::load::now;
use tercet_testkit::{Load, LoadOptions, ReadOp};

use crate::{PATIENCE, THREE_ELECTION_TIMEOUTS, await_metric, on_three};

/// How many clients load the cluster.
const CLIENTS: u64 = 4;

/// `kill -9` of one node after the other, at any moment, before the last one has caught up.
#[test]
fn kill_random_nodes() {
    on_three("kill_random_nodes", 100, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        load.await_progress(10, PATIENCE);
        let mut kills = Vec::new();
        while run.again() {
            let id = run.random.node(cluster.count());
            kills.push((SystemTime::now(), id));
            cluster.kill(id)?;
            // The moments are part of the test: a node that was just starting is killed too.
            std::thread::sleep(run.random.millis(0, 200));
            cluster.start(id)?;
            load.await_progress(3, PATIENCE);
            std::thread::sleep(run.random.millis(0, 100));
        }
        let told = cluster.told();
        let led = kills.iter().filter(|(at, id)| told.leader(*at) == Some(*id));
        let times: Vec<Duration> = led.filter_map(|(at, _)| told.until_a_leader(*at)).collect();
        run.note_times("a leader again", THREE_ELECTION_TIMEOUTS, &times);
        cluster.judge(&load.finish())
    });
}

/// `kill -9` of all three at once: what was acknowledged is on their disks.
#[test]
fn kill_all_nodes() {
    on_three("kill_all_nodes", 20, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        let mut starts = Vec::new();
        while run.again() {
            load.await_progress(20, PATIENCE);
            std::thread::sleep(run.random.millis(0, 50));
            for id in 1..=cluster.count() {
                cluster.kill(id)?;
            }
            starts.push(SystemTime::now());
            cluster.start_all()?;
        }
        load.await_progress(20, PATIENCE);
        let told = cluster.told();
        let times: Vec<Duration> =
            starts.iter().filter_map(|at| told.until_a_leader(*at)).collect();
        run.note_times("a leader, from their start on,", THREE_ELECTION_TIMEOUTS, &times);
        cluster.judge(&load.finish())
    });
}

/// The leader is killed, and its log or its whole directory is deleted: the others have everything,
/// and the node comes back by the same command, mute until it is readmitted. Every third time one of
/// the others lags behind, so that a single node has all that was acknowledged.
#[test]
fn delete_the_leader() {
    on_three("delete_the_leader", 30, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        let mut lagged = 0;
        while run.again() {
            load.await_progress(10, PATIENCE);
            let mut leader = cluster.await_leader()?;
            let mut lags = None;
            if run.begun % 3 == 0 {
                let id = 1 + leader % cluster.count();
                cluster.kill(id)?;
                load.await_progress(50, PATIENCE);
                // Whoever leads by now: the one that is down does not.
                leader = cluster.await_leader()?;
                lags = Some(id);
                lagged += 1;
            }
            cluster.kill(leader)?;
            if run.begun % 2 == 0 {
                cluster.wipe(leader)?;
            } else {
                fs::remove_dir_all(cluster.data(leader).join("wal"))?;
            }
            for id in lags.into_iter().chain([leader]) {
                cluster.start(id)?;
            }
            load.await_progress(10, PATIENCE);
            cluster.await_statuses("the wiped node votes again", |statuses| {
                let votes = |role: &str| role == "follower" || role == "leader";
                statuses.iter().all(|status| status.as_ref().is_some_and(|s| votes(&s.role)))
            })?;
        }
        run.note(format!("{lagged} of them with a lagging node; all rejoined by themselves"));
        cluster.judge(&load.finish())
    });
}

/// A node's log is deleted under its feet, a follower's or the leader's: it notices, goes silent,
/// forgets its vote, and is repaired by the others.
#[test]
fn delete_a_running_log() {
    on_three("delete_a_running_log", 10, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), CLIENTS, run.seed);
        let mut deletions = Vec::new();
        while run.again() {
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            let id = if run.begun % 2 == 0 { leader } else { 1 + leader % cluster.count() };
            let before = cluster.status(id).map(|status| status.incarnation);
            deletions.push((SystemTime::now(), id));
            for file in fs::read_dir(cluster.data(id).join("wal"))? {
                fs::remove_file(file?.path())?;
            }
            cluster.await_statuses("the node has a new incarnation, and votes", |statuses| {
                statuses[id - 1].as_ref().is_some_and(|status| {
                    Some(&status.incarnation) != before.as_ref()
                        && matches!(status.role.as_str(), "follower" | "leader")
                })
            })?;
        }
        let told = cluster.told();
        let silent = |(at, id): &(SystemTime, usize)| {
            // The last that the node says with its old memory; from then on it is mute.
            let noticed = told.first(*id, "while the node ran", *at)?;
            noticed.duration_since(*at).ok()
        };
        let times: Vec<Duration> = deletions.iter().filter_map(silent).collect();
        anyhow::ensure!(times.len() == deletions.len(), "a node did not say what it lost");
        run.note_times("silent", Duration::from_millis(200), &times);
        cluster.judge(&load.finish())
    });
}

/// The leader's process stands still for a while and then goes on as if nothing had happened: it
/// must not acknowledge, nor answer reads, out of its past. Clients of each node read all the time,
/// so that some wait at the leader when it goes on.
///
/// Two seconds are as good as ten for what is checked: both are many election timeouts. Ten are
/// what operators report, so the first pause is as long, and all of them where more than the test
/// command's share is asked for.
#[test]
fn pause_the_leader() {
    const READERS: u64 = 2;
    on_three("pause_the_leader", 10, |cluster, run| {
        cluster.start_all()?;
        let options = LoadOptions { clients: CLIENTS, first: 0, readers: READERS, seed: run.seed };
        let load = Load::start_with(cluster.addresses(), &options);
        let mut pauses = Vec::new();
        let mut long = 0;
        while run.again() {
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            let is_long = run.is_full || run.begun == 1;
            long += u64::from(is_long);
            let pause = Duration::from_secs(if is_long { 10 } else { 2 });
            let begun = Instant::now();
            let from = now();
            cluster.signal(leader, Signal::STOP)?;
            load.await_progress(20, PATIENCE);
            // The length of the pause is what is tested.
            std::thread::sleep(pause.saturating_sub(begun.elapsed()));
            pauses.push((from, now()));
            cluster.signal(leader, Signal::CONT)?;
            load.await_progress(10, PATIENCE);
        }
        let history = load.finish();
        // Everywhere else a read takes milliseconds.
        let waited = |read: &&ReadOp| {
            let (begun, ended) = (read.begun, read.ended);
            pauses.iter().any(|(from, to)| *from <= begun && begun + 100_000 < *to && *to < ended)
        };
        let waited = history.reads.iter().filter(waited).count();
        anyhow::ensure!(waited > 0, "no read waited at a leader that stood still");
        run.note(format!(
            "0 stale of {} linearizable reads, {waited} of them waited at the paused leader; \
             {long} pauses of 10 s, the others of 2 s",
            history.reads.len()
        ));
        cluster.judge(&history)
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
        for id in 1..=cluster.count() {
            let muted = if id == keeper { 0.0 } else { 1.0 };
            await_metric(cluster, id, "tercet_quarantined", muted)?;
        }
        let options = tercet_client::SubmitOptions {
            timeout: Duration::from_secs(3),
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
        }
        for (id, values) in (1..).zip(cluster.values()?) {
            anyhow::ensure!(
                values.starts_with(&kept) && values.ends_with(b"write goes on\n"),
                "n{id} has other values than the survivor"
            );
        }
        Ok(())
    });
}
