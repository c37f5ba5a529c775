//! What is warned of, and what is not.

use tercet_lab::{lint, parse};

use crate::SCRIPTS;

fn warnings(cluster: &str, steps: &str) -> Vec<String> {
    let text = format!("cluster n1 n2 n3 {cluster}\n{steps}");
    let script = parse(&text).expect("a script without mistakes");
    lint(&script).iter().map(ToString::to_string).collect()
}

const EXACT_2: &str = "with timers=auto there may be more elections than one: write \">=2\" \
                       instead of term 2";
const TIMING: &str = "what holds right after \"run\" depends on timing: put \"settle\" or \
                      \"wait\" between";

#[test]
fn exact_terms_with_timers() {
    for step in [
        "expect leader = n1 @2",
        "wait leader = n1 @2 within 2s",
        "expect n1 role=leader term=2",
        "expect term all = 2",
        "always leader != n2 @2 until x\nmark x",
    ] {
        assert_eq!(warnings("", step), [format!("2: {EXACT_2}")], "{step}");
        assert_eq!(warnings("timers=manual", step), [""; 0], "{step}");
        assert_eq!(warnings("requires sim \"why\"", step), [""; 0], "{step}");
    }
    for step in [
        "expect leader = n1 @>=2",
        "expect n1 term>=2",
        "let L = leader\nexpect n1 term=$L.term",
        "expect leader = n1",
    ] {
        assert_eq!(warnings("", step), [""; 0], "{step}");
    }
}

#[test]
fn expectations_right_after_a_run() {
    let brittle = [
        ("run 1s\nexpect leader != none", 3),
        ("run 1s\nsay \"…\"\nexpect! leader != none", 4),
        ("run 1s\nexpect count stepped_down = 0", 3),
        ("run 1s\nexpect trace {\nbecame_leader\n}", 3),
    ];
    for (steps, line) in brittle {
        assert_eq!(warnings("", steps), [format!("{line}: {TIMING}")], "{steps}");
        assert_eq!(warnings("timers=manual", steps), [""; 0], "{steps}");
    }
    let branch = "run 1s\nfork a, b\nbranch a {\nexpect leader != none\n}\nbranch b {\nsettle\n}";
    assert_eq!(warnings("", branch), [format!("5: {TIMING}")]);
    for steps in ["run 1s\nsettle\nexpect leader != none", "run 1s\nwait leader != none"] {
        assert_eq!(warnings("", steps), [""; 0], "{steps}");
    }
}

#[test]
fn exact_counts_of_what_is_sent_again() {
    for kind in ["append", "append_accepted", "persisted", "matchindex", "drop"] {
        let step = format!("expect count {kind} = 2");
        let expected = format!(
            "2: \"{kind}\" happens again when a message is sent again: compare with >= or count \
             something that is decided once"
        );
        assert_eq!(warnings("timers=manual", &step), [expected], "{step}");
    }
    for step in
        ["expect count append >= 2", "expect count append = 0", "expect count truncated = 1"]
    {
        assert_eq!(warnings("", step), [""; 0], "{step}");
    }
}

/// The scripts of the design are portable.
#[test]
fn whole_scripts() {
    for text in SCRIPTS {
        let script = parse(text).expect("a script without mistakes");
        assert_eq!(lint(&script), [], "{}", script.header.title);
    }
}
