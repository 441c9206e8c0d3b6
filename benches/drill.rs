//! What a drill costs: one virtual minute of `first-watch`, and how the minutes add up over the whole rollout.

// A bench may end with a panic when what ships with the program does not hold.
#![allow(clippy::expect_used)]

use std::sync::Arc;

use tidegate::drill::{Drill, Scenario, Settings, builtin};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Micros;

// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// A drill of `first-watch`, `seconds` in.
fn drill(seconds: u64) -> Drill {
    let b = &builtin()[0];
    let scenario = Scenario::parse(b.scenario, "scenario.toml").expect("ships with the program");
    let plan = Plan::parse(b.plan, "plan.toml").expect("ships with the program");
    let settings = Settings {
        seed: 7,
        advance: Some(Advance::Auto),
        journal: Arc::new(|_| Arc::new(MemStore::new())),
        on_record: Arc::new(|_| {}),
    };
    let drill = Drill::begin(&scenario.world, &plan, &settings).expect("the world can be built");
    drill.run_until(Micros::from_secs(seconds));
    drill
}

/// The first minute holds the copy, the second the canary, the third half and full.
#[divan::bench(args = [0, 60, 120], sample_count = 5, sample_size = 1)]
fn one_virtual_minute_from(bencher: divan::Bencher<'_, '_>, seconds: u64) {
    bencher.with_inputs(|| drill(seconds)).bench_local_values(|d| {
        d.run_until(Micros::from_secs(seconds + 60));
        d
    });
}
