//! Modes `copy` and `flags` on a real server: applications in Python and in Node that go by a switch of their own, turned and asked about
//! by hooks (clients/python, clients/node), judged by what each process noted down.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use super::back::{goes_back, soaks};
use super::program::{Place, Program, until};
use super::python::{Notes, application, blocking, finds, passes, seeded, source};
use super::replset::ReplSet;
use super::{R, mongod, on_its_own, on_shared};

const LONG: Duration = Duration::from_secs(150);

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "copy"
[cutover]
freeze_max = "20s"
[throttle]
max_latency_ratio = 50
[hooks]
switch = { command = ["python3", "@CLIENT@", "turn", "@FOLDER@"] }
confirm = { command = ["python3", "@CLIENT@", "confirm", "@FOLDER@"] }
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
id = "full"
reads = 100
writes = 100
soak = "10m"
"#;

pub fn trials() -> Vec<Trial> {
    let flags = "switch::an_application_in_node_goes_by_the_flag_file_and_loses_nothing";
    vec![
        on_its_own("switch::the_switch_in_python_keeps_its_rules", rules),
        on_shared("switch::an_application_in_python_with_a_switch_of_its_own_loses_nothing", |set| {
            blocking(move || there_and_back(&set))
        }),
        on_shared(flags, |set| blocking(move || node(&set))),
    ]
}

fn rules() -> R {
    passes(
        Command::new("python3").args(["-m", "unittest", "test_tidegate_switch"]).current_dir(source("clients/python")),
    )
}

/// The plan for a client and the folder that its processes share with it.
fn place(set: &ReplSet, id: &str, client: &str, adapt: impl Fn(String) -> String) -> Result<Place, String> {
    let client = source(client);
    let place = Place::new(set, id, PLAN, adapt)?;
    let text = std::fs::read_to_string(&place.plan).map_err(|e| e.to_string())?;
    let (client, folder) = (client.display().to_string(), place.file("switch").display().to_string());
    // As the pages say, before anything else.
    let (program, more) = if client.ends_with(".py") { ("python3", vec![]) } else { ("node", vec![&place.id]) };
    let made = Command::new(program).args([&client, "init", &folder]).args(more).status().map_err(|e| e.to_string())?;
    if !made.success() {
        return Err(format!("{program} {client} init: {made}"));
    }
    let text = text.replace("@CLIENT@", &client).replace("@FOLDER@", &folder);
    std::fs::write(&place.plan, text).map_err(|e| e.to_string())?;
    Ok(place)
}

fn goes_by_the_switch(place: &Place, set: &ReplSet, name: &str, process: &str) -> Result<Program, String> {
    let mut python = application(place, set, process, "run")?;
    let mut app = place.spawn(name, python.env("SWITCH", place.file("switch")))?;
    until("it goes by the switch", Duration::from_secs(60), || app.says("goes by the switch"))?;
    Ok(app)
}

/// Forward under both processes, one of which is killed and comes back; then back again while the other is killed in the middle of it.
fn there_and_back(set: &Arc<ReplSet>) -> R {
    let place = place(set, "pyswitch", "clients/python/tidegate_switch.py", |p| p)?;
    seeded(&place, set)?;
    let mut apps =
        vec![goes_by_the_switch(&place, set, "one", "app-1")?, goes_by_the_switch(&place, set, "two", "app-2")?];
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "full")?;
    if !apps[1].kill()? {
        return Err(format!("it had ended by itself: {}", apps[1].tail()));
    }
    // A process that died is asked about until it is back, or known to be gone.
    let mut back = goes_back(&place, "back", &["--take-over", "--reason", "orders are slow"])?;
    until("the dead process is named", Duration::from_secs(60), || {
        back.prints(|l| l["kind"] == "switch_settled" && l["body"]["ok"] == false && l.to_string().contains("app-2"))
    })?;
    apps[1] = goes_by_the_switch(&place, set, "two-again", "app-2")?;
    back.ends_with(3, LONG)?;
    run.ends_with(1, Duration::from_secs(30))?;
    let sum = back.summary()?;
    if sum["outcome"] != "rolled_back" || sum["writes"]["stray"] != 0 || sum["documents"]["differing"] != 0 {
        return Err(format!("{sum}"));
    }
    end(&place, set, &mut apps, "legacy")
}

/// Both processes end, are asked about no more, and everything that they were told holds.
fn end(place: &Place, set: &ReplSet, apps: &mut [Program], side: &'static str) -> R {
    apps.iter().try_for_each(|app| app.signal("TERM"))?;
    apps.iter_mut().try_for_each(|app| app.ends_with(0, Duration::from_secs(60)))?;
    let left = std::fs::read_dir(place.file("switch").join("follows")).map_err(|e| e.to_string())?.count();
    if left > 0 {
        return Err(format!("{left} processes are still asked about"));
    }
    let stored = finds(place, set, side)?;
    Notes::read(&["app-1", "app-2"].map(|p| place.file(&format!("{p}.log"))))?.judge(&stored, side)
}

/// The packages of the application in Node, installed once as its lock file says.
fn packages() -> Result<std::path::PathBuf, String> {
    let dir = mongod::target().join("node");
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    for name in ["package.json", "package-lock.json", "app.mjs"] {
        std::fs::copy(source("tests/mongo/node").join(name), dir.join(name)).map_err(|e| e.to_string())?;
    }
    if !dir.join("node_modules/mongodb").is_dir() {
        let npm =
            Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&dir).output();
        let npm = npm.map_err(|e| format!("this test needs node and npm: {e}"))?;
        if !npm.status.success() {
            return Err(format!("npm ci: {}", String::from_utf8_lossy(&npm.stderr)));
        }
    }
    Ok(dir)
}

fn goes_by_the_flags(place: &Place, set: &ReplSet, dir: &Path, name: &str, process: &str) -> Result<Program, String> {
    let mut node = Command::new("node");
    node.arg(dir.join("app.mjs")).args([&set.uri(), &place.id, &place.id, process]);
    node.arg(place.file(&format!("{process}.log"))).arg(place.file("switch"));
    let mut app = place.spawn(name, node.env("FLAGS_CLIENT", source("clients/node/tidegate_flags.mjs")))?;
    until("it goes by the flags", Duration::from_secs(60), || app.says("goes by the flags"))?;
    Ok(app)
}

/// Reads by percentage, then everything; then back at once. OpenFeature's own evaluation reads the file as tidegate means it.
fn node(set: &Arc<ReplSet>) -> R {
    let dir = packages()?;
    let place = place(set, "nodeflags", "clients/node/tidegate_flags.mjs", |p| {
        p.replace("mode = \"copy\"", "mode = \"flags\"\nflag_file = \"@FOLDER@/flags.json\"")
            .replace("switch = { command = [\"python3\", \"@CLIENT@\", \"turn\", \"@FOLDER@\"] }\n", "")
            .replace("\"python3\"", "\"node\"")
            .replace(
                "[[stage]]\nid = \"full\"",
                "[[stage]]\nid = \"some\"\nreads = 30\nsoak = \"3s\"\n[[stage]]\nid = \"full\"",
            )
    })?;
    seeded(&place, set)?;
    let mut apps = vec![
        goes_by_the_flags(&place, set, &dir, "one", "app-1")?,
        goes_by_the_flags(&place, set, &dir, "two", "app-2")?,
    ];
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "some")?;
    let file = place.file("switch").join("flags.json");
    let keys: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    let evaluate = |flag: &str| -> Result<Vec<String>, String> {
        let out =
            Command::new("node").arg(dir.join("app.mjs")).arg("evaluate").arg(&file).arg(flag).args(&keys).output();
        let out = out.map_err(|e| e.to_string())?;
        serde_json::from_slice(&out.stdout).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&out.stderr)))
    };
    let next = evaluate(&format!("{}-reads", place.id))?.iter().filter(|v| *v == "next").count();
    if !(80..=160).contains(&next) {
        return Err(format!("30 % of 400 keys are {next}"));
    }
    soaks(&mut run, "full")?;
    for flag in ["reads", "writes"] {
        if evaluate(&format!("{}-{flag}", place.id))?.iter().any(|v| v != "next") {
            return Err(format!("not every evaluation of {flag} is next"));
        }
    }
    let mut back = goes_back(&place, "back", &["--hard", "--take-over", "--reason", "orders are slow"])?;
    back.ends_with(3, LONG)?;
    run.ends_with(1, Duration::from_secs(30))?;
    let shares: Vec<Value> = Notes::read(&["app-1", "app-2"].map(|p| place.file(&format!("{p}.log"))))?.lines;
    // Of stage `some`: who reads from the copy there is below its share.
    let copied = shares.iter().filter(|l| l["side"] == "next" && l["owned"] == false);
    let some = copied.filter(|l| l["share"].as_i64().is_some_and(|n| n < 30)).count();
    let wide = shares.iter().filter(|l| l["side"] == "legacy" && l["share"].as_i64().is_some_and(|n| n >= 30)).count();
    if some < 20 || wide < 20 {
        return Err(format!("{some} reads came from the copy at 30 %, {wide} from legacy"));
    }
    end(&place, set, &mut apps, "legacy")
}
