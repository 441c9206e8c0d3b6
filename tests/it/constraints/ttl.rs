//! TTL indexes: while writes are on next nothing expires; the side that stays goes on afterwards.

use std::collections::BTreeMap;

use bson::{RawDocumentBuf, rawdoc};
use tidegate::cluster::{AdminOp, IndexSpec, Ns};
use tidegate::engine::planted::Planted;
use tidegate::route::Side;
use tidegate::runtime::{Micros, keyed_hash};
use tidegate::snapshot::Command;

use super::app::{App, Value};
use super::{LONG, World, ask, index, next, over, passes, soaks, world};

const PLAN: &str = concat!(
    head!("ttl", "Sessions", "simulation"),
    r#"[[collection]]
legacy = "shop.sessions"
next = "shop.sessions_v2"
steps = [{ rename = "seen", to = "last_seen" }, { set = "schema_version", value = 2 }]
indexes = [{ keys = { last_seen = 1 }, name = "gone_by", expire_after_seconds = 20 }]
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "1s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "10s"
"#,
    to_the_end!()
);

/// Documents below this are renewed all the time, the others never.
const RENEWED: i64 = 40;
const DOCUMENTS: i64 = 80;
const NEVER: i64 = i32::MAX as i64;

fn shape(side: Side, id: i64, v: &Value) -> RawDocumentBuf {
    let at = bson::DateTime::from_millis(v.at_ms);
    match side {
        Side::Legacy => rawdoc! { "_id": id, "user": &*v.text, "seen": at },
        Side::Next => rawdoc! { "_id": id, "user": &*v.text, "last_seen": at, "schema_version": 2 },
    }
}

/// Legacy lets documents expire after 20 s; those that are never renewed would last for half a minute more.
fn begin(seed: u64, planted: Planted) -> (World, App) {
    let mut w = world(seed, PLAN, planted);
    let now = w.rt.wall_ms();
    let value = |id: i64| Value { text: format!("user {id}"), at_ms: if id < RENEWED { now } else { now + 10_000 } };
    let app = App::new(&w, shape, (0..DOCUMENTS).map(|id| (id, value(id))).collect());
    let spec = IndexSpec {
        name: "ttl".into(),
        keys: bson::doc! { "seen": 1 },
        expire_after: Some(20),
        ..IndexSpec::default()
    };
    let ns = w.ns();
    ask(&mut w, AdminOp::CreateIndex { ns, index: spec });
    for lane in 0..4 {
        let a = app.clone();
        app.lane(async move {
            while !a.stopping() {
                for id in (lane..RENEWED).step_by(4) {
                    a.write(id, Value { text: format!("user {id}"), at_ms: a.wall_ms() }).await;
                }
                a.pause(Micros::from_secs(3)).await;
            }
        });
    }
    (w, app)
}

/// Nobody carries anything for longer than documents last.
fn long_silence(w: &mut World) {
    w.until("half of the writes are on next", LONG, soaks(2));
    w.kill(Micros::from_secs(45));
    passes(w, Micros::from_secs(46));
}

/// The renewed ones are there as acknowledged, and of the others none.
fn only_the_renewed(w: &World, app: &App, ns: &Ns, side: Side) {
    let there: BTreeMap<_, _> = w.cluster.dump(ns).into_iter().collect();
    let renewed: BTreeMap<_, _> = app.expected(side).into_iter().take(RENEWED as usize).collect();
    assert_eq!(there, renewed);
}

#[test]
fn nothing_expires_while_writes_are_on_next_and_next_goes_on_after_contract() {
    let (mut w, app) = begin(1, Planted::default());
    long_silence(&mut w);
    let (legacy, to) = (w.ns(), next(&w));
    assert_eq!(index(&mut w, &legacy, "ttl").expire_after, Some(NEVER));
    assert_eq!(index(&mut w, &to, "gone_by").expire_after, Some(NEVER));
    assert_eq!(w.cluster.count(&legacy), DOCUMENTS as usize, "what was not renewed is kept until contract");
    over(&mut w);
    assert_eq!((w.outcome(), w.state().strays.len()), ("completed", 0), "{}", w.why());
    assert_eq!(index(&mut w, &to, "gone_by").expire_after, Some(20), "as the plan says");
    let kept = Ns::new(&legacy.db, &format!("{}.quarantine.ttl", legacy.coll));
    assert_eq!(index(&mut w, &kept, "ttl").expire_after, Some(NEVER), "what is put aside does not melt away");
    passes(&mut w, Micros::from_secs(15));
    app.stop(&mut w);
    only_the_renewed(&w, &app, &to, Side::Next);
    let told: Vec<_> = w.records("ttl_suspended").iter().map(|r| r.body["side"].clone()).collect();
    assert!(told.contains(&"legacy".into()) && told.contains(&"next".into()), "{told:?}");
    assert_eq!(w.records("ttl_restored").len(), 1);
}

#[test]
fn after_a_rollback_legacy_lets_documents_expire_as_before() {
    for hard in [true, false] {
        let (mut w, app) = begin(2, Planted::default());
        long_silence(&mut w);
        w.send(Command::Rollback { hard, to: None });
        over(&mut w);
        assert_eq!((w.outcome(), w.state().strays.len()), ("rolled_back", 0), "{}", w.why());
        let legacy = w.ns();
        assert_eq!(index(&mut w, &legacy, "ttl").expire_after, Some(20));
        passes(&mut w, Micros::from_secs(10));
        app.stop(&mut w);
        only_the_renewed(&w, &app, &legacy, Side::Legacy);
    }
}

#[test]
fn a_runner_that_dies_around_the_suspension_leaves_it_to_the_next_one() {
    for seed in 10..16 {
        let (mut w, app) = begin(seed, Planted::default());
        let mut n = 0;
        while !w.is_over() {
            assert!(w.rt.now() < LONG, "seed {seed}: {}", w.why());
            if n < 8 && (w.has("ttl_suspended") || w.has("ttl_restored")) {
                n += 1;
                w.kill(Micros::from_ms(100));
                passes(&mut w, Micros::from_ms(300 + keyed_hash(seed, 7, n, 0) % 6_000));
            }
            w.step().unwrap();
            assert_eq!(app.violation(), None, "seed {seed}");
        }
        over(&mut w);
        let to = next(&w);
        assert_eq!(index(&mut w, &to, "gone_by").expire_after, Some(20), "seed {seed}");
        assert_eq!((w.outcome(), w.state().strays.len()), ("completed", 0), "seed {seed}: {}", w.why());
        app.stop(&mut w);
    }
}

#[test]
fn cleanup_lets_documents_expire_again_where_a_record_is_left() {
    let (mut w, app) = begin(3, Planted::default());
    w.until("half of the writes are on next", LONG, soaks(2));
    w.send(Command::Rollback { hard: true, to: None });
    over(&mut w);
    app.stop(&mut w);
    // Next is put away with its index suspended; what it was set to is all that is left.
    let left = w.left();
    let ttl: Vec<_> = left.iter().filter(|l| l.name.starts_with("tidegate.ttl")).collect();
    assert_eq!(ttl.iter().map(|l| (l.on, l.documents)).collect::<Vec<_>>(), [(Side::Next, 1)]);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_ttl_indexes_that_go_on_are_found() {
    use tidegate::engine::planted::Bug;
    let (mut w, app) = begin(1, Planted::one(Bug::TtlNotSuspended));
    long_silence(&mut w);
    passes(&mut w, Micros::from_secs(20));
    // Copies that nobody renewed on legacy have gone there, although next owns them and has them.
    assert!(!w.state().strays.is_empty(), "{}", w.why());
    drop(app);
}
