//! The samples as a table: medians with their ranges, and Tercet's ratio to each of the others.

use std::fmt::Write as _;

use comfy_table::{Table as Grid, presets};

use crate::load::{Load, Sample};

const SYSTEMS: [&str; 4] = ["tercet", "etcd", "nats", "floor"];

/// A median, and the lowest and highest of the runs.
#[derive(Clone, Copy)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    Some(Spread { low, median: values[values.len() / 2], high })
}

pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(samples: &[Sample]) -> Self {
        let mut rows = Vec::new();
        for load in Load::all() {
            let of = |system: &str, value: &dyn Fn(&Sample) -> f64| {
                let of_load = |wanted: Load| -> Vec<f64> {
                    samples
                        .iter()
                        .filter(|sample| sample.system == system && sample.load == wanted)
                        .map(value)
                        .collect()
                };
                let direct = of_load(load);
                spread(if direct.is_empty() { of_load(load.without_streams()) } else { direct })
            };
            let rate = |sample: &Sample| sample.per_second;
            let median = |sample: &Sample| sample.p50_us / 1e3;
            let tail = |sample: &Sample| sample.p99_us / 1e3;
            let ours = of("tercet", &rate);
            let mut row = vec![load.to_string()];
            for system in SYSTEMS {
                row.push(match (of(system, &rate), of(system, &median), of(system, &tail)) {
                    (Some(rate), Some(median), Some(tail)) => format!(
                        "{} ({}–{})/s, {:.2} / {:.2} ms",
                        rounded(rate.median),
                        rounded(rate.low),
                        rounded(rate.high),
                        median.median,
                        tail.median
                    ),
                    _ => "–".to_owned(),
                });
            }
            for system in &SYSTEMS[1..] {
                row.push(match (ours, of(system, &rate)) {
                    (Some(ours), Some(theirs)) => format!("{:.2}×", ours.median / theirs.median),
                    _ => "–".to_owned(),
                });
            }
            rows.push(row);
        }
        Self { rows }
    }

    fn header() -> Vec<String> {
        let mut header = vec!["load".to_owned()];
        header.extend(SYSTEMS.map(|system| format!("{system}: rate (range), p50 / p99")));
        header.extend(SYSTEMS[1..].iter().map(|system| format!("rate to {system}")));
        header
    }

    pub(crate) fn text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(Self::header());
        grid.add_rows(&self.rows);
        grid.to_string()
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("| {} |\n", Self::header().join(" | "));
        let _ = writeln!(text, "|{}", " --- |".repeat(Self::header().len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

fn rounded(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}") } else { format!("{:.1}k", rate / 1000.0) }
}
