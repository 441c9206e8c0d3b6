//! The preflight's verdicts on facts: for each broken or risky set-up the check that names it, in its words, and nothing else changes.
//!
//! Each set-up begins as one that nothing speaks against. What the checks say is in `snapshots`, one file a set-up.

mod cases;

use std::sync::Arc;

use bson::{Document, RawDocumentBuf, doc};
use tidegate::cluster::survey::{
    ClusterFacts, CollectionFacts, Disk, Explained, Hello, IndexFacts, Link, MemberLook, NOT_ASKED, Oplog, Options,
    SetConfig, SetStatus, Size, Skew, Stands,
};
use tidegate::cluster::{Doc, IndexSpec, Member, Validation};
use tidegate::engine::preflight::{CHECKS, Facts, Report, Verdict, judge, page, role};
use tidegate::plan::Plan;
use tidegate::route::Side;
use tidegate::runtime::Micros;

pub const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
title = "Flat customer, decimal totals"
[cluster]
uri = "mongodb://db-0.example,db-1.example,db-2.example/?replicaSet=rs0"
environment = "production"
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [
  { rename = "customer.name", to = "customer_name" },
  { convert = "total", from = "string", to = "decimal" },
  { set = "schema_version", value = 2 },
]
indexes = [{ keys = { customer_name = 1 }, name = "by_customer" }]
[[query]]
name = "orders of a customer"
legacy = '{ "customer.name": "Cust 7" }'
next = '{ "customer_name": "Cust 7" }'
uses_index = true
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
[[stage]]
id = "full"
reads = 100
writes = 100
[[stage]]
id = "contract"
do = ["quarantine-legacy"]
irreversible = true
"#;

pub const IN_PLACE: &str = r#"
schema = 1
[plan]
id = "orders-v2"
title = "Flat customer, decimal totals"
[cluster]
uri = "mongodb://db-0.example,db-1.example,db-2.example/?replicaSet=rs0"
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders"
shape = '{ "schema_version": 2 }'
steps = [
  { convert = "total", from = "string", to = "decimal" },
  { set = "schema_version", value = 2 },
]
[[stage]]
id = "copy"
do = ["backfill"]
"#;

pub fn plan(text: &str) -> Arc<Plan> {
    Arc::new(Plan::parse(text, "plan.toml").unwrap_or_else(|d| panic!("{}", d.render(false))))
}

pub fn raw(d: &Document) -> Doc {
    RawDocumentBuf::try_from(d).unwrap().into()
}

pub fn order(id: impl Into<bson::Bson>) -> Document {
    let id = id.into();
    doc! { "customer": { "name": format!("Cust {id}"), "city": "Kiel" }, "total": "12.50", "_id": id }
}

pub fn index(name: &str, keys: Document) -> IndexFacts {
    IndexFacts { spec: IndexSpec { name: name.into(), keys, ..IndexSpec::default() }, partial: false, collation: None }
}

fn member(n: usize) -> Member {
    let state = if n == 0 { "PRIMARY" } else { "SECONDARY" };
    Member { name: host(n), state: state.into(), lag: Some(Micros::from_ms(n as u64)) }
}

pub fn host(n: usize) -> String {
    format!("db-{n}.example:27017")
}

fn cluster(plan: &Plan) -> ClusterFacts {
    let hosts: Vec<String> = (0..3).map(host).collect();
    let skew = Skew { ms: 3, within_ms: 2 };
    let look = |h: &String| MemberLook { host: h.clone(), version: Ok("6.0.5".into()), skew: Ok(skew) };
    ClusterFacts {
        link: Link { hosts: hosts.clone(), tls: true, unverified: false, user: true },
        version: Ok("6.0.5".into()),
        fcv: Ok("6.0".into()),
        status: Ok(SetStatus { members: (0..3).map(member).collect(), majority: 2 }),
        config: Ok(SetConfig { delayed: Vec::new(), voting_data: 3, majority_journal: true }),
        write_concern: Ok(("majority".into(), false)),
        rights: Ok(cases::rights_of(plan, &[])),
        oplog: Ok(Oplog { window: Micros::from_secs(86_400), bytes: Some(50 << 30), max_bytes: Some(50 << 30) }),
        looks: hosts.iter().map(look).collect(),
        hello: Ok(Hello { set: "rs0".into(), unfit: None, hosts, arbiters: Vec::new(), skew }),
    }
}

/// Facts that nothing speaks against.
pub fn good(text: &str) -> Facts {
    let plan = plan(text);
    let size = Size { documents: 1_000_000, bytes: 300 << 20, stored: 100 << 20, indexes: 30 << 20 };
    let disk = Ok(Disk { used: 100 << 30, total: 500 << 30 });
    let legacy = CollectionFacts {
        stands: Ok(Stands::Collection(Options::default())),
        indexes: Ok(vec![index("_id_", doc! { "_id": 1 }), index("by_name", doc! { "customer.name": 1 })]),
        count: Ok(1_000_000),
        size: Ok(size),
        disk: disk.clone(),
        stream: Ok(()),
    };
    let next = CollectionFacts {
        stands: Ok(Stands::Absent),
        indexes: Ok(Vec::new()),
        count: Ok(0),
        size: Ok(Size::default()),
        disk,
        ..CollectionFacts::unknown()
    };
    let uses = Explained { indexes: vec!["by_name".into()], scans: false };
    Facts {
        wall_ms: 1_700_000_000_000,
        clusters: vec![cluster(&plan)],
        next: if plan.in_place() { legacy.clone() } else { next },
        legacy,
        names: [Ok(vec!["orders".into()]), Ok(vec!["orders".into()])],
        sample: Ok((0..100).map(|n| raw(&order(n))).collect()),
        queries: plan.declared.queries.iter().map(|_| [Ok(uses.clone()), Ok(uses.clone())]).collect(),
        hooks: plan.hooks.iter().map(|_| None).collect(),
        known: Ok(Vec::new()),
        leftovers: Ok(Vec::new()),
        plan,
    }
}

/// What the named checks say, beside the verdict of the whole.
pub fn said(report: &Report, checks: &[&str]) -> String {
    let mut out = String::new();
    for o in report.outcomes.iter().filter(|o| checks.contains(&o.check.name)) {
        for f in &o.findings {
            out += &format!("{} {} [{}]\n  {}\n", f.verdict, o.check.name, f.place, f.what);
            if !f.remedy.is_empty() {
                out += &format!("  => {}\n", f.remedy);
            }
        }
    }
    out + &report.sentence()
}

/// Every check whose verdict differs from that of a good set-up, with its verdict.
pub fn changed(report: &Report, in_place: bool) -> Vec<(&'static str, Verdict)> {
    let base = judge(&good(if in_place { IN_PLACE } else { PLAN }));
    let pairs = report.outcomes.iter().zip(&base.outcomes);
    pairs.filter(|(now, was)| now.verdict != was.verdict).map(|(now, _)| (now.check.name, now.verdict)).collect()
}

#[test]
fn nothing_speaks_against_a_good_set_up() {
    for text in [PLAN, IN_PLACE] {
        let report = judge(&good(text));
        let odd: Vec<String> = report
            .outcomes
            .iter()
            .filter(|o| o.verdict > Verdict::Note)
            .map(|o| format!("{} {:?}", o.check.name, o.findings))
            .collect();
        assert!(odd.is_empty(), "{odd:#?}");
        assert!(report.is_clean() && report.sentence() == "nothing speaks against the rollout.");
        // The one note: the steps are breaking.
        let notes: Vec<&str> =
            report.outcomes.iter().filter(|o| o.verdict == Verdict::Note).map(|o| o.check.name).collect();
        assert_eq!(notes, ["shape-change"]);
    }
}

#[test]
fn there_are_at_least_thirty_checks_and_each_says_something() {
    assert!(CHECKS.len() >= 30);
    let report = judge(&good(PLAN));
    assert_eq!(report.outcomes.len(), CHECKS.len());
    assert!(report.outcomes.iter().all(|o| !o.findings.is_empty() && !o.findings[0].what.is_empty()));
}

#[test]
fn a_check_without_its_fact_never_passes() {
    let mut f = good(PLAN);
    f.clusters = vec![ClusterFacts::silent(f.clusters[0].link.clone(), "no primary answers: nobody is there".into())];
    f.legacy = CollectionFacts::unknown();
    f.next = CollectionFacts::unknown();
    f.names = [Err(NOT_ASKED), Err(NOT_ASKED)];
    f.sample = Err(NOT_ASKED);
    f.queries = vec![[Err(NOT_ASKED), Err(NOT_ASKED)]];
    f.known = Err(NOT_ASKED);
    f.leftovers = Err(NOT_ASKED);
    let report = judge(&f);
    let passed: Vec<&str> =
        report.outcomes.iter().filter(|o| o.verdict == Verdict::Pass).map(|o| o.check.name).collect();
    // These look at the plan alone.
    let alone = [
        "encrypted-connection",
        "two-clusters",
        "server-gate",
        "name-lengths",
        "unique-on-next",
        "in-place-shape",
        "pilot-cohort",
        "lossy-steps",
        "queries-next",
        "change-windows",
        "hooks",
    ];
    assert_eq!(passed, alone);
    assert!(!report.is_clean());
    insta::assert_snapshot!(said(&report, &["reachable", "transforms"]));
}

#[test]
fn the_role_allows_exactly_what_is_needed() {
    let plan = plan(PLAN);
    let json = bson::Bson::Document(role(&plan, Side::Legacy)).into_relaxed_extjson().to_string();
    assert!(json.contains("\"tidegate-orders-v2\"") && json.contains("\"bypassDocumentValidation\""));
    for too_much in ["anyAction", "dropDatabase", "\"db\":\"\"", "anyResource", "dropCollection"] {
        assert!(!json.contains(too_much), "{too_much} in {json}");
    }
    let report = judge(&good(PLAN));
    let rights = |o: &&tidegate::engine::preflight::Outcome| o.check.name.contains("privilege");
    assert!(report.outcomes.iter().filter(rights).all(|o| o.verdict == Verdict::Pass));
}

/// [`PLAN`] for another tool.
fn observed() -> String {
    let head = PLAN.split("[[stage]]").next().unwrap().replace("\"route\"", "\"observe\"");
    format!("{head}[[stage]]\nid = \"copied\"\nreached = [\"reconciled\", \"indexes\"]\n")
}

#[test]
fn who_only_observes_needs_no_right_to_write_and_a_copy_under_way_is_no_fault() {
    let text = observed();
    let json = bson::Bson::Document(role(&plan(&text), Side::Legacy)).into_relaxed_extjson().to_string();
    for writes in ["insert", "update", "remove", "create", "collMod", "rename", "bypass", "\"tidegate\""] {
        assert!(!json.replace("createRole", "").contains(writes), "{writes} in {json}");
    }
    let mut f = good(&text);
    // The other tool has begun, and the user may not see tidegate's own database.
    f.next = CollectionFacts { stands: f.legacy.stands.clone(), count: Ok(500_000), ..f.next };
    (f.known, f.leftovers) = (Err(NOT_ASKED), Err(NOT_ASKED));
    let report = judge(&f);
    let odd: Vec<_> = report.outcomes.iter().filter(|o| o.verdict > Verdict::Note).map(|o| &o.findings).collect();
    assert!(report.is_clean() && odd.is_empty(), "{odd:#?}");
    let of = |report: &Report, name: &str| report.outcomes.iter().find(|o| o.check.name == name).unwrap().verdict;

    f.clusters[0].rights = Ok(cases::rights_of(&f.plan, &["changeStream"]));
    assert_eq!(of(&judge(&f), "privileges-next"), Verdict::Fail);
    f.clusters[0].rights = Ok(cases::rights_of(&f.plan, &["serverStatus"]));
    assert_eq!(of(&judge(&f), "privileges-observe"), Verdict::Warn);
    f.clusters[0].rights = Ok(cases::rights_of(&plan(PLAN), &[]));
    assert_eq!(of(&judge(&f), "least-privilege"), Verdict::Note, "who may write may do more than is needed");
}

#[test]
fn a_plan_that_moves_writes_may_suspend_ttl_indexes_of_legacy() {
    let text = PLAN.split("[[stage]]\nid = \"contract\"").next().unwrap();
    let on_legacy = |text: &str| {
        let role = role(&plan(text), Side::Legacy);
        let privileges = role.get_array("privileges").unwrap().clone();
        let legacy = |p: &&bson::Bson| p.to_string().contains("\"orders\"");
        privileges.iter().find(legacy).unwrap().to_string()
    };
    assert!(on_legacy(text).contains("collMod"), "{}", on_legacy(text));
    let reads_only = text.replace("writes = 100", "");
    assert!(!on_legacy(&reads_only).contains("collMod"), "{}", on_legacy(&reads_only));
}

#[test]
fn the_page_of_checks_is_current() {
    let (begin, end) = ("<!-- made of the program's own list: begin -->\n", "<!-- end -->\n");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, rest) = text.split_once(begin).expect("the first mark");
    let (_, tail) = rest.split_once(end).expect("the second mark");
    let made = page(&plan(PLAN));
    let now = format!("{head}{begin}\n{made}\n{end}{tail}");
    if std::env::var("TIDEGATE_BLESS").is_ok_and(|v| v == "1") {
        std::fs::write(&file, &now).unwrap();
        return;
    }
    assert!(text == now, "docs/check.md is not current: TIDEGATE_BLESS=1 cargo test --test it check:: writes it anew");
}

/// A validator of `level`.
pub fn validated(level: &str) -> Stands {
    let validator = Some(doc! { "total": { "$exists": true } });
    let validation = Validation { validator, level: level.into(), action: "error".into() };
    Stands::Collection(Options { validation: Some(Box::new(validation)), ..Options::default() })
}
