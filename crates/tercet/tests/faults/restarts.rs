//! What operators do: nodes restarted one after the other, directories put back from a copy.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tercet_client::{Client, v1};
use tercet_testkit::{Cluster, Load, Options};

use crate::{PATIENCE, TERCET, on_three};

/// An upgrade without an upgrade: every node is asked to stop, in turn, and started again when it
/// has. No client is told of a failure.
#[test]
fn restart_one_after_the_other() {
    on_three("restart_one_after_the_other", 10, |cluster, run| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let load = Load::start(cluster.addresses(), 4, run.seed);
        while run.again() {
            for id in 1..=cluster.count() {
                load.await_progress(10, PATIENCE);
                cluster.stop(id)?;
                cluster.start(id)?;
                cluster.await_statuses(
                    "all nodes are connected and hold the same",
                    |statuses| {
                        let leads = |s: &&v1::StatusResponse| s.role == "leader";
                        let Some(leader) = statuses.iter().flatten().find(leads) else {
                            return false;
                        };
                        statuses.iter().all(Option::is_some)
                            && leader.peers.iter().all(|peer| {
                                // What is on its way under load does not count as behind.
                                peer.reachable && peer.lag.is_some_and(|lag| lag < 100)
                            })
                    },
                )?;
            }
        }
        load.await_progress(10, PATIENCE);
        let failed = load.failed();
        let history = load.finish();
        let submits = history.submits.len();
        run.note(format!("{failed} of {submits} submits and {} reads failed", history.reads.len()));
        ensure!(failed == 0, "{failed} operations failed, with all the retries of their clients");
        cluster.judge(&history)
    });
}

/// A follower's directory is put back as it was some time ago, against all advice: the node has
/// acknowledged what it does not know any more. The leader that it acknowledged it to tells it so,
/// and it rejoins as if it had been wiped.
#[test]
fn restore_an_old_directory() {
    on_three("restore_an_old_directory", 3, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), 4, run.seed);
        let mut rejoined = 0;
        while run.again() {
            load.await_progress(20, PATIENCE);
            let id = 1 + cluster.await_leader()? % cluster.count();
            let before = cluster.status(id).map(|status| status.incarnation);
            let copy = cluster.data(id).with_extension("copy");
            cluster.stop(id)?;
            copy_files(&cluster.data(id), &copy)?;
            let end = fs::metadata(copy.join("values.log"))?.len();
            cluster.start(id)?;
            load.await_progress(50, PATIENCE);
            let mut term = 0;
            cluster.await_statuses("the node has acknowledged more to a leader", |statuses| {
                let leader = statuses.iter().flatten().find(|status| status.role == "leader");
                term = leader.map_or(0, |status| status.term);
                let values = fs::metadata(cluster.data(id).join("values.log"));
                leader.is_some_and(|status| status.node as usize != id)
                    && values.is_ok_and(|values| values.len() > end)
            })?;
            cluster.kill(id)?;
            cluster.wipe(id)?;
            fs::rename(&copy, cluster.data(id))?;
            cluster.start(id)?;
            let mut is_new = false;
            // A leader that was elected in the meantime cannot know what the node had acknowledged.
            cluster.await_statuses("the node has a new incarnation, and votes", |statuses| {
                let Some(status) = &statuses[id - 1] else { return false };
                let votes = matches!(status.role.as_str(), "follower" | "leader");
                is_new = Some(&status.incarnation) != before.as_ref();
                votes && (is_new || status.term > term)
            })?;
            rejoined += u64::from(is_new);
            ensure!(
                !is_new || cluster.log(id).contains("older copy of the directory restored?"),
                "n{id} does not say why it rejoins"
            );
        }
        run.note(format!("{rejoined} told by the leader, and rejoined"));
        cluster.judge(&load.finish())
    });
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// `values.log` gets its lines a little later than clients get their answers, but not after a stop.
#[test]
fn a_node_that_is_stopped_leaves_its_values_whole() {
    let body = || -> anyhow::Result<()> {
        let repeat = "cargo xtask e2e a_node_that_is_stopped_leaves_its_values_whole";
        let options = Options { nodes: 1, arguments: Vec::new(), repeat: repeat.to_owned() };
        let mut cluster = Cluster::started(Path::new(TERCET), options)?;
        let mut expected = String::new();
        for round in 1..=5 {
            for value in ["a", "b"] {
                let value = format!("{value}{round}");
                cluster.run(cluster.client().submit([value.clone()]))?;
                expected.push_str(&format!("write {value}\n"));
            }
            cluster.stop(1)?;
            let found = fs::read_to_string(cluster.data(1).join("values.log"))?;
            ensure!(found == expected, "after stop {round}: {found:?}");
            cluster.start(1)?;
            cluster.await_leader()?;
        }
        Ok(())
    };
    body().expect("a stop in time");
}

/// A new log is a segment of zeros, which need not be looked through for entries.
#[cfg(target_os = "linux")]
#[test]
fn a_new_node_does_not_read_its_log_back() {
    on_three("a_new_node_does_not_read_its_log_back", 1, |cluster, run| {
        cluster.start_all()?;
        cluster.await_leader()?;
        for id in 1..=3 {
            let log = cluster.data(id).join("wal/00000001.seg");
            let made = log.metadata().with_context(|| log.display().to_string())?.len();
            let io = fs::read_to_string(format!("/proc/{}/io", cluster.pid(id)?))?;
            let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
            let read: u64 = read.context("all that was read")?.parse()?;
            run.note(format!("n{id} has made {made} bytes and read {read}"));
            ensure!(read < made / 8, "n{id} has made {made} bytes and read {read}");
        }
        Ok(())
    });
}

/// Who reads much of what is in no memory of the node is served by a thread of its own: those who
/// submit do not wait for that.
#[cfg(target_os = "linux")]
#[test]
fn a_long_read_is_read_beside_the_owner() {
    const MIB: usize = 1 << 20;
    on_three("a_long_read_is_read_beside_the_owner", 1, |cluster, run| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let values = (0..16).map(|nth| Bytes::from(vec![b'a' + nth; MIB]));
        for value in values.clone() {
            cluster.run(cluster.client().submit([value]))?;
        }
        cluster.await_healed()?;
        // Started again, it has nothing in memory.
        cluster.stop(1)?;
        cluster.start(1)?;
        cluster.await_healed()?;
        let address = cluster.address(1);
        let request =
            v1::ReadRequest { consistency: v1::Consistency::Local.into(), ..Default::default() };
        let records = cluster.run(async { Client::new([address])?.read_with(request).await })?;
        ensure!(records.iter().map(|record| &record.value).eq(values.collect::<Vec<_>>().iter()));
        let mut beside = 0;
        for task in fs::read_dir(format!("/proc/{}/task", cluster.pid(1)?))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim() == "tercet-records" {
                let io = fs::read_to_string(task.join("io"))?;
                let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
                beside += read.context("all that was read")?.parse::<usize>()?;
            }
        }
        run.note(format!("{beside} bytes read beside the owner"));
        // The last one is a single record, which the owner reads itself.
        ensure!(beside >= 15 * MIB, "{beside} bytes of {} were read beside the owner", 16 * MIB);
        Ok(())
    });
}
