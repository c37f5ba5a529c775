//! XML-RPC, driven by CPython's own `xmlrpc.client`, and the client in `examples/`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tercet_testkit::{Cluster, StartOptions};

use crate::{not_run, on_three, on_three_with};

/// The interpreter, or why there is none.
fn python(test: &str) -> Option<String> {
    let python = std::env::var("TERCET_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let runs = Command::new(&python).args(["-c", "import xmlrpc.client"]).status();
    if runs.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    not_run(test, &format!("{python} does not run"));
    None
}

/// Runs a script, which ends well or says why not.
fn run(python: &str, script: &str, arguments: &[String]) -> anyhow::Result<()> {
    let output = Command::new(python)
        .args(["-c", &format!("{PRELUDE}{script}")])
        .args(arguments)
        .output()
        .context("python")?;
    ensure!(
        output.status.success() && output.stdout.starts_with(b"fine"),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

const PRELUDE: &str = r#"
import datetime, http.client, random, re, struct, sys, xmlrpc.client
from xmlrpc.client import Binary, DateTime, Fault, ServerProxy

addresses = sys.argv[1:]
SUCCESS = "Success: Value logged and distributed."
shape = re.compile(r"[A-Z_]+: .+ \((not appended|outcome unknown: it may have been appended)\)")

def proxy(address, path=""):
    return ServerProxy(f"http://{address}{path}", allow_none=True)

def fault(code, name, call, *params):
    try:
        answer = call(*params)
    except Fault as fault:
        assert fault.faultCode == code, (code, name, fault)
        assert fault.faultString.startswith(name + ": "), (name, fault)
        assert shape.fullmatch(fault.faultString), fault
        assert "secret" not in fault.faultString, fault
        return fault.faultString
    assert False, (code, name, answer)
"#;

/// Every type, to every node and both paths.
const TYPES: &str = r#"
# What is sent, and what comes back: a string, or bytes where XML has no such text.
values = [
    (1, "1"), (-5, "-5"), (2**31 - 1, "2147483647"), (True, "True"), (False, "False"),
    ("plain", "plain"), ("", ""), ("  blanks  ", "  blanks  "), ("ä 𝛑 🦀", "ä 𝛑 🦀"),
    ("<&>\"'\n\t]]>", "<&>\"'\n\t]]>"), ("a\r\nb", "a\nb"), ("\x01", b"\x01"),
    ("1", "1"), ("None", "None"),
    (b"bytes", "bytes"), (b"\x00\xff", b"\x00\xff"), (Binary(b"a\r\nb"), "a\r\nb"),
    (bytearray(b"\x1b"), b"\x1b"), (b"", ""),
    (DateTime("20240229T23:59:59"), "20240229T23:59:59"),
    (datetime.datetime(2024, 1, 2, 3, 4, 5), "20240102T03:04:05"),
    (None, "None"),
]
doubles = [1.0, -0.0, 0.1 + 0.2, 1e15, 1e16, 1e-4, 1e-5, 5e-324, float("inf"), float("nan")]
random.seed(1)
doubles += [struct.unpack("d", random.randbytes(8))[0] for _ in range(30)]
doubles += [random.uniform(-1e6, 1e6) for _ in range(10)]
values += [(double, str(double)) for double in doubles]

nodes = [proxy(address, path) for address in addresses for path in ("", "/RPC2", "/")]
for at, (value, _) in enumerate(values):
    said = nodes[at % len(nodes)].SubmitValue(value)
    assert said == SUCCESS, (value, said)
plain = lambda value: value.data if isinstance(value, Binary) else value
for node in nodes:
    log = node.GetLog()
    assert [record["seq"] for record in log] == list(range(1, len(values) + 1)), log
    for record, (value, expected) in zip(log, values):
        assert plain(record["value"]) == expected, (value, expected, record)
assert [record["seq"] for record in nodes[0].GetLog(3, 2)] == [3, 4]
assert len(nodes[0].GetLog(4)) == len(values) - 3
assert nodes[0].GetLog(len(values) + 1) == []
# More than there can be in one answer: it is bounded, not refused.
assert len(nodes[0].GetLog(1, 2**31 - 1)) == len(values)

# A key makes a repetition harmless, whoever is asked.
before = len(nodes[0].GetLog())
for node in nodes:
    assert node.SubmitValue("paid", "order-4711") == SUCCESS
assert len(nodes[0].GetLog()) == before + 1
fault(8, "KEY_REUSED", nodes[1].SubmitValue, "secret", "order-4711")

leaders = {tuple(sorted(node.GetLeader().items())) for node in nodes}
assert len(leaders) == 1, leaders
leader = dict(*leaders)
assert leader["address"] in addresses and leader["node"] in (1, 2, 3), leader
for number, address in enumerate(addresses, 1):
    status = proxy(address).GetStatus()
    assert status["node"] == number and status["leader"] == leader["node"], status
    assert status["role"] == ("leader" if number == leader["node"] else "follower"), status
    assert status["next_seq"] == before + 2 and len(status["peers"]) == 2, status
    assert all(peer["reachable"] is True for peer in status["peers"]), status
print("fine")
"#;

/// Every way to be refused.
const FAULTS: &str = r#"
address = addresses[0]
node = proxy(address)
methods = node.system.listMethods()
assert {"SubmitValue", "GetLeader", "GetStatus", "GetLog", "system.listMethods"} <= set(methods)
for method in methods:
    assert method in node.system.methodHelp(method)
    for signature in node.system.methodSignature(method):
        assert signature and all(isinstance(kind, str) for kind in signature), signature

fault(-32601, "UNKNOWN_METHOD", node.secret)
# The lab's, where there is no lab.
for name, params in [("SetHeartbeatInterval", (20,)), ("SimulateReplicationFailure", (True,)),
                     ("DeleteLogFile", ()), ("RestartElection", ())]:
    assert name not in methods
    fault(-32601, "UNKNOWN_METHOD", getattr(node, name), *params)
    fault(-32601, "UNKNOWN_METHOD", node.system.methodHelp, name)
    fault(-32601, "UNKNOWN_METHOD", node.system.methodSignature, name)
fault(-32601, "UNKNOWN_METHOD", node.system.methodHelp, "secret")
fault(-32601, "UNKNOWN_METHOD", node.submitvalue, "secret")
for params in [(), ("secret", 1), ("secret", None), ("secret", "key", "more"),
               (["secret"],), ({"secret": 1},), (("secret", []),), ([],)]:
    fault(-32602, "INVALID_PARAMS", node.SubmitValue, *params)
for params in [(0,), (-1,), (1, 0), ("1",), (1.0,), (None,), (1, 2, 3)]:
    fault(-32602, "INVALID_PARAMS", node.GetLog, *params)
fault(-32602, "INVALID_PARAMS", node.GetLeader, "secret")
fault(-32602, "INVALID_PARAMS", node.GetStatus, 1)
fault(-32602, "INVALID_PARAMS", node.system.listMethods, 1)
fault(11, "INVALID", node.SubmitValue, "value", "")
fault(11, "INVALID", node.SubmitValue, "value", "secret" * 11)
fault(10, "TOO_LARGE", node.SubmitValue, "secret" + "x" * (1 << 20))
fault(10, "TOO_LARGE", node.SubmitValue, bytes((1 << 20) + 1))
fault(12, "FUTURE", node.GetLog, 1000)

def post(body, headers={}, path="/RPC2", method="POST"):
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path, body, {"Content-Type": "text/xml", **headers})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert b"secret" not in text, text
    return answer.status, answer.headers.get("Content-Type"), text

def said(body):
    status, kind, text = post(body)
    assert status == 200 and kind.startswith("text/xml"), (status, kind, text)
    return lambda: xmlrpc.client.loads(text)

call = xmlrpc.client.dumps(("secret",), "SubmitValue").encode()
for body in [b"", b"secret", call[:-20], call.replace(b"string", b"secret"),
             call.replace(b"secret", b"&secret;"), call.replace(b"string", b"int"),
             b"<value><array><data>" * 100_000,
             b"<!DOCTYPE x [<!ENTITY a 'secret'>]>" + call.replace(b"secret", b"&a;"),
             call.replace(b"methodCall", b"methodResponse")]:
    fault(-32700, "PARSE_ERROR", said(body))
fault(-32701, "UNSUPPORTED_ENCODING", said(call.replace(b"secret", b"secret\xff")))
latin = xmlrpc.client.dumps(("ä",), "SubmitValue", encoding="iso-8859-1").encode("iso-8859-1")
fault(-32701, "UNSUPPORTED_ENCODING", said(latin))

for path in ("/", "/RPC2"):
    for headers in [{"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}]:
        status, kind, text = post(b"secret", headers, path)
        assert (status, kind) == (415, "application/problem+json"), (status, kind, text)
        assert b'"not_appended"' in text and b"415" in text, text
assert post(None, {}, "/", "GET")[2].startswith(b"<!doctype html>")
assert post(None, {}, "/RPC2", "GET")[0] == 405

# Too large by its head: refused before a byte of it is sent. Too large by what comes: cut.
connection = http.client.HTTPConnection(address, timeout=20)
connection.putrequest("POST", "/RPC2")
connection.putheader("Content-Type", "text/xml")
connection.putheader("Content-Length", str(100 << 20))
connection.endheaders()
assert connection.getresponse().status == 413
connection = http.client.HTTPConnection(address, timeout=20)
try:
    pieces = (b"x" * (1 << 20) for _ in range(100))
    connection.request("POST", "/RPC2", pieces, {"Content-Type": "text/xml"}, encode_chunked=True)
    assert connection.getresponse().status == 413
except OSError:
    pass  # The node closed while the rest was still on its way.
try:
    node.SubmitValue(bytes(100 << 20))
    assert False, "100 MB were accepted"
except xmlrpc.client.ProtocolError as error:
    assert error.errcode == 413, error
except OSError:
    pass
assert proxy(address).SubmitValue("fine") == SUCCESS
assert [record["value"] for record in proxy(address).GetLog()] == ["fine"]
print("fine")
"#;

/// A node that has lost the others.
const ALONE: &str = r#"
import time
node = proxy(addresses[0])
end = time.monotonic() + 20
while True:
    try:
        node.GetLeader()
        assert time.monotonic() < end, "it believes in a leader that is dead"
        time.sleep(0.05)
    except Fault:
        break
assert fault(2, "NO_LEADER", node.GetLeader).endswith("(not appended)")
assert node.GetStatus()["leader"] is None
assert fault(2, "NO_LEADER", node.SubmitValue, "secret").endswith("(not appended)")
fault(2, "NO_LEADER", node.GetLog)
print("fine")
"#;

#[test]
fn xmlrpc_carries_every_type() {
    let Some(python) = python("xmlrpc_carries_every_type") else { return };
    on_three("xmlrpc_carries_every_type", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        run(&python, TYPES, &cluster.addresses())?;
        let file = String::from_utf8(cluster.values()?.swap_remove(0))?;
        ensure!(file.starts_with("write 1\nwrite -5\n"), "{file}");
        ensure!(file.contains("\nwrite \\x00\\xff\n"), "{file}");
        Ok(())
    });
}

#[test]
fn xmlrpc_refuses_with_reasons() {
    let Some(python) = python("xmlrpc_refuses_with_reasons") else { return };
    on_three("xmlrpc_refuses_with_reasons", 1, |cluster, _| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        let follower = 1 + leader % cluster.count();
        run(&python, FAULTS, &[cluster.address(follower)])?;
        for other in (1..=cluster.count()).filter(|id| *id != follower) {
            cluster.kill(other)?;
        }
        // As long as it believes in a leader, nobody can know what becomes of a request.
        cluster.await_statuses("the one that is left knows no leader", |statuses| {
            statuses[follower - 1].as_ref().is_some_and(|status| status.leader.is_none())
        })?;
        run(&python, ALONE, &[cluster.address(follower)])
    });
}

/// Runs `examples/client.py`: its exit code, and all that it said.
fn example(
    python: &str,
    arguments: &[String],
    input: &str,
) -> anyhow::Result<(Option<i32>, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/client.py");
    let mut child = Command::new(python)
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It may end without reading it all.
    let _ = child.stdin.take().context("a pipe")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

#[test]
fn the_python_example_runs() {
    let Some(python) = python("the_python_example_runs") else { return };
    on_three("the_python_example_runs", 1, |cluster, _| {
        let with = |cluster: &Cluster, arguments: &[&str]| {
            let mut all = cluster.addresses();
            all.extend(arguments.iter().map(ToString::to_string));
            all
        };
        let expect = |cluster: &Cluster, arguments: &[&str], input: &str, code, said: &[&str]| {
            let (ended, output) = example(&python, &with(cluster, arguments), input)?;
            ensure!(ended == Some(code), "{arguments:?} ended with {ended:?}: {output}");
            let missing = said.iter().find(|words| !output.contains(**words));
            ensure!(missing.is_none(), "{arguments:?} does not say {missing:?}: {output}");
            Ok(())
        };
        expect(cluster, &["status"], "", 1, &["does not answer", "no node answers"])?;
        expect(cluster, &["submit"], "", 2, &["wrong arguments", "submit VALUE..."])?;
        cluster.start_all()?;
        let leader = cluster.await_leader()?;

        let success = ["1: Success: Value logged and distributed.", "3: Success"];
        expect(cluster, &["submit", "1", "2", "3"], "", 0, &success)?;
        expect(cluster, &["status"], "", 0, &["leader", "follower", &cluster.address(leader)])?;
        expect(cluster, &["log"], "", 0, &["1 1\n", "2 2\n", "3 3\n"])?;
        let large = "x".repeat(100_000);
        let many: Vec<&str> = std::iter::once("submit").chain([large.as_str(); 11]).collect();
        expect(cluster, &many, "", 0, &["Success"])?;

        // Each point of the menu. These nodes have no lab mode, and it is said so.
        let no_lab = "has no lab mode, so it has no ";
        for (input, said) in [
            ("1\n0\n", &[no_lab, "SetHeartbeatInterval"][..]),
            ("2\na b\n6\n0\n", &["a: Success", "b: Success", "15 a\n", "16 b\n"]),
            ("3\nx\n0\n", &[no_lab, "SimulateReplicationFailure"]),
            ("4\n2\n0\n", &[no_lab, "DeleteLogFile"]),
            ("4\n9\n0\n", &["there is no node '9' in the list"]),
            ("5\n0\n", &["leader", "follower"]),
            ("7\n", &["there is no point '7'"]),
        ] {
            expect(cluster, &[], input, 0, said)?;
        }

        // The first node that it asks may be down, and the leader with it.
        cluster.kill(leader)?;
        expect(cluster, &["submit", "still"], "", 0, &["still: Success"])?;
        expect(cluster, &["status"], "", 0, &["does not answer", "leader"])?;
        expect(cluster, &["log"], "", 0, &["17 still\n"])?;
        cluster.start(leader)?;
        cluster.await_healed()?;
        let file = cluster.values()?.swap_remove(0);
        let lines = file.iter().filter(|byte| **byte == b'\n').count();
        ensure!(lines == 17, "each value stands once, and no other: {lines}");
        Ok(())
    });
}

/// The lab's verbs, each with what comes of it, in the paper's Raft.
const VERBS: &str = r#"
import time
nodes = {address: proxy(address) for address in addresses}
def seen():
    return {address: node.GetStatus() for address, node in nodes.items()}
def wait(what, check):
    end = time.monotonic() + 20
    while not (found := check()):
        assert time.monotonic() < end, (what, seen())
        time.sleep(0.05)
    return found
def leader(after=0):
    led = [(one["term"], address) for address, one in seen().items() if one["role"] == "leader"]
    return max((one for one in led if one[0] > after), default=None)
def same():
    return len({(one["last_index"], one["commit_index"], one["role"] in ("leader", "follower"))
                for one in seen().values()}) == 1

term, old = wait("a leader", leader)
follower = next(address for address in addresses if address != old)
verbs = ["SetHeartbeatInterval", "SimulateReplicationFailure", "DeleteLogFile", "RestartElection"]
assert set(verbs) <= set(nodes[old].system.listMethods())
for verb in verbs:
    assert verb in nodes[old].system.methodHelp(verb)
for params in [(), ("20",), (-1,), (-0.5,), (1e9,), (float("nan"),), (True,), (None,), (1, 2)]:
    fault(-32602, "INVALID_PARAMS", nodes[old].SetHeartbeatInterval, *params)
for params in [(), (1,), ("secret",), (True, True)]:
    fault(-32602, "INVALID_PARAMS", nodes[old].SimulateReplicationFailure, *params)
fault(-32602, "INVALID_PARAMS", nodes[old].DeleteLogFile, "secret")
fault(-32602, "INVALID_PARAMS", nodes[old].RestartElection, 1)
fault(3, "NOT_LEADER", nodes[follower].SetHeartbeatInterval, 20)
fault(11, "INVALID", nodes[old].RestartElection)
assert nodes[old].SubmitValue("first") == SUCCESS

# Heartbeats too far apart: another node leads.
assert "20 s" in nodes[old].SetHeartbeatInterval(20)
term, new = wait("another leader", lambda: leader(term))
assert new != old, (new, old)
assert "0.1 s" in nodes[new].SetHeartbeatInterval(0.1)
assert "as configured" in nodes[new].SetHeartbeatInterval(0)

# An election timer that fires: the term grows, and somebody leads.
follower = wait("followers", lambda: next(
    (address for address, one in seen().items() if one["role"] == "follower"), None))
assert "fired" in nodes[follower].RestartElection()
term, old = wait("an election", lambda: leader(term))
assert nodes[follower].SubmitValue("second") == SUCCESS

# A leader whose messages are lost: what it appends is not acknowledged.
assert "lost" in nodes[old].SimulateReplicationFailure(True)
try:
    answer = nodes[old].SubmitValue("gone")
    assert False, answer
except Fault as refused:
    assert refused.faultCode in (2, 3, 4, 5), refused
term, new = wait("a new leader", lambda: leader(term))
assert new != old and nodes[new].SubmitValue("third") == SUCCESS
assert "arrive again" in nodes[old].SimulateReplicationFailure(False)
wait("all hold the same", same)
values = ["first", "second", "third"]
for node in nodes.values():
    assert [record["value"] for record in node.GetLog()] == values, node.GetLog()

# A deleted log: a new incarnation, and a voter again.
follower = next(address for address in addresses if address != leader()[1])
before = nodes[follower].GetStatus()
assert "deleted" in nodes[follower].DeleteLogFile()
def is_back():
    one = nodes[follower].GetStatus()
    return one["incarnation"] != before["incarnation"] and one["role"] in ("follower", "leader")
wait("the node is a voter again", is_back)
assert nodes[follower].SubmitValue("fourth") == SUCCESS
wait("all hold the same", same)
assert [record["value"] for record in nodes[follower].GetLog()] == values + ["fourth"]
print("fine")
"#;

/// A lab with a token.
const TOKEN: &str = r#"
node = proxy(addresses[0])
with_token = lambda token: ServerProxy(f"http://{addresses[0]}", headers=[("lab-token", token)])
assert "DeleteLogFile" in node.system.listMethods()
for caller in [node, with_token("secret"), with_token("")]:
    for call in [lambda: caller.SimulateReplicationFailure(False), lambda: caller.DeleteLogFile()]:
        assert "tercet.v1.Lab" in fault(11, "INVALID", call)
assert "arrive again" in with_token("the right one").SimulateReplicationFailure(False)
print("fine")
"#;

#[test]
fn xmlrpc_stages_failures_in_the_lab() {
    let Some(python) = python("xmlrpc_stages_failures_in_the_lab") else { return };
    let lab = ["--lab", "--lab-profile=paper"];
    on_three_with("xmlrpc_stages_failures_in_the_lab", 1, &lab, |cluster, _| {
        cluster.start_all()?;
        run(&python, VERBS, &cluster.addresses())?;
        cluster.await_healed()?;
        let files = cluster.values()?;
        ensure!(files.iter().all(|file| *file == files[0]), "the files differ");
        let expected = b"write first\nwrite second\nwrite third\nwrite fourth\n";
        ensure!(files[0] == expected, "{}", String::from_utf8_lossy(&files[0]));
        Ok(())
    });
}

#[test]
fn xmlrpc_asks_for_the_token_of_the_lab() {
    let Some(python) = python("xmlrpc_asks_for_the_token_of_the_lab") else { return };
    on_three_with("xmlrpc_asks_for_the_token_of_the_lab", 1, &["--lab"], |cluster, _| {
        let through = ["env", "TERCET_LAB_TOKEN=the right one"].map(str::to_owned).to_vec();
        cluster.start_with(1, &StartOptions { through, ..StartOptions::default() })?;
        cluster.await_statuses("n1 answers", |statuses| statuses[0].is_some())?;
        run(&python, TOKEN, &[cluster.address(1)])
    });
}

#[test]
fn the_menu_of_the_python_example_stages_failures() {
    let Some(python) = python("the_menu_of_the_python_example_stages_failures") else { return };
    let lab = ["--lab"];
    on_three_with("the_menu_of_the_python_example_stages_failures", 1, &lab, |cluster, _| {
        cluster.start_all()?;
        cluster.await_statuses("a node leads", |statuses| {
            statuses.iter().flatten().any(|status| status.role == "leader")
        })?;
        let menu = |input: &str| example(&python, &cluster.addresses(), input);
        let (ended, said) = menu("1\n2\na b\n3\nx\nh\n2\nc\n4\n2\n6\n0\n")?;
        ensure!(ended == Some(0), "{said}");
        for words in [
            "The heartbeat interval is 20 s until this node steps down.",
            "leads now, in term ",
            "b: Success",
            "All that this node sends to the others is lost now.",
            "not acknowledged, as it should be: ",
            "This node's messages arrive again.",
            "x is lost: ",
            "c: Success",
            "The files of this node's log are deleted",
            "and is a voter again",
            "1 a\n2 b\n3 c\n",
        ] {
            ensure!(said.contains(words), "it does not say {words:?}: {said}");
        }
        ensure!(!said.contains("error: "), "{said}");

        let (ended, said) = menu("3\ny\nl\n5\n3\nz\nh\n0\n")?;
        ensure!(ended == Some(0) && said.contains("z is lost: "), "{said}");
        let left = said.find("replicates nothing until point 3").context("left alone")?;
        let healed = said.rfind("This node's messages arrive again.").context("healed")?;
        ensure!(said.matches("arrive again").count() == 2 && left < healed, "{said}");
        cluster.await_healed()?;
        let file = String::from_utf8(cluster.values()?.swap_remove(0))?;
        ensure!(file == "write a\nwrite b\nwrite c\n", "{file}");
        Ok(())
    });
}
