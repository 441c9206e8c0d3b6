//! A whole rollout that a Python script carries out, observed by a user with read-only rights, with authorization on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::conformance::ensure;
use super::program::{Place, until};
use super::pymongo::python;
use super::replset::PASSWORD;
use super::{R, ReplSet, TOKIO, mongod, on_its_own};

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "observe"
max_staleness = "20s"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ convert = "total", from = "string", to = "decimal" }, { set = "schema_version", value = 2 }]
indexes = [{ keys = { status = 1 }, name = "by_status" }]
[[query]]
name = "open orders"
legacy = '{ "status": "open" }'
next = '{ "status": "open" }'
[[hook]]
id = "note"
on = ["completed"]
command = ["touch", "called"]
[[stage]]
id = "copied"
reached = ["reconciled", "indexes"]
soak = "2s"
advance = "auto"
[[stage.gate]]
metric = "lag.apply"
max = "30s"
window = "10s"
for = "2s"
[[stage]]
id = "watched"
soak = "3s"
[[stage.gate]]
metric = "reconcile.missing"
max = 0
window = "10s"
for = "2s"
[[stage.gate]]
metric = "reconcile.differing"
max = 0
window = "10s"
for = "2s"
[[stage.gate]]
metric = "latency.write.p50"
side = "legacy"
max = "5s"
window = "10s"
min_samples = 20
"#;

const SCRIPT: &str = include_str!("observe_migrate.py");
const LONG: Duration = Duration::from_secs(60);

pub fn trials() -> Vec<Trial> {
    vec![
        on_its_own("observe::a_script_migrates_300_orders_and_a_read_only_user_sees_it_through", || {
            observed(300, 2_000)
        }),
        on_its_own("observe::a_script_migrates_20_000_orders_and_a_read_only_user_sees_it_through", || {
            observed(20_000, 60_000)
        }),
    ]
}

/// The other tool; killed when dropped.
struct Tool {
    child: Child,
    commands: Option<ChildStdin>,
    out: PathBuf,
}

impl Tool {
    fn start(dir: &Path, uri: &str, database: &str) -> Result<Tool, String> {
        let script = dir.join("observe_migrate.py");
        std::fs::write(&script, SCRIPT).map_err(|e| e.to_string())?;
        let out = dir.join("tool.out");
        let file = std::fs::File::create(&out).map_err(|e| e.to_string())?;
        let mut child = python()?
            .arg(&script)
            .args([uri, database])
            .stdin(Stdio::piped())
            .stderr(file.try_clone().map_err(|e| e.to_string())?)
            .stdout(file)
            .spawn()
            .map_err(|e| format!("python3: {e}"))?;
        let commands = child.stdin.take();
        Ok(Tool { child, commands, out })
    }

    fn says(&mut self, what: &str) -> R {
        let said = || std::fs::read_to_string(&self.out).unwrap_or_default();
        let seen = until(what, LONG, || match self.child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if !said().contains(what) => Err(format!("the script ended with {status}: {}", said())),
            _ => Ok(said().contains(what).then_some(())),
        });
        seen.map_err(|e| format!("{e}: {}", said()))
    }

    fn tell(&mut self, command: &str) -> R {
        let to = self.commands.as_mut().ok_or("the script has ended")?;
        writeln!(to, "{command}").and_then(|()| to.flush()).map_err(|e| e.to_string())
    }

    fn end(&mut self) -> R {
        self.commands = None;
        self.says("ended")
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn order(n: i32) -> Document {
    doc! { "_id": n, "total": format!("{n}.50"), "status": if n % 3 == 0 { "open" } else { "paid" } }
}

/// What of the cluster's oplog this user of this connection name wrote: everything but what is expected of others.
async fn written(root: &Client, since: mongodb::bson::Timestamp, id: &str) -> Result<Vec<Document>, String> {
    let say = |e: mongodb::error::Error| e.to_string();
    let others = doc! { "$nin": [format!("{id}.orders"), format!("{id}.orders_v2"), "", "config.system.sessions", "config.transactions"] };
    let filter = doc! { "ts": { "$gt": since }, "ns": others, "op": { "$ne": "n" } };
    let oplog = root.database("local").collection::<Document>("oplog.rs");
    let mut found = oplog.find(filter).await.map_err(say)?;
    let mut all = Vec::new();
    while found.advance().await.map_err(say)? {
        let d = found.deserialize_current().map_err(say)?;
        // Made and indexed by the script; a transaction, which nobody makes here, stands under `admin`.
        let ns = d.get_str("ns").unwrap_or_default().to_owned();
        let transaction = d.get_document("o").is_ok_and(|o| o.contains_key("applyOps"));
        if transaction || ns != format!("{id}.$cmd") && !ns.starts_with("config.") && !ns.starts_with("admin.") {
            all.push(d);
        }
    }
    Ok(all)
}

fn observed(documents: i32, pause_ms: u64) -> R {
    let set = TOKIO.block_on(ReplSet::start_locked(&mongod::find()?))?;
    let say = |e: mongodb::error::Error| e.to_string();
    let id = "observed";
    let root_uri = set.uri_of("root");
    let root = TOKIO.block_on(Client::with_uri_str(&root_uri)).map_err(say)?;
    let orders = root.database(id).collection::<Document>("orders");
    let mut place = Place::new(&set, id, PLAN, |text| text)?;
    let dir = place.plan.parent().ok_or("no directory")?.to_owned();

    // The printed role is enough, and holds nothing that writes.
    let printed = place.start("role", "check", &["--role", "--json"]).and_then(|mut p| {
        p.ends_with(0, LONG)?;
        p.lines().first().map(|l| l["command"].clone()).ok_or_else(|| p.tail())
    })?;
    let writes = ["insert", "update", "remove", "createCollection", "createIndex", "collMod", "renameCollectionSameDB"];
    ensure!(writes.iter().all(|w| !printed.to_string().contains(&format!("\"{w}\""))), "{printed}");
    let role = mongodb::bson::Bson::try_from(printed).map_err(|e| e.to_string())?;
    let role = role.as_document().ok_or("the role is no document")?.clone();
    let name = role.get_str("createRole").map_err(|e| e.to_string())?.to_owned();
    let since = TOKIO.block_on(async {
        orders.insert_many((0..documents).map(order)).await?;
        let admin = root.database("admin");
        admin.run_command(role).await?;
        let user = doc! { "createUser": "looker", "pwd": PASSWORD, "roles": [&name] };
        admin.run_command(user).await?;
        // Every operation of everybody, with its user.
        let kept = doc! { "create": "system.profile", "capped": true, "size": 256 << 20 };
        root.database(id).run_command(kept).await?;
        root.database(id).run_command(doc! { "profile": 2 }).await?;
        let hello = admin.run_command(doc! { "hello": 1 }).await?;
        Ok::<_, mongodb::error::Error>(hello.get_timestamp("operationTime").map_err(|e| e.to_string()))
    });
    let since = since.map_err(say)??;
    place.connects_as(set.uri_of("looker"));
    let mut checked = place.start("check", "check", &["--json"])?;
    checked.ends_with(0, LONG)?;
    let failed: Vec<_> =
        checked.lines().into_iter().filter(|l| l["verdict"] == "fail" || l["verdict"] == "warn").collect();
    ensure!(failed.is_empty(), "{failed:?}; {}", checked.tail());

    let mut run = place.run("run", "j.jsonl")?;
    until("it waits for the copy", LONG, || run.prints(|l| l["kind"] == "task_held"))?;
    // A second one has the same file, and is refused.
    let mut second = place.start("second", "resume", &["--headless", "--journal", "j.jsonl"])?;
    second.ends_with(1, LONG)?;
    ensure!(second.stderr().contains("is in use"), "{}", second.tail());
    for (command, args) in [("rollback", &[][..]), ("status", &[]), ("cleanup", &[]), ("amend", &["--reason", "x"])] {
        let mut refused = place.start(command, command, args)?;
        refused.ends_with(2, LONG)?;
        ensure!(refused.stderr().contains("only observes"), "{}", refused.tail());
    }

    let writing = orders.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let application = TOKIO.spawn(async move {
        for n in 0_i32.. {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let key = if n % 4 == 0 { 100_000 + n % 50 } else { n % 250 };
            let done = match n % 11 {
                5 => writing.delete_one(doc! { "_id": key }).await.map(drop),
                _ => {
                    let mut order = order(key);
                    order.insert("total", format!("{n}.25"));
                    writing.replace_one(doc! { "_id": key }, order).upsert(true).await.map(drop)
                }
            };
            done.map_err(|e| e.to_string())?;
            if stopped.try_recv() != Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                return Ok::<i32, String>(n);
            }
        }
        Ok(0)
    });
    let mut tool = Tool::start(&dir, &root_uri, id)?;
    tool.says("copied")?;
    until("both sides were compared", LONG * 2, || run.prints(|l| l["kind"] == "soak_began"))?;
    // The tool makes a mistake: one document, which nobody writes again.
    let copy = root.database(id).collection::<Document>("orders_v2");
    let status = |status: &str| {
        let (copy, set) = (copy.clone(), doc! { "$set": { "status": status } });
        TOKIO.block_on(async move { copy.update_one(doc! { "_id": documents - 1 }, set).await }).map_err(say)
    };
    status("lost")?;
    until("the stage that looks for it begins to soak", LONG, || {
        Ok((run.running().map(|()| run.lines().iter().filter(|l| l["kind"] == "soak_began").count())? == 2)
            .then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(6));
    run.running()?;
    ensure!(!run.lines().iter().any(|l| l["kind"] == "completed"), "{}", run.tail());
    // The observer dies, and the tool stands still for a while: neither depends on the other.
    run.kill()?;
    tool.tell("pause")?;
    let mut resumed = place.resume("resumed", "j.jsonl", &[])?;
    std::thread::sleep(Duration::from_millis(pause_ms));
    resumed.running()?;
    tool.tell("follow")?;
    status(if (documents - 1) % 3 == 0 { "open" } else { "paid" })?;
    resumed.ends_with(0, LONG * 2)?;
    let summary = resumed.summary()?;
    ensure!(summary["outcome"] == "completed", "{summary}");
    ensure!(summary["documents"]["missing"] == 0 && summary["documents"]["differing"] == 0, "{summary}");
    ensure!(place.file("called").exists(), "the hook was not called: {}", resumed.tail());
    let _ = stop.send(());
    let n = TOKIO.block_on(application).map_err(|e| e.to_string())??;
    ensure!(n > 100, "the application wrote {n} times only");
    // What was written last is carried before the tool goes.
    std::thread::sleep(Duration::from_secs(2));
    tool.end()?;
    let verify = place.start("verify", "verify", &["--json"]).and_then(|mut v| v.ends_with(0, LONG).map(|()| v))?;
    ensure!(verify.lines().iter().any(|l| l["clean"] == true), "{}", verify.tail());

    let strange = TOKIO.block_on(written(&root, since, id))?;
    ensure!(strange.is_empty(), "written: {strange:?}");
    let names = TOKIO.block_on(async { root.list_database_names().await }).map_err(say)?;
    ensure!(!names.iter().any(|n| n == "tidegate"), "{names:?}");
    let of_looker = doc! { "user": "looker@admin", "op": { "$in": ["insert", "update", "remove"] } };
    let profile = root.database(id).collection::<Document>("system.profile");
    let (wrote, looked) = TOKIO
        .block_on(async {
            let wrote = profile.count_documents(of_looker).await?;
            Ok::<_, mongodb::error::Error>((wrote, profile.count_documents(doc! { "user": "looker@admin" }).await?))
        })
        .map_err(say)?;
    ensure!(wrote == 0 && looked > 0, "{wrote} writes of the observer's, {looked} operations");
    let journal =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["journal", "verify"]).arg(place.file("j.jsonl")).output();
    let journal = journal.map_err(|e| e.to_string())?;
    ensure!(journal.status.success(), "{}", String::from_utf8_lossy(&journal.stderr));
    Ok(())
}
