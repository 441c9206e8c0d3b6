//! Broken and risky set-ups. Each says what differs from a good one, and which checks answer, and how.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, RawDocumentBuf, doc};
use tidegate::cluster::survey::{
    ClusterFacts, Disk, Explained, Oplog, Options, Privilege, Resource, Rights, Skew, Stands, Unanswered, Unfit,
};
use tidegate::cluster::{ClusterTime, Ns};
use tidegate::engine::preflight::Verdict::{Fail, Note, Skipped, Warn};
use tidegate::engine::preflight::{Facts, Held, JournalEnds, Known, Verdict, judge, role};
use tidegate::plan::Plan;
use tidegate::route::{Route, Side};
use tidegate::runtime::Micros;

use super::{IN_PLACE, PLAN, changed, good, host, index, order, plan, raw, said, validated};

/// Rights as the role has them, without some actions.
pub fn rights_of(plan: &Plan, without: &[&str]) -> Rights {
    let role = role(plan, Side::Legacy);
    let privilege = |p: &Bson| {
        let p = p.as_document().unwrap();
        let r = p.get_document("resource").unwrap();
        let on = match r.get_str("db") {
            Ok(db) => Resource::Ns { db: db.into(), coll: r.get_str("collection").unwrap().into() },
            Err(_) => Resource::Cluster,
        };
        let actions = p.get_array("actions").unwrap().iter().map(|a| a.as_str().unwrap().to_owned());
        Privilege { on, actions: actions.filter(|a| !without.contains(&a.as_str())).collect() }
    };
    let privileges = role.get_array("privileges").unwrap().iter().map(privilege).collect();
    Rights { users: vec!["tide@admin".into()], privileges }
}

/// Judges a set-up: exactly these checks change their verdicts, each says what to do, and their words are as kept.
fn case(name: &str, text: &str, set_up: impl FnOnce(&mut Facts), expected: &[(&'static str, Verdict)]) {
    let mut f = good(text);
    set_up(&mut f);
    let report = judge(&f);
    assert_eq!(changed(&report, f.plan.in_place()), expected);
    let names: Vec<&str> = expected.iter().map(|(n, _)| *n).collect();
    for o in report.outcomes.iter().filter(|o| names.contains(&o.check.name)) {
        let silent = o.findings.iter().find(|f| f.verdict >= Warn && f.remedy.is_empty());
        assert!(silent.is_none(), "{} does not say what to do: {silent:?}", o.check.name);
    }
    let risky = expected.iter().any(|(_, v)| *v >= Warn);
    assert_eq!(report.is_clean(), !risky);
    insta::assert_snapshot!(name.to_owned(), said(&report, &names));
}

/// On Saturdays only, in front of the first stage of [`PLAN`].
const WINDOW: &str = r#"[[window]]
days = ["sat"]
from = "22:00"
to = "04:00"
tz = "Europe/Berlin"
[[stage]]
id = "copy""#;

/// A stage that waits for a hook, in front of the first one of [`PLAN`].
const HOOK: &str = r#"[[hook]]
id = "ticket"
on = ["stage_begin"]
required = true
command = ["./ticket.sh"]
[[stage]]
id = "copy""#;

macro_rules! cases {
    ($($name:ident: $text:expr, $set_up:expr => [$(($check:literal, $verdict:expr)),+ $(,)?];)+) => {
        $(#[test]
        fn $name() {
            case(stringify!($name), $text, $set_up, &[$(($check, $verdict)),+]);
        })+
    };
}

fn set(f: &mut Facts) -> &mut ClusterFacts {
    &mut f.clusters[0]
}

fn unfit(f: &mut Facts, unfit: Unfit) {
    set(f).hello.as_mut().unwrap().unfit = Some(unfit);
}

fn created(f: &mut Facts, change: impl FnOnce(&mut Options)) {
    let mut o = Options::default();
    change(&mut o);
    f.legacy.stands = Ok(Stands::Collection(o));
}

fn documents(f: &mut Facts, more: Vec<Document>) {
    f.sample.as_mut().unwrap().extend(more.iter().map(raw));
}

fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

fn rollout(f: &mut Facts, known: Known) {
    f.known = Ok(vec![known]);
}

fn route(plan: &str) -> Route {
    Route {
        plan: plan.into(),
        epoch: 1,
        lease_ms: 5_000,
        shadow: 0,
        reads_next_below: 0,
        writes_next_below: 0,
        frozen: None,
        pilot: None,
        applied_through: ClusterTime::ZERO,
        legacy: Ns::new("shop", "orders"),
        next: Ns::new("shop", "orders_v3"),
        stranded_below: 0,
        nonce: 1,
    }
}

cases! {
    a_standalone_server: PLAN, |f| unfit(f, Unfit::Standalone) => [("replica-set", Fail)];
    a_mongos: PLAN, |f| unfit(f, Unfit::Mongos) => [("not-sharded", Fail)];
    a_server_too_old: PLAN, |f| unfit(f, Unfit::TooOld) => [("server-version", Fail)];
    an_upgrade_half_done: PLAN, |f| set(f).fcv = Ok("5.0".into()) => [("feature-compatibility", Warn)];
    members_of_two_versions: PLAN, |f| set(f).looks[2].version = Ok("5.0.9".into()) => [("member-versions", Warn)];
    a_member_recovering: PLAN, |f| set(f).status.as_mut().unwrap().members[2].state = "RECOVERING".into() => [("members-healthy", Warn)];
    a_majority_that_is_down: PLAN, |f| {
        for n in [1, 2] {
            set(f).status.as_mut().unwrap().members[n].state = "(not reachable/healthy)".into();
        }
    } => [("members-healthy", Warn), ("write-majority", Fail)];
    a_primary_a_secondary_and_an_arbiter: PLAN, |f| {
        let c = set(f);
        let h = c.hello.as_mut().unwrap();
        h.arbiters.push(h.hosts.pop().unwrap());
        c.config.as_mut().unwrap().voting_data = 2;
        c.status.as_mut().unwrap().members[2].state = "ARBITER".into();
        c.looks.pop();
        c.write_concern = Ok(("1".into(), false));
    } => [("write-majority", Warn), ("write-concern-default", Warn)];
    a_single_node_in_production: PLAN, |f| {
        let c = set(f);
        c.hello.as_mut().unwrap().hosts.truncate(1);
        c.config.as_mut().unwrap().voting_data = 1;
        c.status.as_mut().unwrap().members.truncate(1);
        c.status.as_mut().unwrap().majority = 1;
        c.looks.clear();
    } => [("single-node", Warn)];
    majority_writes_without_a_journal: PLAN, |f| set(f).config.as_mut().unwrap().majority_journal = false => [("majority-journal", Warn)];
    a_member_far_behind: PLAN, |f| {
        set(f).status.as_mut().unwrap().members[1].lag = Some(Micros::from_secs(90));
    } => [("replication-lag", Warn)];
    a_delayed_member_and_a_limit_on_lag: &with(PLAN, "[[stage]]\nid = \"copy\"", "[throttle]\nmax_lag = \"5s\"\n[[stage]]\nid = \"copy\""), |f| {
        let c = set(f);
        c.config.as_mut().unwrap().delayed = vec![(host(2), Micros::from_secs(3_600))];
        c.status.as_mut().unwrap().members[2].lag = Some(Micros::from_secs(3_600));
    } => [("delayed-members", Fail)];
    a_clock_that_is_wrong_here: PLAN, |f| set(f).hello.as_mut().unwrap().skew = Skew { ms: -4_200, within_ms: 30 } => [("clock-skew", Warn)];
    clocks_that_are_apart_among_members: PLAN, |f| set(f).looks[1].skew = Ok(Skew { ms: 2_600, within_ms: 20 }) => [("member-clocks", Warn)];
    a_connection_in_the_clear: PLAN, |f| set(f).link.tls = false => [("encrypted-connection", Warn)];
    a_certificate_nobody_verifies: PLAN, |f| set(f).link.unverified = true => [("encrypted-connection", Warn)];
    nobody_logged_in: PLAN, |f| set(f).rights = Ok(Rights::default()) => [("credentials", Warn)];
    two_strings_for_one_set: PLAN, |f| {
        let again = f.clusters[0].clone();
        f.clusters.push(again);
    } => [("two-clusters", Warn)];
    a_change_stream_that_does_not_open: PLAN, |f| {
        f.legacy.stream = Err(Unanswered::Failed("majority read concern is not enabled (code 148)".into()));
    } => [("change-stream", Fail)];
    a_user_who_may_not_write_past_validators: PLAN, |f| {
        set(f).rights = Ok(rights_of(&plan(PLAN), &["bypassDocumentValidation", "collMod"]));
    } => [("privileges-legacy", Fail), ("privileges-next", Fail), ("privileges-control", Fail)];
    a_user_who_may_not_rename: PLAN, |f| {
        set(f).rights = Ok(rights_of(&plan(PLAN), &["renameCollectionSameDB"]));
    } => [("privileges-legacy", Fail), ("privileges-next", Fail)];
    a_user_who_may_not_see_the_members: PLAN, |f| {
        let c = set(f);
        c.rights = Ok(rights_of(&plan(PLAN), &["replSetGetStatus"]));
        c.status = Err(Unanswered::Right("`replSetGetStatus` on the cluster"));
    } => [("members-healthy", Skipped), ("replication-lag", Skipped), ("privileges-observe", Warn)];
    a_user_who_may_not_see_sizes: PLAN, |f| {
        set(f).rights = Ok(rights_of(&plan(PLAN), &["collStats", "dbStats"]));
        f.next.disk = Err(Unanswered::Right("`dbStats` on the database"));
    } => [("privileges-check", Note), ("free-space", Skipped)];
    a_user_who_may_do_everything: PLAN, |f| {
        let all = Privilege { on: Resource::Any, actions: vec!["anyAction".into()] };
        set(f).rights = Ok(Rights { users: vec!["root@admin".into()], privileges: vec![all] });
    } => [("least-privilege", Note)];
    legacy_is_not_there: PLAN, |f| {
        f.legacy.stands = Ok(Stands::Absent);
        f.legacy.count = Ok(0);
        f.legacy.indexes = Ok(Vec::new());
        f.sample = Ok(Vec::new());
    } => [("legacy-exists", Fail)];
    legacy_is_empty: PLAN, |f| {
        f.legacy.count = Ok(0);
        f.sample = Ok(Vec::new());
    } => [("legacy-not-empty", Warn)];
    legacy_is_a_view: PLAN, |f| f.legacy.stands = Ok(Stands::View) => [("legacy-kind", Fail)];
    legacy_is_time_series: PLAN, |f| f.legacy.stands = Ok(Stands::TimeSeries) => [("legacy-kind", Fail)];
    legacy_is_capped: PLAN, |f| created(f, |o| o.capped = true) => [("legacy-kind", Fail)];
    legacy_has_a_collation: PLAN, |f| created(f, |o| o.collation = Some("de".into())) => [("legacy-collation", Fail)];
    legacy_has_encrypted_fields: PLAN, |f| created(f, |o| o.encrypted = vec!["ssn".into()]) => [("legacy-encryption", Fail)];
    legacy_is_clustered_and_expires: PLAN, |f| created(f, |o| o.clustered = Some(Some(Micros::from_secs(3_600)))) => [("legacy-clustered", Warn)];
    legacy_has_a_unique_index: PLAN, |f| {
        f.legacy.indexes.as_mut().unwrap()[1].spec.unique = true;
    } => [("legacy-unique-indexes", Fail)];
    legacy_has_a_ttl_index: PLAN, |f| {
        f.legacy.indexes.as_mut().unwrap()[1].spec.expire_after = Some(86_400);
    } => [("legacy-ttl", Warn)];
    legacy_has_an_index_the_plan_does_not_carry: PLAN, |f| {
        f.legacy.indexes.as_mut().unwrap().push(index("by_city", doc! { "customer.city": 1 }));
    } => [("legacy-indexes", Note)];
    legacy_has_a_text_index: PLAN, |f| {
        f.legacy.indexes.as_mut().unwrap().push(index("words", doc! { "_fts": "text", "_ftsx": 1 }));
    } => [("legacy-indexes", Note), ("legacy-index-options", Note)];
    legacy_has_a_validator: PLAN, |f| f.legacy.stands = Ok(validated("strict")) => [("legacy-validator", Warn)];
    next_has_a_validator_of_its_own: PLAN, |f| {
        f.legacy.stands = Ok(validated("strict"));
        f.next.stands = Ok(validated("strict"));
    } => [("legacy-validator", Note), ("next-rules", Warn)];
    a_validator_in_place: IN_PLACE, |f| {
        f.legacy.stands = Ok(validated("strict"));
        f.next.stands = Ok(validated("strict"));
    } => [("legacy-validator", Warn)];
    a_lenient_validator_and_the_server_gate: &with(PLAN, "mode = \"route\"", "mode = \"route\"\nserver_gate = true"), |f| {
        f.legacy.stands = Ok(validated("moderate"));
    } => [("legacy-validator", Warn), ("server-gate", Fail)];
    the_server_gate_on_an_older_server: &with(PLAN, "mode = \"route\"", "mode = \"route\"\nserver_gate = true"), |f| {
        set(f).version = Ok("5.0.9".into());
        set(f).fcv = Ok("5.0".into());
        for look in &mut set(f).looks {
            look.version = Ok("5.0.9".into());
        }
    } => [("server-gate", Warn)];
    next_is_a_view_left_by_a_rollback: PLAN, |f| f.next.stands = Ok(Stands::View) => [("next-kind", Fail)];
    next_holds_documents: PLAN, |f| {
        f.next.stands = Ok(Stands::Collection(Options::default()));
        f.next.count = Ok(12_345);
    } => [("next-empty", Fail)];
    next_refuses_duplicates: PLAN, |f| {
        f.next.stands = Ok(Stands::Collection(Options::default()));
        let mut unique = index("mail", doc! { "mail": 1 });
        unique.spec.unique = true;
        f.next.indexes = Ok(vec![unique]);
    } => [("next-rules", Warn)];
    the_name_legacy_is_put_away_under_is_taken: PLAN, |f| {
        f.names[0].as_mut().unwrap().push("orders.quarantine.orders-v2".into());
    } => [("names-free", Fail)];
    a_name_that_would_be_too_long: &with(PLAN, "shop.orders_v2", &format!("shop.{}", "o".repeat(235))), |_| {} => [("name-lengths", Fail)];
    a_total_that_is_no_number: PLAN, |f| {
        let mut bad = order("odd\u{1b}[2J");
        bad.insert("total", "12,50");
        documents(f, vec![bad, doc! { "_id": "int", "total": 7 }]);
    } => [("transforms", Fail)];
    a_total_that_would_not_come_back: PLAN, |f| {
        let mut bad = order("zeros");
        bad.insert("total", "+007.50");
        documents(f, vec![bad]);
    } => [("transforms", Fail)];
    a_document_near_the_limit: PLAN, |f| {
        let mut big = order("big");
        big.insert("note", "x".repeat((15 << 20) + 1_000));
        documents(f, vec![big]);
        f.legacy.count = Ok(101);
    } => [("document-sizes", Warn)];
    field_names_with_dots_and_dollars: PLAN, |f| {
        let mut odd = order("dots");
        odd.insert("a.b", 1);
        let mut more = order("dollar");
        more.insert("deep", doc! { "$set": 1, "ref": { "$ref": "c", "$id": 1 } });
        documents(f, vec![odd, more]);
    } => [("field-names", Warn)];
    a_field_that_stands_twice: PLAN, |f| {
        let mut twice = RawDocumentBuf::try_from(&order("twice")).unwrap();
        let mut inner = RawDocumentBuf::new();
        inner.append(bson::cstr!("a"), 1);
        inner.append(bson::cstr!("a"), 2);
        twice.append(bson::cstr!("deep"), inner);
        f.sample.as_mut().unwrap().push(twice.into());
    } => [("duplicate-fields", Fail)];
    ids_without_a_bucket: PLAN, |f| {
        let fraction: bson::Decimal128 = "1.5".parse().unwrap();
        documents(f, vec![order(1e19), order(Bson::Decimal128(fraction))]);
    } => [("id-placement", Fail)];
    duplicates_under_a_unique_index: &with(PLAN, "name = \"by_customer\" }", "name = \"by_customer\", unique = true }"), |f| {
        let mut again = order("again");
        again.insert("customer", doc! { "name": "Cust 1" });
        documents(f, vec![again]);
    } => [("unique-on-next", Fail)];
    documents_of_neither_shape: IN_PLACE, |f| {
        documents(f, vec![doc! { "_id": "mixed", "total": "5", "schema_version": 2 }, doc! { "_id": "odd", "total": true }]);
    } => [("in-place-shape", Fail)];
    everything_migrated_before: IN_PLACE, |f| {
        let total: bson::Decimal128 = "5".parse().unwrap();
        f.sample = Ok(vec![raw(&doc! { "_id": 1, "total": total, "schema_version": 2 })]);
    } => [("in-place-shape", Warn)];
    a_cohort_of_nobody: &with(
        &with(PLAN, "[[collection]]", "[pilot]\nfield = \"_id\"\nin = [\"7\"]\n[[collection]]"),
        "[[stage]]\nid = \"full\"", "[[stage]]\nid = \"pilot\"\npilot = \"reads\"\n[[stage]]\nid = \"full\"",
    ), |_| {} => [("pilot-cohort", Warn)];
    values_an_application_has_encrypted: PLAN, |f| {
        let mut secret = order("secret");
        secret.insert("ssn", Binary { subtype: BinarySubtype::Encrypted, bytes: vec![1; 20] });
        documents(f, vec![secret]);
    } => [("encrypted-values", Note)];
    a_disk_too_small: PLAN, |f| f.next.disk = Ok(Disk { used: 100 << 30, total: (100 << 30) + (30 << 20) }) => [("free-space", Fail)];
    a_disk_nearly_too_small: PLAN, |f| f.next.disk = Ok(Disk { used: 100 << 30, total: (100 << 30) + (80 << 20) }) => [("free-space", Warn)];
    an_oplog_of_minutes: PLAN, |f| {
        set(f).oplog = Ok(Oplog { window: Micros::from_secs(900), bytes: Some(5 << 30), max_bytes: Some(5 << 30) });
    } => [("oplog-window", Warn)];
    an_oplog_too_young_to_judge: PLAN, |f| {
        set(f).oplog = Ok(Oplog { window: Micros::from_secs(40), bytes: Some(1 << 20), max_bytes: Some(5 << 30) });
    } => [("oplog-window", Note)];
    a_copy_that_overruns_the_oplog: &with(PLAN, "[[stage]]\nid = \"copy\"", "[throttle]\nmax_rate = 20\n[[stage]]\nid = \"copy\""), |f| {
        set(f).oplog = Ok(Oplog { window: Micros::from_secs(40_000), bytes: Some(5 << 30), max_bytes: Some(5 << 30) });
    } => [("oplog-for-copy", Warn)];
    a_lossy_step_between_two_collections: &with(PLAN, "{ set = \"schema_version\", value = 2 }", "{ unset = \"note\", lossy = true }"), |_| {} => [("lossy-steps", Note)];
    a_change_that_any_reader_can_read: &with(
        &with(PLAN, "{ rename = \"customer.name\", to = \"customer_name\" },", ""), "{ convert = \"total\", from = \"string\", to = \"decimal\" },", "",
    ), |f| drop(f.legacy.indexes.as_mut().unwrap().pop()) => [("shape-change", Verdict::Pass)];
    a_query_that_scans_legacy: PLAN, |f| {
        f.queries[0][0] = Ok(Explained { indexes: Vec::new(), scans: true });
    } => [("queries-legacy", Warn)];
    a_query_without_an_index_on_next: &with(PLAN, "customer_name = 1", "total = 1"), |_| {} => [("legacy-indexes", Note), ("queries-next", Warn)];
    a_change_window_that_is_shut: &with(PLAN, "[[stage]]\nid = \"copy\"", WINDOW), |_| {} => [("change-windows", Note)];
    a_hook: &with(PLAN, "[[stage]]\nid = \"copy\"", HOOK), |_| {} => [("hooks", Note)];
    a_required_hook_whose_program_is_not_there: &with(PLAN, "[[stage]]\nid = \"copy\"", HOOK), |f| {
        f.hooks = vec![Some("the program `./ticket.sh` is not there".into())];
    } => [("hooks", Fail)];
    a_lease_held_by_another: PLAN, |f| {
        let (since_ms, expires_ms) = (f.wall_ms - 60_000, f.wall_ms + 7_500);
        let lease = Some(Held { holder: "anna@host:7".into(), since_ms, expires_ms });
        let journal = Some(JournalEnds { plan_hash: f.plan.hash.clone(), closed: false, last: "task_done".into() });
        rollout(f, Known { plan: "orders-v2".into(), lease, journal, route: None });
    } => [("lease", Fail), ("earlier-rollout", Warn)];
    a_finished_rollout_not_cleaned_up: PLAN, |f| {
        let journal = Some(JournalEnds { plan_hash: f.plan.hash.clone(), closed: true, last: "closed".into() });
        rollout(f, Known { plan: "orders-v2".into(), journal, ..Known::default() });
    } => [("earlier-rollout", Fail)];
    a_rollout_of_another_version_of_the_plan: PLAN, |f| {
        let journal = Some(JournalEnds { plan_hash: "f00".into(), closed: false, last: "task_done".into() });
        rollout(f, Known { plan: "orders-v2".into(), journal, ..Known::default() });
    } => [("earlier-rollout", Fail)];
    another_plan_at_work_on_legacy: PLAN, |f| {
        let journal = Some(JournalEnds { plan_hash: "f00".into(), closed: false, last: "task_done".into() });
        rollout(f, Known { plan: "orders-v3".into(), route: Some(route("orders-v3")), journal, lease: None });
    } => [("other-plans", Fail)];
    strays_of_an_earlier_rollout: PLAN, |f| f.leftovers = Ok(vec!["tidegate.quarantine".into()]) => [("leftovers", Warn)];
}
