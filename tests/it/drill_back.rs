//! The way back in drills: by a trigger, by an operator, from every stage. Afterwards legacy holds the initial orders with every
//! acknowledged write, byte for byte, and nothing can be written to next any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bson::{RawDocumentBuf, rawdoc};
use tidegate::cluster::{Cluster, Failed, Key, Ns, Reason, WriteOp};
use tidegate::engine::End;
use tidegate::plan::{Advance, Plan};
use tidegate::route::Side;
use tidegate::runtime::{Group, Micros};
use tidegate::snapshot::{Command, Phase, Snapshot, StageStatus};
use tidegate::transform::Transform;
use tidegate::workload::{Config, Shapes};

use super::drill::{Run, run, scenario, small};

const SECOND: Micros = Micros::from_secs(1);

/// Everything that must be true after a rollback.
fn is_back(run: &Run, plan: &Plan) {
    run.ended(&End::RolledBack);
    assert_eq!(run.summary.json["outcome"], "rolled_back");
    legacy_is_as_acknowledged(run, plan);
    next_is_sealed(run, plan);
}

/// Legacy's collection against the oracle, bytes against bytes.
///
/// An order last written on next reaches legacy as T⁻¹ of next's document. For this plan that has the very bytes that the application
/// would have written on legacy: `customer.name` comes back first in `customer`, where legacy has it, and the total's digits are kept.
/// The expected bytes are made by T⁻¹ all the same wherever the two could part, and checked to be equal here.
fn legacy_is_as_acknowledged(run: &Run, plan: &Plan) {
    let c = &plan.collections[0];
    let (shapes, padding) = (Shapes::of(c).unwrap(), Config::default().padding);
    let transform = Transform::new(&c.steps);
    let expected: BTreeMap<Key, RawDocumentBuf> = run.drill.workload().oracle().expected(|o| {
        let legacy = shapes.document(Side::Legacy, o, padding);
        let from_next = transform.invert(&shapes.document(Side::Next, o, padding)).unwrap();
        assert_eq!(from_next, legacy, "order {}: which side wrote it last can be told from its bytes", o.n);
        legacy
    });
    let found = run.drill.cluster().dump(&c.legacy);
    assert!(run.summary.json["writes"]["acknowledged"].as_u64().unwrap() > 100);
    assert_eq!(found.len(), expected.len());
    for (key, document) in &found {
        let wanted = expected.get(key).unwrap_or_else(|| panic!("{key} is there and should not be"));
        assert_eq!(document.as_bytes(), wanted.as_bytes(), "{key}: {document:?} instead of {wanted:?}");
    }
}

/// Neither next's name nor the one it is kept under takes a document.
fn next_is_sealed(run: &Run, plan: &Plan) {
    let next = &plan.collections[0].next;
    let kept = Ns::new(&next.db, &format!("{}.isolated.{}", next.coll, plan.id));
    for ns in [next.clone(), kept] {
        let refused = insert(run, ns.clone());
        assert!(matches!(refused, Some(Err(Failed::NotDone(Reason::Refused(_))))), "{ns}: {refused:?}");
    }
}

fn insert(run: &Run, ns: Ns) -> Option<Result<(), Failed>> {
    let (cluster, answer) = (run.drill.cluster().clone(), Arc::new(Mutex::new(None)));
    let told = answer.clone();
    let write = async move {
        let op = WriteOp::Insert { ns, doc: rawdoc! { "_id": "late", "total": "1.00" } };
        *told.lock().unwrap() = Some(cluster.write(&op).await.map(|_| ()));
    };
    run.rt.spawn(Group(60), "late write", Box::pin(write));
    run.drill.run_until(run.drill.now() + Micros::from_secs(5));
    answer.lock().unwrap().take()
}

#[test]
fn spring_tide_goes_back_by_its_trigger_and_keeps_every_write() {
    let (_, world, plan) = scenario("spring-tide");
    for seed in 1..=10 {
        let world = if seed == 1 { world.clone() } else { small(world.clone()) };
        let run = run(&world, &plan, seed, Advance::Auto, SECOND, |_, _| {});
        is_back(&run, &plan);
        let began = run.records.iter().find(|r| r.kind == "rollback_began").unwrap();
        assert_eq!(began.by, tidegate::journal::By::Trigger, "seed {seed}");
        assert!(began.body["evidence"]["value"].as_f64().unwrap() > 60_000.0, "{:?}", began.body);
        assert!(began.body["evidence"]["forecast"]["writes_next_below"].as_u64().unwrap() > 0, "{:?}", began.body);
        let passed: Vec<_> = run.summary.json["stages"].as_array().unwrap().iter().map(|s| s["id"].clone()).collect();
        assert_eq!(passed, ["copy", "shadow"], "seed {seed}: it was to turn in the canary");
    }
}

#[test]
fn a_slow_next_does_not_make_legacy_look_slow() {
    let (_, world, plan) = scenario("spring-tide");
    let mut seen = 0;
    run(&small(world), &plan, 2, Advance::Auto, SECOND, |_, s| {
        let [legacy, next] = [&s.reads[0], &s.reads[1]].map(|v| v.p99.unwrap_or_default());
        if next > Micros::from_ms(60) {
            seen += 1;
            assert!(legacy > Micros::ZERO && legacy < Micros::from_ms(15), "legacy {legacy} while next {next}");
        }
    });
    assert!(seen > 5, "next never became slow");
}

/// `1m20s advance # why` as times and words.
fn presses(text: &str) -> Vec<(Micros, String)> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or("").trim()).filter(|l| !l.is_empty());
    let time = |t: &str| {
        let (m, s) = t.split_once('m').map_or((0, t), |(m, s)| (m.parse::<u64>().unwrap(), s));
        Micros::from_secs(m * 60 + s.strip_suffix('s').map_or(0, |s| s.parse().unwrap()))
    };
    lines.map(|l| l.split_once(' ').unwrap()).map(|(at, what)| (time(at), what.trim().to_owned())).collect()
}

#[test]
fn ebb_comes_back_with_everything_written_on_next() {
    let good = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/ebb/good.keys")).unwrap();
    let (_, world, plan) = scenario("ebb");
    for (seed, hard) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut todo = presses(&good).into_iter().peekable();
        let mut paused = false;
        let run = run(&small(world.clone()), &plan, seed, Advance::Operator, SECOND, |drill, s| {
            paused |= s.phase == Phase::Paused;
            while let Some((_, what)) = todo.next_if(|(at, _)| *at <= drill.now()) {
                let stage = s.stages.iter().position(|s| s.status == StageStatus::Current).unwrap();
                let command = match what.as_str() {
                    "advance" => Command::Advance { stage },
                    "rollback" => Command::Rollback { hard, to: None },
                    other => panic!("{other}"),
                };
                assert!(drill.send(command).is_some());
            }
        });
        assert!(paused, "seed {seed}: the trigger was to pause before the operator went back");
        is_back(&run, &plan);
        let passed = run.summary.json["stages"].as_array().unwrap().len();
        assert_eq!(passed, 4, "seed {seed}: it was to turn in the last stage but one");
    }
}

/// Goes back once `at` holds, looking every `step`.
fn back_from(at: impl Fn(&Snapshot) -> bool, step: Micros) {
    let (_, world, plan) = scenario("first-watch");
    for (seed, hard) in [(11, false), (12, true)] {
        let mut asked = false;
        let run = run(&small(world.clone()), &plan, seed, Advance::Auto, step, |drill, s| {
            if !asked && at(s) {
                asked = true;
                assert!(drill.send(Command::Rollback { hard, to: None }).is_some());
            }
        });
        assert!(asked, "the moment never came");
        is_back(&run, &plan);
        let began: Vec<_> = run.records.iter().filter(|r| r.kind == "rollback_began").collect();
        assert_eq!(began.len(), 1);
        assert_eq!(began[0].body["hard"], hard);
    }
}

fn is_in(s: &Snapshot, stage: &str) -> bool {
    s.stages.iter().any(|st| st.status == StageStatus::Current && st.id == stage)
}

fn soaks_in(stage: &'static str) -> impl Fn(&Snapshot) -> bool {
    move |s| is_in(s, stage) && s.phase == Phase::Soaking && s.stages.iter().any(|st| st.soaked > Micros::from_secs(5))
}

#[test]
fn an_operator_goes_back_in_the_middle_of_the_backfill() {
    let copying = |s: &Snapshot| s.activity.as_ref().is_some_and(|a| a.name == "backfill");
    back_from(copying, Micros::from_ms(5));
}

#[test]
fn an_operator_goes_back_from_the_shadow_stage() {
    back_from(soaks_in("shadow"), SECOND);
}

#[test]
fn an_operator_goes_back_from_the_canary() {
    back_from(soaks_in("canary"), SECOND);
}

#[test]
fn an_operator_goes_back_in_the_middle_of_a_cutover() {
    let frozen = |s: &Snapshot| is_in(s, "half") && s.route.frozen.is_some();
    back_from(frozen, Micros::from_ms(50));
}

#[test]
fn an_operator_goes_back_with_every_write_on_next() {
    back_from(soaks_in("full"), SECOND);
}
