//! Migrations in place on the embedded cluster, there and back, while an application writes both shapes.

mod app;
pub mod world;

use super::sim::many::{in_parallel, seeds};
use app::{Order, Writes};
use bson::rawdoc;
use tidegate::cluster::Key;
use tidegate::engine::planted::Planted;
use tidegate::rollout::Status;
use tidegate::runtime::{Group, Micros};
use tidegate::snapshot::Command;
use world::{Leaning, PLAN, World, plan, simulate};

const LONG: Micros = Micros::from_secs(300);

fn backfilled(world: &World) -> bool {
    world.records("task_done").iter().any(|r| r.body["evidence"]["seen"].as_u64().is_some())
}

#[test]
fn twenty_thousand_documents_come_back_byte_for_byte_while_one_in_twenty_is_edited() {
    let mut world = World::new(7, plan(PLAN, 1_000_000), Planted::default(), 500);
    let config = app::Config { documents: 20_000, every: 20, pause: Micros::from_ms(8), lanes: 4, churn: false };
    let app = world.app(config);
    world.cluster.load(&world.ns(), app.documents()).unwrap();
    let before = world.dump();
    world.until("the documents are changed", LONG, |w| w.has("soak_began"));
    let of = |version: bool| move |d: &bson::RawDocumentBuf| d.get("schema_version").unwrap().is_some() == version;
    assert!(world.dump().values().all(of(true)), "not every document was changed");
    // Edits begin before the way back, go on through it, and a while after it in next's shape.
    app.write(Writes::Next);
    app.start(Group(2));
    world.until("edits", LONG, |_| app.edited() > 100);
    let hard = Command::Rollback { hard: false, to: None };
    world.send(hard);
    world.until("it goes back", LONG, |w| w.has("rollback_began"));
    world.until("every document has been gone through", LONG, |w| w.why().contains("quiet"));
    world.until("each of the others was edited", LONG, |_| app.edited() >= 1_000);
    app.write(Writes::Legacy);
    world.until("it is over", LONG, World::is_over);
    world.stop(&app);
    assert_eq!((world.outcome(), world.state().status), ("rolled_back", Status::RolledBack));
    let known = app.known();
    let (mut same, mut edited) = (0, 0);
    for (key, doc) in world.dump() {
        let id = doc.get_i64("_id").unwrap();
        if known[&id].edits == 0 {
            assert_eq!(doc.as_bytes(), before[&key].as_bytes(), "{id}");
            same += 1;
        } else {
            edited += 1;
        }
    }
    assert_eq!((same, edited), (19_000, 1_000));
    assert_eq!(world.check(&app), Ok(()));
    let proof = world.state().reconciled.unwrap();
    assert_eq!((proof["matched"].as_u64(), proof["differing"].as_u64()), (Some(20_000), Some(0)), "{proof}");
}

#[test]
fn it_runs_to_the_end_while_either_shape_is_written() {
    let mut world = World::new(3, plan(PLAN, 200), Planted::default(), 50);
    let config = app::Config { documents: 600, every: 2, pause: Micros::from_ms(20), lanes: 3, churn: true };
    let app = world.app(config);
    world.cluster.load(&world.ns(), app.documents()).unwrap();
    app.start(Group(2));
    let settles = |w: &World| w.records("task_intended").iter().any(|r| r.body["task"] == "quiet");
    world.until("it comes to its last stage", LONG, settles);
    // It does not end while somebody writes the shape that nobody would change any more.
    for _ in 0..1_500 {
        world.step().unwrap();
    }
    let told =
        |r: &tidegate::journal::Record| r.body["why"].as_str().is_some_and(|w| w.contains("still being written"));
    assert_eq!(world.records("task_held").iter().filter(|r| told(r)).count(), 1);
    assert!(!world.is_over() && world.why().contains("legacy's shape is still being written"), "{}", world.why());
    app.write(Writes::Next);
    world.until("it is over", LONG, World::is_over);
    world.stop(&app);
    assert_eq!(world.outcome(), "completed");
    assert_eq!(world.check(&app), Ok(()));
    assert_eq!(app.violation(), None);
}

#[test]
fn a_document_of_neither_shape_is_listed_and_never_overwritten() {
    let mut world = World::new(5, plan(PLAN, 1_000_000), Planted::default(), 50);
    let mut docs: Vec<_> = (0..100).map(|id| Order::initial(id).legacy()).collect();
    // Legacy's, but no step fits it; it stays what it is on either way.
    docs[40] = rawdoc! { "_id": 40i64, "total": 12.5 };
    world.cluster.load(&world.ns(), docs.clone()).unwrap();
    world.until("it is held up", LONG, |w| w.has("task_held"));
    let held = world.records("task_held")[0].body["why"].as_str().unwrap().to_owned();
    assert!(held.contains("1 not in next's shape") && held.contains("40"), "{held}");
    assert_eq!(world.dump()[&Key::from(40)], docs[40]);
    // An application makes a document of both.
    let mixed = rawdoc! { "_id": 41i64, "customer": { "name": "x" }, "customer_name": "y", "schema_version": 2 };
    let op = tidegate::cluster::WriteOp::Replace {
        ns: world.ns(),
        key: Key::from(41),
        only_if: None,
        doc: mixed.clone(),
        upsert: false,
    };
    let cluster = world.cluster.clone();
    world.rt.spawn(
        Group(2),
        "application",
        Box::pin(async move {
            use tidegate::cluster::Cluster;
            cluster.write(&op).await.unwrap();
        }),
    );
    world.until("it is written", LONG, |w| w.dump()[&Key::from(41)] == mixed);
    world.send(Command::Rollback { hard: true, to: None });
    world.until("it is over", LONG, World::is_over);
    docs[41] = mixed;
    let left: Vec<_> = world.dump().into_values().collect();
    assert_eq!(left, docs);
    // Somebody has to look at it: exit code 4.
    assert_eq!((world.outcome(), world.state().strays_open()), ("needs_operator", 1));
    let by_name = |name: &str| {
        let left = world.left();
        let found = left.iter().find(|l| l.name.starts_with(name)).unwrap();
        assert_eq!(found.fate, tidegate::engine::Fate::ByName, "{found:?}");
        found.documents
    };
    assert_eq!((by_name("tidegate.undo of"), by_name("tidegate.quarantine of")), (99, 2));
    let listed = world.cluster.dump(&tidegate::cluster::Ns::new("tidegate", "quarantine"));
    let id = |d: &bson::RawDocumentBuf| {
        let id = d.get_document("_id").unwrap();
        (id.get_str("to").unwrap().to_owned(), id.get_i64("key").unwrap())
    };
    let ids: Vec<_> = listed.iter().map(|(_, d)| id(d)).collect();
    assert!(ids.contains(&("legacy".into(), 41)) && ids.contains(&("next".into(), 40)), "{ids:?}");
}

#[test]
fn what_a_lossy_step_drops_comes_back_from_the_pre_image() {
    let text = PLAN.replace("{ set = \"schema", "{ unset = \"note\", lossy = true },\n  { set = \"schema");
    let mut world = World::new(5, plan(&text, 1_000_000), Planted::default(), 50);
    let order = |id| Order { note: 1_000 + id, ..Order::initial(id) };
    let docs: Vec<_> = (0..100).map(|id| order(id).legacy()).collect();
    world.cluster.load(&world.ns(), docs.clone()).unwrap();
    world.until("the documents are changed", LONG, |w| w.has("soak_began"));
    let changed = world.dump()[&Key::from(7)].clone();
    assert!(changed.get("note").unwrap().is_none() && changed.get("schema_version").unwrap().is_some());
    // An edit beside what was lost, a document that legacy never had, and one that has something in the place of what was lost.
    let mut edited = changed.clone();
    edited.append(bson::cstr!("seen"), true);
    let new = rawdoc! { "_id": 500i64, "customer_name": "new", "schema_version": 2 };
    let mut clash = world.dump()[&Key::from(8)].clone();
    clash.append(bson::cstr!("note"), 5i64);
    for doc in [edited, new, clash.clone()] {
        let (cluster, ns) = (world.cluster.clone(), world.ns());
        let write = async move {
            use tidegate::cluster::Cluster;
            let key = Key::of(&doc).unwrap();
            let op = tidegate::cluster::WriteOp::Replace { ns, key, only_if: None, doc, upsert: true };
            cluster.write(&op).await.unwrap();
        };
        world.rt.spawn(Group(2), "application", Box::pin(write));
    }
    for _ in 0..50 {
        world.step().unwrap();
    }
    world.send(Command::Rollback { hard: false, to: None });
    world.until("it is over", LONG, World::is_over);
    let left = world.dump();
    for id in (0..100).filter(|id| ![7, 8].contains(id)) {
        assert_eq!(left[&Key::from(id)], docs[id as usize], "{id}");
    }
    assert_eq!(left[&Key::from(7)].get_i64("note").unwrap(), 1_007);
    assert!(left[&Key::from(7)].get_bool("seen").unwrap());
    assert_eq!(Order::read(&left[&Key::from(7)]).unwrap(), order(7));
    assert_eq!(left[&Key::from(500)], rawdoc! { "_id": 500i64, "customer": { "name": "new" } });
    assert_eq!(left[&Key::from(8)], clash);
    assert_eq!((world.outcome(), world.state().strays_open()), ("needs_operator", 1));
}

#[test]
fn a_runner_killed_in_the_middle_there_and_back_changes_nothing_twice() {
    for seed in 0..6 {
        let mut world = World::new(seed, plan(PLAN, 300), Planted::default(), 50);
        let config = app::Config { documents: 1_000, every: 5, pause: Micros::from_ms(15), lanes: 2, churn: true };
        let app = world.app(config);
        world.cluster.load(&world.ns(), app.documents()).unwrap();
        app.start(Group(2));
        let next = |w: &World| w.dump().values().filter(|d| d.get("schema_version").unwrap().is_some()).count();
        world.until("half is changed", LONG, |w| next(w) > 400 + 40 * seed as usize);
        world.kill(Micros::from_ms(300));
        world.until("the documents are changed", LONG, backfilled);
        world.send(Command::Rollback { hard: false, to: None });
        app.write(Writes::Next);
        world.until("half is back", LONG, |w| next(w) < 600 - 40 * seed as usize);
        world.kill(Micros::from_ms(300));
        for _ in 0..100 {
            world.step().unwrap();
        }
        app.write(Writes::Legacy);
        world.until("it is over", LONG, World::is_over);
        world.stop(&app);
        assert_eq!((world.outcome(), app.violation()), ("rolled_back", None), "seed {seed}");
        assert_eq!(world.check(&app), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_hundred_and_twenty_seeds_lose_nothing() {
    let mut total = world::Stats::default();
    let mut failures = Vec::new();
    let seeds = seeds(120);
    let count = seeds.end - seeds.start;
    for (seed, outcome) in in_parallel(seeds, |seed| simulate(seed, Planted::default(), Leaning::default())) {
        match outcome {
            Ok(s) => {
                total.kills += s.kills;
                total.edits += s.edits;
                total.back += s.back;
                total.completed += s.completed;
                total.unknown += s.unknown;
            }
            Err(e) => failures.push(format!("seed {seed}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), failures.join("\n"));
    println!("{total:?}");
    assert!(count < 100 || (total.back > count / 2 && total.completed > count / 10), "{total:?}");
    assert!(count < 100 || (total.kills > count && total.unknown > count), "{total:?}");
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::*;
    use tidegate::engine::planted::Bug;

    const KILLS: Leaning = Leaning { kills: true, stays: false };

    #[test]
    fn a_pre_image_overwritten_on_resume_is_found() {
        let planted = Planted::one(Bug::PreImageOverwrittenOnResume);
        for start in (0..2_000).step_by(4) {
            let found = in_parallel(start..start + 4, |seed| simulate(seed, planted, KILLS));
            if let Some((seed, Err(e))) = found.into_iter().find(|(_, o)| o.is_err()) {
                println!("found by seed {seed}: {e}");
                return;
            }
        }
        panic!("it was not found within 2000 seeds");
    }

    #[test]
    fn kills_alone_are_survived() {
        for (seed, outcome) in in_parallel(0..12, |seed| simulate(seed, Planted::default(), KILLS)) {
            assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        }
    }
}
