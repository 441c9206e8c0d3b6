//! `cargo test --release --test mongo -- demo 500000`: a whole rollout of so many documents by the real program, on three nodes of its
//! own and under an application that writes all the time, and what it took. The plan is tests/mongo/rollout.toml.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::workload::{Config, Shapes, initial_orders};

use super::program::Place;
use super::replset::ReplSet;
use super::rollout::{PLAN, journals_agree, lost_nothing};
use super::{R, TOKIO, mongod};

const DAY: Duration = Duration::from_secs(86_400);
/// Documents an insert of the loading.
const BATCH: usize = 2_000;

/// Runs it and prints the figures.
pub fn run(documents: u64) -> R {
    let set = TOKIO.block_on(ReplSet::start(&mongod::find()?, 3))?;
    let place = Place::new(&set, "demo", PLAN, |p| p)?;
    let began = Instant::now();
    TOKIO.block_on(load(&set, "demo", &Config { documents, ..Config::default() }))?;
    println!("loaded      {documents} documents in {:.1} s", began.elapsed().as_secs_f64());
    let mut app = place.application(documents, &["--ops", "400"])?;
    let began = Instant::now();
    let mut run = place.run("demo", "demo.jsonl")?;
    run.ends_with(0, DAY)?;
    let took = began.elapsed();
    lost_nothing(&run, &mut app)?;
    journals_agree(&place, "demo.jsonl")?;
    let lines = run.lines();
    for l in lines.iter().filter(|l| l["kind"] == "task_done") {
        let e = &l["body"]["evidence"];
        let seconds = seconds_of(&lines, l);
        if let Some(n) = e["copied"].as_u64() {
            println!("backfill    {n} documents in {seconds:.1} s, {:.0} a second", n as f64 / seconds.max(0.001));
        } else if let Some(n) = e["matched"].as_u64() {
            println!("reconciled  {n} documents on both sides in {seconds:.1} s");
        } else if let Some(us) = e["freeze_us"].as_u64() {
            println!("cutover     {}", e["text"].as_str().unwrap_or("?"));
            println!("            writes held {:.0} ms, {} keys compared", us as f64 / 1e3, e["compared"]);
        }
    }
    let (sum, app) = (run.summary()?, app.summary()?);
    println!("rollout     {} in {:.1} s: {}", sum["outcome"], took.as_secs_f64(), sum["documents"]);
    println!("writes      runner: {}", sum["writes"]);
    println!("application {app}");
    Ok(())
}

/// The application's first orders, in batches: it would load them one by one.
pub async fn load(set: &ReplSet, db: &str, config: &Config) -> R {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let orders = client.database(db).collection::<bson::RawDocumentBuf>("orders");
    let mut all = initial_orders(config, Shapes::default()).peekable();
    while all.peek().is_some() {
        let batch: Vec<_> = all.by_ref().take(BATCH).collect();
        orders.insert_many(batch).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// From a task's intent to this record of its end.
pub fn seconds_of(lines: &[Value], done: &Value) -> f64 {
    let at = |l: &Value| l["at"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let mut before = lines.iter().filter(|l| l["kind"] == "task_intended" && l["seq"].as_u64() < done["seq"].as_u64());
    match (before.next_back().and_then(at), at(done)) {
        (Some(a), Some(b)) => (b.as_microsecond() - a.as_microsecond()) as f64 / 1e6,
        _ => 0.0,
    }
}
