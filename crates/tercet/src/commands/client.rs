//! The commands of a client: submit, read, tail, transfer.

use std::io::BufRead as _;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::json;
use tercet_client::{ApiError, Client, Reason, SubmitOptions, v1};
use tokio_stream::StreamExt as _;

use crate::args::{Nodes, ReadArgs, SubmitArgs, TailArgs, TransferArgs};
use crate::config::parse_time;
use crate::output::{self, Failure, api_failure, shown};

/// How many values of standard input go into one request, and how many bytes.
const BATCH: (usize, usize) = (1000, 1 << 20);

/// The one place where a command gets its client.
pub(crate) fn open(nodes: &Nodes) -> anyhow::Result<Client> {
    Client::new(&nodes.nodes)
        .map_err(|error| Failure::new(2, format!("--node: {}", error.message)).into())
}

pub(crate) async fn submit(args: SubmitArgs, json: bool) -> anyhow::Result<u8> {
    let client = open(&args.nodes)?;
    let timeout =
        parse_time(&args.timeout).map_err(|why| Failure::new(2, format!("--timeout: {why}")))?;
    let options = SubmitOptions {
        request_id: args.key.as_deref().map(key_of).transpose()?,
        expect_next: args.expect,
        wait_all: args.wait == "all",
        timeout,
    };
    if args.values.iter().any(|value| value == "-") {
        if args.values.len() > 1 {
            return Err(Failure::new(
                2,
                "`-` stands alone: the values are the lines of standard input",
            )
            .into());
        }
        return submit_lines(&client, options, json).await;
    }
    let values = args.values.into_iter().map(Bytes::from).collect();
    submit_values(&client, values, options, json).await
}

/// The same rule as the HTTP header's: 32 hex digits or a UUID as they are, other text hashed.
fn key_of(key: &str) -> anyhow::Result<u128> {
    tercet_server::request_id_of_key(key)
        .map_err(|error| Failure::new(2, format!("--key: {}", error.message)).into())
}

/// Submits values in one request and says where they stand.
async fn submit_values(
    client: &Client,
    values: Vec<Bytes>,
    options: SubmitOptions,
    json: bool,
) -> anyhow::Result<u8> {
    let done = client.submit_with(values, options).await.map_err(|error| api_failure(&error))?;
    if json {
        output::line(serde_json::to_string(&done.response)?)?;
    } else {
        output::line(submit_sentence(&done.response))?;
    }
    Ok(0)
}

/// Where submitted values stand, in words.
pub(crate) fn submit_sentence(done: &v1::SubmitResponse) -> String {
    let numbers = if done.first_seq == done.last_seq {
        format!("{}", done.first_seq)
    } else {
        format!("{} to {}", done.first_seq, done.last_seq)
    };
    let nodes: Vec<String> = done.durable_on.iter().map(|node| format!("n{node}")).collect();
    let again = if done.duplicate { ", appended by an earlier request with this key" } else { "" };
    format!("ok: {numbers} (on disk on {}{again})", nodes.join(", "))
}

async fn submit_lines(client: &Client, options: SubmitOptions, json: bool) -> anyhow::Result<u8> {
    if options.request_id.is_some() || options.expect_next.is_some() {
        return Err(Failure::new(
            2,
            "--key and --expect are for one request, not for lines of input",
        )
        .into());
    }
    let mut input = std::io::stdin().lock();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let (mut count, mut first, mut last) = (0_u64, None, 0);
    loop {
        let mut line = Vec::new();
        let n = input.read_until(b'\n', &mut line).context("standard input")?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if n > 0 {
            bytes += line.len();
            batch.push(Bytes::from(line));
        }
        let is_full = batch.len() >= BATCH.0 || bytes >= BATCH.1;
        if (n == 0 || is_full) && !batch.is_empty() {
            let values = std::mem::take(&mut batch);
            let length = values.len() as u64;
            let done = client.submit_with(values, options.clone()).await.map_err(|error| {
                let failure = api_failure(&error);
                let code = failure.downcast_ref::<Failure>().map_or(1, |failure| failure.code);
                Failure::new(code, format!("after {count} values: {failure}"))
            })?;
            count += length;
            first.get_or_insert(done.first_seq);
            last = done.last_seq;
            bytes = 0;
        }
        if n == 0 {
            break;
        }
    }
    if json {
        output::line(json!({ "count": count, "first_seq": first, "last_seq": last }).to_string())?;
    } else {
        output::line(format!("ok: {count} values, {} to {last}", first.unwrap_or(0)))?;
    }
    Ok(0)
}

pub(crate) async fn read(args: ReadArgs, json: bool) -> anyhow::Result<u8> {
    let client = open(&args.nodes)?;
    read_values(&client, args.from, args.limit, args.local, json).await
}

/// Prints committed values.
async fn read_values(
    client: &Client,
    from: u64,
    limit: u64,
    local: bool,
    json: bool,
) -> anyhow::Result<u8> {
    let mut show = |record: &v1::Record| print_record(record, json);
    read_each(client, from, limit, local, &mut show).await?;
    Ok(0)
}

/// Shows all committed values, one after the other.
pub(crate) async fn read_all(
    client: &Client,
    local: bool,
    show: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    read_each(client, 1, u64::MAX, local, &mut |record| show(&record.value)).await
}

async fn read_each(
    client: &Client,
    from: u64,
    limit: u64,
    local: bool,
    show: &mut dyn FnMut(&v1::Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let consistency = if local { v1::Consistency::Local } else { v1::Consistency::Linearizable };
    let (mut from, mut left) = (from.max(1), limit);
    while left > 0 {
        let request = v1::ReadRequest {
            from_seq: from,
            limit: left.min(10_000),
            consistency: consistency.into(),
            ..v1::ReadRequest::default()
        };
        let records = match client.read_with(request).await {
            Ok(records) => records,
            Err(ApiError { reason: Reason::Future, message, .. }) => {
                return Err(
                    Failure::new(1, format!("there is no record {from} yet: {message}")).into()
                );
            }
            Err(error) => return Err(api_failure(&error)),
        };
        let Some(last) = records.last().map(|record| record.seq) else {
            break;
        };
        left -= records.len() as u64;
        from = last + 1;
        for record in &records {
            show(record)?;
        }
    }
    Ok(())
}

fn print_record(record: &v1::Record, json: bool) -> anyhow::Result<()> {
    if json {
        output::line(
            json!({ "seq": record.seq, "value": value_to_json(&record.value) }).to_string(),
        )?;
    } else {
        output::line(shown(&record.value))?;
    }
    Ok(())
}

/// A value as JSON, escaped if it is no text.
pub(crate) fn value_to_json(value: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => json!({ "escaped": String::from_utf8_lossy(&shown(value)) }),
    }
}

pub(crate) async fn tail(args: TailArgs, json: bool) -> anyhow::Result<u8> {
    let client = open(&args.nodes)?;
    let tail = client.tail(false).await.map_err(|error| api_failure(&error))?;
    let mut from = tail.next_seq.saturating_sub(args.lines).max(tail.first_seq);
    if !args.follow {
        return read_values(&client, from, args.lines.min(tail.next_seq - from), false, json).await;
    }
    loop {
        let mut records = client.follow(from).await.map_err(|error| api_failure(&error))?;
        loop {
            tokio::select! {
                record = records.next() => match record {
                    Some(Ok(record)) => {
                        print_record(&record, json)?;
                        from = record.seq + 1;
                    }
                    // The node went away: another one goes on where it stopped.
                    Some(Err(_)) | None => break,
                },
                _ = tokio::signal::ctrl_c() => return Ok(0),
            }
        }
    }
}

pub(crate) async fn transfer(args: TransferArgs, json: bool) -> anyhow::Result<u8> {
    let client = open(&args.nodes)?;
    let leader = client.transfer(args.to).await.map_err(|error| api_failure(&error))?;
    if json {
        output::line(json!({ "leader": leader }).to_string())?;
    } else {
        output::line(format!("n{leader} leads"))?;
    }
    Ok(0)
}
