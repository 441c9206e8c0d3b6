//! Rehearsals: every stage forward and back on documents that are given, and what they find.

use bson::{RawDocumentBuf, doc, rawdoc};
use tidegate::cluster::IndexSpec;
use tidegate::drill::{Rehearsal, Rehearse, Sample, Way, builtin, rehearse};
use tidegate::plan::Plan;
use tidegate::workload::{Config, Shapes, initial_orders};

const HOW: Rehearse = Rehearse { seed: 1, edits_per_s: 40 };

fn plan(adapt: impl Fn(String) -> String) -> Plan {
    let text = adapt(builtin().iter().find(|b| b.id == "first-watch").unwrap().plan.to_owned());
    Plan::parse(&text, "plan.toml").unwrap_or_else(|d| panic!("{}", d.render(false)))
}

/// The same with three stages: what goes for any plan.
fn short(adapt: impl Fn(String) -> String) -> Plan {
    const STAGES: &str = "[[stage]]\nid = \"copy\"\ndo = [\"create\", \"backfill\", \"indexes\"]\n\n\
        [[stage]]\nid = \"full\"\nreads = 100\nwrites = 100\n\n\
        [[stage]]\nid = \"contract\"\ndo = [\"quarantine-legacy\"]\nirreversible = true\n";
    plan(|p| adapt(format!("{}{STAGES}", &p[..p.find("[[stage]]").unwrap()])))
}

fn orders(documents: u64) -> Vec<RawDocumentBuf> {
    initial_orders(&Config { documents, ..Config::default() }, Shapes::default()).collect()
}

fn sample(documents: Vec<RawDocumentBuf>) -> Sample {
    Sample { documents, unique: Vec::new() }
}

fn rehearsed(plan: &Plan, sample: &Sample) -> Rehearsal {
    rehearse(plan, sample, HOW, |_| {}).unwrap()
}

#[test]
fn every_stage_is_carried_forward_and_back_and_edits_survive() {
    let plan = plan(|p| p);
    let mut told = 0;
    let found = rehearse(&plan, &sample(orders(200)), HOW, |_| told += 1).unwrap();
    assert!(found.is_clean(), "{found:#?}");
    assert_eq!((found.documents, found.unedited, told), (200, 0, found.passes.len()));
    let ways: Vec<_> = found.passes.iter().map(|p| (p.stage.as_str(), p.way)).collect();
    let back = ["copy", "shadow", "canary", "half", "full"];
    assert_eq!(ways[0], ("contract", Way::Through));
    assert_eq!(ways[1..], back.map(|s| [(s, Way::Soft), (s, Way::Hard)]).concat());
    for p in &found.passes {
        let proof = p.outcome.as_ref().unwrap();
        assert!((150..=200).contains(&proof.documents()) && proof.lossy == 0, "{p:?}");
        assert!(p.edits[0] > 50, "{p:?}");
        let moved = p.stage != "copy" && p.stage != "shadow";
        assert_eq!(p.edits[1] > 0, moved, "{p:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_rehearsal() {
    let (plan, sample) = (short(|p| p), sample(orders(60)));
    let [one, again, other] =
        [1, 1, 2].map(|seed| format!("{:?}", rehearse(&plan, &sample, Rehearse { seed, ..HOW }, |_| {}).unwrap()));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn documents_that_the_steps_refuse_are_named_and_the_others_go_on() {
    let mut all = orders(40);
    all.push(rawdoc! { "_id": "odd", "customer": { "name": "Ann" }, "total": 12 });
    all.push(rawdoc! { "_id": "odd", "customer": { "name": "Ann" }, "total": 12 });
    let found = rehearsed(&short(|p| p), &sample(all));
    assert_eq!((found.documents, found.refused.len()), (40, 1));
    assert!(found.refused[0].contains("_id \"odd\"") && found.refused[0].contains("`total`"), "{:?}", found.refused);
    assert!(!found.is_clean() && found.passes.iter().all(|p| p.outcome.is_ok()), "{found:#?}");
    let none = sample(vec![rawdoc! { "_id": 1, "total": 12 }]);
    let e = rehearse(&short(|p| p), &none, HOW, |_| panic!("nothing to carry")).unwrap_err().to_string();
    assert!(e.contains("no document was drawn") && e.contains("`total`"), "{e}");
}

#[test]
fn a_plan_that_cannot_be_carried_out_on_this_data_fails_by_stage_and_reason() {
    // A unique index lets writes move all at once only; this plan moves some of them first.
    let keys = doc! { "customer.name": 1 };
    let index = IndexSpec { name: "one_each".into(), keys, unique: true, ..IndexSpec::default() };
    let one_each = |n: i32| rawdoc! { "_id": n, "customer": { "name": format!("c{n}") }, "total": "1.50" };
    let sample = Sample { documents: (0..30).map(one_each).collect(), unique: vec![index] };
    let found = rehearsed(&plan(|p| p), &sample);
    assert!(!found.is_clean(), "{found:#?}");
    let failed = found.passes.iter().filter_map(|p| Some((p, p.outcome.as_ref().err()?)));
    for (p, why) in failed {
        assert!(why.contains("one_each") || why.contains("unique"), "{p:?}");
    }
}

#[test]
fn what_a_lossy_step_loses_is_counted_apart() {
    let plan = short(|p| p.replace("{ set = \"schema_version\", value = 2 }", "{ unset = \"note\", lossy = true }"));
    let with_note = |n: i32| rawdoc! { "_id": n, "customer": { "name": "Ann" }, "total": "1.50", "note": "call back" };
    let found = rehearsed(&plan, &sample((0..60).map(with_note).collect()));
    assert!(found.is_clean(), "{found:#?}");
    let of = |stage: &str, way| found.passes.iter().find(|p| p.stage == stage && p.way == way).unwrap();
    let (early, late) = (of("copy", Way::Hard), of("full", Way::Hard));
    assert_eq!(early.outcome.as_ref().unwrap().lossy, 0, "{early:?}");
    let late = late.outcome.as_ref().unwrap();
    assert!(late.lossy > 0 && late.exact > 0, "edited on next: {late:?}");
}

#[test]
fn two_clusters_are_rehearsed_as_two() {
    let plan =
        plan(|p| p.replace("environment = \"drill\"", "environment = \"test\"\nuri = \"${A}\"\nnext_uri = \"${B}\""));
    let found = rehearsed(&plan, &sample(orders(60)));
    assert!(found.is_clean(), "{found:#?}");
}

#[test]
fn masked_values_are_carried_in_their_place() {
    let mask = "[privacy]\nmask = [\"customer.name\", \"total\"]\n\n[cutover]";
    let masking = short(|p| p.replace("[cutover]", mask));
    assert_eq!(masking.masked, ["customer.name", "total"]);
    let found = rehearsed(&masking, &sample(orders(40)));
    assert!(found.is_clean() && found.masked_out == 0 && found.documents == 40, "{found:#?}");
    // What does not fit the steps is told of the document as it is, not as it was masked.
    let odd = rawdoc! { "_id": "odd", "customer": { "name": "Ann" }, "total": "five" };
    let found = rehearsed(&masking, &sample([orders(10), vec![odd]].concat()));
    assert_eq!((found.refused.len(), found.masked_out), (1, 0), "{found:#?}");
    // A number that keeps to its form is one of few digits; a long one loses nothing but its digits either.
    let dated = rawdoc! { "_id": "note", "customer": { "name": "Ann" }, "total": "1E+3" };
    let found = rehearsed(&masking, &sample([orders(10), vec![dated]].concat()));
    assert_eq!((found.refused.len(), found.masked_out), (0, 1), "X is no exponent: {found:#?}");
}
