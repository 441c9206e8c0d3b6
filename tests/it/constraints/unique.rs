//! Unique indexes: documents that exchange their values, and what no copy can hold.

use std::collections::BTreeMap;

use bson::{RawDocumentBuf, rawdoc};
use tidegate::cluster::embedded::{OpKind, Rates};
use tidegate::cluster::{AdminOp, IndexSpec};
use tidegate::engine::planted::Planted;
use tidegate::route::Side;
use tidegate::runtime::{Micros, keyed_hash};
use tidegate::snapshot::Command;

use super::app::{App, Value};
use super::{LONG, World, ask, next, over, passes, soaks, world, write};

const PLAN: &str = concat!(
    head!("unique", "Accounts", "simulation"),
    r#"[[collection]]
legacy = "shop.accounts"
next = "shop.accounts_v2"
steps = [{ rename = "mail", to = "contact.email" }, { convert = "n", from = "int", to = "long" }]
indexes = [{ keys = { "contact.email" = 1 }, name = "by_email", unique = true }]
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "3s"
[[stage]]
id = "all"
reads = 100
writes = 100
soak = "12s"
[[stage]]
id = "contract"
do = ["quarantine-legacy"]
irreversible = true
"#
);

const DOCUMENTS: i64 = 60;

fn shape(side: Side, id: i64, v: &Value) -> RawDocumentBuf {
    match side {
        Side::Legacy => rawdoc! { "_id": id, "mail": &*v.text, "n": 1 },
        Side::Next => rawdoc! { "_id": id, "contact": { "email": &*v.text }, "n": 1_i64 },
    }
}

fn mail(id: i64) -> Value {
    Value { text: format!("m{id}@example.org"), at_ms: 0 }
}

fn begin(seed: u64, text: &str, unique: Option<&str>) -> (World, App) {
    let mut w = world(seed, text, Planted::default());
    let app = App::new(&w, shape, (0..DOCUMENTS).map(|id| (id, mail(id))).collect());
    if let Some(field) = unique {
        let spec =
            IndexSpec { name: "by_mail".into(), keys: bson::doc! { field: 1 }, unique: true, ..IndexSpec::default() };
        let ns = w.ns();
        ask(&mut w, AdminOp::CreateIndex { ns, index: spec });
    }
    (w, app)
}

/// Two or three documents hand their values round, again and again. Between two writes no two of them hold one value.
fn rotate(app: &App, seed: u64, lane: i64) {
    let a = app.clone();
    app.lane(async move {
        let mine: Vec<i64> = (lane..DOCUMENTS).step_by(4).collect();
        for n in 0u64.. {
            if a.stopping() {
                return;
            }
            let draw = |k: u64| keyed_hash(seed, 0x07A7E, lane as u64, n * 8 + k);
            let start = draw(0) as usize % mine.len();
            let ring: Vec<i64> = (0..2 + draw(1) as usize % 2).map(|i| mine[(start + i * 7) % mine.len()]).collect();
            let known = a.known();
            let values: Vec<Value> = ring.iter().map(|id| known[id].clone()).collect();
            a.write(ring[0], Value { text: format!("free-{lane}-{n}"), at_ms: 0 }).await;
            for i in 1..ring.len() {
                a.write(ring[i], values[i - 1].clone()).await;
            }
            a.write(ring[0], values[ring.len() - 1].clone()).await;
            a.pause(Micros::from_ms(40 + draw(2) % 120)).await;
        }
    });
}

fn simulate(seed: u64) {
    let (mut w, app) = begin(seed, PLAN, Some("mail"));
    (0..4).for_each(|lane| rotate(&app, seed, lane));
    let draw = |n: u64| keyed_hash(seed, 0x01, 1, n);
    let goes_back = draw(0) % 2 == 0;
    w.cluster.faults().set_rates(OpKind::Transact, Rates { not_done: 20_000, unknown: 20_000 });
    let (mut next_kill, mut n, mut asked) = (Micros::from_secs(4), 0, false);
    while !w.is_over() {
        assert!(w.rt.now() < LONG, "seed {seed}: {}", w.why());
        if w.rt.now() >= next_kill && n < 5 {
            n += 1;
            match draw(n * 3) % 3 {
                0 => drop(w.cluster.faults().step_down()),
                _ => w.kill(Micros::from_ms(100 + draw(n * 3 + 1) % 3_000)),
            }
            next_kill = w.rt.now() + Micros::from_ms(3_000 + draw(n * 3 + 2) % 6_000);
        }
        if goes_back && !asked && w.records("soak_began").len() >= 2 {
            asked = true;
            passes(&mut w, Micros::from_ms(3_500));
        }
        if asked && !w.has("rollback_began") && w.rt.now().0 % 1_000_000 < 20_000 {
            w.send(Command::Rollback { hard: draw(1) % 2 == 0, to: None });
        }
        w.step().unwrap();
        assert_eq!(app.violation(), None, "seed {seed}: {}", w.why());
    }
    over(&mut w);
    app.stop(&mut w);
    assert_eq!(w.state().strays.len(), 0, "seed {seed}: {}", w.why());
    let (side, ns) = if goes_back { (Side::Legacy, w.ns()) } else { (Side::Next, next(&w)) };
    assert_eq!(w.outcome(), if goes_back { "rolled_back" } else { "completed" }, "seed {seed}");
    let there: BTreeMap<_, _> = w.cluster.dump(&ns).into_iter().collect();
    assert_eq!(there, app.expected(side), "seed {seed}");
    assert!(app.writes() > 300, "seed {seed}: {} writes", app.writes());
}

#[test]
fn documents_exchange_unique_values_under_traffic_and_nothing_is_lost() {
    for seed in 0..4 {
        simulate(seed);
    }
}

#[test]
fn what_the_copy_cannot_hold_is_put_aside_and_carried_once_it_is_mended() {
    // Legacy does not mind, next does.
    let (mut w, app) = begin(5, PLAN, None);
    w.until("the copy is done", LONG, soaks(1));
    let one = app.clone();
    app.lane(async move { one.write(3, mail(4)).await });
    w.until("it is put aside", LONG, |w| w.has("stray_found"));
    let why = w.records("stray_found")[0].body["why"].as_str().unwrap().to_owned();
    assert!(why.contains("must be unique"), "{why}");
    assert!(w.records("paused").len() == 1, "{}", w.why());
    // Others are carried all the same.
    let one = app.clone();
    app.lane(async move { one.write(9, Value { text: "other".into(), at_ms: 0 }).await });
    let to = next(&w);
    let carried = |w: &World, id: i64| {
        w.cluster.dump(&w.plan.collections[0].next).into_iter().any(|(k, d)| {
            k == id.into() && d.get_document("contact").unwrap().get_str("email").unwrap() == app.known()[&id].text
        })
    };
    w.until("another is carried", LONG, |w| app.writes() == 2 && carried(w, 9));
    assert!(!carried(&w, 3));
    // The holder gives it up; nobody touches the one that was refused.
    let one = app.clone();
    app.lane(async move { one.write(4, Value { text: "new".into(), at_ms: 0 }).await });
    w.until("it is carried by itself", Micros::from_secs(90), |w| carried(w, 3));
    app.stop(&mut w);
    let there: BTreeMap<_, _> = w.cluster.dump(&to).into_iter().collect();
    assert_eq!(there, app.expected(Side::Next));
    assert_eq!(w.records("stray_found").len(), 1, "told once");
}

#[test]
fn what_next_could_not_refuse_is_refused_before_anything_is_made() {
    let half = PLAN.replace(
        "reads = 100\nwrites = 100",
        "reads = 50\nwrites = 50\n[[stage]]\nid = \"rest\"\nreads = 100\nwrites = 100",
    );
    let half = half.replace("unique = true", "unique = false");
    let none = PLAN.replace("unique = true", "unique = false");
    for (text, field, wanted) in [
        (half.as_str(), "mail", "moves only some of the writes"),
        (none.as_str(), "mail", "add to `indexes`: { keys = { \"contact.email\" = 1 }"),
        (PLAN, "n", "over a field that a step changes"),
    ] {
        let (mut w, _app) = begin(1, text, None);
        let docs = (0..3).map(|id| rawdoc! { "_id": id, "mail": format!("x{id}"), "n": id });
        let ns = w.ns();
        for (key, _) in w.cluster.dump(&ns) {
            let op = tidegate::cluster::WriteOp::Delete { ns: ns.clone(), key, only_if: None };
            write(&mut w, op);
        }
        w.cluster.load(&ns, docs.collect()).unwrap();
        let spec =
            IndexSpec { name: "by_it".into(), keys: bson::doc! { field: 1 }, unique: true, ..IndexSpec::default() };
        ask(&mut w, AdminOp::CreateIndex { ns, index: spec });
        w.until("it says so", LONG, |w| w.has("needs_operator"));
        let why = w.records("needs_operator")[0].body["why"].as_str().unwrap().to_owned();
        assert!(why.contains(wanted) && why.contains("`by_it`"), "{why}");
    }
}
