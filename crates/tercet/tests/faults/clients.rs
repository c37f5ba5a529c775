//! Clients that are not ours: curl, and Python's gRPC by reflection.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tercet_client::Client;

use crate::{has, not_run, on_three};

fn curl(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output()?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A prompt's runtime stands still while nobody types: it learns late that a connection has ended.
#[test]
fn a_client_that_stood_still_finds_a_node_that_was_restarted() {
    on_three("a_client_that_stood_still_finds_a_node_that_was_restarted", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _entered = runtime.enter();
            Client::new(cluster.addresses())?
        };
        let all_answer = || {
            let statuses = runtime.block_on(client.statuses());
            ensure!(statuses.iter().all(|(_, status)| status.is_ok()), "{statuses:?}");
            Ok(())
        };
        all_answer()?;
        cluster.kill(1)?;
        cluster.start(1)?;
        cluster.await_leader()?;
        cluster.await_statuses("n1 answers", |statuses| statuses[0].is_some())?;
        all_answer()
    });
}

#[test]
fn curl_submits_and_reads() {
    if !has("curl") {
        return not_run("curl_submits_and_reads", "curl is not installed");
    }
    on_three("curl_submits_and_reads", 1, |cluster, _| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        // A follower forwards.
        let follower = 1 + leader % cluster.count();
        let base = format!("http://{}", cluster.address(follower));
        let records = format!("{base}/v1/records");

        let one = curl(&["--data-binary", "1", &records])?;
        let one: serde_json::Value = serde_json::from_str(&one)?;
        ensure!(one["first_seq"] == 1, "{one}");
        let header = "Content-Type: application/json";
        let many = curl(&["-H", header, "-d", r#"{"records":["a","two\nlines"]}"#, &records])?;
        let many: serde_json::Value = serde_json::from_str(&many)?;
        ensure!(many["first_seq"] == 2 && many["last_seq"] == 3, "{many}");
        let key = "Idempotency-Key: order-4711";
        let first = curl(&["-H", key, "--data-binary", "paid", &records])?;
        let again = curl(&["-H", key, "--data-binary", "paid", &records])?;
        let again: serde_json::Value = serde_json::from_str(&again)?;
        ensure!(again["first_seq"] == 4 && again["duplicate"] == true, "{first} {again}");
        let reused =
            curl(&["-w", "\n%{http_code} %{content_type}", "-H", key, "-d", "other", &records])?;
        ensure!(
            reused.contains("KEY_REUSED")
                && reused.contains("not_appended")
                && reused.contains("application/problem+json"),
            "{reused}"
        );

        let read = curl(&[&format!("{records}?from=1&limit=10")])?;
        ensure!(read.contains("two\\nlines") && read.contains("paid"), "{read}");
        // The stream goes on for ever: the time-out ends it, with what came until then.
        let events = Command::new("curl")
            .args(["-sSN", "--max-time", "2", "-H", "Accept: text/event-stream"])
            .arg(format!("{records}?from=1"))
            .output()?;
        let events = String::from_utf8(events.stdout)?;
        ensure!(events.contains("id: 1\n") && events.contains("id: 4\n"), "events: {events}");

        for (path, expected) in [
            ("/livez", "ok"),
            ("/readyz", "ok"),
            ("/metrics", "tercet_commit_index"),
            ("/openapi.json", "\"openapi\""),
            ("/v1/status", "\"role\""),
            ("/v1/explain", "in term"),
            ("/v1/tail", "\"next_seq\""),
            ("/", "Tercet"),
        ] {
            let said = curl(&[&format!("{base}{path}")])?;
            ensure!(said.contains(expected), "{path}: {said}");
        }
        let nothing = curl(&["-o", "/dev/null", "-w", "%{http_code}", &format!("{base}/v2/x")])?;
        ensure!(nothing == "404", "nothing: {nothing}");
        Ok(())
    });
}

#[path = "../../../tercet-client/examples/tour.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main connects to the usual ports")]
mod tour;

/// The example of the Rust client, as it stands in its documentation.
#[test]
fn the_rust_example_runs() {
    on_three("the_rust_example_runs", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        cluster.run(tour::tour(&cluster.addresses()))?;
        let records = cluster.run(cluster.client().read(1, 10))?;
        ensure!(records.len() == 8, "{records:?}");
        Ok(())
    });
}

const PYTHON: &str = r#"
import sys, grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
services = set(database.get_services())
assert {"tercet.v1.Log", "tercet.v1.Cluster", "grpc.health.v1.Health"} <= services, services
pool = DescriptorPool(database)
message = lambda name: GetMessageClass(pool.FindMessageTypeByName("tercet.v1." + name))

def call(service, method, request, answer, value):
    stub = channel.unary_unary(f"/tercet.v1.{service}/{method}",
        request_serializer=message(request).SerializeToString,
        response_deserializer=message(answer).FromString)
    return stub(value, timeout=10)

done = call("Log", "Submit", "SubmitRequest", "SubmitResponse",
            message("SubmitRequest")(records=[b"1", b"\x00\xff"]))
assert (done.first_seq, done.last_seq, len(done.durable_on) >= 2) == (1, 2, True), done
read = channel.unary_stream("/tercet.v1.Log/Read",
    request_serializer=message("ReadRequest").SerializeToString,
    response_deserializer=message("ReadResponse").FromString)
values = [r.value for part in read(message("ReadRequest")(from_seq=1), timeout=10) for r in part.records]
assert values == [b"1", b"\x00\xff"], values
stream = channel.stream_stream("/tercet.v1.Log/SubmitStream",
    request_serializer=message("SubmitRequest").SerializeToString,
    response_deserializer=message("SubmitResponse").FromString)
requests = (message("SubmitRequest")(records=[str(n).encode()]) for n in range(100))
seqs = [answer.first_seq for answer in stream(requests, timeout=10)]
assert seqs == list(range(3, 103)), seqs
stream = channel.stream_stream("/tercet.v1.Log/ReadStream",
    request_serializer=message("ReadRequest").SerializeToString,
    response_deserializer=message("ReadResponse").FromString)
requests = (message("ReadRequest")(from_seq=seq, limit=1) for seq in range(102, 2, -1))
values = [[r.value for r in answer.records] for answer in stream(requests, timeout=10)]
assert values == [[str(n).encode()] for n in range(99, -1, -1)], values
for wrong in (message("ReadRequest")(follow=True), message("ReadRequest")(from_seq=1000)):
    try:
        list(stream(iter([wrong]), timeout=10))
        assert False, "a read was accepted"
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE), error
try:
    call("Log", "Submit", "SubmitRequest", "SubmitResponse",
         message("SubmitRequest")(records=[b"x"], expect_next=1))
    assert False, "a conflict was accepted"
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.ABORTED, error
    details = dict(error.trailing_metadata())
    assert b"CONFLICT" in details["grpc-status-details-bin"], details
status = call("Cluster", "Status", "StatusRequest", "StatusResponse", message("StatusRequest")())
assert status.next_seq >= 103 or status.role != "leader", status
print("fine", status.version)
"#;

#[test]
fn python_calls_by_reflection() {
    let python = std::env::var("TERCET_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let imports = Command::new(&python)
        .args(["-c", "import grpc, grpc_reflection"])
        .stderr(Stdio::null())
        .status();
    if !imports.is_ok_and(|status| status.success()) {
        let why = format!("{python} lacks grpcio and grpcio-reflection (pip install them)");
        return not_run("python_calls_by_reflection", &why);
    }
    on_three("python_calls_by_reflection", 1, |cluster, _| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        let follower = 1 + leader % cluster.count();
        let output = Command::new(&python)
            .args(["-c", PYTHON, &cluster.address(follower)])
            .output()
            .context("python")?;
        ensure!(
            output.status.success() && output.stdout.starts_with(b"fine"),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    });
}
