use std::collections::BTreeMap;

use quick_xml::events::Event as Xml;

use super::*;
use crate::{Progress, SimBackend, library, parse, run};

/// Each way through each scenario of the library as a diagram.
fn diagrams() -> Vec<(String, Diagram)> {
    let mut all = Vec::new();
    for scenario in library::SCENARIOS {
        let script = parse(scenario.text).expect("a scenario is a script");
        let mut items: Vec<(String, Vec<Item>)> = Vec::new();
        run(&script, None, || SimBackend::new(&script, script.header.seed), &mut |progress| {
            match progress {
                Progress::Begin { branch, .. } => {
                    let branch = branch.unwrap_or_default();
                    items.push((format!("{} {branch}", scenario.name), Vec::new()));
                }
                Progress::Step { text, .. } => {
                    items.last_mut().expect("it began").1.push(Item::Step(text));
                }
                Progress::Event(event) => {
                    items.last_mut().expect("it began").1.push(Item::Event(event));
                }
                Progress::Say(_)
                | Progress::Ask { .. }
                | Progress::Answered { .. }
                | Progress::Told(_) => {}
            }
        })
        .expect("the simulator runs");
        let title = &script.header.title;
        let nodes = script.header.nodes;
        all.extend(
            items.into_iter().map(|(name, items)| (name, Diagram::new(title, nodes, items))),
        );
    }
    assert!(all.len() >= library::SCENARIOS.len());
    all
}

/// `a` happened before `b`, by their clocks.
fn is_before(a: &[u64], b: &[u64]) -> bool {
    a != b && a.iter().zip(b).all(|(a, b)| a <= b)
}

#[test]
fn what_is_received_was_sent_before() {
    let mut arrows = BTreeMap::new();
    for (name, diagram) in diagrams() {
        for (place, mark) in diagram.marks().iter().enumerate() {
            let Some(needed) = &mark.needed else { continue };
            let sent = &diagram.marks()[needed.mark];
            assert!(needed.mark < place && sent.event.node != mark.event.node, "{name}: {mark:?}");
            assert!(sent.event.at <= mark.event.at, "{name}: {sent:?} {mark:?}");
            assert!(is_before(&sent.clock, &mark.clock), "{name}: {sent:?} {mark:?}");
            *arrows.entry(needed.carries).or_insert(0) += 1;
        }
        // Each node counts its own events, one by one.
        for slot in 0..usize::from(diagram.nodes) {
            let own = diagram
                .marks()
                .iter()
                .filter(|mark| usize::from(mark.event.node.slot()) == slot + 1);
            let counts: Vec<u64> = own.map(|mark| mark.clock[slot]).collect();
            assert!(counts.iter().copied().eq(1..=counts.len() as u64), "{name}: {counts:?}");
        }
    }
    for carries in
        [Carries::Vote, Carries::Entries, Carries::Refusal, Carries::Commit, Carries::Other]
    {
        assert!(arrows.get(&carries).is_some_and(|count| *count > 3), "{carries:?}: {arrows:?}");
    }
}

/// A commit cannot be told before a majority was heard: what Raft promises must be in the clocks.
#[test]
fn a_leader_commits_what_it_heard_of() {
    let script = parse(
        "title \"t\"\ncluster n1 n2 n3 profile=paper timers=manual\nelect n1 win\nsubmit a -> ok\n",
    )
    .expect("a script");
    let mut items = Vec::new();
    let mut tell = |progress| {
        if let Progress::Event(event) = progress {
            items.push(Item::Event(event));
        }
    };
    run(&script, Some(4), || SimBackend::new(&script, 1), &mut tell).expect("it runs");
    let diagram = Diagram::new("t", 3, items);
    let commit = diagram.marks().iter().find(|mark| mark.event.kind == "commit").expect("one");
    assert_eq!(commit.event.node.slot(), 1);
    let heard = diagram
        .marks()
        .iter()
        .any(|mark| mark.event.kind == "append_accepted" && is_before(&mark.clock, &commit.clock));
    assert!(heard, "{commit:?}");
    let vote = diagram.marks().iter().find(|mark| mark.event.kind == "vote_granted").expect("one");
    assert!(is_before(&vote.clock, &commit.clock));
}

#[test]
fn svg_is_well_formed() {
    for (name, diagram) in diagrams() {
        let text = diagram.write(Format::Svg);
        let mut reader = quick_xml::Reader::from_str(&text);
        reader.config_mut().check_end_names = true;
        let (mut open, mut elements, mut arrows, mut lanes) = (0_i32, 0, 0, 0);
        loop {
            match reader.read_event().unwrap_or_else(|error| panic!("{name}: {error}")) {
                Xml::Eof => break,
                Xml::Start(tag) => {
                    open += 1;
                    elements += 1;
                    let attribute = |tag: &quick_xml::events::BytesStart<'_>, name: &str| {
                        let found = tag.attributes().map(|it| it.expect("it is well-formed"));
                        let mut found = found.filter(|it| it.key.as_ref() == name);
                        found.next().map(|it| it.value.to_string())
                    };
                    let id = attribute(&tag, "id").unwrap_or_default();
                    lanes += u32::from(id.starts_with("lane-"));
                    arrows += usize::from(tag.name().as_ref() == "line");
                }
                Xml::End(_) => open -= 1,
                Xml::Empty(tag) => {
                    elements += 1;
                    for attribute in tag.attributes() {
                        attribute.unwrap_or_else(|error| panic!("{name}: {error}"));
                    }
                }
                Xml::Text(_)
                | Xml::CData(_)
                | Xml::Comment(_)
                | Xml::Decl(_)
                | Xml::PI(_)
                | Xml::DocType(_)
                | Xml::GeneralRef(_) => {}
            }
        }
        assert_eq!(open, 0, "{name}");
        assert!(elements > 20, "{name}");
        assert_eq!(lanes, u32::from(diagram.nodes), "{name}");
        let wanted = diagram.marks().iter().filter(|mark| mark.needed.is_some()).count();
        assert_eq!(arrows, wanted, "{name}: each arrow has its title");
    }
}

#[test]
fn strange_values_are_escaped() {
    let event = LabEvent {
        at: std::time::Duration::ZERO,
        node: NodeId::new(1).expect("a slot"),
        term: 1,
        kind: "notice".to_owned(),
        fields: Vec::new(),
        text: "a <b> & \"c\"; #d %% \u{7}\nend".to_owned(),
        classic: None,
    };
    let items = [Item::Step("submit \"<&;\"".to_owned()), Item::Event(event)];
    let diagram = Diagram::new("<&>\"\\", 1, items);
    let svg = diagram.write(Format::Svg);
    let mut reader = quick_xml::Reader::from_str(&svg);
    while !matches!(reader.read_event().expect("well-formed"), Xml::Eof) {}
    assert!(svg.contains("&lt;b&gt; &amp;"), "{svg}");
    check_mermaid("strange", &diagram.write(Format::Mermaid), 1);
    assert_eq!(shiviz_events(&diagram.write(Format::Shiviz)).len(), 1);
}

/// Every line is one that Mermaid has, about participants that were declared.
fn check_mermaid(name: &str, text: &str, nodes: u8) {
    let (head, body) = text.split_once("sequenceDiagram\n").expect("it says what it is");
    assert!(head.starts_with("---\ntitle: \"") && head.ends_with("\"\n---\n"), "{name}: {head}");
    let is_node = |node: &str| (1..=nodes).any(|slot| node == format!("n{slot}"));
    let mut participants = 0;
    for line in body.lines() {
        let line = line.strip_prefix("    ").unwrap_or_else(|| panic!("{name}: {line}"));
        if let Some(node) = line.strip_prefix("participant ") {
            participants += 1;
            assert!(is_node(node), "{name}: {line}");
            continue;
        }
        let (what, said) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}"));
        let codes = ["#35;", "#59;", "#37;", "#lt;", "#gt;"];
        let rest = codes.iter().fold(said.to_owned(), |rest, code| rest.replace(code, ""));
        assert!(!rest.contains([';', '#', '%', '<', '>']), "{name}: {line}");
        let ends = what.strip_prefix("Note over ").map(|over| over.split(',')).map_or_else(
            || {
                let (from, to) = what
                    .split_once("->>")
                    .or_else(|| what.split_once("--x"))
                    .unwrap_or_else(|| panic!("{name}: {line}"));
                vec![from, to]
            },
            Iterator::collect,
        );
        assert!(ends.iter().all(|node| is_node(node)), "{name}: {line}");
    }
    assert_eq!(participants, u32::from(nodes), "{name}");
}

#[test]
fn mermaid_is_well_formed() {
    for (name, diagram) in diagrams() {
        check_mermaid(&name, &diagram.write(Format::Mermaid), diagram.nodes);
    }
}

/// Host and clock of each event, as the expression in the first line finds them.
fn shiviz_events(text: &str) -> Vec<(String, BTreeMap<String, u64>)> {
    let mut lines = text.lines();
    let parser = lines.next().expect("the expression");
    assert_eq!(parser, shiviz::PARSER);
    assert_eq!(lines.next(), Some(""), "there is one execution");
    let body: String = lines.flat_map(|line| [line, "\n"]).collect();
    let expression = regex::Regex::new(&parser.replace("{.*}", r"\{.*\}")).expect("one");
    let found: Vec<_> = expression
        .captures_iter(&body)
        .map(|found| {
            let clock = found["clock"].trim_matches(['{', '}']).to_owned();
            let clock = clock
                .split(", ")
                .map(|part| {
                    let (node, count) = part.split_once(':').expect("a name and a number");
                    (node.trim_matches('"').to_owned(), count.parse().expect("a number"))
                })
                .collect();
            (found["host"].to_owned(), clock)
        })
        .collect();
    assert_eq!(found.len() * 2, body.lines().count(), "every line belongs to an event");
    found
}

#[test]
fn shiviz_reads_what_is_written() {
    for (name, diagram) in diagrams() {
        let events = shiviz_events(&diagram.write(Format::Shiviz));
        assert_eq!(events.len(), diagram.marks().len(), "{name}");
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for (host, clock) in &events {
            let count = own.entry(host.clone()).or_default();
            *count += 1;
            assert_eq!(clock[host], *count, "{name}: {host} counts its own events");
            for (other, seen) in clock {
                assert!(*seen <= own[other], "{name}: {host} knows of what has not happened");
            }
            *own.get_mut(host).expect("it is there") = clock[host];
        }
    }
}
