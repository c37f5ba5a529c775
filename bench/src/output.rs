//! How figures are told: as text on standard output, or with `--json` one object in a line for each.
//! What is under way goes to standard error.
#![allow(clippy::print_stderr, reason = "what is under way is no figure")]

use std::sync::OnceLock;
use std::time::Duration;

use comfy_table::{Table as Grid, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Whether figures are told as JSON; set once, before anything is told.
static AS_JSON: OnceLock<bool> = OnceLock::new();

pub(crate) fn choose(as_json: bool) {
    AS_JSON.set(as_json).expect("it is chosen once");
}

fn is_json() -> bool {
    AS_JSON.get().is_some_and(|as_json| *as_json)
}

/// What is under way.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// A figure as a sentence and as data.
pub(crate) fn say(text: &str, data: &Value) {
    if is_json() { println!("{data}") } else { println!("{text}") }
}

/// The quantiles of some times.
pub(crate) fn quantiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let text = format!(
        "{what}: median {:.2?}, p90 {:.2?}, p99 {:.2?}, worst {:.2?} ({} times)",
        at(50),
        at(90),
        at(99),
        at(100),
        times.len()
    );
    let ms = |percent| at(percent).as_secs_f64() * 1e3;
    let data = json!({
        "what": what, "times": times.len(), "median_ms": ms(50), "p90_ms": ms(90), "p99_ms": ms(99),
        "worst_ms": ms(100),
    });
    say(&text, &data);
}

/// A bar for what takes long; nothing where standard error is no terminal.
pub(crate) fn progress(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {percent}% {eta}")
        .expect("the template is well-formed");
    ProgressBar::new(length).with_style(style).with_message(what.to_owned())
}

/// What was measured in each run, of one thing.
#[derive(Clone, Default)]
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The median; no number if there was no run.
    pub(crate) fn median(&self) -> f64 {
        let middle = |at: usize| self.0.get(at).copied().unwrap_or(f64::NAN);
        (middle(self.0.len().saturating_sub(1) / 2) + middle(self.0.len() / 2)) / 2.0
    }

    /// The median, and the range if there were several.
    pub(crate) fn cell(&self) -> Cell {
        let (median, count) = (self.median(), self.0.len());
        let (Some(low), Some(high)) = (self.0.first(), self.0.last()) else {
            return Cell { text: "–".to_owned(), data: Value::Null };
        };
        let text = match count {
            1 => short(median),
            _ => format!("{} ({}–{})", short(median), short(*low), short(*high)),
        };
        Cell { text, data: json!({ "median": median, "low": low, "high": high, "runs": count }) }
    }
}

/// A place in a table.
pub(crate) struct Cell {
    text: String,
    data: Value,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), data: json!(text) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self { text: number.to_string(), data: json!(number) }
    }
}

/// How one figure relates to another.
pub(crate) fn ratio(one: f64, to: f64) -> Cell {
    Cell { text: format!("{:.2}×", one / to), data: json!(one / to) }
}

/// Three digits, or all of a whole number below ten thousand.
fn short(value: f64) -> String {
    let (value, unit) = if value < 10_000.0 { (value, "") } else { (value / 1e3, " k") };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}{unit}")
}

/// A table of figures.
pub(crate) struct Table {
    what: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) const fn new(what: &'static str, columns: &'static [&'static str]) -> Self {
        Self { what, columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn print(self) {
        let mut grid = Grid::new();
        grid.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(self.columns);
        for row in &self.rows {
            grid.add_row(row.iter().map(|cell| &cell.text));
        }
        let object = |row: Vec<Cell>| -> Value {
            let named = self.columns.iter().zip(row);
            named.map(|(column, cell)| ((*column).to_owned(), cell.data)).collect()
        };
        let rows: Vec<Value> = self.rows.into_iter().map(object).collect();
        say(&format!("{}\n{grid}", self.what), &json!({ "what": self.what, "rows": rows }));
    }
}
