//! Modes `copy` and `flags`: applications that know no route go by a switch of their own, which hooks turn and ask about. Simulated, with
//! hooks that are slow, fail half-way or hang, runners that die, and every way to end: nothing is lost, and nobody reads what is old.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{ClusterTime, Db, Doc, Key, Ns, WriteOp};
use tidegate::engine::planted::{Bug, Planted};
use tidegate::engine::{self, Deps, Engine};
use tidegate::hooks::{Attempt, Call, Caller, Hooks, Keep};
use tidegate::journal::{MemStore, show};
use tidegate::plan::{Advance, Mode, Plan};
use tidegate::route::Side;
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Fut, Group, Micros, Rt, sleep};
use tidegate::snapshot::{Command, Phase};

/// Processes of the application, writers of each, keys of each writer.
const PROCESSES: usize = 3;
const WRITERS: usize = 2;
const KEYS: i64 = 12;
/// Draw stream of everything here.
const DRAWS: u32 = 0x7377_6974;

/// `file` is mode `flags` where the file is all there is.
fn plan(mode: &str) -> Arc<Plan> {
    let switch = "switch = { command = [\"./switch.sh\"], timeout = \"3s\" }\n";
    let switch = if mode == "file" { "" } else { switch };
    let (mode, route, stages) = match mode {
        "flags" | "file" => (
            "flags",
            "flag_file = \"/srv/orders.json\"\n",
            "[[stage]]\nid = \"some\"\nreads = 30\nsoak = \"1s\"\n[[stage]]\nid = \"read\"\nreads = 100\nsoak = \"1s\"\n",
        ),
        _ => (mode, "", ""),
    };
    let text = format!(
        "schema = 1\n[plan]\nid = \"told\"\n[cluster]\nenvironment = \"simulation\"\n[route]\nmode = \"{mode}\"\n{route}\
         [cutover]\nfreeze_max = \"8s\"\n\
         [hooks]\n{switch}confirm = {{ command = [\"./confirm.sh\"], timeout = \"2s\" }}\n\
         [[collection]]\nlegacy = \"shop.orders\"\nnext = \"shop.orders_v2\"\nsteps = [{{ set = \"schema_version\", value = 2 }}]\n\
         [[stage]]\nid = \"copy\"\ndo = [\"create\", \"backfill\"]\nsoak = \"1s\"\n{stages}\
         [[stage]]\nid = \"full\"\nreads = 100\nwrites = 100\nsoak = \"3s\"\n\
         [[stage]]\nid = \"contract\"\ndo = [\"quarantine-legacy\"]\nirreversible = true\n"
    );
    Arc::new(Plan::parse(&text, "told.toml").unwrap_or_else(|e| panic!("{}", e.render(false))))
}

/// What one process goes by.
#[derive(Clone, Debug, Default)]
struct Stance {
    epoch: i64,
    reads: u64,
    held: bool,
    side: usize,
    /// Writes under way, by the epoch under which they were begun.
    busy: BTreeMap<i64, usize>,
}

/// The application, the switch and the question in one: the outermost edge.
struct App {
    rt: Rt,
    plan: Arc<Plan>,
    processes: Vec<Mutex<Stance>>,
    calls: AtomicU64,
    /// Hooks fail, are slow, or hang.
    rough: bool,
    file: Mutex<Option<Value>>,
    told: Mutex<Vec<(String, u64)>>,
    /// Until when a process hears nothing: it stands still, or is dead and comes back.
    deaf: Mutex<(usize, Micros)>,
    over: AtomicBool,
    wrong: Mutex<Vec<String>>,
    /// By key, the last write that was acknowledged, where, and when in that cluster's time.
    acknowledged: Mutex<BTreeMap<i64, (i64, usize, ClusterTime)>>,
}

impl App {
    fn draw(&self, entity: u64, n: u64) -> u64 {
        self.rt.draw(DRAWS, entity, n)
    }

    fn says(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Process `p` hears of it after a while, unless it has heard of something newer.
    fn hear(self: &Arc<App>, p: usize, n: u64, (epoch, reads, writes): (i64, u64, String)) {
        let app = self.clone();
        self.rt.spawn(
            Group(9),
            "hear",
            Box::pin(async move {
                sleep(&app.rt, Micros::from_ms(app.draw(n, 7 + p as u64) % 900)).await;
                let (who, until) = *app.deaf.lock().unwrap();
                if who == p && until > app.rt.now() {
                    sleep(&app.rt, until.since(app.rt.now())).await;
                }
                let mut s = app.processes[p].lock().unwrap();
                if epoch > s.epoch || (epoch == s.epoch && s.epoch > 0) {
                    (s.epoch, s.reads, s.held) = (epoch, reads, writes == "held");
                    if writes != "held" {
                        s.side = usize::from(writes == "next");
                    }
                }
            }),
        );
    }

    fn follows(&self, epoch: i64) -> bool {
        self.processes.iter().all(|s| {
            let s = s.lock().unwrap();
            s.epoch >= epoch && s.busy.range(..epoch).all(|(_, n)| *n == 0)
        })
    }

    /// A write may begin: under which epoch, and where.
    fn begin(&self, p: usize) -> Option<(i64, usize)> {
        let mut s = self.processes[p].lock().unwrap();
        if s.held {
            return None;
        }
        let epoch = s.epoch;
        *s.busy.entry(epoch).or_default() += 1;
        Some((epoch, s.side))
    }

    fn end(&self, p: usize, epoch: i64) {
        if let Some(n) = self.processes[p].lock().unwrap().busy.get_mut(&epoch) {
            *n -= 1;
        }
    }
}

struct Edge(Arc<App>);

impl Caller for Edge {
    fn call<'a>(&'a self, rt: &'a Rt, call: &'a Call) -> Fut<'a, Attempt> {
        let app = &self.0;
        let n = app.calls.fetch_add(1, Ordering::SeqCst);
        let body: Value = serde_json::from_str(&call.body).unwrap();
        let (epoch, reads) = (body["epoch"].as_i64().unwrap(), body["reads"].as_u64().unwrap());
        let writes = body["writes"].as_str().unwrap().to_owned();
        Box::pin(async move {
            let fate = if app.rough { app.draw(n, 1) % 12 } else { 11 };
            let bad = |why: &str| Attempt { outcome: why.into(), again: true, ..Attempt::default() };
            let good = Attempt { ok: true, outcome: "exit code 0".into(), ..Attempt::default() };
            if call.on == "confirm" {
                if fate == 0 {
                    sleep(rt, call.hook.timeout).await;
                    return bad("killed: it had not ended in time");
                }
                sleep(rt, Micros::from_ms(20)).await;
                return if app.follows(epoch) { good } else { bad("exit code 1") };
            }
            match (writes.as_str(), reads, app.plan.mode.name()) {
                ("next", r, _) if r != 100 => app.says(format!("writes next, reads {r}")),
                ("legacy", r, "copy") if r != 0 => app.says(format!("writes legacy, reads {r}")),
                _ => {}
            }
            let some = match fate {
                0 => 0,
                1 => 1,
                _ => PROCESSES,
            };
            for p in 0..some {
                app.hear(p, n, (epoch, reads, writes.clone()));
            }
            app.told.lock().unwrap().push((writes, reads));
            sleep(rt, Micros::from_ms(app.draw(n, 2) % 400)).await;
            match fate {
                0 | 1 => bad("exit code 1"),
                2 => {
                    sleep(rt, call.hook.timeout).await;
                    bad("killed: it had not ended in time")
                }
                _ => good,
            }
        })
    }

    fn keep<'a>(&'a self, rt: &'a Rt, file: Keep<'a>) -> Fut<'a, Result<(), String>> {
        let app = &self.0;
        Box::pin(async move {
            assert_eq!((file.path, file.set), ("/srv/orders.json", "tidegate/told"));
            let n = app.calls.fetch_add(1, Ordering::SeqCst);
            sleep(rt, Micros::from_ms(app.draw(n, 3) % 50)).await;
            if app.rough && app.draw(n, 4).is_multiple_of(10) {
                return Err("no space left on device".into());
            }
            let text: Value = serde_json::from_str(&file.text).unwrap();
            let reads = &text["flags"]["told-reads"];
            let split = reads["targeting"]["fractional"][1][1].as_u64();
            let reads = split.unwrap_or(if reads["defaultVariant"] == "next" { 100 } else { 0 });
            let writes = text["flags"]["told-writes"]["defaultVariant"].as_str().unwrap().to_owned();
            *app.file.lock().unwrap() = Some(text);
            if app.plan.switch.as_ref().is_some_and(|s| s.switch.is_none()) {
                for p in 0..PROCESSES {
                    app.hear(p, n, (file.epoch, reads, writes.clone()));
                }
                app.told.lock().unwrap().push((writes, reads));
            }
            Ok(())
        })
    }
}

/// What was acknowledged: the number of the last write of each key, `None` once it is deleted.
type Oracle = Arc<Mutex<BTreeMap<i64, Option<i64>>>>;

fn number(doc: Option<&Doc>) -> Option<i64> {
    doc.map(|d| d.get_i64("n").unwrap())
}

fn ns_of(plan: &Plan, side: Side) -> Ns {
    let c = &plan.collections[0];
    if side == Side::Legacy { c.legacy.clone() } else { c.next.clone() }
}

/// One writer: nobody else touches its keys, so that what it reads at the owner must be what it wrote.
async fn write_on(app: Arc<App>, dbs: [Db; 2], oracle: Oracle, writer: usize) {
    let p = writer / WRITERS;
    let ns = Side::BOTH.map(|s| ns_of(&app.plan, s));
    let (mut seq, mut at) = (0, [ClusterTime::ZERO; 2]);
    while !app.over.load(Ordering::SeqCst) {
        seq += 1;
        sleep(&app.rt, Micros::from_ms(5 + app.draw(writer as u64, 1_000 + seq as u64) % 30)).await;
        let Some((epoch, side)) = app.begin(p) else { continue };
        let key = writer as i64 * KEYS + (app.draw(writer as u64, 500_000 + seq as u64) % KEYS as u64) as i64;
        let expected = oracle.lock().unwrap().get(&key).copied().flatten();
        let k = [Key::from(key)];
        if let Ok(read) = dbs[side].read(&ns[side], &k, at[side]).await
            && number(read.docs[0].as_ref()) != expected
        {
            let found = number(read.docs[0].as_ref());
            app.says(format!("{key} at {:?} on side {side}: read {found:?}, written {expected:?}", app.rt.now()));
        }
        let delete = app.draw(writer as u64, 900_000 + seq as u64).is_multiple_of(8);
        let mut doc = bson::rawdoc! { "_id": key, "n": seq };
        if side == 1 {
            doc.append(bson::cstr!("schema_version"), 2);
        }
        let key_of = k[0].clone();
        let op = match delete {
            true => WriteOp::Delete { ns: ns[side].clone(), key: key_of, only_if: None },
            false => WriteOp::Replace { ns: ns[side].clone(), key: key_of, only_if: None, doc, upsert: true },
        };
        loop {
            match dbs[side].write(&op).await {
                Ok(written) => {
                    at[side] = at[side].max(written.at);
                    oracle.lock().unwrap().insert(key, (!delete).then_some(seq));
                    app.acknowledged.lock().unwrap().insert(key, (seq, side, written.at));
                    break;
                }
                Err(e) if e.is_transient() => sleep(&app.rt, Micros::from_ms(20)).await,
                Err(e) => {
                    app.says(format!("a write of {key} on side {side} is refused: {e}"));
                    break;
                }
            }
        }
        app.end(p, epoch);
    }
}

/// Reads what others write, where the switch says. With one switch for both, nobody reads what is older than what was acknowledged before.
async fn read_on(app: Arc<App>, dbs: [Db; 2], p: usize) {
    let ns = Side::BOTH.map(|s| ns_of(&app.plan, s));
    let mut n = 0;
    while app.plan.mode == Mode::Copy && !app.over.load(Ordering::SeqCst) {
        n += 1;
        let draw = app.draw(700 + p as u64, n);
        sleep(&app.rt, Micros::from_ms(3 + draw % 17)).await;
        let key = (draw >> 8) as i64 % (KEYS * (PROCESSES * WRITERS) as i64);
        let last = app.acknowledged.lock().unwrap().get(&key).copied();
        let (last, wrote, at) = last.unwrap_or((0, 0, ClusterTime::ZERO));
        let side = usize::from(app.processes[p].lock().unwrap().reads == 100);
        // Not before what the cluster has acknowledged, where that was this one.
        let at = if side == wrote { at } else { ClusterTime::ZERO };
        let Ok(read) = dbs[side].read(&ns[side], &[Key::from(key)], at).await else { continue };
        if let Some(found) = number(read.docs[0].as_ref()).filter(|found| *found < last) {
            app.says(format!(
                "process {p} read {found} of {key} on side {side} at {:?}, after {last} was acknowledged",
                app.rt.now()
            ));
        }
    }
}

struct World {
    sim: Sim,
    rt: Rt,
    clusters: [Arc<Embedded>; 2],
    journal: MemStore,
    app: Arc<App>,
    oracle: Oracle,
    planted: Planted,
}

impl World {
    fn new(seed: u64, mode: &str, rough: bool, planted: Planted) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let plan = plan(mode);
        let cluster = || Embedded::new(rt.clone(), embedded::Config::default());
        let legacy = cluster();
        // Every third seed has a cluster for each side.
        let clusters = [legacy.clone(), if seed % 3 == 2 { cluster() } else { legacy }];
        let dbs = || clusters.clone().map(|c| -> Db { c });
        let processes = (0..PROCESSES).map(|_| Mutex::default()).collect();
        let app = Arc::new(App {
            rt: rt.clone(),
            plan,
            processes,
            calls: AtomicU64::new(0),
            rough,
            file: Mutex::default(),
            told: Mutex::default(),
            deaf: Mutex::new((0, Micros::ZERO)),
            over: AtomicBool::new(false),
            wrong: Mutex::default(),
            acknowledged: Mutex::default(),
        });
        let oracle = Oracle::default();
        for p in 0..PROCESSES {
            rt.spawn(Group(9), "reader", Box::pin(read_on(app.clone(), dbs(), p)));
        }
        for writer in 0..PROCESSES * WRITERS {
            rt.spawn(Group(9), "writer", Box::pin(write_on(app.clone(), dbs(), oracle.clone(), writer)));
        }
        World { sim, rt, clusters, journal: MemStore::new(), app, oracle, planted }
    }

    fn start(&self, group: u32) -> Engine {
        let begun = !self.journal.records().is_empty();
        let deps = Deps {
            rt: self.rt.clone(),
            group: Group(group),
            clusters: self.clusters.clone().map(|c| -> Db { c }),
            one_cluster: Arc::ptr_eq(&self.clusters[0], &self.clusters[1]),
            journal: Arc::new(self.journal.clone()),
            plan: self.app.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let config = engine::Config {
            holder: "test".into(),
            advance: Some(Advance::Auto),
            resume: begun,
            take_over: begun.then(|| "the test says so".into()),
            drill: true,
            hooks: Hooks(Arc::new(Edge(self.app.clone()))),
            planted: self.planted,
            ..engine::Config::default()
        };
        self.sim.block_on(engine::start(deps, config)).unwrap().unwrap()
    }

    fn go(&self, ms: u64) {
        self.sim.run_until(self.rt.now() + Micros::from_ms(ms));
    }

    fn has(&self, kind: &str) -> bool {
        self.journal.records().iter().any(|r| r.kind == kind)
    }

    fn log(&self) -> String {
        self.journal.records().iter().map(show).collect::<Vec<_>>().join("\n")
    }

    /// Until it is over, at most ten minutes.
    fn to_the_end(&self, engine: &Engine) -> Result<(), String> {
        for _ in 0..6_000 {
            if self.has("closed") {
                self.go(2_000);
                return Ok(());
            }
            self.go(100);
            if engine.snapshot().phase == Phase::Paused {
                drop(engine.send(Command::Continue));
            }
        }
        Err(format!("it has not ended: {}\n{}", engine.snapshot().why, self.log()))
    }

    /// The side that owns everything at the end holds what was acknowledged, and nothing else.
    fn check(&self, side: Side) -> Result<(), String> {
        self.app.over.store(true, Ordering::SeqCst);
        self.go(3_000);
        let wrong = self.app.wrong.lock().unwrap().clone();
        if !wrong.is_empty() {
            return Err(format!("{}\n{}", wrong.join("\n"), self.log()));
        }
        let ns = ns_of(&self.app.plan, side);
        let mut there: BTreeMap<i64, i64> = BTreeMap::new();
        for (_, d) in self.clusters[side as usize].dump_majority(&ns) {
            there.insert(d.get_i64("_id").unwrap(), d.get_i64("n").unwrap());
        }
        let wanted: BTreeMap<i64, i64> =
            self.oracle.lock().unwrap().iter().filter_map(|(k, n)| Some((*k, (*n)?))).collect();
        if there != wanted {
            return Err(format!("{} holds {there:?}\nacknowledged {wanted:?}\n{}", side.name(), self.log()));
        }
        if self.has("stray_found") {
            return Err(format!("a stray write\n{}", self.log()));
        }
        Ok(())
    }
}

/// A whole rollout from a seed: runners that die, hooks that fail, and one of three ends.
fn run(seed: u64, mode: &str, planted: Planted) -> Result<Side, String> {
    let w = World::new(seed, mode, true, planted);
    let draw = |n: u64| w.rt.draw(DRAWS, 77, n);
    let mut engine = w.start(1);
    let mut group = 1;
    // 0: to the end; 1: soft back; 2: hard back.
    let way = draw(0) % 3;
    let (mut kills, mut stops) = (draw(1) % 4, draw(2) % 2);
    let mut asked = false;
    for step in 0..6_000u64 {
        if w.has("closed") {
            break;
        }
        w.go(100);
        if kills > 0 && w.has("switch_called") && draw(1_000 + step).is_multiple_of(40) {
            w.rt.kill(Group(group));
            kills -= 1;
            w.go(draw(2_000 + step) % 4_000);
            if w.has("closed") {
                break;
            }
            group += 1;
            engine = w.start(group);
        }
        if w.has("switch_called") && draw(4_000 + step).is_multiple_of(60) {
            let until = w.rt.now() + Micros::from_ms(draw(5_000 + step) % 15_000);
            *w.app.deaf.lock().unwrap() = (draw(6_000 + step) as usize % PROCESSES, until);
        }
        match draw(7_000 + step) % 80 {
            0 => drop(engine.send(Command::Pause)),
            1..=6 => drop(engine.send(Command::Continue)),
            7 if stops > 0 && w.has("switch_called") => {
                stops -= 1;
                drop(engine.send(Command::Stop));
                for _ in 0..300 {
                    w.go(100);
                    if engine.ended().is_some() {
                        break;
                    }
                }
                if w.has("closed") {
                    break;
                }
                w.rt.kill(Group(group));
                group += 1;
                engine = w.start(group);
            }
            _ => {}
        }
        let flipped =
            w.app.told.lock().unwrap().iter().any(|t| t.0 == "next" || (t.0 == "held" && draw(3).is_multiple_of(2)));
        if way > 0 && !asked && flipped && draw(3_000 + step).is_multiple_of(12) {
            // Refused once there is no way back; then it goes to its end.
            drop(engine.send(Command::Rollback { hard: way == 2, to: None }));
            asked = true;
        }
    }
    drop(engine.send(Command::Continue));
    w.to_the_end(&engine)?;
    let side = if w.has("rolled_back") { Side::Legacy } else { Side::Next };
    w.check(side).map(|()| side)
}

/// So many seeds, or as many as `TIDEGATE_SIM_SEEDS` says.
fn seeds(mode: &str, first: u64, many: u64) {
    let many = std::env::var("TIDEGATE_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(many);
    let mut ended = [0; 2];
    for seed in first..first + many {
        match run(seed, mode, Planted::default()) {
            Ok(side) => ended[side as usize] += 1,
            Err(why) => panic!("seed {seed}, mode {mode}: {why}"),
        }
    }
    assert!(ended.iter().all(|n| *n > 0), "there and back: {ended:?}");
}

#[test]
fn an_application_with_a_switch_of_its_own_loses_nothing_whatever_its_hooks_do() {
    seeds("copy", 0, 24);
}

#[test]
fn an_application_with_a_flag_file_loses_nothing_whatever_its_hooks_do() {
    seeds("flags", 100, 12);
    seeds("file", 200, 12);
}

#[test]
fn a_switch_that_nobody_asks_about_is_found_planted() {
    let found =
        (0..40).find_map(|seed| run(seed, "copy", Planted::one(Bug::SwitchNotConfirmed)).err().map(|e| (seed, e)));
    let (seed, why) = found.expect("not found within 40 seeds");
    println!("found by seed {seed}: {}", why.lines().next().unwrap_or(""));
}

#[test]
fn a_copy_is_told_where_things_are_to_be_in_order() {
    let w = World::new(5, "copy", false, Planted::default());
    let engine = w.start(1);
    w.to_the_end(&engine).unwrap();
    w.check(Side::Next).unwrap();
    let told: Vec<(String, u64)> = w.app.told.lock().unwrap().iter().map(|t| (t.0.clone(), t.1)).collect();
    let words = |all: &[(&str, u64)]| all.iter().map(|(w, r)| ((*w).to_owned(), *r)).collect::<Vec<_>>();
    assert_eq!(told, words(&[("legacy", 0), ("held", 0), ("held", 100), ("next", 100)]), "{}", w.log());
    let settled: Vec<bool> =
        w.journal.records().iter().filter(|r| r.kind == "switch_settled").map(|r| r.body["ok"] == true).collect();
    assert_eq!(settled, [true; 4]);
}

#[test]
fn a_flag_file_says_the_share_of_reads_and_the_writes() {
    let w = World::new(6, "flags", false, Planted::default());
    let engine = w.start(1);
    for _ in 0..600 {
        w.go(100);
        if w.journal.records().iter().any(|r| r.kind == "switch_settled" && r.body["reads"] == 30) {
            break;
        }
    }
    let file = w.app.file.lock().unwrap().clone().unwrap();
    assert_eq!(file["flags"]["told-reads"]["targeting"]["fractional"][1], serde_json::json!(["next", 30]));
    assert_eq!(file["flags"]["told-reads"]["defaultVariant"], "legacy");
    assert_eq!(file["flags"]["told-writes"]["defaultVariant"], "legacy");
    w.to_the_end(&engine).unwrap();
    w.check(Side::Next).unwrap();
    let file = w.app.file.lock().unwrap().clone().unwrap();
    assert_eq!(file["flags"]["told-reads"]["defaultVariant"], "next");
    assert_eq!(file["flags"]["told-reads"]["targeting"], serde_json::json!({}));
    assert_eq!(file["flags"]["told-writes"]["defaultVariant"], "next");
    assert_eq!(file["metadata"]["flagSetId"], "tidegate/told");
}

#[test]
fn a_hook_that_never_succeeds_leaves_everything_on_legacy_and_is_named() {
    let w = World::new(7, "copy", false, Planted::default());
    // Nobody listens: process 0 is deaf from here on.
    w.app.processes[0].lock().unwrap().busy.insert(-1, 1);
    let engine = w.start(1);
    w.go(60_000);
    let why = engine.snapshot().why.clone();
    assert!(why.contains("applications do not follow yet") && why.contains("`confirm`"), "{why}\n{}", w.log());
    assert_eq!(engine.snapshot().route.writes_next_below, 0);
    w.app.processes[0].lock().unwrap().busy.clear();
    w.to_the_end(&engine).unwrap();
    w.check(Side::Next).unwrap();
}

#[test]
fn a_process_that_does_not_answer_costs_no_freeze() {
    let w = World::new(9, "copy", false, Planted::default());
    let engine = w.start(1);
    for _ in 0..600 {
        w.go(100);
        if w.journal.records().iter().any(|r| r.kind == "task_intended" && r.body["task"] == "move_writes") {
            break;
        }
    }
    // It has a write under way that does not end.
    w.app.processes[1].lock().unwrap().busy.insert(-1, 1);
    w.go(60_000);
    let freezes =
        w.journal.records().iter().filter(|r| r.kind == "switch_called" && r.body["writes"] == "held").count();
    assert!(freezes <= 1, "{freezes} times writes were held\n{}", w.log());
    assert!(
        engine.snapshot().why.contains("applications do not follow yet")
            || engine.snapshot().why.contains("must answer")
    );
    w.app.processes[1].lock().unwrap().busy.clear();
    w.to_the_end(&engine).unwrap();
    w.check(Side::Next).unwrap();
}

#[test]
fn a_range_cannot_go_back_where_everything_is_switched_at_once() {
    let w = World::new(8, "copy", false, Planted::default());
    let engine = w.start(1);
    w.go(3_000);
    let mut reply = engine.send(Command::RollbackRange { hard: false, from: 512 }).unwrap();
    w.go(500);
    let said = format!("{:?}", reply.try_recv().unwrap());
    assert!(said.contains("mode `copy` switches everything at once"), "{said}");
}
