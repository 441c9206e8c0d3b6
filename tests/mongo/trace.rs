//! `tidegate trace` by the real program, with authorization on: while a rollout runs and after it, by a user who may only read; and a
//! reveal, which only the runner can journal.

use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use serde_json::Value;

use super::conformance::ensure;
use super::program::{Place, until};
use super::replset::PASSWORD;
use super::{R, ReplSet, TOKIO, mongod, on_its_own};

const LONG: Duration = Duration::from_secs(90);

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[privacy]
mask = ["customer.name"]
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ rename = "customer.name", to = "customer_name" }, { set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "2s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "10m"
"#;

pub fn trials() -> Vec<Trial> {
    vec![on_its_own("trace::a_key_is_traced_while_a_rollout_runs_and_after_it_by_a_reader", traced)]
}

fn on<T>(
    uri: &str,
    coll: &str,
    f: impl AsyncFnOnce(Collection<Document>) -> mongodb::error::Result<T>,
) -> Result<T, String> {
    TOKIO.block_on(async {
        let client = Client::with_uri_str(uri).await.map_err(|e| e.to_string())?;
        f(client.database("traced").collection(coll)).await.map_err(|e| e.to_string())
    })
}

/// Traces with these arguments, and answers what it printed as JSON.
fn trace(place: &Place, name: &str, code: i32, args: &[&str]) -> Result<Value, String> {
    let mut program = place.start(name, "trace", &[args, &["--json"]].concat())?;
    program.ends_with(code, LONG)?;
    program.lines().pop().ok_or_else(|| format!("it printed nothing; {}", program.tail()))
}

fn texts(v: &Value) -> String {
    v["journal"].as_array().into_iter().flatten().filter_map(|r| r["text"].as_str()).collect::<Vec<_>>().join("\n")
}

fn traced() -> R {
    let set = TOKIO.block_on(ReplSet::start_locked(&mongod::find()?))?;
    let root = set.uri_of("root");
    let docs = (0..300).map(|n| doc! { "_id": n, "customer": { "name": format!("secret {n}") }, "n": n });
    let mut place = Place::new(&set, "traced", PLAN, |p| p)?;
    place.connects_as(root.clone());
    on(&root, "orders", async |c| c.insert_many(docs).await)?;
    let roles = doc! { "createUser": "reader", "pwd": PASSWORD, "roles": [
        { "role": "read", "db": "tidegate" }, { "role": "read", "db": "traced" },
    ] };
    TOKIO
        .block_on(async { Client::with_uri_str(&root).await?.database("admin").run_command(roles).await })
        .map_err(|e| e.to_string())?;
    let mut reader = place.elsewhere()?;
    reader.connects_as(set.uri_of("reader"));

    let v = trace(&reader, "never", 0, &["5"])?;
    ensure!(v["verdict"] == "not_copied" && v["route"]["epoch"].is_null(), "{v}");
    let mut run = place.start(
        "run",
        "run",
        &["--headless", "--json", "--advance", "auto", "--journal", "j.jsonl", "--as", "anna"],
    )?;
    until("half soaks", LONG, || run.prints(|l| l["kind"] == "soak_began" && l["seq"].as_i64().unwrap_or(0) > 20))?;

    // Bucket 760 (docs/routing.md): legacy's.
    let v = trace(&reader, "running", 0, &["5"])?;
    ensure!(v["verdict"] == "agrees" && v["bucket"] == 760 && v["route"]["owner"] == "legacy", "{v}");
    ensure!(v["masked"] == true && !v.to_string().contains("secret") && texts(&v).is_empty(), "{v}");
    let copied = v["events"].as_array().is_some_and(|e| e.iter().any(|e| e["side"] == "next" && e["own"] == true));
    ensure!(copied, "the copy is not among the changes: {v}");
    moved(&reader)?;
    revealed(&place, &reader)?;

    run.signal("TERM")?;
    run.ends_with(4, LONG)?;
    on(&root, "orders_v2", async |c| c.update_one(doc! { "_id": 5 }, doc! { "$set": { "n": -1 } }).await)?;
    let v = trace(&reader, "resting", 1, &["5"])?;
    ensure!(v["verdict"] == "differs" && v["differences"][0]["path"] == "n", "{v}");
    let mut late = place.start("late", "trace", &["5", "--reveal"])?;
    late.ends_with(1, LONG)?;
    ensure!(late.said().contains("a reveal is journalled by the runner, and none is there"), "{}", late.tail());
    let mut text = reader.start("text", "trace", &["5"])?;
    text.ends_with(1, LONG)?;
    ensure!(text.said().contains("DIFFERS") && text.said().contains("masked string"), "{}", text.tail());
    ensure!(!text.said().contains("secret 5"), "{}", text.tail());
    let mut odd = reader.start("odd", "trace", &[""])?;
    odd.ends_with(2, LONG)
}

/// A key whose bucket has moved.
fn moved(reader: &Place) -> R {
    for id in 0..60 {
        let v = trace(reader, "moved", 0, &[&id.to_string()])?;
        if v["route"]["owner"] == "next" {
            let told = texts(&v);
            ensure!(told.contains("its writes moved to next with route") && told.contains("in stage half"), "{told}");
            return Ok(());
        }
    }
    Err("none of the first keys is next's".into())
}

fn revealed(place: &Place, reader: &Place) -> R {
    let mut refused = reader.start("refused", "trace", &["5", "--reveal"])?;
    refused.ends_with(1, LONG)?;
    ensure!(refused.said().contains("may look on, but not ask"), "{}", refused.tail());
    ensure!(!refused.said().contains("secret 5"), "{}", refused.tail());
    let v = trace(place, "revealed", 0, &["5", "--reveal", "--as", "bob"])?;
    ensure!(v["revealed"] == true && v.to_string().contains("secret 5"), "{v}");
    let journal = TOKIO.block_on(place.journal_in_database())?;
    let told = journal.iter().any(|l| l.contains("\"kind\":\"revealed\"") && l.contains("operator:bob"));
    ensure!(told && journal.iter().all(|l| !l.contains("secret 5")), "{}", journal.join("\n"));
    Ok(())
}
