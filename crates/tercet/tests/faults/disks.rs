//! Disks that fail a sync, that become slow, that give back other bytes than were written, and
//! disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use tercet_client::{Reason, SubmitOptions};
use tercet_testkit::{History, Load, LoadOptions, StartOptions};

use crate::{
    PATIENCE, TERCET, await_metric, has, is_root, metric, not_run, on_three, on_three_with,
};

/// A sync that fails: the node stops at once, says why, and acknowledges nothing after it; started
/// again on a disk that works, it goes on. It never tries the sync again: after a failed one the
/// kernel may have dropped the very pages.
///
/// That nothing is acknowledged is read off the system calls: the thread whose sync failed makes no
/// other, and sends nothing to any peer. (Where that is the thread that only waits for the disk, the
/// owner may have been sending something else at that moment.) What was lost would not show
/// otherwise: the kernel here did keep the pages.
#[test]
fn fail_a_sync() {
    if !has("strace") {
        return not_run("fail_a_sync", "strace is not installed");
    }
    on_three("fail_a_sync", 20, |cluster, run| {
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), 4, run.seed);
        let (mut sent, mut leaders, mut running) = (0, 0, 0);
        while run.again() {
            load.await_progress(10, PATIENCE);
            let id = run.random.node(cluster.count());
            cluster.kill(id)?;
            let shall_lead = run.begun % 2 == 0;
            let at = 1 + run.random.below(if shall_lead { 300 } else { 60 });
            let calls = cluster.dir().join(format!("calls-{}", run.begun));
            let out = calls.display().to_string();
            let inject = format!("inject=fdatasync:error=EIO:when={at}");
            let trace = "trace=fdatasync,sendto,sendmsg,writev";
            // strace as a grandchild (-D): the child is the node itself.
            let through =
                ["strace", "-D", "-f", "-q", "-s", "0", "-o", &out, "-e", trace, "-e", &inject];
            let through = through.iter().map(ToString::to_string).collect();
            cluster.start_with(id, &StartOptions { through, ..StartOptions::default() })?;
            let since = SystemTime::now();
            // It may be gone before it leads, and has to catch up first.
            while shall_lead
                && cluster.is_running(id)
                && cluster.run(cluster.client().transfer(u32::try_from(id).ok())).is_err()
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            let status = cluster.await_end(id, PATIENCE)?;
            let said = cluster.last_words(id);
            ensure!(
                matches!(status.code(), Some(11 | 12)) && said.contains("Input/output error"),
                "n{id} ended with {status} after sync {at} failed, and said: {said}"
            );
            let told = cluster.told();
            // 11 says that it cannot start, 12 that it could not go on.
            let was_open = told.first(id, "term=", since).is_some();
            ensure!(
                was_open == (status.code() == Some(12)),
                "n{id} ended with {status} after sync {at} failed"
            );
            running += u64::from(was_open);
            leaders += u64::from(told.first(id, "leader term=", since).is_some());
            let (before, after) = calls_around_a_failure(&calls)?;
            ensure!(after.is_empty(), "n{id} went on after sync {at} failed: {after:?}");
            sent += before;
            load.await_progress(10, PATIENCE);
            cluster.start(id)?;
        }
        ensure!(sent > 0 || !run.is_full, "the threads that were watched never sent anything");
        run.note(format!(
            "0 sends after the failed sync, {sent} before; {running} while running (exit code 12), \
             {leaders} of them had led, the others while starting (11)"
        ));
        load.await_progress(10, PATIENCE);
        cluster.judge(&load.finish())
    });
}

/// Of the thread whose sync failed, from strace's words: how many calls it had made, and those that
/// it began after that.
fn calls_around_a_failure(path: &Path) -> anyhow::Result<(usize, Vec<String>)> {
    let deadline = Instant::now() + PATIENCE;
    let (text, thread) = loop {
        let text = fs::read_to_string(path)?;
        let failed = text.lines().find(|line| line.ends_with("(INJECTED)"));
        let thread = failed.and_then(|line| line.split_whitespace().next()).map(str::to_owned);
        // strace writes on for a moment when the node has ended.
        if let Some(thread) = thread
            && text.lines().last().is_some_and(|line| line.contains("+++ exited"))
        {
            break (text, thread);
        }
        ensure!(Instant::now() < deadline, "{} says nothing of a failed sync", path.display());
        std::thread::sleep(Duration::from_millis(2));
    };
    let its = |line: &&str| line.split_whitespace().next() == Some(thread.as_str());
    let mut calls = text.lines().filter(its);
    let before = calls.by_ref().take_while(|line| !line.ends_with("(INJECTED)")).count();
    Ok((before, calls.filter(|line| !line.contains("+++")).map(str::to_owned).collect()))
}

/// A disk gives back other bytes than were written: the node gets the entries from the others and
/// writes them back; nothing is lost, and nobody has to rejoin.
#[test]
fn damage_a_log() {
    const HEADER: usize = 4096;
    on_three("damage_a_log", 10, |cluster, run| {
        cluster.start_all()?;
        cluster.await_healed()?;
        let before = cluster.statuses();
        let load = Load::start(cluster.addresses(), 4, run.seed);
        let mut repaired = 0.0;
        while run.again() {
            load.await_progress(20, PATIENCE);
            let id = run.random.node(cluster.count());
            cluster.kill(id)?;
            let path = cluster.data(id).join("wal/00000001.seg");
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            let end = bytes[..middle].iter().rposition(|byte| *byte != 0).unwrap_or(HEADER);
            // Somewhere among the frames: one byte, or a sector of zeros.
            let room = u64::try_from(end - HEADER)?;
            let at = HEADER + usize::try_from(run.random.below(room.max(1)))?;
            if run.begun % 2 == 0 {
                bytes[at] ^= 0x40;
            } else {
                let sector = at - at % 512;
                bytes[sector..sector + 512].fill(0);
            }
            fs::write(&path, &bytes)?;
            cluster.start(id)?;
            cluster.await_healed()?;
            await_metric(cluster, id, "tercet_damaged_entries", 0.0)?;
            repaired += metric(cluster, id, "tercet_repaired_entries_total")?;
        }
        load.await_progress(10, PATIENCE);
        let told = (1..=cluster.count()).filter(|id| cluster.log(*id).contains("were repaired"));
        ensure!((told.count() > 0) == (repaired > 0.0), "the metrics count {repaired} repairs");
        // Not every byte of a log belongs to an entry.
        ensure!(repaired > 0.0 || run.begun < 10, "no entry was repaired");
        run.note(format!("{repaired} entries repaired, no node had to rejoin"));
        for (was, is) in before.iter().zip(cluster.statuses()) {
            let incarnation = |status: &Option<tercet_client::v1::StatusResponse>| {
                status.as_ref().map(|status| status.incarnation.clone())
            };
            ensure!(incarnation(was) == incarnation(&is), "a node had to rejoin: {was:?}, {is:?}");
        }
        cluster.judge(&load.finish())?;
        cluster.stop_all()?;
        let dirs = (1..=cluster.count()).map(|id| cluster.data(id));
        let verified = Command::new(TERCET).arg("verify").args(dirs).output()?;
        let said = String::from_utf8_lossy(&verified.stdout);
        ensure!(verified.status.success(), "damage is left: {said}");
        Ok(())
    });
}

/// The leader's disk becomes slow: it hands leadership over, and says why.
#[test]
fn slow_a_disk() {
    if !has("strace") {
        return not_run("slow_a_disk", "strace is not installed");
    }
    on_three("slow_a_disk", 1, |cluster, run| {
        // Slow from the 1500th sync on: by then it is known what is usual.
        let through = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_enter=60000:when=1500+",
        ];
        let through = through.iter().map(ToString::to_string).collect();
        cluster.start_with(1, &StartOptions { through, ..StartOptions::default() })?;
        cluster.start(2)?;
        cluster.start(3)?;
        if cluster.await_leader()? != 1 {
            let nodes = format!("--node={}", cluster.addresses().join(","));
            let handed = Command::new(TERCET).args(["transfer", "--to=1", &nodes]).output()?;
            ensure!(handed.status.success(), "{}", String::from_utf8_lossy(&handed.stderr));
        }
        // One request at a time: then the same thread makes every sync, and strace counts by thread.
        let load = Load::start(cluster.addresses(), 1, run.seed);
        cluster.await_statuses("n1 says that its disk is slow, and another leads", |statuses| {
            let slow = statuses[0].as_ref().is_some_and(|status| {
                status.role != "leader"
                    && status.problems.iter().any(|problem| problem.contains("has become slow"))
            });
            slow && statuses[1..].iter().flatten().any(|status| status.role == "leader")
        })?;
        await_metric(cluster, 1, "tercet_disk_slow", 1.0)?;
        await_metric(cluster, 2, "tercet_disk_slow", 0.0)?;
        load.await_progress(200, PATIENCE);
        cluster.kill(1)?;
        cluster.start(1)?;
        cluster.judge(&load.finish())
    });
}

/// A small disk mounted over a node's directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(path)?;
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output()?;
        ensure!(mounted.status.success(), "mount: {}", String::from_utf8_lossy(&mounted.stderr));
        Ok(Self(path.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all space that is left.
    fn fill(&self) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::create(self.ballast())?;
        let block = vec![0; 64 << 10];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node may still have it open when a test fails.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk runs full: first a follower's, then the leader's, then all of them. The cluster goes on
/// as long as a majority has space; whoever has none refuses in words, and goes on by itself when
/// there is space again. Nothing is lost.
#[test]
fn fill_a_disk() {
    if !is_root() {
        return not_run("fill_a_disk", "mounting a small disk needs root");
    }
    let small = ["--segment=4MiB", "--disk-reserve=4MiB"];
    on_three_with("fill_a_disk", 5, &small, |cluster, run| {
        let disks = (1..=cluster.count())
            .map(|id| SmallDisk::mount(&cluster.data(id), 64 << 20))
            .collect::<anyhow::Result<Vec<_>>>()?;
        cluster.start_all()?;
        let mut history = History::default();
        while run.again() {
            let round = run.begun - 1;
            let options = LoadOptions { clients: 4, first: round * 4, readers: 0, seed: run.seed };
            let load = Load::start_with(cluster.addresses(), &options);
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            let full: Vec<usize> = match round % 3 {
                0 => vec![1 + leader % cluster.count()],
                1 => vec![leader],
                _ => (1..=cluster.count()).collect(),
            };
            for id in &full {
                disks[id - 1].fill()?;
            }
            cluster.await_statuses("the nodes say that their disks are full", |statuses| {
                full.iter().all(|id| {
                    statuses[id - 1].as_ref().is_some_and(|status| {
                        status.problems.iter().any(|problem| problem.contains("disk is full"))
                    })
                })
            })?;
            if full.len() == 1 && full[0] != leader {
                load.await_progress(10, PATIENCE);
            } else if full.len() == cluster.count() {
                let options =
                    SubmitOptions { timeout: Duration::from_secs(1), ..SubmitOptions::default() };
                let refused = cluster.run(cluster.client().submit_with(["no room"], options));
                let reason = refused.as_ref().err().map(|error| error.reason);
                ensure!(reason == Some(Reason::DiskFull), "no disk has space: {refused:?}");
            }
            for id in &full {
                fs::remove_file(disks[id - 1].ballast())?;
            }
            load.await_progress(10, PATIENCE);
            let seen = load.finish();
            history.submits.extend(seen.submits);
            history.reads.extend(seen.reads);
            cluster.await_healed()?;
        }
        run.note("each refused in words, and went on when there was space again".to_owned());
        cluster.judge(&history)
    });
}
