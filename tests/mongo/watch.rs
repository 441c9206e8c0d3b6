//! Two terminals on a real server: one runs a rollout, the others look on and ask.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use mongodb::bson::{Document, doc};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use serde_json::Value;

use super::conformance::ensure;
use super::program::{Place, Program, until};
use super::replset::PASSWORD;
use super::{R, ReplSet, TOKIO, mongod, on_shared};

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
steps = [{ rename = "customer.name", to = "customer_name" }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "1s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "10m"
"#;

const LONG: Duration = Duration::from_secs(60);

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("watch::a_second_terminal_sees_steers_amends_and_outlives_the_runner", |set| async move {
            tokio::task::spawn_blocking(move || steered(&set)).await.map_err(|e| e.to_string())?
        }),
        on_shared("watch::a_rollout_is_handed_over_to_a_process_without_a_screen", |set| async move {
            tokio::task::spawn_blocking(move || handed_over(&set)).await.map_err(|e| e.to_string())?
        }),
        Trial::test("watch::a_user_who_may_only_read_looks_on_and_is_refused", || looks_on().map_err(Failed::from)),
    ]
}

/// A place with some documents of legacy.
fn place(set: &ReplSet, id: &str, uri: String) -> Result<Place, String> {
    let mut place = Place::new(set, id, PLAN, |text| text)?;
    place.connects_as(uri.clone());
    TOKIO
        .block_on(async {
            let orders = mongodb::Client::with_uri_str(&uri).await?.database(id).collection::<Document>("orders");
            orders.insert_many((0..50).map(|n| doc! { "_id": n, "customer": { "name": format!("Cust {n}") } })).await
        })
        .map_err(|e| e.to_string())?;
    Ok(place)
}

fn is(kind: &str) -> impl Fn(&Value) -> bool + '_ {
    move |line| line["kind"] == kind
}

/// What a command that ends by itself printed as its last line.
fn ends(mut program: Program, code: i32) -> Result<Value, String> {
    program.ends_with(code, LONG)?;
    program.lines().pop().ok_or_else(|| program.tail())
}

fn steered(set: &Arc<ReplSet>) -> R {
    let place = place(set, "watched", set.uri())?;
    let mut nobody = place.start("nobody", "watch", &["--headless"])?;
    nobody.ends_with(1, LONG)?;
    let said = nobody.stderr();
    ensure!(said.contains("has never been run on this cluster"), "{said}");

    let args = ["--headless", "--json", "--advance", "auto", "--journal", "anna.jsonl", "--as", "anna@bridge"];
    let mut run = place.start("run", "run", &args)?;
    let mut watch = place
        .start("watch", "watch", &["--headless", "--json"])
        .and_then(|w| until("the lease is there", LONG, || run.prints(is("started"))).map(|_| w))?;
    until("the second stage soaks", LONG, || {
        run.running()?;
        let soaks = run.lines().iter().filter(|l| l["kind"] == "soak_began").count();
        Ok((soaks >= 2).then_some(()))
    })?;
    // It may have looked before there was anything to see.
    if watch.running().is_err() {
        watch = place.start("watch", "watch", &["--headless", "--json"])?;
    }
    let seen = until("the watcher sees it soak", LONG, || {
        watch.prints(|l| {
            l["kind"] == "snapshot"
                && l["snapshot"]["phase"] == "soaking"
                && l["snapshot"]["route"]["writes_next_below"] == 512
        })
    })?;
    let fresh = seen["age_ms"].as_u64().is_some_and(|ms| ms < 5_000) && seen["absent"].is_null();
    ensure!(fresh && seen["lease"]["holder"] == "anna@bridge", "{seen}");

    let asked = ends(place.start("pause", "watch", &["--ask", "pause", "--as", "bob", "--json"])?, 0)?;
    ensure!(asked["state"] == "applied", "{asked}");
    let paused = until("the runner pauses", LONG, || run.prints(is("paused")))?;
    ensure!(paused["by"] == "operator:bob", "{paused}");
    let refused = ends(place.start("advance", "watch", &["--ask", "advance", "--as", "bob", "--json"])?, 1)?;
    ensure!(refused["why"].as_str().is_some_and(|w| w.starts_with("paused: ")), "{refused}");

    on_screen(set, &place)?;
    let continued = until("the runner goes on", LONG, || run.prints(is("continued")))?;
    ensure!(continued["by"] == "operator:carol", "{continued}");

    let amended = PLAN.replace("orders-v2", "watched").replace("\"shop.", "\"watched.").replace("10m", "9m");
    std::fs::write(&place.plan, amended).map_err(|e| e.to_string())?;
    let said = ends(place.start("amend", "amend", &["--reason", "enough", "--as", "bob", "--json"])?, 0)?;
    ensure!(said["state"] == "applied" && said["changes"][0] == "stage half: soak 10m00s -> 9m00s", "{said}");
    let record = until("the runner journals it", LONG, || run.prints(is("amended")))?;
    ensure!(record["by"] == "operator:bob" && record["body"]["reason"] == "enough", "{record}");
    until("it is taken up again", LONG, || {
        watch.prints(|l| l["kind"] == "snapshot" && l["epoch"] == 2 && l["snapshot"]["phase"] == "soaking")
    })?;

    let status = ends(place.start("status", "status", &["--json"])?, 0)?;
    let stands = status["phase"] == "soaking" && status["stage"] == "half" && status["writes_percent"] == 50.0;
    ensure!(stands && status["lease"]["held"] == true && status["way_back"]["open"] == true, "{status}");

    let stopped = ends(place.start("stop", "watch", &["--ask", "stop", "--json"])?, 0)?;
    ensure!(stopped["state"] == "applied", "{stopped}");
    run.ends_with(4, LONG)?;
    until("the watcher says so", LONG, || {
        watch.prints(|l| {
            l["kind"] == "absent" && l["why"].as_str().is_some_and(|w| w.starts_with("stopped at a safe point"))
        })
    })?;
    let status = ends(place.start("status-after", "status", &["--json"])?, 0)?;
    ensure!(status["lease"]["held"] == false && status["gates"].is_null() && status["phase"] == "soaking", "{status}");
    let nobody = ends(place.start("late", "watch", &["--ask", "pause", "--json"])?, 1)?;
    ensure!(nobody["why"].as_str().is_some_and(|w| w.starts_with("nobody runs it")), "{nobody}");
    watch.signal("TERM")?;
    watch.ends_with(0, LONG)
}

/// A program in a pseudo-terminal.
pub struct Pty {
    child: Box<dyn portable_pty::Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// `None` once the terminal is gone.
    terminal: Option<Terminal>,
}

/// What holds a terminal open.
struct Terminal {
    keys: Box<dyn Write + Send>,
    reading: std::thread::JoinHandle<()>,
    /// The reading thread is to let go.
    let_go: Arc<AtomicBool>,
    _master: Box<dyn portable_pty::MasterPty + Send>,
}

impl Pty {
    pub fn start(set: &ReplSet, place: &Place, args: &[&str]) -> Result<Pty, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let size = PtySize { rows: 36, cols: 120, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).map_err(|e| text(&e))?;
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(args);
        command.cwd(place.plan.parent().ok_or("no directory")?);
        command.env("TIDEGATE_URI", set.uri());
        command.env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8");
        let child = pty.slave.spawn_command(command).map_err(|e| text(&e))?;
        drop(pty.slave);
        let (rows, columns) = (NonZeroU16::new(36).ok_or("rows")?, NonZeroU16::new(120).ok_or("columns")?);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let parser = screen.clone();
        let let_go = Arc::new(AtomicBool::new(false));
        let told = let_go.clone();
        let mut reader = pty.master.try_clone_reader().map_err(|e| text(&e))?;
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                parser.lock().unwrap().process(&buffer[..n]);
                if told.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let keys = pty.master.take_writer().map_err(|e| text(&e))?;
        let terminal = Some(Terminal { keys, reading, let_go, _master: pty.master });
        Ok(Pty { child, screen, terminal })
    }

    fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub fn shows(&self, what: &str) -> R {
        let seen = until(what, LONG, || Ok(self.contents().contains(what).then_some(())));
        seen.map_err(|e| format!("{e}, the screen is\n{}", self.contents()))
    }

    fn press(&mut self, keys: &str) -> R {
        let keyboard = &mut self.terminal.as_mut().ok_or("the terminal is gone")?.keys;
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).map_err(|e| e.to_string())
    }

    /// The terminal goes away, as when a window is closed or a line breaks.
    pub fn lose(&mut self) -> R {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        terminal.let_go.store(true, Ordering::SeqCst);
        // The reading thread holds it open too, until it has read once more.
        self.press("?")?;
        let Some(terminal) = self.terminal.take() else { return Ok(()) };
        terminal.reading.join().map_err(|_| "the reading thread has panicked".to_owned())
    }

    /// True while it has not ended.
    pub fn is_running(&mut self) -> Result<bool, String> {
        self.child.try_wait().map(|ended| ended.is_none()).map_err(|e| e.to_string())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> R {
        let pid = self.child.process_id().ok_or("no process")?.to_string();
        let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status().map_err(|e| e.to_string())?;
        let ended = self.child.wait().map_err(|e| e.to_string())?;
        if killed.success() { Ok(()) } else { Err(format!("it had ended by itself: {ended:?}")) }
    }

    /// Ends by itself, with success.
    fn leaves(&mut self) -> R {
        let left = until("it leaves", LONG, || self.child.try_wait().map_err(|e| e.to_string()))?;
        if left.success() { Ok(()) } else { Err(format!("{left:?}, the screen is\n{}", self.contents())) }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        super::canary::look("the screen of a terminal", self.contents().as_bytes());
        // A failed test leaves it running.
        let _ = self.child.kill();
    }
}

/// The dashboard of a second terminal: it continues what is paused, and leaves.
fn on_screen(set: &ReplSet, place: &Place) -> R {
    let mut t = Pty::start(set, place, &["watch", "plan.toml", "--as", "carol"])?;
    t.shows("WATCHING")?;
    t.shows("PAUSED")?;
    t.press("C")?;
    t.shows("CONTINUE?")?;
    t.press("\r")?;
    t.shows("CONTINUE requested -> accepted -> applied")?;
    t.shows("SOAKING")?;
    t.press("q")?;
    t.leaves()
}

/// The runner goes on in a process of its own when its operator leaves; another terminal ends that.
fn handed_over(set: &Arc<ReplSet>) -> R {
    let place = place(set, "handed", set.uri())?;
    let mut t =
        Pty::start(set, &place, &["run", "plan.toml", "--advance", "auto", "--as", "anna", "--journal", "j.jsonl"])?;
    t.shows("HALF")?;
    t.shows("SOAKING")?;
    t.press("q")?;
    t.shows("H hands over")?;
    t.press("H")?;
    t.leaves()?;
    t.shows("handed over to process")?;
    let status = ends(place.start("status", "status", &["--json"])?, 0)?;
    let taken = status["lease"]["held"] == true && status["lease"]["epoch"] == 2 && status["lease"]["holder"] == "anna";
    ensure!(taken, "{status}");
    let mut stopped = place.start("stop", "watch", &["--ask", "stop", "--json"])?;
    if stopped.wait(LONG)? != 0 {
        // It had the lease, and had published nothing yet.
        stopped = place.start("stop-again", "watch", &["--ask", "stop", "--json"])?;
    }
    let said = ends(stopped, 0)?;
    ensure!(said["state"] == "applied", "{said}");
    let log = std::fs::read_to_string(place.file("handed.log")).map_err(|e| e.to_string())?;
    ensure!(log.contains("stopped at a safe point"), "{log}");
    Ok(())
}

/// With authorization on: who may only read sees everything, and learns why nothing is asked.
fn looks_on() -> R {
    let set = TOKIO.block_on(ReplSet::start_locked(&mongod::find()?))?;
    let root = set.uri_of("root");
    let mut place = place(&set, "looked", root.clone())?;
    let user = doc! { "createUser": "reader", "pwd": PASSWORD, "roles": [{ "role": "read", "db": "tidegate" }] };
    let made =
        TOKIO.block_on(async { mongodb::Client::with_uri_str(&root).await?.database("admin").run_command(user).await });
    made.map_err(|e| e.to_string())?;
    let mut run = place.start("run", "run", &["--headless", "--json", "--journal", "j.jsonl", "--as", "anna"])?;
    until("it soaks", LONG, || run.prints(is("soak_began")))?;
    place.connects_as(set.uri_of("reader"));
    let mut watch = place.start("watch", "watch", &["--headless", "--json"])?;
    until("the reader sees it", LONG, || watch.prints(|l| l["kind"] == "snapshot" && l["lease"]["holder"] == "anna"))?;
    let mut asking = place.start("pause", "watch", &["--ask", "pause"])?;
    asking.ends_with(1, LONG)?;
    let said = asking.tail();
    ensure!(said.contains("this user may look on, but not ask") && !said.contains(PASSWORD), "{said}");
    let status = ends(place.start("status", "status", &["--json"])?, 0)?;
    ensure!(status["lease"]["holder"] == "anna" && status["begun"] == true, "{status}");
    ensure!(run.lines().iter().all(|l| l["kind"] != "paused" && l["kind"] != "command_asked"), "{}", run.tail());
    Ok(())
}
