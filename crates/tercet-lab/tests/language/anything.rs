//! Any text is parsed or refused, and fast.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tercet_lab::{lint, parse, parse_step};

use crate::SCRIPTS;

/// Parses, lints and draws; whatever comes, it must come back, with places inside the text.
fn survives(text: &str) {
    match parse(text) {
        Ok(script) => {
            lint(&script);
        }
        Err(errors) => {
            assert!((1..=20).contains(&errors.len()), "{} complaints", errors.len());
            let places: Vec<_> = errors.iter().map(|e| (e.line, e.column)).collect();
            assert!(places.is_sorted(), "in order: {places:?}");
            for error in &errors {
                assert!(error.line >= 1 && error.column >= 1, "{error}");
                assert!(error.line <= text.lines().count() + 1, "{error}");
                assert!(!error.render("x.lab", text).is_empty());
            }
        }
    }
}

/// What is done to a word of a script.
#[derive(Clone, Debug)]
enum Change {
    Delete,
    Double,
    Replace(String),
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        "[a-z0-9=>!.:$#{}()\"@|,+*-]{1,8}",
        prop::sample::select(
            SCRIPTS.join(" ").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        ),
    ];
    prop_oneof![Just(Change::Delete), Just(Change::Double), word.prop_map(Change::Replace)]
}

/// The script with one of its words changed; line ends stay.
fn changed(script: &str, at: prop::sample::Index, change: &Change) -> String {
    let words: Vec<&str> = script.split_inclusive([' ', '\n']).collect();
    let at = at.index(words.len());
    let mut out = String::new();
    for (i, word) in words.iter().enumerate() {
        if i != at {
            out.push_str(word);
            continue;
        }
        let bare = word.trim_end_matches([' ', '\n']);
        let space = &word[bare.len()..];
        match change {
            Change::Delete => {}
            Change::Double => out.extend([bare, " ", bare]),
            Change::Replace(new) => out.push_str(new),
        }
        out.push_str(space);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_characters_of_the_language(
        text in "cluster n1 n2 n3\n([a-zL0-9=>!.:$#{}()\"@|,+*\\\\ \n\t-]{0,12}\n){0,12}",
    ) {
        survives(&text);
    }

    #[test]
    fn scripts_with_words_changed(
        script in 0..SCRIPTS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), change()), 1..6),
    ) {
        let mut text = SCRIPTS[script].to_owned();
        for (at, change) in changes {
            text = changed(&text, at, &change);
        }
        survives(&text);
    }

    #[test]
    fn a_line_of_the_shell(line in "[a-zL0-9=>!.:$#{}()\"@|,+*\\\\ \n-]{0,60}", nodes in 0..=7u8) {
        if let Err(error) = parse_step(&line, nodes) {
            error.render("shell", &line);
        }
    }

    /// Each line of a script is a line of the shell, unless it is a header word or of a block.
    #[test]
    fn lines_of_scripts_in_the_shell(
        script in 0..SCRIPTS.len(),
        at in any::<prop::sample::Index>(),
        word in any::<prop::sample::Index>(),
        change in change(),
    ) {
        let lines: Vec<&str> = SCRIPTS[script].lines().collect();
        let line = changed(lines[at.index(lines.len())], word, &change);
        let _may_be_refused = parse_step(&line, 3);
    }
}

/// Large and hostile texts take no more than a moment. The limit is generous: this finds squares,
/// not percents.
#[test]
fn large_texts_are_fast() {
    let head = "cluster n1 n2 n3\n";
    let many = 20_000;
    let texts = [
        head.to_owned() + &"submit a b c -> ok\n".repeat(many),
        head.to_owned() + &"crsh n1\n".repeat(many),
        head.to_owned() + &"x".repeat(1_000_000),
        head.to_owned() + "submit " + &"x ".repeat(200_000),
        head.to_owned() + "given n1 log=" + &"1,".repeat(100_000) + "1",
        head.to_owned() + "expect n1 log = " + &"1:a ".repeat(100_000),
        head.to_owned() + "expect n1 " + &"voted=-".repeat(100_000),
        head.to_owned() + "submit " + &"via ".repeat(200_000),
        head.to_owned() + "crash" + &" $x".repeat(200_000),
        head.to_owned() + "ask \"?\"" + &(0..many).map(|i| format!(" {i}")).collect::<String>(),
        head.to_owned()
            + &(0..many).map(|i| format!("always leader != n1 until m{i}\n")).collect::<String>()
            + &(0..many).map(|i| format!("mark m{i}\n")).collect::<String>(),
        head.to_owned() + "say " + &"\"".repeat(200_001),
        head.to_owned() + "deliver " + &"#".repeat(200_001),
        head.to_owned() + &" #1".repeat(200_001),
        head.to_owned() + &"\"#\" # ".repeat(50_000),
        head.to_owned() + "fork a, b\nbranch a {\nfork c, d\n" + &"branch c {\n".repeat(many),
        head.to_owned() + "fork a, b\n" + &"branch a {\n".repeat(many),
        head.to_owned() + &"expect trace {\n".repeat(many),
        head.to_owned()
            + &(0..many).map(|i| format!("mark m{i}\n")).collect::<String>()
            + "expect count append since nowhere = 1\n",
    ];
    for text in texts {
        let begun = Instant::now();
        survives(&text);
        let took = begun.elapsed();
        let head: String = text.chars().take(60).collect();
        assert!(took < Duration::from_secs(5), "{took:?} for {head:?}");
    }
}
