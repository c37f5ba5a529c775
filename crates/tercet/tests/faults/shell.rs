//! The shell over the simulator, lines on the command line, and what is exported.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::ensure;

use crate::lab::{Terminal, text};
use crate::{TERCET, has, not_run, on_three, on_three_with};

/// Runs the program in a directory, with these lines as its standard input.
fn piped(dir: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut child = Command::new(TERCET)
        .args(arguments)
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn call(arguments: &[&str]) -> Output {
    let output = Command::new(TERCET).args(arguments).env("NO_COLOR", "1").output();
    output.expect("the program starts")
}

/// The lines between two marks that the narrator spoke.
fn between<'a>(said: &'a str, from: &str, to: &str) -> &'a str {
    let behind = said.split_once(&format!("“{from}”\n")).expect("it was said").1;
    behind.split_once(&format!("  “{to}”")).expect("it was said").0
}

#[test]
fn the_simulator_takes_commands_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let lines = "submit a b\nsay \"one\"\nlogs\nsay \"two\"\nundo\nundo\n\
        fork what-if\ncrash leader\nwait leader != none\nsubmit c\nbranches\nback 3\nsay \"three\"\nlogs\nsay \"four\"\n\
        switch main\nhistory\nsubmit d\nsave my.lab\nback 9\nswitch nowhere\nquit\n";
    let run = |seed: &str| piped(dir.path(), &["sh", "--sim", "--seed", seed], lines);
    let output = run("7");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "two lines were wrong: {said}\n{errors}");
    assert!(said.starts_with("SIM · seed 7 · modern · main: 0 commands"), "{said}");
    assert!(said.contains("taken back: say \"two\"\nmain: 2 commands"), "{said}");
    assert!(said.contains("* what-if      modern   4 commands  submit c"), "{said}");
    assert!(said.contains("taken back: crash leader · wait leader != none · submit c"), "{said}");
    // The same state as before, down to who knows what.
    assert_eq!(between(&said, "one", "two"), between(&said, "three", "four"), "{said}");
    assert!(said.contains("   1  submit a b\nmain: 1 command, "), "{said}");
    assert!(said.contains("it passes in the simulator"), "{said}");
    assert!(errors.contains("only 2 commands led here: `back 2` is the beginning"), "{errors}");
    assert!(errors.contains("there is no branch nowhere: there are main, what-if"), "{errors}");
    assert_eq!(text(&run("7").stdout), said, "a seed is a run");
    let saved = fs::read_to_string(dir.path().join("my.lab")).expect("it was written");
    assert!(saved.contains("seed=7\n\nwait leader != none\nsubmit a b\nsubmit d\n"), "{saved}");
    assert!(piped(dir.path(), &["lab", "run", "my.lab"], "").status.success());
}

#[test]
fn the_menu_and_profiles_in_the_simulator() {
    let dir = tempfile::tempdir().expect("a directory");
    let lines = "1\n2\nx y\n3\nz\nh\n4\n\nlogs\nundo\nhistory\nprofile paper\nsubmit p\nlogs\nbranches\nexplain\n\
        play split-vote\nnobody\nhelp\nhelp fork\n";
    let output = piped(dir.path(), &["sh", "--sim"], lines);
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    // A point of the menu is one command, however many steps it has.
    assert!(
        said.contains("taken back: 4\n") && said.contains("   3  3\nmain: 3 commands"),
        "{said}"
    );
    assert!(said.contains("holds everything again"), "{said}");
    assert!(said.contains("on a branch of its own   (`switch main` goes back)"), "{said}");
    assert!(said.contains("* paper        paper    1 commands  submit p"), "{said}");
    assert!(said.contains("commit=1 log = 1:p"), "Figure 2 has no no-op: {said}");
    assert!(said.contains("3 of 3 nodes run"), "{said}");
    assert!(said.contains("  Right.") && said.contains("1 of 1 questions answered"), "{said}");
    for word in ["undo", "back N", "fork [NAME]", "switch NAME", "export trace", "profile paper"] {
        assert!(said.contains(&format!("\n{word}")), "{word}: {said}");
    }
}

/// A person at a terminal: Tab offers branches, formats and rules.
#[test]
fn the_simulator_in_a_terminal() {
    if !has("script") {
        return not_run("the_simulator_in_a_terminal", "script (bsdutils) is not installed");
    }
    let play = || -> anyhow::Result<()> {
        let mut terminal = Terminal::open(&["sh".to_owned(), "--sim".to_owned()])?;
        for (keys, expected) in [
            ("", "help lists the words"),
            ("subm\t a\r", "a: ok"),
            ("fork what-if\r", "what-if: 1 command"),
            ("say \"there\"\r", "“there”"),
            ("switch m\t\r", "main: 1 command"),
            ("say \"here\"\r", "“here”"),
            ("und\t\r", "taken back: say"),
            ("profile p\t\r", "paper: 0 commands"),
        ] {
            terminal.press(keys)?;
            terminal.await_text(expected)?;
            // What is typed before the prompt stands can be lost.
            terminal.await_text("sim> ")?;
        }
        terminal.press("\u{4}")?;
        let status = terminal.end()?;
        ensure!(status.success(), "{status}");
        Ok(())
    };
    play().unwrap_or_else(|error| panic!("{error:#}"));
}

/// What happened, in all forms; from the shell, from a trace, and from a scenario.
#[test]
fn what_happened_is_exported() {
    let dir = tempfile::tempdir().expect("a directory");
    let lines = "submit \"<a&b>\"\ncrash leader\nwait leader != none\nrestart all\nexport svg\nexport mermaid m.mmd\n\
        export shiviz\nexport trace t.trace\nexport pdf\n";
    let output = piped(dir.path(), &["sh", "--sim", "--seed", "3"], lines);
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}\n{errors}");
    assert!(errors.contains("it is trace, svg, mermaid or shiviz"), "{errors}");
    let file = |name: &str| fs::read_to_string(dir.path().join(name)).expect("it was written");
    let svg = file("tercet.svg");
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert!(svg.contains("submit &quot;&lt;a&amp;b&gt;&quot;"), "{svg}");
    assert!(svg.contains("its process is gone") && svg.contains("id=\"legend\""), "{svg}");
    assert!(file("m.mmd").contains("sequenceDiagram\n    participant n1\n"));
    check_clocks(&file("tercet.shiviz"));

    // A saved trace says the same.
    for (format, saved) in [("mermaid", "m.mmd"), ("shiviz", "tercet.shiviz")] {
        let drawn = piped(dir.path(), &["lab", "show", "t.trace", "--as", format], "");
        let drawn = text(&drawn.stdout);
        let body = |text: &str| {
            let lines = text.trim_end().lines().filter(|line| !line.starts_with("title:"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(body(&drawn), body(&file(saved)), "{format}");
    }
    let shown = text(&piped(dir.path(), &["lab", "show", "t.trace"], "").stdout);
    assert!(shown.contains("crash leader"), "{shown}");

    let show = |arguments: &[&str]| {
        let output = call(&[&["lab", "show", "leader-crash-divergent-logs"], arguments].concat());
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (ok, drawn) = show(&["--as", "shiviz", "--branch", "lost"]);
    assert!(ok, "{drawn}");
    check_clocks(&drawn);
    assert!(drawn.contains("cut entries 3 to 3\nn1 {"), "{drawn}");
    let (ok, drawn) = show(&["--as", "svg", "--branch", "survives"]);
    assert!(ok && drawn.contains("– survives</title>"), "{drawn}");
    let (ok, refused) = show(&["--as", "svg", "--branch", "other"]);
    assert!(!ok && refused.contains("there are lost, survives"), "{refused}");
    assert!(!show(&["--as", "png"]).0);
}

/// Each node counts its events from 1, and knows of no event that did not happen yet.
fn check_clocks(log: &str) {
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some(r"(?<event>.*)\n(?<host>\S*) (?<clock>{.*})"));
    assert_eq!(lines.next(), Some(""));
    let mut own: BTreeMap<String, u64> = BTreeMap::new();
    let mut known = 0;
    while let (Some(_), Some(line)) = (lines.next(), lines.next()) {
        let (host, clock) = line.split_once(' ').expect("a host and a clock");
        let clock: BTreeMap<String, u64> = serde_json::from_str(clock).expect("it is JSON");
        *own.entry(host.to_owned()).or_default() += 1;
        assert_eq!(clock[host], own[host], "{line}");
        assert!(clock.iter().all(|(node, count)| *count <= own[node]), "{line}");
        known += u32::from(clock.len() > 1);
    }
    assert!(own.len() == 3 && known > 5, "nodes hear of each other: {log}");
}

#[test]
fn lines_are_done_in_the_simulator() {
    let run = |arguments: &[&str]| {
        let output = call(&[&["do", "--sim"], arguments].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = run(&["submit a", "crash leader", "submit b", "logs"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("a: ok\n") && said.contains("b: ok\n") && said.contains("down"),
        "{said}"
    );

    // Nothing is done if one line cannot be understood.
    let (code, said, errors) = run(&["submit a", "sumbit b"]);
    assert_eq!((code, said.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("\"sumbit b\"") && errors.contains("Did you mean"), "{errors}");

    // It stops where something fails, with the exit code of what failed.
    let cut = ["crash n1 n2", "wait leader = none", "submit b", "say \"never\""];
    let (code, said, _) = run(&cut);
    assert_eq!(code, Some(3), "nothing was appended: {said}");
    assert!(!said.contains("never"), "{said}");
    let unknown = ["isolate leader", "submit b via=leader"];
    let (code, said, errors) = run(&unknown);
    assert_eq!(code, Some(4), "nobody can know: {said}{errors}");
    let (code, ..) = run(&["isolate leader", "submit b via=leader -> unknown"]);
    assert_eq!(code, Some(0), "it was expected");
    let (code, _, errors) = run(&["expect leader = none"]);
    assert_eq!(code, Some(1), "{errors}");

    let (code, said, errors) = run(&["--json", "submit a", "status", "expect leader = none"]);
    assert_eq!((code, errors.as_str()), (Some(1), ""));
    let objects: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    assert_eq!(objects.len(), 3, "{said}");
    assert_eq!(objects[0]["command"], "submit a");
    assert_eq!(objects[0]["answer"], "ok");
    assert_eq!(objects[1]["data"]["nodes"].as_array().map(Vec::len), Some(3), "{said}");
    assert_eq!((&objects[2]["ok"], &objects[2]["code"]), (&false.into(), &1.into()));
    assert!(objects[2]["error"].as_str().is_some_and(|why| why.contains("leader")), "{said}");
}

/// Over nodes without the lab: what clients can do, and a sentence for the rest.
#[test]
fn lines_are_done_on_plain_nodes() {
    on_three("lines_are_done_on_plain_nodes", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let nodes = cluster.addresses().join(",");
        let run = |lines: &[&str]| call(&[&["do", "--node", &nodes], lines].concat());
        let done = run(&["submit a \"two words\"", "read", "status", "explain"]);
        let said = text(&done.stdout);
        ensure!(done.status.success(), "{said}{}", text(&done.stderr));
        ensure!(said.contains("ok: 1 to 2 (on disk on "), "{said}");
        ensure!(said.contains("\na\ntwo words\n") && said.contains("healthy"), "{said}");
        let json = run(&["--json", "read"]);
        let object: serde_json::Value = serde_json::from_slice(&json.stdout)?;
        ensure!(object["data"]["values"] == serde_json::json!(["a", "two words"]), "{object}");
        for (line, expected) in [
            ("cut n1 | n2", "tercet dev --lab"),
            ("undo", "tercet sh --sim"),
            ("crash n1", "were started elsewhere"),
            ("submit a via=n1", "tercet dev --lab"),
        ] {
            let refused = run(&[line]);
            let errors = text(&refused.stderr);
            ensure!(refused.status.code() == Some(2), "{line}: {errors}");
            ensure!(errors.contains(expected), "{line}: {errors}");
        }
        cluster.stop_all()?;
        let down = run(&["submit b"]);
        ensure!(down.status.code() == Some(3), "{}", text(&down.stderr));
        Ok(())
    });
}

/// Over nodes with the lab: the narrated sentences; and what a real node cannot do is said.
#[test]
fn lines_are_done_on_nodes_with_the_lab() {
    on_three_with("lines_are_done_on_nodes_with_the_lab", 1, &["--lab"], |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let nodes = cluster.addresses().join(",");
        let run = |lines: &[&str]| call(&[&["do", "--node", &nodes], lines].concat());
        let done = run(&["submit a -> ok", "transfer", "settle", "logs", "expect logs all equal"]);
        let said = text(&done.stdout);
        ensure!(done.status.success(), "{said}{}", text(&done.stderr));
        ensure!(said.contains("a: ok") && said.contains(" leader in term "), "{said}");
        ensure!(said.contains("★"), "{said}");
        for (line, code, expected) in [
            ("undo", 2, "what real nodes did cannot be undone"),
            ("fork x", 2, "tercet sh --sim"),
            ("crash n1", 1, "was started elsewhere"),
            ("profile paper", 1, "serve --lab --lab-profile paper"),
        ] {
            let refused = run(&[line]);
            let errors = text(&refused.stderr);
            ensure!(refused.status.code() == Some(code), "{line}: {errors}");
            ensure!(errors.contains(expected), "{line}: {errors}");
        }
        Ok(())
    });
}
