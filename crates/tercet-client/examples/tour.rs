//! A tour of the client: `cargo run --example tour -p tercet-client`, with `tercet dev` running.
#![allow(clippy::print_stdout, reason = "it shows something")]

use tercet_client::{ApiError, Client, Outcome, SubmitOptions, new_request_id};

/// What a program does with the client.
pub async fn tour(addresses: &[String]) -> Result<(), ApiError> {
    // Some addresses are enough; the client finds the leader.
    let client = Client::new(addresses)?;

    // One value, or many, next to each other: all or none.
    let one = client.submit(["1"]).await?;
    let many = client.submit(["a", "b", "c"]).await?;
    println!("1 is record {}; a, b, c are {} to {}", one.first_seq, many.first_seq, many.last_seq);

    // Many values without waiting for each: they go into the log in this order.
    let submitter = client.submitter();
    let mut under_way = Vec::new();
    for value in ["x", "y", "z"] {
        under_way.push(submitter.submit(value).await);
    }
    for submission in under_way {
        println!("record {} is on disk on a majority", submission.await?);
    }

    // A request id makes repeating harmless, even from another process after a crash.
    let options = SubmitOptions { request_id: Some(new_request_id()), ..SubmitOptions::default() };
    let first = client.submit_with(["paid"], options.clone()).await?;
    let again = client.submit_with(["paid"], options).await?;
    assert!(again.duplicate && again.first_seq == first.first_seq);

    // Append only if nobody else did meanwhile.
    let options = SubmitOptions { expect_next: Some(1), ..SubmitOptions::default() };
    match client.submit_with(["too late"], options).await {
        Err(error) if error.outcome == Outcome::NotAppended => {
            println!("not appended; the next would be {:?}", error.next_seq);
        }
        other => panic!("record 1 is taken, and yet: {other:?}"),
    }

    // Everything that was acknowledged before, from any node.
    for record in client.read(one.first_seq, 10).await? {
        println!("{:>4}  {}", record.seq, String::from_utf8_lossy(&record.value));
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ApiError> {
    tour(&[1, 2, 3].map(|node| format!("127.0.0.1:710{node}"))).await
}
