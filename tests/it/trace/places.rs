//! Where there are not two sides that both count: in place, after a rollout, after a rollback; and where steps lose something.

use bson::rawdoc;
use tidegate::cluster::WriteOp;
use tidegate::cluster::{Key, Ns};
use tidegate::runtime::Micros;
use tidegate::snapshot::{Command, TraceVerdict};

use super::{LONG, PLAN, World, begun, key, next, passes, put, soaks, texts, value, world, write};
use crate::in_place::world::PLAN as IN_PLACE;

fn order(id: i64) -> bson::RawDocumentBuf {
    rawdoc! { "_id": id, "customer": { "name": format!("name {id}") }, "total": "12.50" }
}

fn in_place(seed: u64) -> World {
    let w = world(seed, &IN_PLACE.replace("MAX_RATE", "1000000"));
    w.cluster.load(&w.ns(), (0..40).map(order).collect()).unwrap();
    w
}

#[test]
fn in_place_there_is_one_version_and_its_pre_image() {
    let mut w = in_place(11);
    let v = w.trace("7");
    assert_eq!((v.verdict, v.route.is_none()), (TraceVerdict::NotCopied, true), "{}", v.why);
    assert_eq!(value(&v, "T(document)", "customer_name"), Some("\"name 7\""));
    w.until("it is changed", LONG, soaks(1));
    let v = w.trace("7");
    assert_eq!((v.verdict, v.why.as_str()), (TraceVerdict::Agrees, "it has next's shape"));
    let names: Vec<_> = v.versions.iter().map(|x| x.name.as_str()).collect();
    assert_eq!(names, ["document", "inverse(document)"]);
    assert_eq!(value(&v, "document", "total"), Some("12.50 (decimal)"));
    let kept: Vec<_> = v.kept.iter().map(|k| (k.kind.as_str(), k.versions[0].name.as_str())).collect();
    assert_eq!(kept, [("pre-image", "was")]);
    assert!(v.kept[0].versions[0].fields.iter().any(|f| f.path == "customer.name"));
    assert_eq!(v.reach.len(), 1, "there is one collection");
    // Of neither shape, and back again.
    let ns = w.ns();
    put(&mut w, &ns, rawdoc! { "_id": 8_i64, "customer": { "name": "x" }, "customer_name": "y", "schema_version": 2 });
    let v = w.trace("8");
    assert_eq!((v.verdict, v.person.is_some()), (TraceVerdict::Differs, true), "{}", v.why);
    w.send(Command::Rollback { hard: true, to: None });
    w.until("it is over", LONG, World::is_over);
    let v = w.trace("7");
    assert_eq!((v.verdict, v.why.as_str()), (TraceVerdict::Agrees, "it is as legacy has it"));
    assert_eq!(value(&v, "document", "total"), Some("\"12.50\""));
    let v = w.trace("8");
    assert!(v.person.is_some() && v.kept.iter().any(|k| k.kind == "mixed" && k.open), "{:?}", v.kept);
}

#[test]
fn after_the_end_next_alone_counts_and_legacy_is_where_it_was_put() {
    let mut w = begun(12);
    w.until("it is over", LONG, World::is_over);
    let v = w.trace("17");
    assert_eq!(v.verdict, TraceVerdict::Alone, "{}", v.why);
    assert!(v.why.contains("legacy is kept as shop.orders.quarantine.traced"), "{}", v.why);
    assert!(v.version("legacy").is_some_and(|x| x.bytes.is_some() && x.place.contains("quarantine")));
    assert!(texts(&v).contains("its writes moved to next"), "{}", texts(&v));
    // Nobody follows any more: what next gets is no difference.
    let to = next(&w);
    put(&mut w, &to, rawdoc! { "_id": 17_i64, "n": 1 });
    assert_eq!(w.trace("17").verdict, TraceVerdict::Alone);
    write(&mut w, WriteOp::Delete { ns: to, key: Key::from(17_i64), only_if: None });
    assert_eq!(w.trace("17").verdict, TraceVerdict::Absent);
}

#[test]
fn after_a_rollback_legacy_alone_counts_and_the_way_there_and_back_is_told() {
    let mut w = begun(13);
    w.until("half soaks", LONG, soaks(2));
    w.send(Command::Rollback { hard: true, to: None });
    w.until("it is over", LONG, World::is_over);
    let id = key(true, 0).to_string();
    let v = w.trace(&id);
    assert_eq!(v.verdict, TraceVerdict::Alone, "{}", v.why);
    assert!(v.why.contains("next is kept as shop.orders_v2.isolated.traced"), "{}", v.why);
    let told = texts(&v);
    let (there, back) = (told.find("its writes moved to next"), told.find("moved to legacy with route"));
    assert!(there.is_some() && there < back, "{told}");
}

#[test]
fn what_steps_lose_is_on_legacy_still_and_the_lineage_says_which_do() {
    let text = PLAN.replace("{ rename = \"note\", to = \"remark\" }", "{ unset = \"note\", lossy = true }");
    let mut w = world(14, &text);
    let doc = |id: i64| rawdoc! { "_id": id, "customer": { "name": format!("secret {id}") }, "note": "lost", "n": id };
    w.cluster.load(&w.ns(), (0..60).map(doc).collect()).unwrap();
    w.until("half soaks", LONG, soaks(2));
    let id = key(true, 0);
    let v = w.trace(&id.to_string());
    assert_eq!(v.verdict, TraceVerdict::Agrees, "{}", v.why);
    assert_eq!((value(&v, "legacy", "note"), value(&v, "next", "note")), (Some("\"lost\""), None));
    let lossy: Vec<_> = v.lineage.iter().filter(|s| s.class == "lossy").map(|s| (s.number, s.touches)).collect();
    assert_eq!(lossy, [(2, Some(true))]);
    // Written on next: legacy's document is kept before it is overwritten, and keeps what next never had.
    let to = next(&w);
    put(&mut w, &to, rawdoc! { "_id": id, "n": 5_i64, "customer_name": "secret", "schema_version": 2 });
    passes(&mut w, Micros::from_secs(1));
    let v = w.trace(&id.to_string());
    assert_eq!((v.verdict, value(&v, "legacy", "note")), (TraceVerdict::Agrees, Some("\"lost\"")), "{}", v.why);
    let kept: Vec<_> = v.kept.iter().map(|k| k.kind.as_str()).collect();
    assert_eq!(kept, ["pre-image"]);
    assert_eq!(
        v.kept[0].versions[0].fields.iter().find(|f| f.path == "n").map(|f| f.value.clone()),
        Some(format!("{id} (long)"))
    );
    assert!(w.cluster.dump(&Ns::new("tidegate", "undo")).len() == 1);
}
