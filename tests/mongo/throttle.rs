//! The throttle on a real server: what it tells of itself arrives, and a rate is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use tidegate::cluster::Db;
use tidegate::engine::{self, Deps};
use tidegate::journal::{MemStore, show};
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Group;
use tidegate::snapshot::{Command, LatencySource};

use super::replset::ReplSet;
use super::{R, connect, live, on_shared};

const PLAN: &str = r#"
schema = 1
[plan]
id = "rated"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[[collection]]
legacy = "rated.orders"
next = "rated.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[throttle]
max_docs_per_second = 500
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "1h"
"#;

const DOCUMENTS: i32 = 1_500;
const CHUNK: i32 = 100;

pub fn trials() -> Vec<Trial> {
    vec![on_shared("throttle::a_copy_keeps_to_its_rate_and_the_server_tells_its_load", |set| async move {
        rated(&set).await
    })]
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

async fn rated(set: &ReplSet) -> R {
    let client = Client::with_uri_str(set.uri()).await.map_err(text)?;
    let orders = client.database("rated").collection::<Document>("orders");
    orders.insert_many((0..DOCUMENTS).map(|n| doc! { "_id": n, "n": n })).await.map_err(text)?;
    let (cluster, journal): (Db, _) = (connect(set, "rated").await?, MemStore::new());
    let deps = Deps {
        rt: live(),
        group: Group(7_002),
        clusters: [cluster.clone(), cluster],
        one_cluster: true,
        journal: Arc::new(journal.clone()),
        plan: Arc::new(Plan::parse(PLAN, "rated.toml").map_err(|e| e.render(false))?),
        on_record: Arc::new(|_| {}),
    };
    let config = engine::Config {
        holder: "test".into(),
        advance: Some(Advance::Auto),
        chunk_docs: Some(CHUNK as usize),
        ..engine::Config::default()
    };
    let engine = engine::start(deps, config).await.map_err(text)?;
    let began = Instant::now();
    let mut held = false;
    let log = || journal.records().iter().map(show).collect::<Vec<_>>().join("\n");
    while !journal.records().iter().any(|r| r.kind == "soak_began") {
        let s = engine.snapshot();
        held |=
            s.activity.iter().filter_map(|a| a.throttled.as_deref()).any(|t| t == "held to max_docs_per_second 500");
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("{}\n{}", s.why, log()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let at = |kind: &str| {
        let records = journal.records();
        let begun = records.iter().position(|r| r.kind == "task_intended" && r.body["task"] == "backfill")?;
        records[begun..].iter().find(|r| r.kind == kind).map(|r| r.at_ms)
    };
    let took = at("task_done").zip(at("task_intended")).map(|(end, start)| end - start);
    let least = i64::from((DOCUMENTS - CHUNK) * 1_000 / 500);
    if took.is_none_or(|ms| ms < least) || !held {
        return Err(format!("the copy took {took:?} ms, {least} at least; held: {held}\n{}", log()));
    }
    let s = engine.snapshot();
    let l = &s.load;
    let told = l.read_tickets.is_some() && l.write_tickets.is_some() && l.queued.is_some() && l.cache_dirty.is_some();
    if !told || l.cache_used.is_none() || l.flow_control != Some(false) || l.conflicts.is_none() {
        return Err(format!("the server's load is {l:?}"));
    }
    if s.latency_source != Some(LatencySource::Servers) || s.writes[1].count == 0 || s.writes[1].error_ratio.is_some() {
        return Err(format!("latencies are {:?}, {} writes of next", s.latency_source, s.writes[1].count));
    }
    drop(engine.send(Command::Stop));
    Ok(())
}
