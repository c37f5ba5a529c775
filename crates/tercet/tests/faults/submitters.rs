//! The client library's submitter: order, and that each value comes once, whoever leads.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tercet_client::{Client, Outcome, Reason, Submission, SubmitterOptions};

use crate::{PATIENCE, on_three};

/// How many submitters there are.
const SUBMITTERS: u64 = 3;

/// Submits values until it is told to stop. Gives what became of each.
async fn submit(client: Client, number: u64, ends: Instant) -> anyhow::Result<Vec<u64>> {
    // Through any fault of this test, with room to spare on a slow machine.
    let options = SubmitterOptions { timeout: PATIENCE, ..SubmitterOptions::default() };
    let submitter = client.submitter_with(options);
    let mut under_way: Vec<Submission> = Vec::new();
    while Instant::now() < ends {
        for _ in 0..7 {
            let value = format!("{number}:{}", under_way.len());
            under_way.push(submitter.submit(value).await);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut seqs = Vec::new();
    for submission in under_way {
        let what = || format!("value {} of submitter {number}", seqs.len());
        let seq = submission.await.with_context(what)?;
        seqs.push(seq);
    }
    Ok(seqs)
}

/// The leader is killed, and paused, with requests under way: every value is in the log once, where
/// its submission said, and those of a submitter stand in its order.
#[test]
fn a_submitter_keeps_its_order_through_leaders() {
    on_three("a_submitter_keeps_its_order_through_leaders", 3, |cluster, run| {
        cluster.start_all()?;
        cluster.await_leader()?;
        while run.again() {
            let first = cluster.run(cluster.client().tail(false))?.next_seq;
            let ends = Instant::now() + Duration::from_secs(6);
            let submitters: Vec<_> = (0..SUBMITTERS)
                .map(|number| cluster.spawn(submit(cluster.client().clone(), number, ends)))
                .collect();
            std::thread::sleep(run.random.millis(200, 600));
            let killed = cluster.await_leader()?;
            cluster.kill(killed)?;
            std::thread::sleep(run.random.millis(300, 600));
            cluster.start(killed)?;
            cluster.await_healed()?;
            let paused = cluster.await_leader()?;
            cluster.signal(paused, rustix::process::Signal::STOP)?;
            std::thread::sleep(run.random.millis(400, 800));
            cluster.signal(paused, rustix::process::Signal::CONT)?;
            let mut submitted = 0;
            let mut told = Vec::new();
            for submitter in submitters {
                let seqs = cluster.run(submitter)??;
                submitted += seqs.len();
                told.push(seqs);
            }
            let records = cluster.run(cluster.client().read(first, u64::MAX))?;
            let mut found = vec![Vec::new(); told.len()];
            for record in &records {
                let text = str::from_utf8(&record.value)?;
                let (number, count) = text.split_once(':').context("a value of a submitter")?;
                let (number, count): (usize, usize) = (number.parse()?, count.parse()?);
                ensure!(count == found[number].len(), "{text} at {}: order, or twice", record.seq);
                found[number].push(record.seq);
            }
            ensure!(found == told, "values stand where their submissions said");
            ensure!(records.len() == submitted, "{} of {submitted}", records.len());
            run.note(format!("{submitted} values"));
        }
        Ok(())
    });
}

/// A value that no node takes fails alone; who waits too long is told whether his value may be in
/// the log; and nobody gets ahead of the cluster by more than his buffer.
#[test]
fn a_submitter_tells_what_became_of_each_value() {
    on_three("a_submitter_tells_what_became_of_each_value", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let client = cluster.client().clone();
        let options = SubmitterOptions {
            timeout: Duration::from_secs(2),
            buffer_bytes: 4 << 20,
            ..SubmitterOptions::default()
        };
        let submitter = cluster.run(async { client.submitter_with(options) });
        let (before, large, behind) = cluster.run(async {
            let before = submitter.submit("before").await;
            let large = submitter.submit(vec![b'x'; (1 << 20) + 1]).await;
            let behind = [submitter.submit("behind").await, submitter.submit("it").await];
            let [behind, it] = behind;
            (before.await, large.await, [behind.await, it.await])
        });
        ensure!(before == Ok(1), "{before:?}");
        let error = large.err().context("a value above the limit")?;
        ensure!(error.reason == Reason::TooLarge && error.outcome == Outcome::NotAppended);
        ensure!(behind == [Ok(2), Ok(3)], "{behind:?}");

        cluster.kill(1)?;
        cluster.kill(2)?;
        let (answers, is_full) = cluster.run(async {
            let mut under_way = vec![submitter.submit("nobody takes it").await];
            // Each of these fills a request of its own, behind that one.
            let value = vec![b'y'; 1 << 20];
            for _ in 0..3 {
                under_way.push(submitter.submit(value.clone()).await);
            }
            let one_more = submitter.submit(value);
            let is_full = tokio::time::timeout(Duration::from_millis(200), one_more).await.is_err();
            let mut answers = Vec::new();
            for submission in under_way {
                answers.push(submission.await);
            }
            (answers, is_full)
        });
        ensure!(is_full, "four values of 1 MiB in a buffer of 4 MiB");
        for answer in &answers {
            let error = answer.as_ref().err().context("two of three are down")?;
            let reasons = [Reason::Deadline, Reason::NoLeader, Reason::LeadershipLost];
            ensure!(reasons.contains(&error.reason), "{error}");
        }
        cluster.start(1)?;
        cluster.start(2)?;
        cluster.await_leader()?;
        let again = cluster.run(async { submitter.submit("again").await.await })?;
        let last = cluster.run(client.read(again, 1))?;
        ensure!(last.first().is_some_and(|record| record.value == "again"), "{last:?}");
        Ok(())
    });
}
