//! Who is told, when, and what waits for it: the whole engine on a virtual clock, with a fake at the very end.

use std::sync::Arc;

use tidegate::cluster::embedded::Embedded;
use tidegate::engine::Engine;
use tidegate::hooks::Hooks;
use tidegate::journal::{MemStore, Record};
use tidegate::plan::Plan;
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt};
use tidegate::snapshot::{Command, Phase, Reply};

use super::{ALL, Answer, Fake, kinds, loaded, plan};

const SECOND: Micros = Micros::from_secs(1);

struct World {
    sim: Sim,
    rt: Rt,
    cluster: Arc<Embedded>,
    journal: MemStore,
    plan: Arc<Plan>,
}

impl World {
    fn new(hooks: &str) -> World {
        let sim = Sim::new(3);
        let rt: Rt = sim.clone();
        let plan = plan(hooks);
        let cluster = loaded(&rt, &plan, 60);
        World { sim, rt, cluster, journal: MemStore::new(), plan }
    }

    fn start(&self, group: u32, hooks: Hooks) -> Engine {
        let (rt, cluster, journal, plan) =
            (self.rt.clone(), self.cluster.clone(), self.journal.clone(), self.plan.clone());
        let started = async move { super::start(rt, cluster, &journal, &plan, Group(group), hooks).await };
        self.sim.block_on(started).unwrap()
    }

    fn fake(&self, group: u32, fake: &Arc<Fake>) -> Engine {
        self.start(group, Hooks(fake.clone()))
    }

    /// Runs until a record is there for which `wanted` holds.
    fn until(&self, seconds: u64, wanted: impl Fn(&Record) -> bool) -> Record {
        let end = self.rt.now() + Micros::from_secs(seconds);
        loop {
            if let Some(r) = self.journal.records().into_iter().find(|r| wanted(r)) {
                return r;
            }
            if self.rt.now() >= end {
                let log: Vec<String> = self.journal.records().iter().map(tidegate::journal::show).collect();
                panic!("not within {seconds} s:\n{}", log.join("\n"));
            }
            self.sim.run_until(self.rt.now() + Micros::from_ms(100));
        }
    }

    fn send(&self, engine: &Engine, command: Command) -> Reply {
        let mut reply = engine.send(command).unwrap();
        for _ in 0..20 {
            self.sim.run_until(self.rt.now() + Micros::from_ms(100));
            if let Ok(answer) = reply.try_recv() {
                return answer;
            }
        }
        panic!("no answer to {command:?} within 2 s");
    }
}

fn page(more: &str) -> String {
    format!("[[hook]]\nid = \"page\"\n{ALL}\ncommand = [\"./page.sh\"]\n{more}\n")
}

#[test]
fn everything_that_happens_is_told_in_order_and_before_the_journal_is_closed() {
    let world = World::new(&page(""));
    let fake = Fake::new(|_, _| Answer::Well);
    let engine = world.fake(1, &fake);
    world.until(60, |r| r.kind == "soak_began" && r.seq > 20);
    assert_eq!(world.send(&engine, Command::Pause), Reply::Applied);
    world.sim.run_until(world.rt.now() + SECOND);
    assert_eq!(world.send(&engine, Command::Continue), Reply::Applied);
    world.until(60, |r| r.kind == "closed");
    let told = fake.told();
    let events: Vec<&str> = told.iter().map(|t| t.body["event"].as_str().unwrap()).collect();
    let wanted = ["stage_begin", "stage_passed", "stage_begin", "pause", "continue", "stage_passed", "completed"];
    assert_eq!(events, wanted);
    let pause = &told[3].body;
    assert_eq!(pause["by"], "operator");
    assert_eq!((&pause["rollout"], &pause["plan"]["hash"]), (&"told".into(), &world.plan.hash.clone().into()));
    assert_eq!((&pause["stage"]["id"], &pause["stage"]["writes"]), (&"half".into(), &50.into()));
    assert_eq!(pause["text"], "PAUSED: by the operator");
    // The record that it names is the one that it is about.
    let records = world.journal.records();
    for t in &told {
        let record = &records[t.body["record"]["seq"].as_u64().unwrap() as usize - 1];
        assert_eq!(
            (t.body["record"]["kind"].as_str().unwrap(), t.body["record"]["hash"].as_str().unwrap()),
            (&*record.kind, &*record.hash)
        );
        assert_eq!(t.body["event_id"], t.event_id);
        assert!(!t.body.to_string().contains("anna"), "a document is in {}", t.body);
    }
    let ids: std::collections::BTreeSet<_> = told.iter().map(|t| &t.event_id).collect();
    assert_eq!(ids.len(), told.len(), "an id for each");
    let of = |kind: &str| {
        records.iter().filter(|r| r.kind == kind).map(|r| r.body["of"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of("hook_called"), of("hook_settled"), "intended, then settled");
    assert_eq!(of("hook_called").len(), told.len());
    assert_eq!(kinds(&records).last(), Some(&"closed"));
}

#[test]
fn nothing_waits_for_a_hook_that_does_not_answer() {
    let world = World::new(&page("attempts = 1"));
    let fake = Fake::new(|_, _| Answer::Never);
    let engine = world.fake(1, &fake);
    world.until(60, |r| r.kind == "soak_began" && r.seq > 10);
    assert_eq!(world.send(&engine, Command::Pause), Reply::Applied);
    assert_eq!(world.send(&engine, Command::Rollback { hard: false, to: None }), Reply::Applied);
    world.until(120, |r| r.kind == "rolled_back");
    assert_eq!(fake.told().len(), 1, "one call of a hook at a time");
    // It is not over before everybody has been told; but it can be stopped, and what is left is told by whoever resumes.
    world.sim.run_until(world.rt.now() + Micros::from_secs(60));
    assert!(engine.ended().is_none());
    assert_eq!(world.send(&engine, Command::Stop), Reply::Accepted);
    world.sim.run_until(world.rt.now() + Micros::from_secs(15));
    assert_eq!(engine.ended(), Some(tidegate::engine::End::Stopped));
    let patient = Fake::new(|_, _| Answer::Well);
    world.fake(2, &patient);
    world.until(60, |r| r.kind == "closed");
    let again = patient.told();
    assert_eq!(again[0].event_id, fake.told()[0].event_id, "the one that was under way comes first");
    let events: Vec<_> = again.iter().map(|t| t.body["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["stage_begin", "stage_passed", "stage_begin", "pause", "rollback", "rolled_back"]);
}

#[test]
fn a_stage_waits_for_the_hook_that_it_requires() {
    let world = World::new(
        "[[hook]]\nid = \"ticket\"\non = [\"stage_begin\"]\nstages = [\"half\"]\nrequired = true\ncommand = [\"./ticket.sh\"]\nattempts = 2\n",
    );
    let fake = Fake::new(|n, _| if n <= 2 { Answer::Badly } else { Answer::Well });
    let engine = world.fake(1, &fake);
    let why = world.until(60, |r| r.kind == "needs_operator").body["why"].to_string();
    assert!(why.contains("`ticket`") && why.contains("exit code 7"), "{why}");
    world.sim.run_until(world.rt.now() + Micros::from_secs(30));
    let s = engine.snapshot();
    assert_eq!((s.phase, s.route.writes_next_below), (Phase::NeedsOperator, 0), "{}", s.why);
    let records = world.journal.records();
    let entered = records.iter().rposition(|r| r.kind == "stage_entered").unwrap();
    assert_eq!(kinds(&records[entered..]), ["stage_entered", "hook_called", "hook_settled", "needs_operator"]);
    assert_eq!(records[entered + 2].body["attempts"], 2);
    assert_eq!(world.send(&engine, Command::Continue), Reply::Applied);
    world.until(60, |r| r.kind == "closed");
    let told = fake.told();
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|t| t.hook == "ticket" && t.event_id == told[0].event_id));
    let again: Vec<_> = world.journal.records().into_iter().filter(|r| r.kind == "hook_called").collect();
    assert_eq!((again.len(), &again[1].body["again"]), (2, &true.into()));
}

#[test]
fn going_back_asks_no_hook() {
    let world = World::new(
        "[[hook]]\nid = \"ticket\"\non = [\"stage_begin\"]\nrequired = true\ncommand = [\"./ticket.sh\"]\nattempts = 1\n",
    );
    let fake = Fake::new(|_, t| if t.body["stage"]["id"] == "half" { Answer::Never } else { Answer::Well });
    let engine = world.fake(1, &fake);
    world.until(60, |r| r.kind == "stage_entered" && r.body["id"] == "half");
    world.sim.run_until(world.rt.now() + Micros::from_secs(3));
    assert_eq!(engine.snapshot().why, "the hook `ticket` must succeed before the stage's work begins");
    assert_eq!(world.send(&engine, Command::Rollback { hard: true, to: None }), Reply::Applied);
    world.until(60, |r| r.kind == "rolled_back");
}

#[test]
fn a_call_that_a_crash_cut_off_is_made_again_under_its_id() {
    let world = World::new(&page(""));
    let first = Fake::new(|n, _| if n == 1 { Answer::Well } else { Answer::Never });
    world.fake(1, &first);
    world.until(60, |r| r.kind == "hook_called" && r.body["on"] == "stage_passed");
    world.rt.kill(Group(1));
    let second = Fake::new(|_, _| Answer::Well);
    world.fake(2, &second);
    world.until(60, |r| r.kind == "closed");
    assert_eq!(second.told()[0].event_id, first.told()[1].event_id);
    let calls: Vec<_> = world.journal.records().into_iter().filter(|r| r.kind == "hook_called").collect();
    let again: Vec<bool> = calls.iter().map(|r| r.body.contains_key("again")).collect();
    assert_eq!(again.iter().filter(|a| **a).count(), 1, "only the one is repeated, and the journal says so");
}

#[test]
fn a_drill_calls_nothing_and_says_so() {
    let hooks = "[[hook]]\nid = \"page\"\non = [\"stage_begin\"]\nurl = \"https://hooks.example.com/T0/B0/${SECRET}\"\nrequired = true\n";
    let world = World::new(hooks);
    world.start(1, Hooks::default());
    let said = world.until(60, |r| r.kind == "hook_settled").body;
    assert_eq!(said["outcome"], "nothing is called in a drill; it would have been `POST https://hooks.example.com`");
    world.until(60, |r| r.kind == "closed");
}
