//! A space-time diagram: one lane per node, time from top to bottom, one row an event. Rows are in
//! order and not to scale, so that what happens within a millisecond can be read as well.
//!
//! Shape and text say everything; colour says it again (palette of Okabe and Ito).

use std::time::Duration;

use super::{Carries, Diagram, Mark, Row};

/// The column of times, and that of steps.
const TIMES: u32 = 84;
/// The distance between two lanes.
const LANE: u32 = 290;
/// The height of a row.
const ROW: u32 = 22;
/// Where the first row is.
const TOP: u32 = 118;
/// What stands below the last row.
const BOTTOM: u32 = 24;
/// The colours of terms, in turn.
const TERMS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f7a00"];

/// What a lane looks like from a row on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Follower,
    Candidate,
    Leader,
    Quarantined,
    Paused,
    Down,
}

/// A lane between two changes.
struct Piece {
    from: u32,
    state: State,
    term: u64,
    /// What a node that stands still goes on as.
    before_pause: State,
}

pub(super) fn write(diagram: &Diagram) -> String {
    let rows = u32::try_from(diagram.rows.len()).unwrap_or(u32::MAX / ROW);
    let width = (TIMES + LANE * u32::from(diagram.nodes) + 30).max(830);
    let height = TOP + rows * ROW + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"11\">\n\
         <title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\" fill=\"#111111\">{0}</text>\n",
        escaped(&diagram.title)
    );
    heads(&mut out);
    legend(&mut out);
    let bottom = height - BOTTOM / 2;
    // Where each mark is.
    let mut places = vec![0; diagram.marks.len()];
    let mut y = TOP;
    for row in &diagram.rows {
        if let Row::Mark(mark) = row {
            places[*mark] = y;
        }
        y += ROW;
    }
    let mut y = TOP;
    for row in &diagram.rows {
        if matches!(row, Row::Step(_)) {
            band(&mut out, y, width);
        }
        y += ROW;
    }
    for slot in 1..=diagram.nodes {
        lane(&mut out, diagram, slot, &places, bottom);
    }
    for (mark, at) in diagram.marks.iter().zip(&places) {
        arrow(&mut out, diagram, mark, &places, *at);
    }
    let mut y = TOP;
    let mut told = None;
    for row in &diagram.rows {
        match row {
            Row::Step(step) => step_text(&mut out, step, y),
            Row::Mark(place) => {
                let mark = &diagram.marks[*place];
                time(&mut out, mark.event.at, &mut told, y);
                point(&mut out, mark, y);
            }
        }
        y += ROW;
    }
    out.push_str("</svg>\n");
    out
}

fn lane_x(slot: u8) -> u32 {
    TIMES + LANE * u32::from(slot - 1) + 24
}

fn term_colour(term: u64) -> &'static str {
    let turns = TERMS.len() as u64;
    let place = usize::try_from((term.max(1) - 1) % turns).expect("there are seven colours");
    TERMS[place]
}

const fn colour(carries: Carries) -> &'static str {
    match carries {
        Carries::Vote => "#6a3d9a",
        Carries::Entries => "#333333",
        Carries::Refusal => "#b00020",
        Carries::Commit => "#00734f",
        Carries::Other => "#8a5a00",
    }
}

const KINDS: [(&str, Carries, &str); 5] = [
    ("vote", Carries::Vote, "votes"),
    ("entries", Carries::Entries, "entries"),
    ("refusal", Carries::Refusal, "refusal"),
    ("commit", Carries::Commit, "commit index"),
    ("other", Carries::Other, "rejoin, handover"),
];

/// The arrows' heads, one of each colour.
fn heads(out: &mut String) {
    out.push_str("<defs>\n");
    for (name, carries, _) in KINDS {
        out.push_str(&format!(
            "<marker id=\"{name}\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" markerHeight=\"8\" \
             orient=\"auto-start-reverse\"><path d=\"M0 1 L10 5 L0 9 z\" fill=\"{}\"/></marker>\n",
            colour(carries)
        ));
    }
    out.push_str("</defs>\n");
}

fn label(out: &mut String, x: u32, y: u32, text: &str) {
    out.push_str(&format!("<text x=\"{x}\" y=\"{y}\" fill=\"#333333\">{}</text>\n", escaped(text)));
}

fn legend(out: &mut String) {
    out.push_str("<g id=\"legend\">\n");
    let states = [
        (State::Follower, "follower"),
        (State::Candidate, "candidate"),
        (State::Leader, "leader (colour: term)"),
        (State::Quarantined, "quarantined"),
        (State::Paused, "paused"),
    ];
    let mut x = 16;
    for (state, name) in states {
        piece(out, (x, 48), (x + 26, 48), state, 1);
        label(out, x + 32, 52, name);
        x += 32 + 8 * u32::try_from(name.len()).unwrap_or(20) + 10;
    }
    cross(out, x + 8, 48);
    label(out, x + 20, 52, "crash");
    let mut x = 16;
    for (name, carries, text) in KINDS {
        out.push_str(&format!(
            "<line x1=\"{x}\" y1=\"68\" x2=\"{}\" y2=\"68\" stroke=\"{}\" stroke-width=\"1.4\"{} marker-end=\"url(#{name})\"/>\n",
            x + 26,
            colour(carries),
            dashes(carries)
        ));
        label(out, x + 32, 72, text);
        x += 32 + 8 * u32::try_from(text.len()).unwrap_or(20) + 10;
    }
    star(out, x + 8, 68, term_colour(1));
    label(out, x + 20, 72, "becomes leader");
    square(out, x + 128, 68);
    label(out, x + 140, 72, "commits");
    out.push_str("</g>\n");
}

const fn dashes(carries: Carries) -> &'static str {
    match carries {
        Carries::Refusal => " stroke-dasharray=\"5 3\"",
        Carries::Vote | Carries::Entries | Carries::Commit | Carries::Other => "",
    }
}

/// A straight piece of a lane.
fn piece(out: &mut String, from: (u32, u32), to: (u32, u32), state: State, term: u64) {
    let (stroke, width, dash) = match state {
        State::Follower => ("#888888", 2, ""),
        State::Candidate => (term_colour(term), 4, " stroke-dasharray=\"6 4\""),
        State::Leader => (term_colour(term), 8, ""),
        State::Quarantined => ("#b08900", 4, " stroke-dasharray=\"2 3\""),
        State::Paused => ("#888888", 2, " stroke-dasharray=\"2 5\""),
        State::Down => return,
    };
    out.push_str(&format!(
        "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{stroke}\" stroke-width=\"{width}\"{dash}/>\n",
        from.0, from.1, to.0, to.1
    ));
}

/// A node's lane: what it was, from change to change.
fn lane(out: &mut String, diagram: &Diagram, slot: u8, places: &[u32], bottom: u32) {
    let x = lane_x(slot);
    out.push_str(&format!(
        "<g id=\"lane-n{slot}\">\n<text x=\"{x}\" y=\"{}\" font-size=\"14\" font-weight=\"bold\" text-anchor=\"middle\" fill=\"#111111\">n{slot}</text>\n",
        TOP - 22
    ));
    let mut now =
        Piece { from: TOP - 14, state: State::Follower, term: 0, before_pause: State::Follower };
    let marks = diagram.marks.iter().zip(places).filter(|(mark, _)| mark.event.node.slot() == slot);
    for (mark, y) in marks {
        let event = &mark.event;
        let state = match event.kind.as_str() {
            "became_leader" => State::Leader,
            "became_candidate" => State::Candidate,
            "became_quarantined" => State::Quarantined,
            "stepped_down" | "became_follower" | "readmitted" | "started" => State::Follower,
            "crashed" => State::Down,
            "paused" => State::Paused,
            "resumed" => now.before_pause,
            // A candidate that grants a vote, or holds what a leader sent, follows.
            "vote_granted" | "append_accepted" if now.state == State::Candidate => State::Follower,
            _ => now.state,
        };
        if state != now.state || (state == State::Leader && event.term != now.term) {
            piece(out, (x, now.from), (x, *y), now.state, now.term);
            let before_pause = if state == State::Paused { now.state } else { state };
            now = Piece { from: *y, state, term: event.term, before_pause };
        }
    }
    piece(out, (x, now.from), (x, bottom), now.state, now.term);
    out.push_str("</g>\n");
}

fn arrow(out: &mut String, diagram: &Diagram, mark: &Mark, places: &[u32], y: u32) {
    let Some(needed) = &mark.needed else { return };
    let sender = &diagram.marks[needed.mark];
    let (from, to) = (lane_x(sender.event.node.slot()), lane_x(mark.event.node.slot()));
    let y1 = places[needed.mark];
    let (x1, x2) = if from < to { (from + 6, to - 7) } else { (from - 6, to + 7) };
    let (name, ..) = KINDS[KINDS.iter().position(|(_, it, _)| *it == needed.carries).unwrap_or(0)];
    out.push_str(&format!(
        "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"1.2\" \
         stroke-opacity=\"0.75\"{} marker-end=\"url(#{name})\"><title>{} → {}: {}</title></line>\n",
        colour(needed.carries),
        dashes(needed.carries),
        sender.event.node,
        mark.event.node,
        escaped(&needed.label)
    ));
}

/// The ground of a step, behind everything else.
fn band(out: &mut String, y: u32, width: u32) {
    out.push_str(&format!(
        "<rect x=\"8\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"3\" fill=\"#efefe9\"/>\n",
        y - ROW / 2 + 2,
        width - 16,
        ROW - 4
    ));
}

fn step_text(out: &mut String, step: &str, y: u32) {
    out.push_str(&format!(
        "<text x=\"16\" y=\"{}\" font-family=\"DejaVu Sans Mono, monospace\" fill=\"#333333\" stroke=\"#efefe9\" \
         stroke-width=\"4\" stroke-linejoin=\"round\" paint-order=\"stroke\">{}</text>\n",
        y + 4,
        escaped(step)
    ));
}

/// The time, where it is another than above.
fn time(out: &mut String, at: Duration, told: &mut Option<String>, y: u32) {
    let text = format!("{:.1} ms", at.as_secs_f64() * 1000.0);
    if told.as_ref() != Some(&text) {
        out.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" font-size=\"10\" text-anchor=\"end\" fill=\"#777777\">{text}</text>\n",
            TIMES - 6,
            y + 4
        ));
        *told = Some(text);
    }
}

fn cross(out: &mut String, x: u32, y: u32) {
    out.push_str(&format!(
        "<path d=\"M{} {} L{} {} M{} {} L{} {}\" stroke=\"#b00020\" stroke-width=\"3\" fill=\"none\"/>\n",
        x - 6, y - 6, x + 6, y + 6, x + 6, y - 6, x - 6, y + 6
    ));
}

fn square(out: &mut String, x: u32, y: u32) {
    out.push_str(&format!(
        "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"#00734f\" stroke=\"#ffffff\"/>\n",
        x - 5,
        y - 5
    ));
}

fn star(out: &mut String, x: u32, y: u32, fill: &str) {
    out.push_str(&format!(
        "<path transform=\"translate({x} {y})\" d=\"M0 -9 L2.6 -2.8 L9 -2.8 L3.9 1.3 L5.8 8 L0 4 L-5.8 8 L-3.9 1.3 L-9 -2.8 L-2.6 -2.8 z\" \
         fill=\"{fill}\" stroke=\"#ffffff\"/>\n"
    ));
}

/// An event on its lane, with its sentence.
fn point(out: &mut String, mark: &Mark, y: u32) {
    let event = &mark.event;
    let x = lane_x(event.node.slot());
    match event.kind.as_str() {
        "crashed" | "stopped" | "violation" => cross(out, x, y),
        "commit" => square(out, x, y),
        "became_leader" => star(out, x, y, term_colour(event.term)),
        _ => out.push_str(&format!(
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"3.5\" fill=\"#ffffff\" stroke=\"#333333\" stroke-width=\"1.4\"/>\n"
        )),
    }
    let bold = matches!(event.kind.as_str(), "became_leader" | "crashed" | "violation" | "commit");
    let weight = if bold { " font-weight=\"bold\"" } else { "" };
    let whole = escaped(&event.text);
    out.push_str(&format!(
        "<text x=\"{}\" y=\"{}\" fill=\"#222222\"{weight} stroke=\"#ffffff\" stroke-width=\"3\" stroke-linejoin=\"round\" \
         paint-order=\"stroke\">{}<title>{whole}</title></text>\n",
        x + 16,
        y + 4,
        escaped(&shortened(&event.text))
    ));
}

/// A sentence that fits between two lanes; the whole of it is the text's title.
fn shortened(text: &str) -> String {
    const MOST: usize = 43;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}

/// Text as XML; what XML cannot hold is a question mark.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}
