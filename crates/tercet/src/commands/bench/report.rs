//! What a bench says at its end: in words, as JSON, as a file for HdrHistogram's plotters, as a page.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::load::Load;
use super::measure::{Measured, Second, per_second};
use crate::args::BenchWhat;

/// The percentiles that are told.
const TOLD: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// One second of a run, as it is told while it goes on.
pub(super) fn second(second: &Second) -> String {
    format!(
        "{:>5.0} s {:>9.0}/s   p50 {:>9}   p99 {:>9}   max {:>9}{}",
        second.at,
        second.records_per_second,
        shown(second.p50_us),
        shown(second.p99_us),
        shown(second.max_us),
        if second.errors == 0 { String::new() } else { format!("   {} errors", second.errors) }
    )
}

/// A latency for a person.
fn shown(us: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "it is shown with three digits")]
    let ms = us as f64 / 1000.0;
    match us {
        0..=999 => format!("{us} µs"),
        1_000..=9_999 => format!("{ms:.2} ms"),
        10_000..=99_999 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

/// A run and its load.
pub(super) struct Report {
    load: Load,
    targets: Vec<String>,
    warm_up: Duration,
    measured: Measured,
}

impl Report {
    pub(super) fn new(
        load: &Load,
        targets: &[Vec<String>],
        warm_up: Duration,
        measured: Measured,
    ) -> Self {
        let targets = targets.iter().filter_map(|order| order.first().cloned()).collect();
        Self { load: load.clone(), targets, warm_up, measured }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.measured.seen.records == 0
    }

    pub(super) fn why_empty(&self) -> String {
        let errors = self.errors();
        let why = if errors.is_empty() { "no answer came in time".to_owned() } else { errors };
        format!("nothing was done in {:.0} s: {why}", self.measured.took.as_secs_f64())
    }

    fn errors(&self) -> String {
        let told = self.measured.seen.errors.iter().map(|(why, count)| format!("{count} × {why}"));
        told.collect::<Vec<_>>().join(", ")
    }

    fn rate(&self) -> f64 {
        per_second(self.measured.seen.records, self.measured.took.as_secs_f64())
    }

    fn mib_per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "it is shown with a few digits")]
        let size = self.load.size as f64;
        self.rate() * size / f64::from(1 << 20)
    }

    fn at(&self, quantile: f64) -> u64 {
        self.measured.seen.latency.value_at_quantile(quantile)
    }

    /// What the load was, in a sentence.
    fn what(&self) -> String {
        let load = &self.load;
        let how = match load.what {
            BenchWhat::Submit if load.submitter => " through submitters",
            BenchWhat::Submit | BenchWhat::Read if load.stream => " over streams",
            BenchWhat::Submit | BenchWhat::Read | BenchWhat::Tail => "",
        };
        let mut text = format!(
            "{}{how}: {} on {}",
            load.what.name(),
            several(load.clients, "client"),
            several(load.connections, "connection")
        );
        if load.what != BenchWhat::Tail {
            let _ = write!(text, ", {} in flight each", load.in_flight);
        }
        let _ = write!(text, "; values of {} bytes", load.size);
        if load.records > 1 {
            let _ = write!(text, ", {} in a request", load.records);
        }
        let _ = match load.rate {
            Some(rate) => write!(text, "; {rate} requests a second (open loop)"),
            None => write!(text, "; closed loop"),
        };
        let _ = write!(
            text,
            "; {:.0} s after {:.0} s of warm-up, at {}",
            self.measured.took.as_secs_f64(),
            self.warm_up.as_secs_f64(),
            self.targets.join(" ")
        );
        text
    }

    pub(super) fn text(&self) -> String {
        let mut text = self.what();
        let _ = write!(
            text,
            "\n  throughput  {:.0} values/s, {:.1} MiB/s",
            self.rate(),
            self.mib_per_second()
        );
        let _ = write!(text, "\n  latency    ");
        for (name, quantile) in TOLD {
            let _ = write!(text, " {name} {}  ", shown(self.at(quantile)));
        }
        let _ = write!(text, " max {}", shown(self.measured.seen.latency.max()));
        let errors = self.errors();
        let _ = write!(text, "\n  errors      {}", if errors.is_empty() { "0" } else { &errors });
        text
    }

    pub(super) fn json(&self) -> String {
        let load = &self.load;
        let measured = &self.measured;
        json!({
            "what": load.what.name(), "clients": load.clients, "connections": load.connections,
            "in_flight": load.in_flight, "stream": load.stream,
            "submitter": load.submitter, "value_bytes": load.size,
            "records_per_request": load.records, "rate": load.rate, "targets": self.targets,
            "warm_up_s": self.warm_up.as_secs_f64(), "seconds": measured.took.as_secs_f64(),
            "version": env!("CARGO_PKG_VERSION"),
            "records": measured.seen.records, "records_per_second": self.rate(),
            "mib_per_second": self.mib_per_second(),
            "latency_us": {
                "min": measured.seen.latency.min(), "mean": measured.seen.latency.mean(),
                "p50": self.at(0.5), "p90": self.at(0.9), "p99": self.at(0.99),
                "p99_9": self.at(0.999), "max": measured.seen.latency.max(),
            },
            "errors": measured.seen.errors, "each_second": measured.seconds,
        })
        .to_string()
    }

    /// The latencies by percentile, in milliseconds, in the text form that HdrHistogram's tools write.
    pub(super) fn percentiles(&self) -> String {
        let latency = &self.measured.seen.latency;
        let mut text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n".to_owned();
        let mut count = 0;
        for step in latency.iter_quantiles(5) {
            let (value, quantile) = (ms(step.value_iterated_to()), step.quantile_iterated_to());
            count += step.count_since_last_iteration();
            let _ = write!(text, "{value:12.3} {quantile:.12} {count:>10}");
            let _ = match quantile {
                below if below < 1.0 => writeln!(text, " {:.2}", 1.0 / (1.0 - below)),
                _ => writeln!(text),
            };
        }
        let _ = writeln!(
            text,
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
            latency.mean() / 1000.0,
            latency.stdev() / 1000.0
        );
        let _ = writeln!(
            text,
            "#[Max     = {:12.3}, Total count    = {:12}]",
            ms(latency.max()),
            latency.len()
        );
        text
    }

    /// A page of its own, with plots.
    pub(super) fn html(&self) -> String {
        let seconds = &self.measured.seconds;
        let over_time = |of: &dyn Fn(&Second) -> f64| -> Vec<(f64, f64)> {
            seconds.iter().map(|second| (second.at, of(second))).collect()
        };
        let throughput =
            [Line { name: "values/s", points: over_time(&|second| second.records_per_second) }];
        let latency = [
            Line { name: "p50", points: over_time(&|second| ms(second.p50_us)) },
            Line { name: "p99", points: over_time(&|second| ms(second.p99_us)) },
            Line { name: "max", points: over_time(&|second| ms(second.max_us)) },
        ];
        // How many requests out of 10, 100, 1000 … waited longer.
        let tail = self.measured.seen.latency.iter_quantiles(5).filter_map(|step| {
            let above = 1.0 - step.quantile_iterated_to();
            (above > 0.0).then(|| (-above.log10(), ms(step.value_iterated_to())))
        });
        let tail = [Line { name: "latency", points: tail.collect() }];
        let rows: String = TOLD
            .iter()
            .map(|(name, quantile)| (*name, self.at(*quantile)))
            .chain([("max", self.measured.seen.latency.max())])
            .map(|(name, us)| format!("<tr><th>{name}</th><td>{}</td></tr>", shown(us)))
            .collect();
        let errors = self.errors();
        let decade = |x: f64| format!("1 in {}", 10_f64.powf(x).round());
        let plain = |x: f64| format!("{x:.0}");
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>tercet bench</title>\n<style>{STYLE}</style>\n\
<h1>tercet bench</h1>\n<p>{}</p>\n<table><tr><th>throughput</th><td>{:.0} values/s, {:.1} MiB/s</td></tr>{rows}\
<tr><th>errors</th><td>{}</td></tr></table>\n{}{}{}</html>\n",
            escape(&self.what()),
            self.rate(),
            self.mib_per_second(),
            if errors.is_empty() { "0".to_owned() } else { escape(&errors) },
            chart("Throughput, values a second", "seconds", &throughput, &plain),
            chart("Latency, milliseconds", "seconds", &latency, &plain),
            chart("Latency of the slowest, milliseconds", "slower than this", &tail, &decade),
        )
    }
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[allow(clippy::cast_precision_loss, reason = "it is shown with a few digits")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color:#1b1b1f;background:#fff}th{text-align:left;padding-right:2rem}td{text-align:right}\
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:currentColor}.axis{stroke:currentColor;opacity:.25}\
.line{fill:none;stroke-width:2}.c0{stroke:#2563eb}.c1{stroke:#d97706}.c2{stroke:#9ca3af}\
@media(prefers-color-scheme:dark){body{color:#e4e4e7;background:#18181b}}";

struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// The plot's size, and the room for its labels.
const SIZE: (f64, f64) = (900.0, 280.0);
const MARGIN: (f64, f64) = (64.0, 40.0);
/// Half of the last label stands beyond the plot.
const RIGHT: f64 = 36.0;

fn chart(title: &str, below: &str, lines: &[Line], label: &dyn Fn(f64) -> String) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = round_up(points().map(|(_, y)| *y).fold(0.0, f64::max));
    let (width, height) = (SIZE.0 - MARGIN.0 - RIGHT, SIZE.1 - 2.0 * MARGIN.1);
    let x_at = |x: f64| MARGIN.0 + x / right * width;
    let y_at = |y: f64| MARGIN.1 + height - y / top * height;
    let mut svg = format!(
        "<h2>{title}</h2>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{title}\">",
        SIZE.0, SIZE.1
    );
    for step in 0..=4 {
        let y = top * f64::from(step) / 4.0;
        let at = y_at(y);
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            MARGIN.0,
            SIZE.0 - RIGHT,
            MARGIN.0 - 6.0,
            at + 4.0,
            number(y)
        );
    }
    let every = (right / 10.0).ceil().max(1.0);
    let mut x = 0.0;
    while x <= right {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x_at(x),
            SIZE.1 - MARGIN.1 + 16.0,
            label(x)
        );
        x += every;
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{below}</text>",
        MARGIN.0 + width / 2.0,
        SIZE.1 - 6.0
    );
    for (position, line) in lines.iter().enumerate() {
        let points: String =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1} ", x_at(*x), y_at(*y))).collect();
        let _ =
            write!(svg, "<polyline class=\"line c{position}\" points=\"{}\"/>", points.trim_end());
        if lines.len() > 1 {
            let from = MARGIN.0 + 70.0 * f64::from(u8::try_from(position).expect("a few lines"));
            let _ = write!(
                svg,
                "<line class=\"line c{position}\" x1=\"{from}\" x2=\"{}\" y1=\"20\" y2=\"20\"/>\
<text x=\"{}\" y=\"24\">{}</text>",
                from + 20.0,
                from + 26.0,
                line.name
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// The next number that looks well at the top of an axis.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 10.0];
    steps.iter().map(|step| step * decade).find(|top| *top >= value).unwrap_or(10.0 * decade)
}

fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 10_000.0 => format!("{middle:.0}"),
        large => format!("{:.1}k", large / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::measure::Desk;

    fn report() -> Report {
        let desk = Desk::new();
        let mut measured = Measured::new();
        for second in 1..=3 {
            for us in 1..=100 {
                desk.took(Duration::from_micros(us * 10 * second), 2);
            }
            desk.failed("NO_LEADER");
            measured.add(desk.take(), Duration::from_secs(second));
        }
        let load = Load {
            what: BenchWhat::Submit,
            clients: 8,
            connections: 4,
            in_flight: 2,
            stream: true,
            submitter: false,
            size: 1 << 19,
            records: 2,
            rate: Some(100.0),
        };
        Report::new(&load, &[vec!["a:1".to_owned(), "b:2".to_owned()]], Duration::ZERO, measured)
    }

    #[test]
    fn the_words_and_the_json_say_the_same() {
        let report = report();
        let text = report.text();
        for part in ["200 values/s, 100.0 MiB/s", "max 3.00 ms", "3 × NO_LEADER", "at a:1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["records"], 600);
        assert!(json["latency_us"]["max"].as_u64().is_some_and(|max| (3000..3010).contains(&max)));
        assert_eq!(json["each_second"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn percentiles_grow_to_the_whole() {
        let text = report().percentiles();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|n| n.parse().expect("a number")).collect())
            .collect();
        assert!(rows.len() > 10, "{text}");
        for pair in rows.windows(2) {
            assert!(pair[0][..3].iter().zip(&pair[1][..3]).all(|(a, b)| a <= b), "{pair:?}");
        }
        let last = rows.last().expect("rows");
        assert!((last[1] - 1.0).abs() < 1e-9 && (last[2] - 300.0).abs() < 1e-9, "{last:?}");
    }

    #[test]
    fn the_page_has_its_plots() {
        let page = report().html();
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("<polyline").count(), 5);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, top) in [(0.0, 1.0), (0.3, 0.4), (1.0, 1.0), (47.0, 50.0), (5100.0, 10_000.0)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }
}
