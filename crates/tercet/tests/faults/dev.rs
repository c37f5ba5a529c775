//! `tercet dev`, as a script and as a person with Ctrl-C uses it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tercet_testkit::cluster::free_ports;

use crate::TERCET;

fn dev(dir: &Path) -> Command {
    // Ports in a row: the first of three that are free together.
    let first = loop {
        let ports = free_ports(6).expect("there are ports");
        if ports.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            break ports[0];
        }
    };
    let mut command = Command::new(TERCET);
    command
        .arg("dev")
        .arg("--dir")
        .arg(dir)
        .args(["--client-port", &first.to_string()])
        .args(["--peer-port", &(first + 3).to_string()])
        .env("NO_COLOR", "1");
    command
}

fn piped(dir: &Path, lines: &str) -> Output {
    let mut child = dev(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(lines.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn dev_takes_its_lines_from_a_pipe() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = piped(dir.path(), "submit 1\nsubmit a b \"two words\"\nstatus\nread\nexplain\n");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", text(&output.stderr));
    assert!(said.contains(" leads (term "), "{said}");
    assert!(said.contains("healthy"), "{said}");
    let expected = "write 1\nwrite a\nwrite b\nwrite two words\n";
    for id in 1..=3 {
        let values = fs::read_to_string(dir.path().join(format!("n{id}/values.log"))).unwrap();
        assert_eq!(values, expected, "of n{id}");
    }

    // The same command again finds everything; a line that fails makes the exit code 1, and the
    // lines after it are run all the same.
    let output =
        piped(dir.path(), "sumbit 2\nread\ncrash n2\nsubmit 2\nrestart n2\nquit\nsubmit 3\n");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}\n{errors}");
    assert!(errors.contains("Did you mean \"submit\"?"), "{errors}");
    assert!(said.contains("two words"), "{said}");
    for id in [1, 3] {
        let values = fs::read_to_string(dir.path().join(format!("n{id}/values.log"))).unwrap();
        assert_eq!(values, format!("{expected}write 2\n"), "of n{id}");
    }

    // A node that was killed and is back is asked again, not over its old connection.
    let output =
        piped(dir.path(), "status\ncrash n1\nrestart n1\nstatus\ncrash n2\nrestart all\nexplain\n");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
    assert!(!said.contains("no answer"), "{said}");

    // What needs the lab says so, whatever the parser makes of it.
    let output = piped(
        dir.path(),
        "cut n1 | n2\nsubmit 3 via=n1\n1\nundo\nwipe n1 log\nrestart n1x\nwipe n1\nrestart n1\ntransfer n9\n",
    );
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(errors.matches("tercet dev --lab").count(), 4, "{errors}");
    assert!(errors.contains("tercet sh --sim"), "{errors}");
    assert!(errors.contains("\"n1x\"") && errors.contains("\"n9\""), "{errors}");
    assert!(said.contains("n1: killed, and its directory is deleted"), "{said}");
    assert!(said.contains("n1 started"), "{said}");

    let output = piped(dir.path(), "json on\nsubmit x\nstatus\n");
    let said = text(&output.stdout);
    let lines: Vec<&str> =
        said.lines().filter(|line| line.starts_with('{') || line.starts_with('[')).collect();
    assert!(!lines.is_empty(), "{said}");
}

/// Ctrl-C goes to the whole group: the shell's and the nodes' processes all end, with the data
/// whole.
#[test]
fn dev_ends_by_ctrl_c() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child: Child = dev(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdin.write_all(b"submit 1\n").expect("it reads");
    let mut line = String::new();
    while !line.contains("on disk on") {
        line.clear();
        let read = stdout.read_line(&mut line).expect("it writes");
        assert!(read > 0, "it ended before it had answered");
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    // Its input stays open: only the signal can have ended it.
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the nodes hold no copy of its output");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{rest}");
    drop(stdin);
    for id in 1..=3 {
        // A node that still ran would hold the lock.
        let inspected =
            Command::new(TERCET).arg("verify").arg(dir.path().join(format!("n{id}"))).output();
        let inspected = inspected.expect("the program starts");
        assert!(inspected.status.success(), "n{id}: {}", text(&inspected.stderr));
    }
}

#[test]
fn dev_says_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let two = Command::new(TERCET).args(["dev", "--nodes", "2"]).output().expect("it starts");
    assert_eq!(two.status.code(), Some(2));
    assert!(text(&two.stderr).contains("1, 3, 5 or 7"), "{}", text(&two.stderr));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let output = Command::new(TERCET)
        .arg("dev")
        .arg("--dir")
        .arg(dir.path())
        .args(["--client-port", &port.to_string()])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(10));
    assert!(text(&output.stderr).contains(&format!("port {port}")), "{}", text(&output.stderr));
}
