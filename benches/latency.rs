//! What it costs to record one latency sample: at most 100 ns, because every operation of a drill pays it.

use tidegate::metrics::{LatencySeries, Metrics, OpKind};
use tidegate::route::Side;
use tidegate::runtime::Micros;

fn main() {
    divan::main();
}

const N: u64 = 10_000;

/// Values spread over the whole axis, times that move on through slices.
fn sample(i: u64) -> (Micros, Micros) {
    (Micros(i * 500), Micros(100 + i.wrapping_mul(7_919) % 200_000))
}

#[divan::bench(counters = [divan::counter::ItemsCount::new(N)])]
fn record(bencher: divan::Bencher) {
    bencher.with_inputs(LatencySeries::new).bench_local_refs(|series| {
        for i in 0..N {
            let (at, value) = sample(i);
            series.record(at, value);
        }
    });
}

#[divan::bench(counters = [divan::counter::ItemsCount::new(N)])]
fn record_in_metrics(bencher: divan::Bencher) {
    bencher.with_inputs(Metrics::new).bench_local_refs(|metrics| {
        for i in 0..N {
            let (at, value) = sample(i);
            metrics.record_latency(OpKind::Read, Side::Next, at, value, 1);
        }
    });
}

#[divan::bench]
fn view(bencher: divan::Bencher) {
    let mut series = LatencySeries::new();
    for i in 0..600_000 {
        let (at, value) = sample(i);
        series.record(at, value);
    }
    bencher.bench_local(|| series.view(Micros::from_secs(300)));
}
