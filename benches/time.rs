//! Times all bodies with criterion: `cargo bench -p lockgate-benches`, with a part of a name for some of them.
#![forbid(unsafe_code)]

use std::error::Error;

use criterion::{Criterion, Throughput};
use lockgate_benches::{Bench, Body, Work, all};

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    all().try_for_each(|bench| time(&mut criterion, bench))?;
    criterion.final_summary();
    Ok(())
}

/// Sets up when criterion first asks for the body, which is never where another one is wanted.
fn time(criterion: &mut Criterion, bench: &'static Bench) -> Result<(), Box<dyn Error>> {
    let (group, what) = bench.name.split_once('/').unwrap_or((bench.name, ""));
    let mut group = criterion.benchmark_group(group);
    group.throughput(match bench.work {
        Work::Items(count) => Throughput::Elements(count),
        Work::Bytes(count) => Throughput::Bytes(count),
    });
    let mut body: Option<Body> = None;
    let mut failed = None;
    group.bench_function(what, |bencher| {
        if body.is_none() {
            match bench.warm() {
                Ok(warm) => body = Some(warm),
                Err(error) => failed = Some(error),
            }
        }
        match &mut body {
            Some(body) => bencher.iter(body),
            None => bencher.iter(|| ()),
        }
    });
    group.finish();
    failed.map_or(Ok(()), Err)
}
