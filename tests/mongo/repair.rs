//! `tidegate repair` by the real program: damage made by hand is listed, mended and compared; a stray is carried over; bad usage is told.

use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use serde_json::Value;

use super::program::{Place, until};
use super::replset::ReplSet;
use super::{R, TOKIO, on_its_own, shared};

const LONG: Duration = Duration::from_secs(90);

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
indexes = [{ keys = { n = 1 }, name = "by_n" }]
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "3s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "10m"
"#;

pub fn trials() -> Vec<Trial> {
    let name = "repair::damage_made_by_hand_is_listed_mended_and_compared";
    vec![on_its_own(name, || mended(&*shared()?))]
}

fn on<T>(
    set: &ReplSet,
    coll: &str,
    f: impl AsyncFnOnce(Collection<Document>) -> mongodb::error::Result<T>,
) -> Result<T, String> {
    TOKIO.block_on(async {
        let client = Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        f(client.database("mended").collection(coll)).await.map_err(|e| e.to_string())
    })
}

fn value(set: &ReplSet, coll: &str, id: i32) -> Result<Option<i32>, String> {
    let found = on(set, coll, async |c| c.find_one(doc! { "_id": id }).await)?;
    Ok(found.and_then(|d| d.get_i32("n").ok()))
}

/// Runs `repair` with these arguments and answers its lines; the last is the outcome.
fn repair(place: &Place, name: &str, code: i32, args: &[&str]) -> Result<Vec<Value>, String> {
    let mut all = vec!["--json", "--journal", "first.jsonl"];
    all.extend(args);
    let mut program = place.start(name, "repair", &all)?;
    program.ends_with(code, LONG)?;
    Ok(program.lines())
}

fn outcome(lines: &[Value], fields: &[(&str, &str, i64)]) -> R {
    let last = lines.last().ok_or("it printed nothing")?;
    let action = |name: &str| last["actions"].as_array().into_iter().flatten().find(|a| a["action"] == name);
    for (name, field, n) in fields {
        let found = action(name).map(|a| &a[*field]);
        if found.and_then(Value::as_i64) != Some(*n) {
            return Err(format!("{name}: {field} is not {n} in {last}"));
        }
    }
    Ok(())
}

fn mended(set: &ReplSet) -> R {
    let place = Place::new(set, "mended", PLAN, |p| p)?;
    on(set, "orders", async |c| c.insert_many((0..300).map(|n| doc! { "_id": n, "n": n })).await)?;
    let mut run = place.run("first", "first.jsonl")?;
    until("the copy soaks", LONG, || run.prints(|l| l["kind"] == "soak_began"))?;
    run.signal("TERM")?;
    run.ends_with(4, LONG)?;

    differences(set, &place)?;
    bad_usage(&place)?;

    let mut run = place.resume("second", "first.jsonl", &[])?;
    until("it is taken up", LONG, || run.prints(|l| l["kind"] == "resumed"))?;
    let mut held = place.start("held", "repair", &["--template", "resync", "--yes", "--journal", "held.jsonl"])?;
    held.ends_with(1, LONG)?;
    if !held.stderr().contains("is run by second since") {
        return Err(format!("the holder is not named: {}", held.tail()));
    }
    until("half soaks", LONG, || run.prints(|l| l["kind"] == "soak_began" && l["seq"].as_i64().unwrap_or(0) > 20))?;
    // Bucket 760 (docs/routing.md): legacy's.
    on(set, "orders_v2", async |c| c.update_one(doc! { "_id": 5 }, doc! { "$set": { "n": -5 } }).await)?;
    until("the stray is found", LONG, || run.prints(|l| l["kind"] == "paused"))?;
    run.signal("TERM")?;
    run.ends_with(4, LONG)?;
    outcome(
        &repair(&place, "left", 4, &["--template", "resync"])?,
        &[("resync", "would", 0), ("resync", "for_a_person", 1)],
    )?;
    let lines = repair(&place, "carry", 0, &["--template", "carry-stray", "--yes", "--reason", "it was right"])?;
    outcome(&lines, &[("carry-stray", "done", 1), ("carry-stray", "for_a_person", 0)])?;
    if (value(set, "orders", 5)?, value(set, "orders_v2", 5)?) != (Some(-5), Some(-5)) {
        return Err("the stray is not carried over".into());
    }
    let none = [("carry-stray", "would", 0), ("resync", "would", 0), ("rebuild-index", "would", 0)];
    outcome(&repair(&place, "clean", 0, &[])?, &none)
}

fn differences(set: &ReplSet, place: &Place) -> R {
    on(set, "orders_v2", async |c| {
        c.delete_many(doc! { "_id": { "$lt": 3 } }).await?;
        c.update_many(doc! { "_id": { "$in": [10, 11] } }, doc! { "$set": { "n": -1, "note": "by hand" } }).await?;
        c.insert_one(doc! { "_id": 1_000, "n": 7 }).await?;
        c.drop_index("by_n").await?;
        let options = mongodb::options::IndexOptions::builder().name("by_n".to_owned()).sparse(true).build();
        let sparse = mongodb::IndexModel::builder().keys(doc! { "n": 1 }).options(options).build();
        c.create_index(sparse).await
    })?;
    let lines = repair(place, "look", 1, &[])?;
    outcome(&lines, &[("resync", "would", 6), ("rebuild-index", "would", 1), ("carry-stray", "would", 0)])?;
    if value(set, "orders_v2", 10)? != Some(-1) || value(set, "orders_v2", 0)?.is_some() {
        return Err("a dry run wrote".into());
    }
    let text = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    if !text.contains("differs in n, note on next") || !text.contains("sparse") {
        return Err(format!("it does not say what differs: {text}"));
    }
    let lines = repair(place, "mend", 0, &["--template", "resync", "--yes"])?;
    outcome(&lines, &[("resync", "done", 6), ("resync", "for_a_person", 0)])?;
    let verified = &lines.last().ok_or("no lines")?["actions"][0]["verified"];
    if verified["matched"] != 6 || verified["differing"] != 0 {
        return Err(format!("not compared again: {verified}"));
    }
    outcome(&repair(place, "index", 0, &["--template", "rebuild-index", "--yes"])?, &[("rebuild-index", "done", 1)])?;
    let counts = (value(set, "orders_v2", 0)?, value(set, "orders_v2", 10)?, value(set, "orders_v2", 1_000)?);
    if counts == (Some(0), Some(10), None) { Ok(()) } else { Err(format!("not mended: {counts:?}")) }
}

fn bad_usage(place: &Place) -> R {
    let says = |name: &str, args: &[&str], text: &str| {
        let mut program = place.start(name, "repair", args)?;
        program.ends_with(2, LONG)?;
        match program.stderr().contains(text) {
            true => Ok(()),
            false => Err(format!("`{text}` is not said; {}", program.tail())),
        }
    };
    says("odd", &["--template", "resink"], "did you mean `resync`?")?;
    says("bare", &["--yes"], "--yes needs --template NAME or --file FILE")?;
    says("unnamed", &["--template", "release"], "`release` needs --key")?;
    says("unsaid", &["--template", "release", "--key", "1", "--yes"], "`release` needs --reason")?;
    let file = place.file("mend.toml");
    let text = "schema = 1\n[repair]\nid = \"x\"\n[[action]]\ndo = \"resync\"\nmax_document = 5\n";
    std::fs::write(&file, text).map_err(|e| e.to_string())?;
    says("file", &["--file", "mend.toml"], "mend.toml:6:1")?;
    std::fs::write(&file, text.replace("max_document ", "max_documents ")).map_err(|e| e.to_string())?;
    outcome(&repair(place, "of-one's-own", 0, &["--file", "mend.toml"])?, &[("resync", "would", 0)])
}
