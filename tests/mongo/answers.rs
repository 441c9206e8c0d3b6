//! What a plan declares, asked of real servers: under traffic, with an answer of each kind that is not alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use serde_json::Value;
use tidegate::cluster::Db;
use tidegate::engine::{self, Deps, End, Engine};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Group;
use tidegate::snapshot::Command;

use super::replset::ReplSet;
use super::{R, TOKIO, connect, live, on_shared};

const PLAN: &str = r#"
schema = 1
[plan]
id = "answers"
[cluster]
environment = "test"
[[collection]]
legacy = "answers.orders"
next = "answers.orders_v2"
steps = [
  { rename = "customer.name", to = "customer_name" },
  { rename = "customer.id", to = "customer_id" },
  { convert = "total", from = "string", to = "decimal" },
]
indexes = [{ keys = { customer_name = 1 }, name = "by_customer" }]
types = { total = "decimal", tags = ["array"] }
[[query]]
name = "orders of a customer"
legacy = '{ "customer.name": { "$regex": "^Cust 7$" } }'
next = '{ "customer_name": { "$in": ["Cust 7"] } }'
uses_index = true
[[total]]
name = "revenue"
legacy = '{ "$toDecimal": "$total" }'
next = '{ "$add": ["$total", { "$numberInt": "0" }] }'
[[reference]]
name = "customers"
legacy = "customer.id"
next = "customer_id"
to = "customers"
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "1s"
[[stage]]
id = "full"
reads = 100
writes = 100
soak = "10m"
"#;

const DOCUMENTS: i32 = 3_000;
const CUSTOMERS: i32 = 100;

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("answers::servers_answer_alike_under_traffic", |set| async move { alike(&set).await }),
        on_shared("answers::what_is_not_alike_is_named", |set| async move { unlike(&set).await }),
    ]
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// A database of orders and of their customers; two of the orders have none.
async fn fill(set: &ReplSet, name: &str) -> Result<Database, String> {
    let db = Client::with_uri_str(set.uri()).await.map_err(text)?.database(name);
    let customers = (0..CUSTOMERS).map(|id| doc! { "_id": id, "name": format!("Cust {id}") });
    db.collection::<Document>("customers").insert_many(customers).await.map_err(text)?;
    let order = |id: i32| {
        let customer = if id == 17 || id == 2_999 { CUSTOMERS + id } else { id % CUSTOMERS };
        doc! {
            "_id": id, "customer": { "name": format!("Cust {}", id % CUSTOMERS), "id": customer },
            "total": format!("{}.{:02}", id, id % 100), "tags": ["a", id], "note": format!("secret {id}"),
        }
    };
    db.collection::<Document>("orders").insert_many((0..DOCUMENTS).map(order)).await.map_err(text)?;
    Ok(db)
}

/// With the plan's names for this rollout's own.
async fn deps(set: &ReplSet, id: &str, plan: &str, group: u32) -> Result<Deps, String> {
    let plan = plan.replace("id = \"answers\"", &format!("id = \"{id}\"")).replace("\"answers.", &format!("\"{id}."));
    let cluster: Db = connect(set, id).await?;
    Ok(Deps {
        rt: live(),
        group: Group(group),
        clusters: [cluster.clone(), cluster],
        one_cluster: true,
        journal: Arc::new(MemStore::new()),
        plan: Arc::new(Plan::parse(&plan, "answers.toml").map_err(|e| e.render(false))?),
        on_record: Arc::new(|_| {}),
    })
}

struct Run {
    engine: Engine,
    journal: MemStore,
}

impl Run {
    async fn start(set: &ReplSet, id: &str, plan: &str, group: u32) -> Result<Run, String> {
        let journal = MemStore::new();
        let deps = Deps { journal: Arc::new(journal.clone()), ..deps(set, id, plan, group).await? };
        let config =
            engine::Config { holder: "test".into(), advance: Some(Advance::Operator), ..engine::Config::default() };
        Ok(Run { engine: engine::start(deps, config).await.map_err(text)?, journal })
    }

    async fn until(&self, what: &str, done: impl Fn(&Run) -> bool) -> R {
        super::constraints::until(&self.engine, &self.journal, what, |_| done(self)).await
    }

    fn soaks(&self) -> usize {
        self.journal.records().iter().filter(|r| r.kind == "soak_began").count()
    }

    async fn send(&self, command: Command) -> R {
        let reply = self.engine.send(command).ok_or("the engine takes no command")?;
        reply.await.map(drop).map_err(text)
    }

    /// Leaves the copy, as soon as that may be.
    async fn advance(&self) -> R {
        self.until("the copy's soak", |r| r.engine.snapshot().why.contains("advance when ready")).await?;
        self.send(Command::Advance { stage: 0 }).await
    }

    /// The last round of questions.
    fn answered(&self) -> Option<Value> {
        let of = |r: &tidegate::journal::Record| r.body.get("evidence").filter(|e| e.get("answers").is_some()).cloned();
        self.journal.records().iter().rev().find_map(of)
    }

    async fn back(self) -> R {
        self.send(Command::Rollback { hard: true, to: None }).await?;
        self.until("it is back", |r| r.engine.ended().is_some()).await?;
        match self.engine.ended() {
            Some(End::RolledBack) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

async fn alike(set: &ReplSet) -> R {
    let db = fill(set, "answers").await?;
    let run = Run::start(set, "answers", PLAN, 7_101).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, orders) = (stop.clone(), db.collection::<Document>("orders"));
    let application = TOKIO.spawn(async move {
        let mut n = 0;
        while !stopped.load(Ordering::SeqCst) {
            n += 1;
            // Ten of them over and over.
            let id = if n % 2 == 0 { n / 2 % 10 } else { n * 617 % DOCUMENTS };
            let set =
                doc! { "$set": { "total": format!("{n}.50"), "customer.name": format!("Cust {}", n % CUSTOMERS) } };
            orders.update_one(doc! { "_id": id }, set).await.map_err(text)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, String>(n)
    });
    run.until("the copy", |r| r.soaks() == 1).await?;
    let some = run.answered().unwrap_or_default();
    stop.store(true, Ordering::SeqCst);
    let writes = application.await.map_err(text)??;
    run.advance().await?;
    run.until("everything on next", |r| r.soaks() == 2).await?;
    let all = run.answered().unwrap_or_default();
    let mut cents = 0;
    let mut found = db.collection::<Document>("orders").find(doc! {}).await.map_err(text)?;
    while found.advance().await.map_err(text)? {
        let d: Document = found.deserialize_current().map_err(text)?;
        let (whole, part) = d.get_str("total").map_err(text)?.split_once('.').ok_or("a total without a point")?;
        cents += whole.parse::<i64>().map_err(text)? * 100 + part.parse::<i64>().map_err(text)?;
    }
    let said = all["text"].as_str().unwrap_or_default().to_owned();
    let wanted = [
        format!("asked about every document ({DOCUMENTS})"),
        "the type of `tags` on next is as planned".to_owned(),
        format!("total `revenue` is {}.{:02} on both sides", cents / 100, cents % 100),
        "reference `customers` leads nowhere in 2 documents, on both sides".to_owned(),
        "1 indexes as planned, 1 queries use one".to_owned(),
    ];
    let asked = |e: &Value| e["answers"].as_array().is_some_and(|a| a.iter().all(|a| a["asked"] == true));
    if let Some(lacking) = wanted.iter().find(|w| !said.contains(w.as_str())) {
        return Err(format!("{lacking} is not in {said}"));
    }
    let documents = some["documents"].as_u64().unwrap_or(0);
    if writes < 20 || !asked(&all) || some["whole"] != false || !(1_000..=2_400).contains(&documents) || !asked(&some) {
        return Err(format!("{some} after {writes} writes"));
    }
    run.back().await
}

/// One mistake at a time: it is said what and where, and no value of a document with it.
async fn unlike(set: &ReplSet) -> R {
    let db = fill(set, "unlike").await?;
    let run = Run::start(set, "unlike", PLAN, 7_110).await?;
    run.until("the copy", |r| r.soaks() == 1).await?;
    let wrong = [
        (
            "[\"Cust 7\"]",
            "[\"Cust 8\"]",
            "query `orders of a customer` finds on one side only: 60 documents, as _id 7, 8, 107",
        ),
        ("{ \"$add\": [", "{ \"$multiply\": [2, ", "documents or more, as _id 1, 2, 3; both sides' documents agree"),
        ("{ \"$add\": [", "{ \"$nope\": [", "total `revenue` cannot be asked on next about _id 0: "),
        (
            "{ \"$toDecimal\": \"$total\" }",
            "{ \"$toInt\": \"$note\" }",
            "total `revenue` cannot be asked on legacy about _id 0: a document's value cannot",
        ),
        (
            "\"customer_id\"\nto",
            "\"customer_nr\"\nto",
            "reference `customers` leads nowhere on one side only: 2 documents, as _id 17, 2999",
        ),
        ("total = \"decimal\"", "total = \"double\"", "documents or more, as _id 0, 1, 2; both sides' documents agree"),
    ];
    for (from, to, said) in wrong {
        let plan = PLAN.replacen(from, to, 1);
        if plan == PLAN {
            return Err(format!("{from} is not in the plan"));
        }
        let found = engine::verify(&deps(set, "unlike", &plan, 7_111).await?).await.map_err(text)?;
        let wrong: Vec<&str> = found.answers.iter().filter(|a| !a.alike).map(|a| a.text.as_str()).collect();
        if wrong.iter().any(|w| w.contains("secret")) {
            return Err(format!("a document's value is told: {wrong:?}"));
        }
        let wrong: Vec<&str> = wrong.into_iter().chain(found.lacking.as_deref()).collect();
        if found.is_clean() || !found.documents_match() || wrong.len() != 1 || !wrong[0].contains(said) {
            return Err(format!("{said} is not what is said: {found:?}"));
        }
    }
    // An index that is there, and that nobody's query uses.
    let hide = |hidden: bool| doc! { "collMod": "orders_v2", "index": { "name": "by_customer", "hidden": hidden } };
    db.run_command(hide(true)).await.map_err(text)?;
    run.advance().await?;
    run.until("the hidden index", |r| r.engine.snapshot().why.contains("is hidden: no query uses it")).await?;
    db.run_command(hide(false)).await.map_err(text)?;
    run.until("everything on next", |r| r.soaks() == 2).await?;
    run.back().await
}
