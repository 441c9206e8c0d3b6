//! `cargo test --release --test mongo -- bench 500000`: how fast tidegate carries so many documents, beside what else carries them, in one
//! run on three nodes of its own; docs/performance.md has the results. Nothing else should run on the machine meanwhile. Parts can be named:
//! `bench 500000 others tail throttle`.

mod others;
mod writers;

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::workload::{Config, Shapes, initial_orders};

use self::writers::{Latencies, Steady};
use super::demo::{load, seconds_of};
use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::{R, TOKIO, mongod};

/// As long as any of it may take.
const LONG: Duration = Duration::from_secs(3_600);
/// Bytes of padding that make an order about 440 bytes long.
const PADDING: usize = 290;
/// Changes of the tail's burst.
const BURST: u64 = 100_000;
/// Writes a second of the application beside which the throttle is tried; the machine carries three servers, too.
const GENTLE: u64 = 50;
/// The cache of each node: at least as much as the data, as on a server that is well.
const CACHE_GB: &str = "2";
const DB: &str = "bench";

/// Copied and compared, then followed until somebody advances.
const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
title = "Flat customer, decimal totals"
version = 1
owner = "payments"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [
  { rename = "customer.name", to = "customer_name" },
  { convert = "total", from = "string", to = "decimal" },
  { set = "schema_version", value = 2 },
]
# THROTTLE
[[stage]]
id = "copy"
do = ["create", "backfill"]
[[stage]]
id = "all"
reads = 100
writes = 100
"#;

/// Nothing holds it back: the machine carries the servers, tidegate and the writers.
const UNTHROTTLED: &str = r#"
[throttle]
max_lag = "1h"
max_queue = 100000
max_dirty_ratio = 1
max_latency_ratio = 1000
min_tickets = 0
"#;

/// Runs it, or the named parts, and prints the figures.
pub fn run(documents: u64, parts: &[String]) -> R {
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let set = TOKIO.block_on(ReplSet::start_with_cache(&mongod::find()?, 3, CACHE_GB))?;
    let config = Config { documents, padding: PADDING, ..Config::default() };
    TOKIO.block_on(load(&set, DB, &config))?;
    let bytes = initial_orders(&config, Shapes::default()).next().map_or(0, |d| d.as_bytes().len());
    println!("{documents} documents of {bytes} bytes, three nodes on {} cores", cores());
    if wants("others") {
        TOKIO.block_on(others::driver_loop(&set, DB, documents))?;
        TOKIO.block_on(others::server_merge(&set, DB, documents))?;
    }
    let place = Place::new(&set, DB, PLAN, |p| p.replace("# THROTTLE", UNTHROTTLED))?;
    let mut run = copied(&set, &place, documents)?;
    println!("memory      at most {} MB resident", peak_mb(&run)?);
    if wants("lag") {
        TOKIO.block_on(lag(&set, &mut run))?;
    }
    if wants("tail") {
        run = caught_up(&set, &place, run, documents)?;
        println!("memory      at most {} MB resident", peak_mb(&run)?);
    }
    drop(run);
    if !wants("throttle") {
        return Ok(());
    }
    // A rollout of another name, on the same orders.
    let gentle = PLAN.replace("orders_v2", "orders_v3");
    let place = Place::new(&set, DB, &gentle, |p| {
        p.replace("# THROTTLE", "").replace(&format!("id = \"{DB}\""), "id = \"bench-gentle\"")
    })?;
    throttled(&set, &place)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Starts the rollout and waits until everything is copied and verified.
fn copied(set: &ReplSet, place: &Place, documents: u64) -> Result<Program, String> {
    TOKIO.block_on(others::settled(set))?;
    let mut run = place.run("bench", "bench.jsonl")?;
    until("both sides are reconciled", LONG, || run.prints(|l| l["body"]["evidence"]["matched"].is_u64()))?;
    let lines = run.lines();
    let took = |what: &str| {
        let done = lines.iter().find(|l| l["kind"] == "task_done" && l["body"]["evidence"][what].is_u64());
        done.map(|l| (seconds_of(&lines, l), l["body"]["evidence"][what].as_u64().unwrap_or(0)))
    };
    let (Some((copy, n)), Some((verify, matched))) = (took("copied"), took("matched")) else {
        return Err("no figures in the journal".into());
    };
    if (n, matched) != (documents, documents) {
        return Err(format!("{n} copied and {matched} matched of {documents}"));
    }
    let a_second = |s: f64| documents as f64 / s.max(0.001);
    println!("tidegate    copied in {copy:.1} s, {:.0} a second", a_second(copy));
    println!("            verified in {verify:.1} s, {:.0} a second", a_second(verify));
    println!("            both in {:.1} s, {:.0} a second", copy + verify, a_second(copy + verify));
    Ok(run)
}

/// 1 000 writes a second, ten in a command; others are looked for on next until they are there.
async fn lag(set: &ReplSet, run: &mut Program) -> R {
    let writing = Steady::in_tens(set, DB, 1_000);
    let lag = writers::time_to_copy(set, DB, "orders_v2", Duration::from_secs(30)).await?;
    let written = writing.stop().await?;
    run.running()?;
    println!("apply lag   {} at {:.0} writes a second", lag.told(), written.rate() * 10.0);
    Ok(())
}

/// A burst is written while tidegate does not run; then it catches up.
fn caught_up(set: &ReplSet, place: &Place, mut run: Program, documents: u64) -> Result<Program, String> {
    run.signal("TERM")?;
    run.wait(Duration::from_secs(60))?;
    let n = BURST.min(documents / 2);
    let ends = TOKIO.block_on(writers::burst(set, DB, n))?;
    TOKIO.block_on(others::settled(set))?;
    let run = place.resume("bench-2", "bench.jsonl", &[])?;
    let took = TOKIO.block_on(writers::applied(set, DB, "orders_v2", &ends, LONG))?;
    println!("tail        {n} events in {:.1} s, {:.0} a second", took.as_secs_f64(), n as f64 / took.as_secs_f64());
    Ok(run)
}

/// The largest resident set so far.
fn peak_mb(run: &Program) -> Result<u64, String> {
    let path = format!("/proc/{}/status", run.pid());
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kb: u64 = line.trim().trim_end_matches("kB").trim().parse().map_err(|e| format!("{line}: {e}"))?;
    Ok(kb / 1024)
}

/// The application's writes before the copy and beside it, with the throttle as a plan has it by itself.
fn throttled(set: &ReplSet, place: &Place) -> R {
    let before = TOKIO.block_on(measured(set, Duration::from_secs(30)))?;
    let mut run = place.run("gentle", "gentle.jsonl")?;
    let is_copy = |l: &Value| l["kind"] == "task_intended" && l["body"]["task"] == "backfill";
    until("the copy begins", LONG, || run.prints(is_copy))?;
    let began = Instant::now();
    let writing = TOKIO.block_on(async { Steady::start(set, DB, GENTLE) });
    let copied = until("the copy ends", LONG, || run.prints(|l| l["body"]["evidence"]["copied"].is_u64()))?;
    let seconds = began.elapsed().as_secs_f64();
    let during = TOKIO.block_on(writing.stop())?;
    let n = copied["body"]["evidence"]["copied"].as_u64().unwrap_or(0);
    println!("throttle    {n} copied at {:.0} a second", n as f64 / seconds);
    println!("            the application's writes before: {}", before.told());
    println!("            and beside the copy:             {}", during.told());
    for l in run.lines().iter().filter(|l| l["kind"].as_str().is_some_and(|k| k.starts_with("throttle"))) {
        println!("            {}", l["body"]);
    }
    Ok(())
}

async fn measured(set: &ReplSet, span: Duration) -> Result<Latencies, String> {
    let writing = Steady::start(set, DB, GENTLE);
    tokio::time::sleep(span).await;
    writing.stop().await
}
