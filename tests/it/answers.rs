//! What a plan declares is asked of both sides, before reads and writes move.

use std::sync::Arc;

use bson::{Decimal128, RawBson, RawDocumentBuf, rawdoc};
use serde_json::Value;
use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{AdminOp, Cluster, Db, Key, WriteOp};
use tidegate::engine::{self, Config, Deps, Engine};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt, sleep};
use tidegate::snapshot::{Command, Reply};

const PLAN: &str = r#"
schema = 1
[plan]
id = "asked"
[cluster]
environment = "simulation"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ rename = "customer.name", to = "customer_name" }, { convert = "total", from = "string", to = "decimal" }]
indexes = [{ keys = { customer_name = 1 }, name = "by_customer" }]
types = { total = "decimal", n = ["int", "long"] }
[[query]]
name = "orders of a customer"
legacy = '{ "customer.name": "Cust 7" }'
next = '{ "customer_name": "Cust 7" }'
uses_index = true
[[total]]
name = "revenue"
legacy = '{ "$toDecimal": "$total" }'
next = '"$total"'
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "2s"
[[stage]]
id = "read"
reads = 100
soak = "2s"
[[stage]]
id = "full"
reads = 100
writes = 100
soak = "10m"
"#;

const DOCUMENTS: i64 = 20_000;

struct World {
    sim: Sim,
    rt: Rt,
    cluster: Arc<Embedded>,
    plan: Arc<Plan>,
    journal: MemStore,
}

fn order(id: i64) -> RawDocumentBuf {
    rawdoc! { "_id": id, "customer": { "name": format!("Cust {}", id % 100) }, "total": format!("{}.{:02}", id % 50, id % 100), "n": id }
}

impl World {
    fn new(seed: u64, plan: &str) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let plan = Arc::new(Plan::parse(plan, "asked.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        cluster.load(&plan.collections[0].legacy, (0..DOCUMENTS).map(order).collect()).unwrap();
        World { sim, rt, cluster, plan, journal: MemStore::new() }
    }

    fn start(&self, advance: Advance) -> Engine {
        let db: Db = self.cluster.clone();
        let deps = Deps {
            rt: self.rt.clone(),
            group: Group(1),
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(self.journal.clone()),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let config = Config { holder: "test".into(), advance: Some(advance), ..Config::default() };
        self.sim.block_on(engine::start(deps, config)).unwrap().unwrap_or_else(|e| panic!("{e}"))
    }

    fn pass(&self, seconds: u64) {
        self.sim.run_until(self.rt.now() + Micros::from_secs(seconds));
    }

    fn count(&self, kind: &str) -> usize {
        self.journal.records().iter().filter(|r| r.kind == kind).count()
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..600 {
            if done() {
                return;
            }
            self.pass(1);
        }
        let log: Vec<String> = self.journal.records().iter().map(tidegate::journal::show).collect();
        panic!("{what} never came:\n{}", log.join("\n"));
    }

    /// The evidence of every round of questions.
    fn answered(&self) -> Vec<Value> {
        let done = |r: &tidegate::journal::Record| (r.kind == "task_done").then(|| r.body.get("evidence").cloned())?;
        self.journal.records().iter().filter_map(done).filter(|e| e.get("answers").is_some()).collect()
    }
}

#[test]
fn some_documents_are_asked_about_before_reads_move_and_all_before_writes_do() {
    let w = World::new(1, PLAN);
    let _engine = w.start(Advance::Auto);
    w.until("everything on next", || w.count("soak_began") == 3);
    let all = w.answered();
    let whole: Vec<bool> = all.iter().map(|e| e["whole"] == true).collect();
    assert_eq!(whole, [false, false, true], "{all:#?}");
    let some = all[0]["documents"].as_u64().unwrap();
    assert!((1_000..=2_300).contains(&some), "{some}");
    let last = &all[2];
    assert_eq!((&last["documents"], &last["in_flight"]), (&DOCUMENTS.into(), &0.into()));
    let cents: i64 = (0..DOCUMENTS).map(|n| n % 50 * 100 + n % 100).sum();
    let revenue = format!("{}.{:02}", cents / 100, cents % 100);
    let text = last["text"].as_str().unwrap();
    for part in [
        "asked about every document (20000)",
        "the type of `total` on next is as planned",
        "query `orders of a customer` finds 200 on both sides",
        &format!("total `revenue` is {revenue} on both sides"),
        "1 indexes as planned, 1 queries use one",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// A plan with a question that next answers otherwise, and what is said of it.
fn held(plan: &str, seed: u64, stages: usize) -> String {
    let w = World::new(seed, plan);
    let engine = w.start(Advance::Auto);
    w.until("the hold", || w.count("task_held") > 0);
    w.pass(30);
    assert_eq!(w.count("soak_began"), stages, "it went on");
    assert_eq!(engine.snapshot().if_nothing, "tries again until that is mended; both sides are kept in step");
    engine.snapshot().why.clone()
}

#[test]
fn a_query_that_next_answers_otherwise_holds_the_copy() {
    let why = held(&PLAN.replace("'{ \"customer_name\": \"Cust 7\" }'", "'{ \"customer_name\": \"Cust 8\" }'"), 1, 0);
    assert!(
        why.contains("query `orders of a customer` finds on one side only:") && why.contains("mend the plan"),
        "{why}"
    );
    assert!(why.contains("documents, as _id 7, 8, 107") && why.contains("tidegate amend"), "{why}");
}

#[test]
fn a_total_that_next_makes_otherwise_holds_the_copy() {
    let why = held(&PLAN.replace("next = '\"$total\"'", "next = '\"$n\"'"), 1, 0);
    assert!(why.contains("total `revenue` is another on each side"), "{why}");
}

#[test]
fn what_a_single_document_shows_is_found_before_the_first_write_moves() {
    let w = World::new(1, PLAN);
    // A long between two drawn ones: nobody asks about it until everybody is asked about.
    let odd = rawdoc! { "_id": 4.5, "customer": { "name": "Ann" }, "total": "1.00", "n": "4" };
    w.cluster.load(&w.plan.collections[0].legacy, vec![odd]).unwrap();
    let engine = w.start(Advance::Auto);
    w.until("the hold", || w.count("task_held") > 0);
    assert_eq!((w.count("soak_began"), w.answered().len()), (2, 2), "reads have moved, writes have not");
    let why = engine.snapshot().why.clone();
    assert!(why.contains("the type of `n` on next is not as planned: _id 4.5"), "{why}");
}

#[test]
fn an_index_that_somebody_has_dropped_holds_reads() {
    let w = World::new(2, PLAN);
    let engine = w.start(Advance::Operator);
    w.until("the copy", || w.count("soak_began") == 1);
    let drop = AdminOp::DropIndex { ns: w.plan.collections[0].next.clone(), name: "by_customer".into() };
    let cluster = w.cluster.clone();
    w.sim.block_on(async move { cluster.admin(&drop).await }).unwrap().unwrap();
    w.pass(5);
    let reply = engine.send(Command::Advance { stage: 0 }).unwrap();
    assert!(!matches!(w.sim.block_on(reply).unwrap().unwrap(), Reply::Refused(_)));
    w.until("the hold", || w.count("task_held") > 0);
    let why = engine.snapshot().why.clone();
    assert!(why.contains("next has no index over") && why.contains("`by_customer`"), "{why}");
    assert_eq!(w.cluster.count(&w.plan.collections[0].next), DOCUMENTS as usize);
}

#[test]
fn answers_are_alike_while_an_application_writes() {
    let w = World::new(3, PLAN);
    let _engine = w.start(Advance::Auto);
    let (cluster, rt, ns) = (w.cluster.clone(), w.rt.clone(), w.plan.collections[0].legacy.clone());
    // Five of them are written all the time, the others now and then.
    let application = Box::pin(async move {
        for n in 0u64.. {
            let id = if n % 2 == 0 { (n / 2 % 5) as i64 } else { (n * 7_919 % DOCUMENTS as u64) as i64 };
            let mut doc = rawdoc! { "_id": id, "customer": { "name": format!("Cust {}", n % 100) } };
            doc.append(bson::cstr!("total"), format!("{n}.5"));
            doc.append(bson::cstr!("n"), RawBson::Int32(7));
            let op = WriteOp::Replace { ns: ns.clone(), key: Key::from(id), only_if: None, doc, upsert: false };
            let _ = cluster.write(&op).await;
            sleep(&rt, Micros::from_ms(4)).await;
        }
    });
    w.rt.spawn(Group(2), "application", application);
    w.until("reads on next", || w.count("soak_began") == 2);
    assert_eq!((w.count("task_held"), w.answered().len()), (0, 2));
    for e in w.answered() {
        assert!(e["in_flight"].as_u64().unwrap() <= 10, "{e}");
        assert!(e["answers"][3]["total"].as_str().unwrap().parse::<Decimal128>().is_ok(), "{e}");
    }
}

#[test]
fn a_query_without_its_index_holds_the_copy() {
    let why = held(&PLAN.replace("keys = { customer_name = 1 }", "keys = { n = 1 }"), 1, 0);
    assert!(why.contains("query `orders of a customer` looks at every document of next"), "{why}");
}

#[test]
fn what_stands_in_an_array_is_no_decimal() {
    let w = World::new(1, PLAN);
    let odd = rawdoc! { "_id": 4.5, "customer": { "name": "Ann" }, "total": "1.00", "n": [7, 8] };
    w.cluster.load(&w.plan.collections[0].legacy, vec![odd]).unwrap();
    let engine = w.start(Advance::Auto);
    w.until("the hold", || w.count("task_held") > 0);
    let why = engine.snapshot().why.clone();
    assert!(why.contains("the type of `n` on next is not as planned: _id 4.5"), "{why}");
}

#[test]
fn a_rollback_does_not_wait_for_an_answer() {
    let w = World::new(1, &PLAN.replace("next = '\"$total\"'", "next = '\"$n\"'"));
    let engine = w.start(Advance::Auto);
    w.until("the hold", || w.count("task_held") > 0);
    let reply = engine.send(Command::Rollback { hard: false, to: None }).unwrap();
    w.sim.block_on(reply).unwrap().unwrap();
    w.pass(60);
    assert_eq!(engine.ended(), Some(engine::End::RolledBack));
}

#[test]
fn masked_values_are_not_added_up() {
    let w = World::new(1, &format!("{PLAN}\n[privacy]\nmask = [\"total\"]\n"));
    let _engine = w.start(Advance::Auto);
    w.until("the copy", || w.count("soak_began") == 1);
    let all = w.answered();
    let said = all[0].to_string();
    assert!(said.contains("total `revenue` is the same on both sides") && !said.contains("\"total\":\""), "{said}");
}

const CUSTOMERS: &str =
    "[[reference]]\nname = \"customers\"\nlegacy = \"n\"\nnext = \"n\"\nto = \"customers\"\n[[stage]]";

#[test]
fn what_only_a_server_answers_is_said_to_be_unasked() {
    let odd =
        PLAN.replace("'{ \"$toDecimal\": \"$total\" }'", "'{ \"$add\": [1] }'").replacen("[[stage]]", CUSTOMERS, 1);
    let w = World::new(1, &odd);
    let _engine = w.start(Advance::Auto);
    w.until("the copy", || w.count("soak_began") == 1);
    let all = w.answered();
    let text = all[0]["text"].as_str().unwrap();
    for unasked in ["total `revenue` was not asked", "reference `customers` was not asked"] {
        assert!(text.contains(unasked), "no {unasked:?} in {text}");
    }
}

#[test]
fn what_is_found_nowhere_says_little() {
    let odd = PLAN.replace("Cust 7", "Nobody").replace("n = [\"int\"", "nowhere = [\"int\"");
    let w = World::new(1, &odd);
    let _engine = w.start(Advance::Auto);
    w.until("the copy", || w.count("soak_began") == 1);
    let all = w.answered();
    let text = all[0]["text"].as_str().unwrap();
    assert_eq!(text.matches("which says little").count(), 2, "{text}");
}
