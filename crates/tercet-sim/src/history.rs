//! The judge: is what the clients were told consistent with what the nodes hold at the end?
//!
//! A history is what each client asked, when, and what it was told. The final log is what stands in
//! every node's `values.log`. The values of a history are all different, which makes every rule a
//! matter of looking up:
//!
//! 1. The files of all nodes are the same, and every line of them can be read.
//! 2. What was acknowledged stands where the acknowledgement said (acknowledged ⊆ final).
//! 3. Nothing stands there that nobody submitted, or that was refused as not appended (no phantom).
//! 4. Nothing stands there twice (no duplicate), not even after retries.
//! 5. The values of one request stand next to each other, all or none.
//! 6. A request that ended before another began stands before it (linearizable order).
//! 7. A read returns what stands there. A linearizable one misses nothing that was acknowledged, or
//!    that another one had returned, before it began.
//!
//! Each rule looks at every operation once or twice, sorted: O(n log n).

use std::collections::BTreeMap;
use std::fmt;

/// What a client was told about a submit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Success: the records begin at this sequence number.
    Acknowledged {
        /// The first record's.
        first_seq: u64,
    },
    /// An error that promises that nothing was appended.
    NotAppended,
    /// An error, or no answer: they may stand there or not.
    Unknown,
}

/// One submit of one client.
#[derive(Clone, Debug)]
pub struct SubmitOp {
    /// Its values; no other submit of the history has any of them.
    pub values: Vec<Vec<u8>>,
    /// When it was sent, in microseconds of the history.
    pub begun: u64,
    /// When its answer came.
    pub ended: u64,
    /// The answer.
    pub outcome: Outcome,
}

/// One read of one client that was answered.
#[derive(Clone, Debug)]
pub struct ReadOp {
    /// Whether it promises all that was acknowledged before it began; otherwise it only returns what
    /// some node has.
    pub linearizable: bool,
    /// The first sequence number asked for.
    pub from_seq: u64,
    /// The most records asked for.
    pub limit: u64,
    /// When it was sent, in microseconds of the history.
    pub begun: u64,
    /// When its answer came.
    pub ended: u64,
    /// What came.
    pub records: Vec<(u64, Vec<u8>)>,
}

/// What all clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The submits, in any order.
    pub submits: Vec<SubmitOp>,
    /// The reads, in any order.
    pub reads: Vec<ReadOp>,
}

/// How a history and the final files contradict each other.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is said in words by its Display")]
pub enum Violation {
    FilesDiffer { node: usize, line: u64, found: String, expected: String },
    Unreadable { node: usize, line: u64, text: String },
    Lost { value: String, seq: u64, found: Option<String> },
    Phantom { value: String, seq: u64, refused: bool },
    Duplicate { value: String, first: u64, second: u64 },
    Torn { value: String, seq: u64 },
    OutOfOrder { earlier: String, earlier_seq: u64, later: String, later_seq: u64 },
    WrongRead { seq: u64, read: String, found: Option<String> },
    StaleRead { asked: u64, seen: u64, acknowledged: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |found: &Option<String>| {
            found.as_ref().map_or_else(|| "nothing".to_owned(), |found| format!("\"{found}\""))
        };
        match self {
            Self::FilesDiffer { node, line, found, expected } => write!(
                f,
                "the files differ: line {line} of n{node} is \"{found}\", that of n1 \"{expected}\""
            ),
            Self::Unreadable { node, line, text } => {
                write!(f, "line {line} of n{node} cannot be read: \"{text}\"")
            }
            Self::Lost { value, seq, found } => write!(
                f,
                "lost: \"{value}\" was acknowledged as {seq}, where {} stands",
                shown(found)
            ),
            Self::Phantom { value, seq, refused: true } => {
                write!(f, "phantom: \"{value}\" stands at {seq}, but was refused as not appended")
            }
            Self::Phantom { value, seq, refused: false } => {
                write!(f, "phantom: \"{value}\" stands at {seq}, but nobody submitted it")
            }
            Self::Duplicate { value, first, second } => {
                write!(f, "duplicate: \"{value}\" stands at {first} and at {second}")
            }
            Self::Torn { value, seq } => {
                write!(f, "torn: \"{value}\" stands at {seq} without the others of its request")
            }
            Self::OutOfOrder { earlier, earlier_seq, later, later_seq } => write!(
                f,
                "out of order: \"{earlier}\" ({earlier_seq}) was answered before \"{later}\" \
                 ({later_seq}) was submitted, but stands after it"
            ),
            Self::WrongRead { seq, read, found } => {
                write!(f, "a read returned \"{read}\" as {seq}, where {} stands", shown(found))
            }
            Self::StaleRead { asked, seen, acknowledged } => write!(
                f,
                "stale: a read from {asked} ended before {seen}, though {acknowledged} was \
                 acknowledged or read before it began"
            ),
        }
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The value on a line of `values.log`: a second reading of its escapes, on purpose not the
/// program's own.
pub fn parse_line(line: &[u8]) -> Option<Vec<u8>> {
    let escaped = line.strip_prefix(b"write ")?;
    let mut value = Vec::new();
    let mut at = 0;
    while at < escaped.len() {
        let rest = &escaped[at..];
        let (byte, length) = match rest {
            [b'\\', b'\\', ..] => (b'\\', 2),
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', b'r', ..] => (b'\r', 2),
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'x', high, low, ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                (u8::from_str_radix(digits, 16).ok()?, 4)
            }
            [b'\\', ..] => return None,
            [byte, ..] => (*byte, 1),
            [] => unreachable!("at lies before the end"),
        };
        value.push(byte);
        at += length;
    }
    Some(value)
}

/// Every contradiction between a history and the nodes' files, one file's bytes per node.
pub fn check(history: &History, files: &[Vec<u8>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let Some(first) = files.first() else {
        return violations;
    };
    let lines = |file: &[u8]| -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> =
            file.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        // Every line ends with a newline, so what follows the last one is nothing.
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines
    };
    let expected = lines(first);
    for (file, node) in files.iter().zip(1..).skip(1) {
        if file == first {
            continue;
        }
        let found = lines(file);
        let differs = (0..expected.len().max(found.len()))
            .find(|at| expected.get(*at) != found.get(*at))
            .unwrap_or(expected.len());
        let line = |lines: &[Vec<u8>]| lines.get(differs).map_or(String::new(), |line| text(line));
        violations.push(Violation::FilesDiffer {
            node,
            line: differs as u64 + 1,
            found: line(&found),
            expected: line(&expected),
        });
    }
    let mut finals = Vec::with_capacity(expected.len());
    for (line, number) in expected.iter().zip(1..) {
        match parse_line(line) {
            Some(value) => finals.push(value),
            None => {
                violations.push(Violation::Unreadable { node: 1, line: number, text: text(line) });
                finals.push(line.clone());
            }
        }
    }
    check_submits(history, &finals, &mut violations);
    check_order(history, &finals, &mut violations);
    check_reads(history, &finals, &mut violations);
    violations
}

fn standing(finals: &[Vec<u8>], seq: u64) -> Option<&Vec<u8>> {
    finals.get(usize::try_from(seq.checked_sub(1)?).ok()?)
}

fn check_submits(history: &History, finals: &[Vec<u8>], violations: &mut Vec<Violation>) {
    let mut submitted: BTreeMap<&[u8], &SubmitOp> = BTreeMap::new();
    for op in &history.submits {
        for value in &op.values {
            let other = submitted.insert(value, op);
            assert!(other.is_none(), "the values of a history differ: {}", text(value));
        }
    }
    for op in &history.submits {
        let Outcome::Acknowledged { first_seq } = op.outcome else {
            continue;
        };
        for (value, seq) in op.values.iter().zip(first_seq..) {
            let found = standing(finals, seq);
            if found != Some(value) {
                violations.push(Violation::Lost {
                    value: text(value),
                    seq,
                    found: found.map(|found| text(found)),
                });
            }
        }
    }
    let mut places: BTreeMap<&[u8], u64> = BTreeMap::new();
    for (value, seq) in finals.iter().zip(1..) {
        if let Some(first) = places.insert(value, seq) {
            violations.push(Violation::Duplicate { value: text(value), first, second: seq });
        }
        match submitted.get(value.as_slice()) {
            None => violations.push(Violation::Phantom { value: text(value), seq, refused: false }),
            Some(op) if op.outcome == Outcome::NotAppended => {
                violations.push(Violation::Phantom { value: text(value), seq, refused: true });
            }
            Some(op) => {
                let at =
                    op.values.iter().position(|other| other == value).expect("it is its") as u64;
                let whole = seq > at
                    && op
                        .values
                        .iter()
                        .zip(seq - at..)
                        .all(|(v, s)| standing(finals, s) == Some(v));
                if !whole {
                    violations.push(Violation::Torn { value: text(value), seq });
                }
            }
        }
    }
}

/// Along the final log, no request may begin after one that stands behind it has ended.
fn check_order(history: &History, finals: &[Vec<u8>], violations: &mut Vec<Violation>) {
    let mut firsts: BTreeMap<&[u8], &SubmitOp> = BTreeMap::new();
    for op in &history.submits {
        firsts.extend(op.values.first().map(|value| (value.as_slice(), op)));
    }
    // The request so far that began last.
    let mut latest: Option<(&SubmitOp, u64)> = None;
    for (value, seq) in finals.iter().zip(1..) {
        let Some(op) = firsts.get(value.as_slice()) else {
            continue;
        };
        if let Some((before, before_seq)) = latest
            && matches!(op.outcome, Outcome::Acknowledged { .. })
            && op.ended < before.begun
        {
            violations.push(Violation::OutOfOrder {
                earlier: text(value),
                earlier_seq: seq,
                later: text(&before.values[0]),
                later_seq: before_seq,
            });
        }
        if latest.is_none_or(|(before, _)| op.begun > before.begun) {
            latest = Some((op, seq));
        }
    }
}

fn check_reads(history: &History, finals: &[Vec<u8>], violations: &mut Vec<Violation>) {
    // By the time of the answer: the highest sequence number acknowledged until then.
    let mut acknowledged: Vec<(u64, u64)> = history
        .submits
        .iter()
        .filter_map(|op| match op.outcome {
            Outcome::Acknowledged { first_seq } => {
                Some((op.ended, first_seq + op.values.len() as u64 - 1))
            }
            Outcome::NotAppended | Outcome::Unknown => None,
        })
        .collect();
    // What a linearizable read returned must be seen from then on, too.
    acknowledged.extend(
        history
            .reads
            .iter()
            .filter(|read| read.linearizable)
            .filter_map(|read| Some((read.ended, read.records.last()?.0))),
    );
    acknowledged.sort_unstable();
    let mut highest = 0;
    for (_, seq) in &mut acknowledged {
        highest = highest.max(*seq);
        *seq = highest;
    }
    for read in &history.reads {
        for ((seq, value), expected_seq) in read.records.iter().zip(read.from_seq.max(1)..) {
            let found = standing(finals, *seq);
            if *seq != expected_seq || found != Some(value) {
                violations.push(Violation::WrongRead {
                    seq: *seq,
                    read: text(value),
                    found: found.map(|found| text(found)),
                });
            }
        }
        let before = acknowledged.partition_point(|(ended, _)| *ended < read.begun);
        let acknowledged = before.checked_sub(1).map_or(0, |last| acknowledged[last].1);
        let seen = read.from_seq.max(1) + read.records.len() as u64;
        let is_short = (read.records.len() as u64) < read.limit;
        if read.linearizable && is_short && seen <= acknowledged {
            violations.push(Violation::StaleRead { asked: read.from_seq, seen, acknowledged });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(values: &[&str], begun: u64, ended: u64, outcome: Outcome) -> SubmitOp {
        let values = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        SubmitOp { values, begun, ended, outcome }
    }

    const fn acknowledged(first_seq: u64) -> Outcome {
        Outcome::Acknowledged { first_seq }
    }

    /// A history without fault: a | b c | d, and an unknown e that stands there.
    fn good() -> (History, Vec<Vec<u8>>) {
        let submits = vec![
            op(&["a"], 0, 10, acknowledged(1)),
            op(&["b", "c"], 5, 20, acknowledged(2)),
            op(&["d"], 21, 30, acknowledged(4)),
            op(&["e"], 25, 60, Outcome::Unknown),
            op(&["f"], 40, 50, Outcome::NotAppended),
            op(&["g"], 40, 50, Outcome::Unknown),
        ];
        let records = vec![(2, b"b".to_vec()), (3, b"c".to_vec())];
        let read =
            ReadOp { linearizable: true, from_seq: 2, limit: 10, begun: 21, ended: 24, records };
        let later = ReadOp { begun: 26, ended: 28, ..read.clone() };
        let reads = vec![read, later];
        let file = b"write a\nwrite b\nwrite c\nwrite d\nwrite e\n".to_vec();
        (History { submits, reads }, vec![file.clone(), file.clone(), file])
    }

    fn set(files: &mut [Vec<u8>], text: &str) {
        for file in files {
            *file = text.as_bytes().to_vec();
        }
    }

    #[test]
    fn a_good_history_is_accepted() {
        let (history, files) = good();
        assert_eq!(check(&history, &files), []);
    }

    /// Every broken history is refused, each for its own reason.
    #[test]
    fn broken_histories_are_refused() {
        type Break = fn(&mut History, &mut Vec<Vec<u8>>);
        let broken: [(&str, Break); 17] = [
            ("lost: \"d\"", |_, files| set(files, "write a\nwrite b\nwrite c\n")),
            ("lost: \"a\"", |_, files| set(files, "write b\nwrite c\nwrite d\n")),
            ("lost: \"a\" was acknowledged as 1, where \"b\" stands", |_, files| {
                set(files, "write b\nwrite c\nwrite a\nwrite d\n");
            }),
            ("phantom: \"x\" stands at 6, but nobody", |_, files| {
                set(files, "write a\nwrite b\nwrite c\nwrite d\nwrite e\nwrite x\n");
            }),
            ("phantom: \"f\" stands at 6, but was refused", |_, files| {
                set(files, "write a\nwrite b\nwrite c\nwrite d\nwrite e\nwrite f\n");
            }),
            ("duplicate: \"e\" stands at 5 and at 6", |_, files| {
                set(files, "write a\nwrite b\nwrite c\nwrite d\nwrite e\nwrite e\n");
            }),
            ("torn: \"b\"", |_, files| set(files, "write a\nwrite b\nwrite d\nwrite c\n")),
            ("torn: \"e\"", |history, _| history.submits[3].values.push(b"e2".to_vec())),
            ("out of order: \"d\" (4)", |history, _| {
                // What stands before d was submitted after d was answered.
                history.submits[0].begun = 35;
                history.submits[0].ended = 39;
            }),
            ("the files differ: line 5 of n3 is \"\"", |_, files| {
                files[2] = b"write a\nwrite b\nwrite c\nwrite d\n".to_vec();
            }),
            ("the files differ: line 2 of n2 is \"write B\"", |_, files| {
                files[1] = b"write a\nwrite B\nwrite c\nwrite d\nwrite e\n".to_vec();
            }),
            ("cannot be read: \"wrote e\"", |_, files| {
                set(files, "write a\nwrite b\nwrite c\nwrite d\nwrote e\n");
            }),
            ("a read returned \"x\" as 3, where \"c\" stands", |history, _| {
                history.reads[0].records[1].1 = b"x".to_vec();
            }),
            ("a read returned \"d\" as 4, where \"d\" stands", |history, _| {
                // A gap: 3 is missing.
                history.reads[0].records[1] = (4, b"d".to_vec());
            }),
            ("stale: a read from 2 ended before 2, though 3", |history, _| {
                history.reads[0].records.clear();
            }),
            ("stale: a read from 2 ended before 4, though 4", |history, _| {
                history.reads[0].begun = 31;
            }),
            ("stale: a read from 2 ended before 4, though 5", |history, _| {
                // The one before it had returned an entry that was never acknowledged.
                let more = [(4, b"d".to_vec()), (5, b"e".to_vec())];
                history.reads[0].records.extend(more);
            }),
        ];
        for (expected, spoil) in broken {
            let (mut history, mut files) = good();
            spoil(&mut history, &mut files);
            let said: Vec<String> =
                check(&history, &files).iter().map(ToString::to_string).collect();
            assert!(said.iter().any(|said| said.contains(expected)), "{expected}: {said:?}");
        }
    }

    #[test]
    fn lines_are_read_with_their_escapes() {
        assert_eq!(parse_line(b"write a\\\\b\\n\\x00\\xff"), Some(b"a\\b\n\x00\xff".to_vec()));
        assert_eq!(parse_line(b"write "), Some(Vec::new()));
        for bad in [&b"wrote a"[..], b"write \\", b"write \\q", b"write \\x0", b"write \\xgg"] {
            assert_eq!(parse_line(bad), None);
        }
    }
}
