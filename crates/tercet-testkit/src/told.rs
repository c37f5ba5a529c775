//! What nodes logged, with the time: exact, and without asking nodes that have other things to do.

use std::time::{Duration, SystemTime};

/// One line of a node's log.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was logged.
    pub at: SystemTime,
    /// By which node.
    pub node: usize,
    /// What follows the time and the level.
    pub text: String,
}

/// The lines of all nodes, by time.
#[derive(Clone, Debug)]
pub struct Told(Vec<Line>);

impl Told {
    /// The lines of the nodes 1, 2 … as their files hold them. What is no line of the log, such as
    /// the word that a node serves, is left out.
    pub fn new<'a>(logs: impl IntoIterator<Item = &'a str>) -> Self {
        let line = |node: usize, text: &str| {
            let (at, rest) = text.split_once(' ')?;
            let (_level, text) = rest.trim_start().split_once(' ')?;
            let at = humantime::parse_rfc3339(at).ok()?;
            Some(Line { at, node, text: text.to_owned() })
        };
        let mut lines: Vec<Line> = (1..)
            .zip(logs)
            .flat_map(|(node, log)| log.lines().filter_map(move |text| line(node, text)))
            .collect();
        lines.sort_by_key(|line| line.at);
        Self(lines)
    }

    /// When a node first said something that contains `text`, from `since` on.
    pub fn first(&self, node: usize, text: &str, since: SystemTime) -> Option<SystemTime> {
        let mut said = self.0.iter().filter(|line| line.node == node && line.at >= since);
        said.find(|line| line.text.contains(text)).map(|line| line.at)
    }

    /// Who was the last to be elected before `at`.
    pub fn leader(&self, at: SystemTime) -> Option<usize> {
        let before = self.0.iter().rev().skip_while(|line| line.at >= at);
        before.into_iter().find(|line| is_election(line)).map(|line| line.node)
    }

    /// How long after `at` somebody was elected.
    pub fn until_a_leader(&self, at: SystemTime) -> Option<Duration> {
        let first = self.0.partition_point(|line| line.at < at);
        let elected = self.0[first..].iter().find(|line| is_election(line))?;
        elected.at.duration_since(at).ok()
    }
}

fn is_election(line: &Line) -> bool {
    line.text.starts_with("leader term=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_are_found_with_their_times() {
        let told = Told::new([
            "n1 serves clients\n2026-11-25T10:00:00.100000Z  INFO leader term=1 leader=Some(1)\n",
            "2026-11-25T10:00:00.050000Z  INFO follower term=1 leader=Some(1)\n\
             2026-11-25T10:00:00.500000Z  INFO leader term=2 leader=Some(2)\n\
             2026-11-25T10:00:00.900000Z ERROR the log was deleted\n",
        ]);
        let at = |ms: u64| {
            let start = humantime::parse_rfc3339("2026-11-25T10:00:00Z").expect("a time");
            start + Duration::from_millis(ms)
        };
        assert_eq!(told.leader(at(100)), None);
        assert_eq!(told.leader(at(300)), Some(1));
        assert_eq!(told.until_a_leader(at(300)), Some(Duration::from_millis(200)));
        assert_eq!(told.leader(at(501)), Some(2));
        assert_eq!(told.until_a_leader(at(501)), None);
        assert_eq!(told.first(2, "log was deleted", at(600)), Some(at(900)));
        assert_eq!(told.first(1, "log was deleted", at(0)), None);
    }
}
