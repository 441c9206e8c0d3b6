//! Tracing a document on the embedded cluster: before, while and after its bucket moves; what differs, is kept, masked, or hostile. The
//! command and the runner's screen are answered by the same code, and nothing is written for either.

mod places;

use std::sync::Arc;

use bson::{RawDocumentBuf, rawdoc};
use tidegate::cluster::{Cluster, Key, Ns, WriteOp};
use tidegate::engine::planted::Planted;
use tidegate::plan::Plan;
use tidegate::route::{Side, bucket_of};
use tidegate::runtime::{Group, Micros};
use tidegate::snapshot::{Command, TraceAsk, TraceVerdict, TraceView};

use super::in_place::world::World;

const LONG: Micros = Micros::from_secs(300);

const PLAN: &str = concat!(
    head!("traced", "Traced", "simulation"),
    r#"[privacy]
mask = ["customer.name"]
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [
  { rename = "customer.name", to = "customer_name" },
  { rename = "note", to = "remark" },
  { set = "schema_version", value = 2 },
]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "2s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "20s"
"#,
    to_the_end!()
);

const DOCUMENTS: i64 = 60;

fn legacy(id: i64) -> RawDocumentBuf {
    rawdoc! { "_id": id, "customer": { "name": format!("secret {id}") }, "n": id }
}

fn world(seed: u64, text: &str) -> World {
    let plan = Plan::parse(text, "traced.toml").unwrap_or_else(|e| panic!("{}", e.render(false)));
    World::new(seed, Arc::new(plan), Planted::default(), 20)
}

fn begun(seed: u64) -> World {
    let w = world(seed, PLAN);
    w.cluster.load(&w.ns(), (0..DOCUMENTS).map(legacy).collect()).unwrap();
    w
}

fn next(w: &World) -> Ns {
    w.plan.collections[0].next.clone()
}

fn passes(w: &mut World, span: Micros) {
    let end = w.rt.now() + span;
    while w.rt.now() < end {
        w.step().unwrap();
    }
}

fn soaks(n: usize) -> impl Fn(&World) -> bool {
    move |w| w.records("soak_began").len() >= n
}

/// One write past everybody.
fn write(w: &mut World, op: WriteOp) {
    let cluster = w.cluster.clone();
    let write = async move {
        cluster.write(&op).await.unwrap();
    };
    w.rt.spawn(Group(71), "write", Box::pin(write));
    passes(w, Micros::from_ms(40));
}

fn put(w: &mut World, ns: &Ns, doc: RawDocumentBuf) {
    let key = Key::of(&doc).unwrap();
    write(w, WriteOp::Replace { ns: ns.clone(), key, only_if: None, doc, upsert: true });
}

/// The first key from `from` on whose bucket lies below the half, or not.
fn key(below: bool, from: i64) -> i64 {
    (from..DOCUMENTS).find(|id| (bucket_of(&Key::from(*id)).unwrap() < 512) == below).unwrap()
}

fn route(v: &TraceView) -> (Option<i64>, Side, Side, bool) {
    let r = v.route.as_ref().unwrap();
    (r.epoch, r.owner, r.reads, r.frozen)
}

fn texts(v: &TraceView) -> String {
    v.journal.iter().map(|r| format!("{}\n", r.text)).collect()
}

fn value<'v>(v: &'v TraceView, version: &str, path: &str) -> Option<&'v str> {
    v.version(version)?.fields.iter().find(|f| f.path == path).map(|f| f.value.as_str())
}

/// Everything that is in tidegate's own database, and both sides: tracing must leave it as it is.
fn everything(w: &World) -> Vec<(String, Vec<(Key, RawDocumentBuf)>)> {
    let control =
        ["journal", "rollouts", "routes", "fences", "sessions", "quarantine", "undo", "commands", "snapshots"];
    let mut all: Vec<Ns> = control.iter().map(|c| Ns::new("tidegate", c)).collect();
    all.extend([w.ns(), next(w)]);
    all.iter().map(|ns| (ns.to_string(), w.cluster.dump(ns))).collect()
}

#[test]
fn before_the_rollout_there_is_no_route_and_legacy_owns_everything() {
    let w = begun(1);
    let before = everything(&w);
    let v = w.trace("17");
    assert_eq!(everything(&w), before, "a trace writes nothing and takes no lease");
    assert_eq!((v.verdict, route(&v)), (TraceVerdict::NotCopied, (None, Side::Legacy, Side::Legacy, false)));
    assert!(v.why.contains("the rollout has not begun"), "{}", v.why);
    assert_eq!((v.key.as_str(), v.person), ("17", None));
    assert_eq!(v.bucket, Some(bucket_of(&Key::from(17_i64)).unwrap()));
    assert!(v.journal.is_empty() && v.kept.is_empty());
    assert_eq!(w.trace("999").verdict, TraceVerdict::Absent);
}

#[test]
fn a_key_is_followed_before_while_and_after_its_bucket_moves() {
    let mut w = begun(2);
    let (low, high) = (key(true, 0).to_string(), key(false, 0).to_string());
    w.until("the copy soaks", LONG, soaks(1));
    let v = w.trace(&low);
    assert_eq!((v.verdict, route(&v).1, route(&v).2), (TraceVerdict::Agrees, Side::Legacy, Side::Legacy), "{}", v.why);
    assert!(texts(&v).is_empty());
    assert_eq!(value(&v, "next", "schema_version"), Some("2"));
    assert_eq!(v.version("T(legacy)").unwrap().fields, v.version("next").unwrap().fields);
    assert_eq!(v.version("inverse(next)").unwrap().fields, v.version("legacy").unwrap().fields);
    // The copy is tidegate's own write, and the oplog still has it.
    let own: Vec<_> = v.events.iter().map(|e| (e.side, e.kind.as_str(), e.own)).collect();
    assert_eq!(own, [(Side::Next, "insert", Some(true))], "{:?}", v.reach);
    assert!(v.reach.iter().all(|r| r.back.is_some()), "{:?}", v.reach);

    // Between the freeze and the flip.
    w.until("a freeze is in force", LONG, |w| {
        let routes = w.cluster.dump(&Ns::new("tidegate", "routes"));
        routes.iter().any(|(_, r)| r.get_document("frozen").is_ok())
    });
    let v = w.trace(&low);
    let (_, owner, _, frozen) = route(&v);
    // The freeze is short: by the time the answer is there it may be over.
    assert!(frozen || owner == Side::Next, "{:?}", v.route);

    w.until("half soaks", LONG, soaks(2));
    let (v, other) = (w.trace(&low), w.trace(&high));
    assert_eq!((v.verdict, route(&v).1, route(&v).2), (TraceVerdict::Agrees, Side::Next, Side::Next), "{}", v.why);
    assert!(texts(&v).contains("its reads moved to next with route"), "{}", texts(&v));
    assert!(texts(&v).contains("its writes moved to next with route"), "{}", texts(&v));
    assert!(texts(&v).contains("cutover of buckets 0..512 begins, in stage half"), "{}", texts(&v));
    assert_eq!((route(&other).1, texts(&other).as_str()), (Side::Legacy, ""));
    let steps: Vec<_> = v.lineage.iter().map(|s| (s.class.as_str(), s.touches)).collect();
    assert_eq!(steps, [("reordered", Some(true)), ("exact", Some(false)), ("exact", Some(true))]);

    // A write through the owner is known as an application's.
    let id: i64 = low.parse().unwrap();
    let to = next(&w);
    put(&mut w, &to, rawdoc! { "_id": id, "customer_name": "new secret", "n": 7_i64, "schema_version": 2 });
    passes(&mut w, Micros::from_secs(1));
    let v = w.trace(&low);
    assert_eq!((v.verdict, value(&v, "legacy", "n")), (TraceVerdict::Agrees, Some("7 (long)")), "{}", v.why);
    let last: Vec<_> = v.events.iter().rev().take(2).map(|e| (e.side, e.own)).collect();
    assert!(last.contains(&(Side::Next, Some(false))) && last.contains(&(Side::Legacy, Some(true))), "{:?}", v.events);
}

#[test]
fn the_screen_of_the_runner_and_the_command_say_the_same() {
    let mut w = begun(3);
    w.until("half soaks", LONG, soaks(2));
    for id in [key(true, 0), key(false, 0), 999] {
        let at_screen = w.asked(&TraceAsk { id: id as u64 + 1, key: id.to_string(), reveal: false });
        let by_command = w.trace(&id.to_string());
        let same = |v: TraceView| TraceView { ask: 0, at_ms: 0, reach: Vec::new(), ..v };
        assert_eq!(same(at_screen), same(by_command));
    }
}

#[test]
fn a_planted_divergence_names_the_fields_and_what_should_be_there() {
    let mut w = begun(4);
    w.until("half soaks", LONG, soaks(2));
    // Nobody follows while no runner is there: what is written past the route stays.
    w.send(Command::Stop);
    w.until("it stops", LONG, |w| w.has("stopped"));
    passes(&mut w, Micros::from_secs(1));
    let id = key(false, 0);
    let to = next(&w);
    let odd = rawdoc! { "_id": id, "n": -1_i64, "customer_name": "other secret", "schema_version": 2, "extra": true };
    put(&mut w, &to, odd);
    let v = w.trace(&id.to_string());
    assert_eq!((v.verdict, v.person.as_deref()), (TraceVerdict::Differs, None));
    let told: Vec<_> =
        v.differences.iter().map(|d| (d.path.as_str(), d.wanted.as_deref(), d.holds.as_deref())).collect();
    let n = format!("{id} (long)");
    assert!(told.contains(&("n", Some(&n), Some("-1 (long)"))), "{told:?}");
    assert!(told.contains(&("extra", None, Some("true"))), "{told:?}");
    assert!(told.contains(&("customer_name", Some("masked string"), Some("masked string"))), "{told:?}");
    // Masked values that differ look alike; that they differ is said all the same.
    assert_eq!(v.version("T(legacy)").unwrap().is_held, Some(false));
    let only_name = rawdoc! { "_id": id, "n": id, "customer_name": "other secret", "schema_version": 2 };
    put(&mut w, &to, only_name);
    let v = w.trace(&id.to_string());
    assert_eq!((v.verdict, v.version("T(legacy)").unwrap().is_held), (TraceVerdict::Differs, Some(false)));
    assert_eq!(v.differences.iter().map(|d| d.path.as_str()).collect::<Vec<_>>(), ["customer_name"]);
    assert!(!format!("{v:?}").contains("secret"));
    // Deleted on the copy, and then on both.
    let gone = Key::from(id);
    write(&mut w, WriteOp::Delete { ns: to, key: gone.clone(), only_if: None });
    let v = w.trace(&id.to_string());
    assert_eq!(v.verdict, TraceVerdict::Differs);
    assert!(v.why.contains("next has none") && !v.differences.is_empty(), "{}", v.why);
    let ns = w.ns();
    write(&mut w, WriteOp::Delete { ns, key: gone, only_if: None });
    let v = w.trace(&id.to_string());
    assert_eq!((v.verdict, v.events.last().map(|e| e.kind.as_str())), (TraceVerdict::Absent, Some("delete")));
}

#[test]
fn a_deleted_document_is_on_neither_side_and_its_deletion_is_known() {
    let mut w = begun(5);
    w.until("half soaks", LONG, soaks(2));
    let id = key(false, 3);
    let ns = w.ns();
    write(&mut w, WriteOp::Delete { ns, key: Key::from(id), only_if: None });
    passes(&mut w, Micros::from_secs(1));
    let v = w.trace(&id.to_string());
    assert_eq!(v.verdict, TraceVerdict::Absent, "{}", v.why);
    let deletions: Vec<_> = v.events.iter().filter(|e| e.kind == "delete").map(|e| (e.side, e.own)).collect();
    assert_eq!(deletions, [(Side::Legacy, Some(false)), (Side::Next, Some(true))], "{:?}", v.events);
}

#[test]
fn a_stray_is_for_a_person_and_both_versions_of_it_are_shown() {
    let mut w = begun(6);
    w.until("half soaks", LONG, soaks(2));
    let (id, to) = (key(false, 0), next(&w));
    put(&mut w, &to, rawdoc! { "_id": id, "n": 77_i64, "customer_name": "stray secret", "schema_version": 2 });
    w.until("it is found", LONG, |w| w.has("stray_found"));
    passes(&mut w, Micros::from_secs(1));
    for v in [w.trace(&id.to_string()), w.asked(&TraceAsk { id: 9, key: id.to_string(), reveal: false })] {
        assert!(v.person.as_ref().is_some_and(|p| p.contains("did not own the key")), "{:?}", v.person);
        let kept: Vec<_> = v.kept.iter().map(|k| (k.kind.as_str(), k.open)).collect();
        assert_eq!(kept, [("stray", true)]);
        let names: Vec<_> = v.kept[0].versions.iter().map(|x| x.name.as_str()).collect();
        assert_eq!(names, ["legacy", "next"]);
        assert!(texts(&v).contains("stray write of"), "{}", texts(&v));
        assert!(!serde_json::to_string(&v).unwrap().contains("secret"), "the records are masked too");
    }
    assert_eq!(w.trace(&key(false, id + 1).to_string()).person, None, "others are not its business");
}

#[test]
fn a_document_without_a_form_on_the_other_side_is_in_quarantine_with_the_reason() {
    let mut w = begun(16);
    w.until("half soaks", LONG, soaks(2));
    let (id, to) = (key(true, 0), next(&w));
    // An empty document in the place of one that a field was moved out of: the way back would drop it.
    put(&mut w, &to, rawdoc! { "_id": id, "customer": {}, "n": 1_i64, "customer_name": "secret", "schema_version": 2 });
    w.until("it is listed", LONG, |w| w.has("stray_found"));
    passes(&mut w, Micros::from_secs(1));
    let v = w.trace(&id.to_string());
    assert_eq!((v.verdict, v.route.as_ref().map(|r| r.owner)), (TraceVerdict::Differs, Some(Side::Next)), "{}", v.why);
    assert!(v.why.contains("it has no form on legacy") && v.person.is_some(), "{} {:?}", v.why, v.person);
    let kept: Vec<_> = v.kept.iter().map(|k| (k.kind.as_str(), k.open)).collect();
    assert_eq!(kept, [("refused", true)]);
    assert!(v.version("inverse(next)").unwrap().problem.is_some());
}

#[test]
fn masked_values_are_shown_only_when_that_is_in_the_journal() {
    let mut w = begun(7);
    w.until("half soaks", LONG, soaks(2));
    let id = key(true, 0);
    let ask = |n: u64, reveal| TraceAsk { id: n, key: id.to_string(), reveal };
    let v = w.asked(&ask(1, false));
    assert!(v.masked && !v.revealed && !w.has("revealed"));
    for (version, path) in [
        ("legacy", "customer.name"),
        ("next", "customer_name"),
        ("T(legacy)", "customer_name"),
        ("inverse(next)", "customer.name"),
    ] {
        assert_eq!(value(&v, version, path), Some("masked string"), "{version}");
    }
    assert!(!format!("{v:?}").contains("secret"));
    let v = w.asked(&ask(2, true));
    assert!(v.revealed && !v.masked);
    assert_eq!(value(&v, "next", "customer_name"), Some(format!("\"secret {id}\"").as_str()));
    let told = w.records("revealed");
    let by = told[0].by.to_string();
    assert_eq!((told.len(), told[0].body["key"].as_str(), by.as_str()), (1, Some(id.to_string().as_str()), "operator"));
    assert!(!tidegate::journal::show(&told[0]).contains("secret"));
    // It names the key as everything else does, and so is part of its journey.
    assert!(texts(&w.trace(&id.to_string())).contains("are shown"));
}

#[test]
fn what_is_traced_never_leaves_the_process_with_the_picture() {
    let mut w = begun(8);
    w.until("the copy soaks", LONG, soaks(1));
    let v = w.asked(&TraceAsk { id: 1, key: "17".into(), reveal: true });
    let snapshot = tidegate::snapshot::Snapshot { trace: Some(Arc::new(v)), ..Default::default() };
    let text = serde_json::to_string(&snapshot).unwrap();
    assert!(!text.contains("secret") && !text.contains("trace"), "{text}");
}

#[test]
fn hostile_keys_and_documents_are_text_and_nothing_else() {
    let mut w = begun(9);
    let evil = "x\u{1b}]52;c;eA==\u{7}\u{202e}'\"\\{$ne:1}";
    let mut doc = rawdoc! { "_id": evil, "n\u{1b}[2J": "v\u{9b}31m\n", "deep": { "a.b": [evil] } };
    doc.append(bson::cstr!("big"), "y".repeat(1 << 20));
    w.cluster
        .load(
            &w.ns(),
            vec![doc, rawdoc! { "_id": { "region": "eu", "n": 1 }, "x": 1 }, rawdoc! { "_id": "17", "x": 1 }],
        )
        .unwrap();
    w.until("the copy soaks", LONG, soaks(1));
    for asked in [evil.to_owned(), Key::from(evil).to_string()] {
        let v = w.trace(&asked);
        assert_eq!(v.verdict, TraceVerdict::Agrees, "{asked}: {}", v.why);
        let shown = serde_json::to_value(&v).unwrap().to_string();
        let lines = tidegate::tui::journey::lines(&v, 100);
        assert!(lines.iter().all(|(l, _)| !l.chars().any(|c| c.is_control() || c == '\u{202e}')), "{lines:?}");
        assert!(!shown.contains("\\u001b") && !shown.contains('\u{202e}') && shown.len() < 100_000, "{}", shown.len());
    }
    assert_eq!(w.trace(r#"{ "region": "eu", "n": 1 }"#).verdict, TraceVerdict::Agrees);
    // A number and a text are two keys: the number is what a bare 17 means, and the other one is named.
    let v = w.trace("17");
    assert_eq!((v.key.as_str(), v.verdict), ("17", TraceVerdict::Agrees));
    assert!(v.notes.iter().any(|n| n.contains("\"17\", too")), "{:?}", v.notes);
    assert_eq!(w.trace("\"17\"").key, "\"17\"");
    for odd in ["1.5e400", "[1]", "{\"$oid\":\"zz\"}", "-", "{", "\u{0}", "null", "NaN", "9223372036854775807"] {
        let v = w.trace(odd);
        assert!(matches!(v.verdict, TraceVerdict::Absent | TraceVerdict::NotCopied), "{odd}: {v:?}");
    }
    for none in ["", "   "] {
        assert!(w.trace(none).verdict == TraceVerdict::Unknown);
    }
}
