//! How long each path takes: `cargo bench -p tercet-micro`.

use criterion::{BatchSize, Criterion};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in tercet_micro::all() {
        criterion.bench_function(bench.name, |bencher| {
            let run = |mut body: Box<dyn FnMut()>| {
                body();
                // What it leaves behind is dropped outside of the time.
                body
            };
            bencher.iter_batched(bench.prepare, run, BatchSize::PerIteration);
        });
    }
    criterion.final_summary();
}
