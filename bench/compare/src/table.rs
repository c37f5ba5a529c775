//! What was measured as a table: medians with their ranges, and Tercet's ratio to each of the others.

use std::fmt::Write as _;

use comfy_table::{Table as Grid, presets};

use crate::life::Figure;
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
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    Some(Spread { low, median: middle, high })
}

pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Of the loads.
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
                row.push(ratio(ours, of(system, &rate)));
            }
            row.push(ratio(of("tercet", &median), of("etcd", &median)));
            row.push(ratio(of("tercet", &tail), of("etcd", &tail)));
            rows.push(row);
        }
        let mut header = vec!["load".to_owned()];
        header.extend(SYSTEMS.map(|system| format!("{system}: rate (range), p50 / p99")));
        header.extend(SYSTEMS[1..].iter().map(|system| format!("rate to {system}")));
        header.extend(["p50 to etcd".to_owned(), "p99 to etcd".to_owned()]);
        Self { header, rows }
    }

    /// Of what is no load.
    pub(crate) fn of_figures(figures: &[Figure]) -> Self {
        let systems = &SYSTEMS[..3];
        let mut rows: Vec<Vec<String>> = Vec::new();
        for what in figures.iter().map(|figure| &figure.what) {
            if rows.iter().any(|row| row[0] == *what) {
                continue;
            }
            let of = |system: &str| {
                let figure = |figure: &&Figure| figure.system == system && figure.what == *what;
                spread(figures.iter().find(figure)?.values.clone())
            };
            let mut row = vec![what.clone()];
            row.extend(systems.iter().map(|system| match of(system) {
                Some(Spread { low, median, high }) => {
                    format!("{} ({}–{})", short(median), short(low), short(high))
                }
                None => "–".to_owned(),
            }));
            row.extend(systems[1..].iter().map(|system| ratio(of("tercet"), of(system))));
            rows.push(row);
        }
        let mut header = vec!["what".to_owned()];
        header.extend(systems.iter().map(|system| format!("{system}: median (range)")));
        header.extend(systems[1..].iter().map(|system| format!("to {system}")));
        Self { header, rows }
    }

    pub(crate) fn text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(&self.header);
        grid.add_rows(&self.rows);
        grid.to_string()
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("| {} |\n", self.header.join(" | "));
        let _ = writeln!(text, "|{}", " --- |".repeat(self.header.len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

/// Of the medians, ours to theirs.
fn ratio(ours: Option<Spread>, theirs: Option<Spread>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => format!("{:.2}×", ours.median / theirs.median),
        _ => "–".to_owned(),
    }
}

/// Three digits, or all of a whole number.
fn short(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

fn rounded(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}") } else { format!("{:.1}k", rate / 1000.0) }
}
