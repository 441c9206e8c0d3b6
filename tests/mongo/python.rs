//! The reference client in Python (`clients/python`): its rules, a write that lands late, and whole rollouts under an application that
//! uses it, judged by what each of its processes noted down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Bson, Decimal128, Document, RawDocumentBuf, doc};
use serde_json::Value;
use tidegate::plan::Plan;
use tidegate::transform::Transform;

use super::back::{goes_back, rolled_back, soaks};
use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::{R, TOKIO, on_its_own, on_shared, on_three, pymongo, rollout};

const LONG: Duration = Duration::from_secs(150);
/// Orders that exist before the application starts.
const ORDERS: i64 = 120;

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "route"
lease = "5s"
[rollback]
baseline_ratio = 50
[throttle]
max_latency_ratio = 50
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [
  { rename = "customer.name", to = "customer_name" },
  { convert = "total", from = "string", to = "decimal" },
  { set = "schema_version", value = 2 },
]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "1s"
[[stage]]
id = "half"
shadow = 30
reads = 60
writes = 50
soak = "1s"
[[stage.gate]]
metric = "shadow.mismatch_ratio"
max = 0.0
window = "10s"
for = "1s"
min_samples = 10
[[stage.gate]]
metric = "latency.read.p50"
side = "next"
max = "2s"
window = "10s"
for = "1s"
min_samples = 20
[[stage]]
id = "full"
reads = 100
writes = 100
soak = "10m"
"#;

pub fn trials() -> Vec<Trial> {
    let there_and_back = "python::an_application_in_python_loses_nothing_to_full_and_at_once_back";
    let to_contract = "python::two_processes_in_python_come_to_contract_through_a_stepdown";
    vec![
        on_its_own("python::the_client_keeps_the_documented_vectors_and_rules", rules),
        on_shared("python::the_example_of_the_documentation_runs", |set| blocking(move || example(&set))),
        on_shared("python::a_write_that_was_settled_does_not_land_any_more", |set| blocking(move || late(&set))),
        on_shared(there_and_back, |set| blocking(move || full_and_back(&set))),
        on_three(to_contract, contract),
    ]
}

pub async fn blocking(test: impl FnOnce() -> R + Send + 'static) -> R {
    tokio::task::spawn_blocking(test).await.map_err(|e| e.to_string())?
}

/// A file of the tests or of the client.
pub fn source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn passes(python: &mut Command) -> R {
    let out = python.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let tests = said.lines().find(|l| l.starts_with("Ran ")).and_then(|l| l.split(' ').nth(1)?.parse::<u32>().ok());
    if out.status.success() && tests.is_some_and(|n| n > 0) { Ok(()) } else { Err(said) }
}

fn rules() -> R {
    passes(pymongo::python()?.args(["-m", "unittest", "test_tidegate_route"]).current_dir(source("clients/python")))
}

fn late(set: &Arc<ReplSet>) -> R {
    passes(pymongo::python()?.arg(source("tests/mongo/python_late.py")).arg(set.uri()))
}

/// The program in docs/adopting.md, on a plan that nobody has begun; and both its shapes are those of the plan that it names.
fn example(set: &Arc<ReplSet>) -> R {
    let text = std::fs::read_to_string(source("docs/adopting.md")).map_err(|e| e.to_string())?;
    let mut programs = text.split("```python\n").filter_map(|t| t.split("```").next());
    let program = programs.find(|p| p.contains("RouteClient(")).ok_or("no program")?;
    let program = program.replace("orders-v2", "pydoc").replace("shop.orders", "pydoc.orders");
    let shapes =
        "\nimport bson\nfor side in ('legacy', 'next'):\n    print(bson.encode(to_document(side, order)).hex())\n";
    let out = pymongo::python()?.args(["-c", &format!("{program}{shapes}")]).env("TIDEGATE_URI", set.uri()).output();
    let out = out.map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let ["{'id': 17, 'name': 'Ada', 'total': '14.00'}", legacy, next] = lines[..] else {
        return Err(format!("{said}{}", String::from_utf8_lossy(&out.stderr)));
    };
    let plan = source("scenarios/first-watch/plan.toml");
    let plan = Plan::parse(&std::fs::read_to_string(plan).map_err(|e| e.to_string())?, "plan.toml");
    let steps = Transform::new(&plan.map_err(|e| format!("{e:?}"))?.collections[0].steps);
    let same = steps.makes(&document(legacy)?, &document(next)?);
    if same { Ok(()) } else { Err(format!("the steps make another document of {legacy} than {next}")) }
}

/// A document from hexadecimal digits.
fn document(hex: &str) -> Result<RawDocumentBuf, String> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or("?"), 16).map_err(|e| e.to_string());
    let bytes = (0..hex.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, String>>()?;
    RawDocumentBuf::from_bytes(bytes).map_err(|e| e.to_string())
}

/// A process of the application, or what makes its orders.
pub fn application(place: &Place, set: &ReplSet, process: &str, what: &str) -> Result<Command, String> {
    let mut python = pymongo::python()?;
    python.arg(source("tests/mongo/python_app.py")).args([&set.uri(), &place.id, &place.id, process]);
    python.arg(place.file(&format!("{process}.log"))).arg(what);
    Ok(python)
}

pub fn seeded(place: &Place, set: &ReplSet) -> R {
    place.spawn("seed", &mut application(place, set, "app-1", "seed")?)?.ends_with(0, LONG)
}

fn follows(place: &Place, set: &ReplSet, name: &str, process: &str) -> Result<Program, String> {
    let mut app = place.spawn(name, &mut application(place, set, process, "run")?)?;
    until("it follows the route", Duration::from_secs(60), || app.says("follows the route"))?;
    Ok(app)
}

/// Kills a process wherever it is, and starts it again under its name.
fn start_again(place: &Place, set: &ReplSet, app: &mut Program, process: &str) -> Result<Program, String> {
    if !app.kill()? {
        return Err(format!("it had ended by itself: {}", app.tail()));
    }
    follows(place, set, &format!("{process}-again"), process)
}

/// Both processes end, withdraw, and everything that they were told holds.
fn end(place: &Place, set: &ReplSet, apps: &mut [Program], side: &'static str) -> R {
    apps.iter().try_for_each(|app| app.signal("TERM"))?;
    apps.iter_mut().try_for_each(|app| app.ends_with(0, Duration::from_secs(60)))?;
    TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let acks = client.database("tidegate").collection::<Document>("route_acks");
        let left = acks.count_documents(doc! { "plan": &place.id }).await.map_err(|e| e.to_string())?;
        if left > 0 {
            return Err(format!("{left} acknowledgements were not withdrawn"));
        }
        Ok(())
    })?;
    let stored = finds(place, set, side)?;
    Notes::read(&["app-1", "app-2"].map(|p| place.file(&format!("{p}.log"))))?.judge(&stored, side)
}

/// The orders on a side.
pub fn finds(place: &Place, set: &ReplSet, side: &str) -> Result<BTreeMap<i64, Document>, String> {
    TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let name = if side == "legacy" { "orders" } else { "orders_v2" };
        let mut found = client.database(&place.id).collection::<Document>(name).find(doc! {}).await;
        let found = found.as_mut().map_err(|e| e.to_string())?;
        let mut stored = BTreeMap::new();
        while found.advance().await.map_err(|e| e.to_string())? {
            let d = found.deserialize_current().map_err(|e| e.to_string())?;
            let n = whole(&d, "n").ok_or_else(|| format!("no order: {d}"))?;
            if stored.insert(n, d).is_some() {
                return Err(format!("order {n} is there twice"));
            }
        }
        Ok(stored)
    })
}

fn whole(d: &Document, field: &str) -> Option<i64> {
    d.get_i64(field).ok().or_else(|| d.get_i32(field).ok().map(i64::from))
}

/// A version of an order: its revision, and whether it is that of its deletion.
type Version = (i64, bool);

/// What all processes noted, in the order of their common clock.
pub struct Notes {
    pub lines: Vec<Value>,
    /// When each version was acknowledged.
    acknowledged: BTreeMap<i64, Vec<(f64, Version)>>,
    /// When each version was first tried.
    tried: BTreeMap<i64, Vec<(f64, Version)>>,
    /// Versions that were found not to have been made.
    not_made: BTreeSet<(i64, i64)>,
}

impl Notes {
    pub fn read(logs: &[std::path::PathBuf]) -> Result<Notes, String> {
        let mut lines: Vec<Value> = Vec::new();
        for log in logs {
            let text = std::fs::read_to_string(log).map_err(|e| format!("{}: {e}", log.display()))?;
            lines.extend(text.lines().filter_map(|l| serde_json::from_str(l).ok()));
        }
        lines.sort_by(|a, b| at(a, "at").total_cmp(&at(b, "at")));
        let seed = || (0..ORDERS).map(|n| (n, vec![(0.0, (1, false))])).collect::<BTreeMap<_, _>>();
        let mut notes = Notes { acknowledged: seed(), tried: seed(), not_made: BTreeSet::new(), lines: Vec::new() };
        for l in &lines {
            let (n, version) = (l["n"].as_i64().unwrap_or(-1), (l["rev"].as_i64().unwrap_or(0), l["gone"] == true));
            let of = match l["what"].as_str() {
                Some("try") => &mut notes.tried,
                Some("acknowledged") => &mut notes.acknowledged,
                Some("not made") => {
                    notes.not_made.insert((n, version.0));
                    continue;
                }
                Some("read") => continue,
                _ => return Err(format!("the application met {l}")),
            };
            of.entry(n).or_default().push((at(l, "at"), version));
        }
        notes.lines = lines;
        Ok(notes)
    }

    /// The last version that was acknowledged before a moment.
    fn floor(&self, n: i64, before: f64) -> Option<Version> {
        self.acknowledged.get(&n)?.iter().rev().find(|(at, _)| *at < before).map(|(_, v)| *v)
    }

    /// Versions above this one that were tried before a moment, and may be what is there.
    fn above(&self, n: i64, floor: Option<Version>, before: f64) -> impl Iterator<Item = Version> {
        let floor = floor.map_or(0, |f| f.0);
        let tried = self.tried.get(&n).into_iter().flatten();
        tried.filter(move |(at, v)| *at < before && v.0 > floor).map(|(_, v)| *v)
    }

    /// Whether a read that began and ended then may have found this revision, or nothing.
    fn may_find(&self, n: i64, found: Option<i64>, began: f64, ended: f64) -> bool {
        let floor = self.floor(n, began);
        let is = |v: Version| if v.1 { found.is_none() } else { found == Some(v.0) };
        floor.map_or(found.is_none(), is) || self.above(n, floor, ended).any(is)
    }

    /// Nothing acknowledged is lost, nothing is stale that must not be, and the collection holds exactly what it should.
    pub fn judge(&self, stored: &BTreeMap<i64, Document>, side: &str) -> R {
        let mut counts = BTreeMap::<String, u64>::new();
        for l in &self.lines {
            let mut count =
                |what: &str| *counts.entry(format!("{what} {}", l["side"].as_str().unwrap_or("?"))).or_default() += 1;
            if l["what"] == "acknowledged" {
                count("written on");
            }
            if l["what"] != "read" {
                continue;
            }
            let (n, found, began) = (l["n"].as_i64().unwrap_or(-1), l["rev"].as_i64(), at(l, "began"));
            if l["owned"] == true {
                count("read from the owner");
                if !self.may_find(n, found, began, at(l, "at")) {
                    return Err(format!("stale or invented: {l}; acknowledged before {:?}", self.floor(n, began)));
                }
            } else {
                count("read from a copy");
                // A copy may be behind, by seconds at most, and holds nothing that was never written.
                let mut then = (0..=100).map(|tenths| began - f64::from(tenths) / 10.0);
                if !then.any(|t| self.may_find(n, found, t, at(l, "at"))) {
                    return Err(format!("a copy far behind, or invented: {l}"));
                }
            }
        }
        eprintln!("the application: {counts:?}");
        for (what, least) in [("written on legacy", 50), ("written on next", 50), ("read from the owner next", 50)] {
            if counts.get(what).is_none_or(|n| *n < least) {
                return Err(format!("hardly anything was {what}: {counts:?}"));
            }
        }
        for n in self.tried.keys().chain(stored.keys()) {
            let found = stored.get(n);
            let last = self.floor(*n, f64::MAX);
            let open = self.above(*n, last, f64::MAX).filter(|v| !self.not_made.contains(&(*n, v.0)));
            let right = |v: Version| match found {
                None => v.1,
                Some(d) => !v.1 && *d == order(d.get("_id"), *n, v.0, side),
            };
            if !last.map_or(found.is_none(), right) && !open.into_iter().any(right) {
                return Err(format!("order {n} was acknowledged as {last:?} and is {found:?}"));
            }
        }
        Ok(())
    }
}

fn at(l: &Value, field: &str) -> f64 {
    l[field].as_f64().unwrap_or(f64::NAN)
}

/// What the application writes for order `n`, worked out here once more. Documents are compared without their field order.
fn order(id: Option<&Bson>, n: i64, rev: i64, side: &str) -> Document {
    let cents = (n * 7_919 + rev * 104_729) % 1_000_000;
    let (total, name) = (format!("{}.{:02}", cents / 100, cents % 100), format!("Customer {n}"));
    let mut d = doc! { "_id": id, "n": n as i32, "rev": rev as i32 };
    if side == "legacy" {
        d.extend(doc! { "customer": { "name": name, "city": "Kobe" }, "total": total });
    } else {
        let total = total.parse::<Decimal128>().map_or(Bson::Null, Bson::Decimal128);
        d.extend(doc! { "customer": { "city": "Kobe" }, "customer_name": name, "total": total, "schema_version": 2 });
    }
    d
}

fn full_and_back(set: &Arc<ReplSet>) -> R {
    let place = Place::new(set, "pyback", PLAN, |p| p)?;
    seeded(&place, set)?;
    let mut apps = vec![follows(&place, set, "one", "app-1")?, follows(&place, set, "two", "app-2")?];
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    let again = start_again(&place, set, &mut apps[1], "app-2")?;
    apps[1] = again;
    soaks(&mut run, "full")?;
    let mut back = goes_back(&place, "back", &["--hard", "--take-over", "--reason", "orders are slow"])?;
    back.ends_with(3, LONG)?;
    run.ends_with(1, Duration::from_secs(30))?;
    rolled_back(&back)?;
    end(&place, set, &mut apps, "legacy")
}

fn contract(set: &ReplSet) -> R {
    let place = Place::new(set, "pycontract", rollout::PLAN, |p| p)?;
    seeded(&place, set)?;
    let mut apps = vec![follows(&place, set, "one", "app-1")?, follows(&place, set, "two", "app-2")?];
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "canary")?;
    TOKIO.block_on(set.step_down(3))?;
    soaks(&mut run, "half")?;
    let again = start_again(&place, set, &mut apps[0], "app-1")?;
    apps[0] = again;
    run.ends_with(0, LONG)?;
    let sum = run.summary()?;
    for n in ["lost", "stale", "stray"] {
        if sum["writes"][n] != 0 {
            return Err(format!("{n}: {sum}"));
        }
    }
    end(&place, set, &mut apps, "next")
}
