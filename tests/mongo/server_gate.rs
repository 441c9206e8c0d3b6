//! The server gate on a real server: a client that ignores the route cannot write where a side does not own the bucket, and what the
//! collections were held against before comes back byte for byte.

use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use super::back::{is_at_rest, soaks, soaks_in};
use super::explain::{app_is_whole, by_hand, explained};
use super::program::Place;
use super::replset::ReplSet;
use super::rollout::{PLAN, lost_nothing};
use super::{R, TOKIO, on_one_and_three, on_three};

const LONG: Duration = Duration::from_secs(150);

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        on_three("server_gate::a_completed_rollout_restores_the_validators", completed),
        on_three("server_gate::the_way_back_by_hand_restores_the_validators", by_hand_too),
    ];
    let name = "server_gate::nobody_writes_past_the_route_and_a_rollback_restores_the_validators";
    all.extend(on_one_and_three(name, rolled_back));
    all.extend(on_one_and_three("server_gate::a_validator_that_only_warns_is_not_made_strict", refused));
    all
}

fn gated(stage: &'static str) -> impl Fn(String) -> String {
    move |p| soaks_in(stage)(p.replace("lease = \"5s\"", "lease = \"5s\"\nserver_gate = true"))
}

fn on<T>(set: &ReplSet, id: &str, f: impl AsyncFnOnce(Database) -> mongodb::error::Result<T>) -> Result<T, String> {
    TOKIO.block_on(async {
        let client = Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        f(client.database(id)).await.map_err(|e| e.to_string())
    })
}

/// A collection's options, to the byte.
fn options(set: &ReplSet, id: &str, coll: &str) -> Result<Vec<u8>, String> {
    let all: Document =
        on(set, id, async |db| db.run_command(doc! { "listCollections": 1, "filter": { "name": coll } }).await)?;
    let found = all.get_document("cursor").and_then(|c| c.get_array("firstBatch")).map_err(|e| e.to_string())?;
    let options = found.first().and_then(|d| d.as_document()?.get_document("options").ok()).ok_or("no collection")?;
    mongodb::bson::serialize_to_vec(options).map_err(|e| e.to_string())
}

fn validator(set: &ReplSet, id: &str, coll: &str, create: bool, rules: Document, action: &str) -> R {
    on(set, id, async |db| {
        if create {
            db.run_command(doc! { "create": coll }).await?;
        }
        let command =
            doc! { "collMod": coll, "validator": rules, "validationLevel": "strict", "validationAction": action };
        db.run_command(command).await
    })
    .map(drop)
}

/// Whether a plain insert of this `_id` is refused by a validator.
fn is_refused(set: &ReplSet, id: &str, coll: &str, key: i32) -> Result<bool, String> {
    on(set, id, async |db| {
        let doc = doc! { "_id": key, "note": "hostile", "customer": {}, "customer_name": "x" };
        match db.collection::<Document>(coll).insert_one(doc).await {
            Ok(_) => db.collection::<Document>(coll).delete_one(doc! { "_id": key }).await.map(|_| false),
            Err(e) if e.to_string().contains("failed validation") => Ok(true),
            Err(e) => Err(e),
        }
    })
}

/// Their buckets stand in docs/routing.md: 46 and 760.
const LOW: i32 = -7;
const HIGH: i32 = 5;

fn rolled_back(set: &ReplSet) -> R {
    let place = Place::new(set, "gateback", PLAN, gated("half"))?;
    let mut app = place.application(1_000, &[])?;
    let rules = doc! { "$jsonSchema": { "required": ["customer"] }, "gate_test": { "$nin": [1_i64, 2.5] } };
    validator(set, &place.id, "orders", false, rules, "error")?;
    let before = options(set, &place.id, "orders")?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "copy")?;
    let tried = |coll, key| is_refused(set, &place.id, coll, key);
    if !tried("orders_v2", LOW)? || !tried("orders_v2", HIGH)? {
        return Err("next takes writes before any was moved".into());
    }
    soaks(&mut run, "half")?;
    let found = [("orders", LOW), ("orders_v2", HIGH)].map(|(c, k)| tried(c, k));
    if found.iter().any(|f| *f != Ok(true)) {
        return Err(format!("bucket 46 on legacy and 760 on next: {found:?}"));
    }
    if options(set, &place.id, "orders")? == before {
        return Err("the gate is not there".into());
    }
    // Somebody takes it away: it is put up again.
    validator(set, &place.id, "orders", false, doc! {}, "error")?;
    std::thread::sleep(Duration::from_secs(4));
    if !tried("orders", LOW)? {
        return Err("the gate was taken away for good".into());
    }
    run.kill()?;
    let args = ["--headless", "--json", "--journal", "first.jsonl", "--take-over", "--reason", "killed", "--hard"];
    let mut back = place.start("back", "rollback", &args)?;
    back.ends_with(3, LONG)?;
    app_is_whole(&mut app)?;
    is_at_rest(set, &place.id)?;
    restored(set, &place.id, "orders", &before)
}

/// The collection's options are these again, and nothing of the gate is left in the control database.
fn restored(set: &ReplSet, id: &str, coll: &str, before: &[u8]) -> R {
    if options(set, id, coll)? != before {
        return Err(format!("{coll} has {:?}", Document::from_reader(&*options(set, id, coll)?)));
    }
    let left =
        on(set, "tidegate", async |db| db.collection::<Document>("validators").find_one(doc! { "plan": id }).await)?;
    if left.is_none() { Ok(()) } else { Err(format!("left: {left:?}")) }
}

fn completed(set: &ReplSet) -> R {
    let place = Place::new(set, "gatedone", PLAN, gated("no such stage"))?;
    let mut app = place.application(1_000, &[])?;
    validator(set, &place.id, "orders_v2", true, doc! { "customer_name": { "$exists": true } }, "error")?;
    let before = options(set, &place.id, "orders_v2")?;
    let mut run = place.run("first", "first.jsonl")?;
    run.ends_with(0, LONG)?;
    lost_nothing(&run, &mut app)?;
    restored(set, &place.id, "orders_v2", &before)
}

fn by_hand_too(set: &ReplSet) -> R {
    let place = Place::new(set, "gatehand", PLAN, gated("half"))?;
    let mut app = place.application(1_000, &[])?;
    validator(set, &place.id, "orders", false, doc! { "customer": { "$exists": true } }, "error")?;
    let before = options(set, &place.id, "orders")?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    run.kill()?;
    by_hand([&set.uri(), &set.uri()], &explained(&place, "explain")?)?;
    app_is_whole(&mut app)?;
    is_at_rest(set, &place.id)?;
    restored(set, &place.id, "orders", &before)
}

fn refused(set: &ReplSet) -> R {
    let place = Place::new(set, "gatewarn", PLAN, gated("half"))?;
    let mut app = place.application(100, &[])?;
    validator(set, &place.id, "orders", false, doc! { "customer": { "$exists": true } }, "warn")?;
    let mut run = place.start("first", "run", &["--headless", "--json", "--exit-when-needed"])?;
    run.ends_with(4, Duration::from_secs(60))?;
    let said = run.lines().iter().any(|l| l.to_string().contains("which the server gate would make strict"));
    app.signal("TERM")?;
    app.ends_with(0, Duration::from_secs(60))?;
    if said { Ok(()) } else { Err(run.tail()) }
}
