//! Hooks: who is told what and when, simulated, and real programs and real servers at the end of it.

mod calls;
#[cfg(feature = "mongo")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // real processes and sockets, in real time
mod outside;

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tidegate::cluster::Db;
use tidegate::cluster::embedded::{self, Embedded};
use tidegate::engine::{self, Deps, Engine};
use tidegate::hooks::{Attempt, Call, Caller, Hooks, Keep};
use tidegate::journal::{MemStore, Record};
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::{Fut, Group, Micros, Rt, sleep};

/// Two stages and whatever hooks are given.
fn plan(hooks: &str) -> Arc<Plan> {
    let stages = r#"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "2s"
"#;
    let text = format!("{}{stages}{hooks}", head!("told", "Told", "simulation"));
    Arc::new(Plan::parse(&text, "told.toml").unwrap_or_else(|e| panic!("{}", e.render(false))))
}

/// Every occasion there is.
const ALL: &str = r#"on = ["stage_begin", "stage_passed", "pause", "continue", "trigger", "rollback", "needs_operator", "completed", "rolled_back"]"#;

fn loaded(rt: &Rt, plan: &Plan, documents: i64) -> Arc<Embedded> {
    let cluster = Embedded::new(rt.clone(), embedded::Config::default());
    let docs = (0..documents).map(|n| bson::rawdoc! { "_id": format!("anna-{n}@example.com"), "n": n });
    cluster.load(&plan.collections[0].legacy, docs.collect()).unwrap();
    cluster
}

async fn start(
    rt: Rt,
    cluster: Arc<Embedded>,
    journal: &MemStore,
    plan: &Arc<Plan>,
    group: Group,
    hooks: Hooks,
) -> Engine {
    let db: Db = cluster;
    let begun = !journal.records().is_empty();
    let deps = Deps {
        rt,
        group,
        clusters: [db.clone(), db],
        one_cluster: true,
        journal: Arc::new(journal.clone()),
        plan: plan.clone(),
        on_record: Arc::new(|_| {}),
    };
    let config = engine::Config {
        holder: "test".into(),
        advance: Some(Advance::Auto),
        resume: begun,
        take_over: begun.then(|| "the test says so".into()),
        drill: true,
        hooks,
        ..engine::Config::default()
    };
    engine::start(deps, config).await.unwrap()
}

/// What a fake end of a hook was told.
#[derive(Clone, Debug)]
struct Told {
    hook: String,
    event_id: String,
    body: Value,
}

/// How a fake end answers.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Well,
    Badly,
    /// Only after an hour.
    Never,
}

type Answers = Box<dyn Fn(usize, &Told) -> Answer + Send + Sync>;

/// Takes the place of every program and every server.
struct Fake {
    told: Mutex<Vec<Told>>,
    answers: Answers,
}

impl Fake {
    fn new(answers: impl Fn(usize, &Told) -> Answer + Send + Sync + 'static) -> Arc<Fake> {
        Arc::new(Fake { told: Mutex::default(), answers: Box::new(answers) })
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

impl Caller for Fake {
    fn call<'a>(&'a self, rt: &'a Rt, call: &'a Call) -> Fut<'a, Attempt> {
        let body = serde_json::from_str(&call.body).unwrap();
        let told = Told { hook: call.hook.id.clone(), event_id: call.event_id.clone(), body };
        let answer = {
            let mut all = self.told.lock().unwrap();
            all.push(told.clone());
            (self.answers)(all.len(), &told)
        };
        Box::pin(async move {
            match answer {
                Answer::Well => {
                    Attempt { ok: true, outcome: "exit code 0".into(), exit: Some(0), ..Attempt::default() }
                }
                Answer::Badly => {
                    Attempt { again: true, outcome: "exit code 7".into(), exit: Some(7), ..Attempt::default() }
                }
                Answer::Never => {
                    sleep(rt, Micros::from_secs(3_600)).await;
                    Attempt { again: true, outcome: "no answer".into(), ..Attempt::default() }
                }
            }
        })
    }

    fn keep<'a>(&'a self, _: &'a Rt, _: Keep<'a>) -> Fut<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

fn kinds(records: &[Record]) -> Vec<&str> {
    records.iter().map(|r| r.kind.as_str()).collect()
}
