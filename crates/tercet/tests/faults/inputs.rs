//! Bad input: each gets a clear error, and nothing is lost.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tercet_client::{ApiError, Reason, SubmitOptions};
use tercet_testkit::{Cluster, Random};

use crate::{PATIENCE, TERCET, on_three, on_three_with};

const MIB: usize = 1 << 20;

fn serve(cluster: &Cluster, id: usize, change: impl FnOnce(&mut Vec<String>)) -> Output {
    let mut arguments = cluster.serve_arguments(id);
    // What this returns from must end by itself.
    arguments.retain(|argument| argument != "--stop-with-stdin");
    change(&mut arguments);
    Command::new("timeout")
        .args(["--signal=KILL", "20", TERCET])
        .args(&arguments)
        .env("NO_COLOR", "1")
        .output()
        .expect("it starts")
}

fn replace(arguments: &mut [String], name: &str, value: &str) {
    let prefix = format!("--{name}=");
    let argument = arguments.iter_mut().find(|argument| argument.starts_with(&prefix));
    *argument.expect("it is among them") = format!("{prefix}{value}");
}

fn refused(output: &Output, code: i32, words: &[&str]) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code) && words.iter().all(|word| said.contains(word)),
        "expected exit code {code} and {words:?}, not {}: {said}",
        output.status
    );
    Ok(())
}

/// A node that cannot run says why, with an exit code of its own, and harms nobody.
#[test]
fn a_start_that_cannot_work_is_refused() {
    on_three("a_start_that_cannot_work_is_refused", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        cluster.run(cluster.client().submit(["1"]))?;

        let output = serve(cluster, 1, |_| {});
        refused(&output, 10, &["cannot listen on", &cluster.address(1), "stop it"])?;
        let spare = tercet_testkit::cluster::free_ports(2)?;
        let output = serve(cluster, 1, |arguments| {
            replace(arguments, "listen", &format!("127.0.0.1:{}", spare[0]));
        });
        refused(&output, 10, &["cannot listen on", &cluster.peer_address(1), "for peers"])?;
        let elsewhere = |arguments: &mut Vec<String>| {
            replace(arguments, "listen", &format!("127.0.0.1:{}", spare[0]));
            arguments.push(format!("--peer-listen=127.0.0.1:{}", spare[1]));
        };
        let output = serve(cluster, 1, elsewhere);
        let (data, pid) = (cluster.data(1).display().to_string(), cluster.pid(1)?);
        let holder = format!("in use by another process (pid {pid})");
        refused(&output, 11, &[&data, &holder, "its own directory"])?;

        cluster.await_healed()?;
        cluster.stop(1)?;
        let output = serve(cluster, 1, |arguments| {
            arguments.push("--cluster-name=other".to_owned());
        });
        refused(&output, 11, &["belongs to the cluster \"tercet\", not to \"other\""])?;
        let two = cluster.data(1).display().to_string();
        cluster.stop(2)?;
        let output = serve(cluster, 2, |arguments| replace(arguments, "data", &two));
        refused(&output, 11, &["belongs to node 1, not to node 2"])?;
        let output = serve(cluster, 1, |arguments| {
            let five = format!("{},4=127.0.0.1:1,5=127.0.0.1:2", cluster.members());
            replace(arguments, "cluster", &five);
        });
        refused(&output, 11, &["[n1, n2, n3]", "[n1, n2, n3, n4, n5]"])?;

        // A newer format: both copies of the identity say so.
        let identity = cluster.data(1).join("identity");
        let whole = fs::read(&identity)?;
        let mut newer = whole.clone();
        for copy in [0, 4096] {
            newer[copy + 5] = 99;
        }
        fs::write(&identity, &newer)?;
        let output = serve(cluster, 1, |_| {});
        refused(&output, 11, &["format 99 is newer"])?;
        ensure!(fs::read(&identity)? == newer, "a file of a newer format was changed");
        fs::write(&identity, whole)?;

        let file = cluster.data(1).with_file_name("a-file");
        fs::write(&file, "")?;
        let output =
            serve(cluster, 1, |arguments| replace(arguments, "data", &file.display().to_string()));
        refused(&output, 11, &["a-file"])?;

        cluster.start_all()?;
        cluster.await_healed()?;
        let records = cluster.run(cluster.client().read(1, 10))?;
        ensure!(records.len() == 1, "{records:?}");
        Ok(())
    });
}

/// A configuration with a mistake in it: the file, the line, what was meant.
#[test]
fn a_wrong_configuration_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let check = |name: &str, content: &str| {
        let file = dir.path().join(name);
        fs::write(&file, content).expect("it can be written");
        let output = Command::new(TERCET).args(["config", "check"]).arg(&file).output();
        output.expect("it starts")
    };
    let good = "[cluster]\nname = \"demo\"\n[[cluster.node]]\nid = 1\npeer = \"127.0.0.1:7201\"\n\
                [node]\nid = 1\ndata = \"n1\"\nlisten = \"127.0.0.1:7101\"\n";
    assert!(check("good.toml", good).status.success());
    for (change, words) in [
        (("listen", "lisen"), ["wrong.toml:9", "Did you mean \"listen\""]),
        (("id = 1\ndata", "id = \"one\"\ndata"), ["wrong.toml:7", "invalid type"]),
        (("[node]", "[node"), ["wrong.toml:6", "]"]),
        (("127.0.0.1:7101", "0.0.0.0:7101"), ["--insecure", "no TLS"]),
        (("127.0.0.1:7201", "nowhere"), ["\"nowhere\"", "not an address"]),
    ] {
        let output = check("wrong.toml", &good.replace(change.0, change.1));
        let words: Vec<&str> = words.to_vec();
        refused(&output, 2, &words).expect("refused");
    }
    let missing = Command::new(TERCET).args(["serve", "--config", "/nowhere/x.toml"]).output();
    refused(&missing.expect("it starts"), 2, &["/nowhere/x.toml", "No such file"])
        .expect("refused");
}

/// Peers that are not there, or that were told of other members: status and logs name them.
#[test]
fn a_cluster_that_cannot_form_says_why() {
    on_three("a_cluster_that_cannot_form_says_why", 1, |cluster, _| {
        cluster.start(1)?;
        cluster.start(2)?;
        cluster.await_statuses("n1 and n2 say that they wait for n3", |statuses| {
            statuses.iter().take(2).all(|status| {
                status.as_ref().is_some_and(|status| {
                    status.role == "forming"
                        && status.problems.iter().any(|problem| problem.contains("waiting for n3"))
                })
            })
        })?;
        let options =
            SubmitOptions { timeout: Duration::from_millis(500), ..SubmitOptions::default() };
        let error = cluster.run(cluster.client().submit_with(["early"], options)).err();
        let error = error.context("a cluster that is not formed acknowledged a value")?;
        ensure!(error.outcome == tercet_client::Outcome::NotAppended, "{error}");
        let explained = Command::new(TERCET)
            .args(["explain", "--node", &cluster.addresses().join(",")])
            .output()?;
        ensure!(explained.status.code() == Some(3), "{}", explained.status);
        ensure!(String::from_utf8_lossy(&explained.stdout).contains("n3"), "{explained:?}");
        // Refused by its peers: it must not count as the one that is awaited.
        let other = cluster.members().replace("127.0.0.1", "localhost");
        let mut arguments = cluster.serve_arguments(3);
        replace(&mut arguments, "cluster", &other);
        arguments.push(format!("--peer-listen={}", cluster.peer_address(3)));
        let mut stranger = Command::new(TERCET)
            .args(&arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let heard = cluster.await_statuses("n1 names the members that differ", |_| {
            let log = cluster.log(1);
            log.contains("localhost") && log.contains("member lists differ")
        });
        stranger.kill()?;
        stranger.wait()?;
        heard?;
        cluster.start(3)?;
        cluster.await_leader()?;
        Ok(())
    });
}

fn reason(result: &Result<tercet_client::Submitted, ApiError>) -> Option<Reason> {
    result.as_ref().err().map(|error| error.reason)
}

/// Values of no bytes, of any bytes, of the largest size, and one byte more.
#[test]
fn any_value_comes_back() {
    on_three("any_value_comes_back", 1, |cluster, run| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let mut random = Random::new(run.seed);
        let mut values: Vec<Bytes> = vec![
            Bytes::new(),
            Bytes::from_static(b"two\nlines\r\n"),
            Bytes::from_static(b"\\n\\x00 write 1"),
            Bytes::from((0..=255).collect::<Vec<u8>>()),
            Bytes::from("\u{1F980} \u{202e}\u{0000}\u{ffff}"),
            Bytes::from(vec![0xff; MIB]),
        ];
        for _ in 0..50 {
            let length = random.below(200);
            values.push((0..length).map(|_| random.next().to_le_bytes()[0]).collect());
        }
        for value in &values {
            cluster.run(cluster.client().submit([value.clone()]))?;
        }
        let too_large = cluster.run(cluster.client().submit([Bytes::from(vec![b'x'; MIB + 1])]));
        ensure!(reason(&too_large) == Some(Reason::TooLarge), "{:?}", reason(&too_large));
        let none = cluster.run(cluster.client().submit(Vec::<Bytes>::new()));
        ensure!(reason(&none) == Some(Reason::Invalid), "{none:?}");
        let many = cluster.run(cluster.client().submit(vec![Bytes::new(); 10_001]));
        ensure!(reason(&many) == Some(Reason::TooLarge), "{:?}", reason(&many));

        let read = cluster.run(cluster.client().read(1, 1000))?;
        let read: Vec<Bytes> = read.into_iter().map(|record| record.value).collect();
        ensure!(read == values, "the values that were read are not those submitted");
        cluster.await_healed()?;
        let files = cluster.values()?;
        for file in &files {
            let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
            ensure!(lines.len() == values.len(), "{} lines", lines.len());
            for (line, value) in lines.iter().zip(&values) {
                let parsed = tercet_testkit::checker::parse_line(&line[..line.len() - 1]);
                ensure!(
                    parsed.as_deref() == Some(&value[..]),
                    "{:?}",
                    String::from_utf8_lossy(line)
                );
            }
        }
        ensure!(files.iter().all(|file| *file == files[0]), "the files differ");
        Ok(())
    });
}

/// The memory of a process that is in use, in KiB.
fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

/// A request of 100 MB is refused from its header, over HTTP as over gRPC; the node's memory does
/// not grow with what was announced.
#[test]
fn a_huge_request_is_refused_from_its_header() {
    on_three("a_huge_request_is_refused_from_its_header", 1, |cluster, _| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        let pid = cluster.pid(leader)?;
        let before = resident_kib(pid)?;
        for _ in 0..20 {
            let mut stream = TcpStream::connect(cluster.address(leader))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(
                b"POST /v1/records HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n\
                  Content-Length: 104857600\r\n\r\n",
            )?;
            // Not one byte of the body is sent.
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            ensure!(&answer == b"HTTP/1.1 413", "{}", String::from_utf8_lossy(&answer));
        }
        let huge = cluster.run(cluster.client().submit(vec![Bytes::from(vec![0; MIB]); 100]));
        let Err(error) = huge else {
            anyhow::bail!("100 MB were accepted");
        };
        ensure!(error.reason == Reason::TooLarge, "{error}");
        let after = resident_kib(pid)?;
        ensure!(after < before + 16 * 1024, "memory grew from {before} to {after} KiB");
        cluster.run(cluster.client().submit(["fine"]))?;
        Ok(())
    });
}

/// Garbage on both ports, and connections that say nothing: whoever behaves is served.
#[test]
fn garbage_and_silence_harm_nobody() {
    on_three("garbage_and_silence_harm_nobody", 1, |cluster, run| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        let mut random = Random::new(run.seed);
        // A frame that speaks another version of the protocol: named in the log.
        let mut stream = TcpStream::connect(cluster.peer_address(leader))?;
        let _ = stream.write_all(&[0x43, 0x54, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        cluster.await_statuses("the node tells of the other version", |_| {
            cluster.log(leader).contains("frames in version 9")
        })?;
        let mut silent = Vec::new();
        for round in 0..60 {
            for address in [cluster.address(leader), cluster.peer_address(leader)] {
                silent.push(TcpStream::connect(&address)?);
                let mut stream = TcpStream::connect(&address)?;
                let mut bytes: Vec<u8> =
                    (0..random.below(3000)).map(|_| random.next().to_le_bytes()[0]).collect();
                match round % 4 {
                    // The beginnings of something real.
                    0 => bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").for_each(drop),
                    1 => bytes
                        .splice(0..0, *b"POST /v1/records HTTP/1.1\r\nHost: x\r\n")
                        .for_each(drop),
                    2 => bytes.splice(0..0, [0x43, 0x54, 1, 1]).for_each(drop),
                    _ => {}
                }
                // The node may have closed already.
                let _ = stream.write_all(&bytes);
            }
        }
        for _ in 0..20 {
            cluster.run(cluster.client().submit(["fine"]))?;
        }
        let still = cluster.await_leader()?;
        ensure!(still == leader, "the leader changed: n{leader} to n{still}");
        drop(silent);
        Ok(())
    });
}

/// `values.log` is made from the log: whatever is done to it, it comes back.
#[test]
fn values_log_is_made_again() {
    on_three("values_log_is_made_again", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let values: Vec<String> = (0..500).map(|n| format!("value {n}")).collect();
        cluster.run(cluster.client().submit(values.iter().cloned().map(Bytes::from)))?;
        cluster.await_healed()?;
        let good = cluster.values()?[0].clone();
        type Harm = fn(&Path) -> std::io::Result<()>;
        let harms: [(&str, Harm); 4] = [
            ("deleted", |path| fs::remove_file(path)),
            ("emptied", |path| fs::write(path, "")),
            ("cut", |path| fs::OpenOptions::new().write(true).open(path)?.set_len(100)),
            ("extended", |path| {
                fs::OpenOptions::new().append(true).open(path)?.write_all(b"write no\n")
            }),
        ];
        for (what, harm) in harms {
            harm(&cluster.data(2).join("values.log"))?;
            cluster.await_statuses(&format!("the {what} file is whole again"), |_| {
                fs::read(cluster.data(2).join("values.log")).is_ok_and(|file| file == good)
            })?;
        }
        // An edit of the same length is found at the next start, at the latest.
        cluster.stop(2)?;
        let path = cluster.data(2).join("values.log");
        let edited = String::from_utf8(good.clone())?.replace("value 250", "VALUE 250");
        fs::write(&path, edited)?;
        cluster.start(2)?;
        cluster.await_healed()?;
        cluster.await_statuses("the edited file is whole again", |_| {
            fs::read(&path).is_ok_and(|file| file == good)
        })?;
        Ok(())
    });
}

/// Conditions and keys: what the error model promises.
#[test]
fn requests_are_idempotent_and_conditional() {
    on_three_with("requests_are_idempotent_and_conditional", 1, &[], |cluster, _| {
        cluster.start_all()?;
        let first = cluster.await_leader()?;
        let with = |request_id, expect_next| SubmitOptions {
            request_id: Some(request_id),
            expect_next,
            ..SubmitOptions::default()
        };
        let client = cluster.client().clone();
        let once = cluster.run(client.submit_with(["a", "b"], with(7, Some(1))))?;
        ensure!((once.first_seq, once.last_seq, once.duplicate) == (1, 2, false), "{once:?}");
        cluster.run(client.transfer(None))?;
        let leader = cluster.await_leader()?;
        ensure!(leader != first, "leadership was not handed over");
        // The same id again, with another leader, and after a restart of all.
        let again = cluster.run(client.submit_with(["a", "b"], with(7, Some(1))))?;
        ensure!((again.first_seq, again.last_seq, again.duplicate) == (1, 2, true), "{again:?}");
        cluster.stop_all()?;
        cluster.start_all()?;
        cluster.await_leader()?;
        let again = cluster.run(client.submit_with(["a", "b"], with(7, Some(1))))?;
        ensure!((again.first_seq, again.duplicate) == (1, true), "{again:?}");
        let other = cluster.run(client.submit_with(["a", "c"], with(7, None)));
        ensure!(reason(&other) == Some(Reason::KeyReused), "{other:?}");
        let conflict = cluster.run(client.submit_with(["c"], with(8, Some(1))));
        ensure!(reason(&conflict) == Some(Reason::Conflict), "{conflict:?}");
        ensure!(conflict.err().and_then(|error| error.next_seq) == Some(3), "which is next");
        let records = cluster.run(client.read(1, 10))?;
        ensure!(records.len() == 2, "{records:?}");
        Ok(())
    });
}
