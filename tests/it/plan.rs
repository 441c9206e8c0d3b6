//! Plans that parse, and what is said about plans that do not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use tidegate::plan::{Action, Advance, Bound, Diagnostics, Plan, RollbackMode, Step, Strand, ValueType, Work};
use tidegate::route::Side;
use tidegate::runtime::Micros;

const GOOD: &str = concat!(
    r#"schema = 1

[plan]
id = "orders-v2"
title = "Flat customer, decimal totals"
version = 3
owner = "payments"

[cluster]
uri = "${TIDEGATE_URI}"            # environment variables only; a literal password is refused
# next_uri = "${TIDEGATE_NEXT_URI}"   # when next lives elsewhere
environment = "production"

[route]
mode = "route"
max_staleness = "2s"

[cutover]
freeze_max = "3s"

"#,
    flat_orders!(),
    r#"
[[query]]
name = "orders of a customer"
legacy = '{ "customer.name": "Cust 7" }'
next = '{ "customer_name": "Cust 7" }'
uses_index = true

[throttle]
max_lag = "5s"

[[trigger]]
metric = "errors.write.rate"
side = "next"
above = 0.01
window = "30s"
for = "15s"
action = "pause"

[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]

[[stage]]
id = "canary"
shadow = 20
reads = 5
writes = 1
soak = "10m"
advance = "operator"
runbook = "runbook.md#canary"
[[stage.gate]]
metric = "latency.read.p99"
side = "next"
max = "25ms"
window = "60s"
for = "30s"
min_samples = 1000
[[stage.gate]]
metric = "latency.read.p99"
side = "next"
versus = "legacy"
max_ratio = 1.5
window = "60s"
for = "1m"
min_samples = 1000

[[stage]]
id = "half"
reads = 50
writes = 50
soak = "30m"

[[stage]]
id = "full"
reads = 100
writes = 100
soak = "1h30m"
advance = "auto"

[[stage]]
id = "contract"
do = ["quarantine-legacy"]
irreversible = true
"#
);

/// The step that the tests of steps put others in place of.
const SET: &str = "{ set = \"schema_version\", value = 2 }";

fn parse(text: &str) -> Result<Plan, Diagnostics> {
    Plan::parse(text, "plan.toml")
}

/// The good plan with some texts replaced; each must be there exactly once.
fn with(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(GOOD.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "`{from}`");
        text.replace(from, to)
    })
}

#[allow(clippy::expect_used, reason = "a test helper")]
fn complaint(text: &str) -> String {
    let e = parse(text).expect_err("the plan is broken");
    assert!(e.list().iter().all(|d| d.line >= 1 && d.column >= 1));
    e.render(false)
}

macro_rules! broken {
    ($($name:ident: [$(($from:expr, $to:expr)),+ $(,)?];)+) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), complaint(&with(&[$(($from, $to)),+])));
        }
    )+};
}

broken! {
    another_schema: [("schema = 1", "schema = 2")];
    not_toml: [("id = \"orders-v2\"", "id = orders-v2")];
    two_syntax_errors: [("version = 3", "version ="), ("freeze_max = \"3s\"", "freeze_max = 3s")];
    a_key_twice: [("version = 3", "version = 3\nversion = 4")];
    an_unknown_key: [("freeze_max", "freeze_maxx")];
    an_unknown_key_far_from_any: [("[throttle]\nmax_lag", "[throttle]\ncolour")];
    an_unknown_table: [("[cutover]", "[cutovers]")];
    a_literal_password: [("\"${TIDEGATE_URI}\"", "\"mongodb://app:hunter2@db1,db2/?tls=true\"")];
    an_escaped_password: [("\"${TIDEGATE_URI}\"", "\"mongodb:\\u002f/app:hunter2@db1/\"")];
    a_password_beside_a_syntax_error: [("\"${TIDEGATE_URI}\"", "\"mongodb://app:hunter2@db1/")];
    an_unclosed_variable: [("\"${TIDEGATE_URI}\"", "\"mongodb://${HOST/\"")];
    an_id_with_spaces: [("id = \"orders-v2\"", "id = \"Orders v2\"")];
    copy_without_a_switch: [("mode = \"route\"", "mode = \"copy\"")];
    a_misspelt_mode: [("mode = \"route\"", "mode = \"rout\"")];
    a_bad_duration: [("freeze_max = \"3s\"", "freeze_max = \"3 sec\"")];
    a_freeze_too_long: [("freeze_max = \"3s\"", "freeze_max = \"1m\"")];
    in_place: [("next = \"shop.orders_v2\"", "next = \"shop.orders\"")];
    the_control_database: [("next = \"shop.orders_v2\"", "next = \"tidegate.orders\"")];
    a_system_collection: [("legacy = \"shop.orders\"", "legacy = \"shop.system.views\"")];
    no_namespace: [("legacy = \"shop.orders\"", "legacy = \"orders\"")];
    a_second_collection: [("[[query]]", "[[collection]]\nlegacy = \"a.b\"\nnext = \"a.c\"\n[[query]]")];
    a_step_to_come: [("{ set = \"schema_version\", value = 2 }", "{ lookup = \"name\" }")];
    a_misspelt_step: [("{ rename = \"customer.name\"", "{ renam = \"customer.name\"")];
    a_step_on_the_key: [("set = \"schema_version\"", "set = \"_id.version\"")];
    two_steps_on_one_path: [("set = \"schema_version\"", "set = \"total\"")];
    one_step_inside_another: [("convert = \"total\"", "convert = \"customer.name.first\"")];
    an_unset_without_the_value: [("{ set = \"schema_version\", value = 2 }", "{ unset = \"legacy_flag\" }")];
    an_unset_that_is_lossy_and_is_not: [(SET, "{ unset = \"old\", was = 1, lossy = true }")];
    a_conversion_that_there_is_not: [(SET, "{ convert = \"at\", from = \"date\", to = \"bool\" }")];
    a_lossy_conversion_that_loses_nothing: [(SET, "{ convert = \"n\", from = \"int\", to = \"long\", lossy = true }")];
    a_conversion_that_always_loses: [(SET, "{ convert = \"by\", from = \"objectId\", to = \"date\" }")];
    a_nest_without_into: [(SET, "{ nest = [\"street\", \"zip\"] }")];
    a_nest_of_nothing: [(SET, "{ nest = [], into = \"address\" }")];
    a_nest_of_one_name_twice: [(SET, "{ nest = [\"a.city\", \"b.city\"], into = \"address\" }")];
    a_nest_with_a_misspelt_key: [(SET, "{ nest = [\"street\"], in = \"address\" }")];
    a_flatten_of_unsaid_fields: [(SET, "{ flatten = \"address\" }")];
    a_prefix_that_begins_the_document_too: [(SET, "{ flatten = \"address\", prefix = \"add\" }")];
    a_prefix_that_another_step_writes: [(SET, "{ flatten = \"cust\", prefix = \"custom\" }")];
    a_step_under_a_prefix: [
        (SET, "{ flatten = \"address\", prefix = \"address_\" }, { set = \"address_version\", value = 1 }")
    ];
    a_split_without_a_separator: [(SET, "{ split = \"name\", into = [\"first\", \"last\"] }")];
    a_split_at_nothing: [(SET, "{ split = \"name\", at = \"\", into = [\"first\", \"last\"] }")];
    a_split_into_one: [(SET, "{ split = \"name\", at = \" \", into = [\"first\"] }")];
    a_split_into_another_document: [(SET, "{ split = \"name\", at = \" \", into = [\"first\", \"p.last\"] }")];
    a_join_to_a_path_of_another_step: [(SET, "{ join = [\"first\", \"last\"], with = \" \", to = \"total\" }")];
    a_wrap_in_an_unknown_shape: [(SET, "{ wrap = \"tag\", as = \"list\" }")];
    a_wrap_in_a_document_without_a_field: [(SET, "{ wrap = \"tag\", as = \"document\" }")];
    a_map_that_is_not_injective: [(SET, "{ map = \"s\", values = { A = \"on\", B = \"on\" } }")];
    a_map_of_a_value_twice: [(SET, "{ map = \"s\", values = [[1, \"a\"], [1, \"b\"]] }")];
    a_map_of_a_fraction: [(SET, "{ map = \"s\", values = [[1.5, \"a\"]] }")];
    a_lossy_map_that_loses_nothing: [(SET, "{ map = \"s\", values = { A = \"on\" }, lossy = true }")];
    a_map_without_values: [(SET, "{ map = \"s\", otherwise = \"drop\" }")];
    a_pipeline_without_an_inverse: [(SET, "{ pipeline = '[{ \"$unset\": \"a\" }]' }")];
    a_stage_that_is_not_computed: [(SET, "{ pipeline = '[{ \"$match\": {} }]', inverse = '[{ \"$unset\": \"a\" }]' }")];
    an_operator_that_is_not_computed: [
        (SET, "{ pipeline = '[{ \"$set\": { \"a\": { \"$concatt\": [\"x\"] } } }]', lossy = true }")
    ];
    a_pipeline_that_is_no_json: [(SET, "{ pipeline = '[{ $set: 1 }]', lossy = true }")];
    a_stage_with_conflicting_paths: [(SET, "{ pipeline = '[{ \"$set\": { \"a\": 1, \"a.b\": 2 } }]', lossy = true }")];
    an_unknown_type: [("to = \"decimal\"", "to = \"decimals\"")];
    a_bad_index: [("customer_name = 1 }", "customer_name = 2 }")];
    indexes_built_too_late: [("\"backfill\", \"indexes\"]", "\"backfill\"]")];
    a_unique_index_and_half_of_the_writes: [("name = \"by_customer\" }", "name = \"by_customer\", unique = true }")];
    a_query_that_is_no_json: [("'{ \"customer_name\": \"Cust 7\" }'", "'{ customer_name: 7 }'")];
    traffic_before_the_copy: [("do = [\"create\", \"backfill\", \"indexes\"]", "reads = 5")];
    work_out_of_order: [("[\"create\", \"backfill\", \"indexes\"]", "[\"backfill\", \"create\", \"indexs\"]")];
    reads_that_go_back: [("reads = 50", "reads = 4")];
    more_writes_than_reads: [("writes = 1\n", "writes = 6\n")];
    more_than_all: [("reads = 100\n", "reads = 101\n")];
    two_stages_of_one_name: [("id = \"half\"", "id = \"canary\"")];
    an_unknown_metric: [("metric = \"errors.write.rate\"", "metric = \"errors.writes.rate\"")];
    a_missing_side: [("metric = \"errors.write.rate\"\nside = \"next\"", "metric = \"errors.write.rate\"")];
    a_side_too_many: [("metric = \"errors.write.rate\"", "metric = \"shadow.mismatch_ratio\"")];
    a_latency_as_a_number: [("max = \"25ms\"", "max = 25")];
    a_percentage_as_a_ratio: [("above = 0.01", "above = 5")];
    two_limits: [("max = \"25ms\"", "max = \"25ms\"\nmin = \"1ms\"")];
    no_limit: [("max = \"25ms\"\n", "")];
    too_few_samples: [("for = \"30s\"\nmin_samples = 1000", "for = \"30s\"\nmin_samples = 100")];
    a_window_too_short: [("max = \"25ms\"\nwindow = \"60s\"", "max = \"25ms\"\nwindow = \"500ms\"")];
    no_window: [("max = \"25ms\"\nwindow = \"60s\"", "max = \"25ms\"")];
    contract_without_knowing: [("irreversible = true\n", "")];
    contract_too_early: [("reads = 100\nwrites = 100", "reads = 100\nwrites = 90")];
    contract_with_shadow_reads: [("irreversible = true", "shadow = 5\nirreversible = true")];
    a_metric_far_from_any: [("metric = \"errors.write.rate\"", "metric = \"happiness\"")];
    contract_not_last: [("irreversible = true\n", "irreversible = true\n[[stage]]\nid = \"after\"\n")];
    irreversible_without_contract: [("soak = \"30m\"", "soak = \"30m\"\nirreversible = true")];
    several_mistakes: [
        ("version = 3", "version = \"3\""),
        ("to = \"customer_name\"", "two = \"customer_name\""),
        ("reads = 50", "reads = 500"),
        ("soak = \"1h30m\"", "soak = 90"),
    ];
    text_that_would_move_the_cursor: [("id = \"orders-v2\"", "id = \"o\\u001b[2J\u{202E}v2\"")];
}

#[test]
fn triggers_of_a_stage_objectives_and_the_way_back_are_read() {
    let text = with(&[
        (
            "above = 0.01\nwindow = \"30s\"\nfor = \"15s\"\naction = \"pause\"",
            "above = 0.02\nclear_below = 0.01\nclear_for = \"1m\"\nwindow = \"30s\"\naction = \"rollback\"\nmode = \"hard\"",
        ),
        (
            "id = \"half\"\nreads = 50\nwrites = 50\nsoak = \"30m\"",
            "id = \"half\"\nreads = 50\nwrites = 50\nsoak = \"30m\"\n[[stage.trigger]]\nmetric = \"slo.read.burn_rate\"\nabove = 14.4\nwindow = \"5m\"\nlong_window = \"1h\"\n[[stage.gate]]\ncompare = \"distribution\"\nmetric = \"latency.write\"\nwindow = \"5m\"\n[[stage.gate]]\nmetric = \"lag.apply\"\nversus = \"baseline\"\nmax_ratio = 2\nwindow = \"1m\"",
        ),
        (
            "[cutover]",
            "[slo]\nobjective = 0.999\nlatency = \"250ms\"\n[expects]\nreads = \"400/s\"\nwrites = \"6000/m\"\n[rollback]\nstrand = \"30s\"\n[cutover]",
        ),
        ("mode = \"route\"", "mode = \"route\"\nserver_gate = true"),
    ]);
    let p = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    let t = &p.triggers[0];
    assert_eq!((t.action, t.min_samples), (Action::Rollback(RollbackMode::Hard), 100));
    assert_eq!((t.clear.below, t.clear.hold_for), (0.01, Micros::from_secs(60)));
    let t = &p.stages[2].triggers[0];
    assert_eq!((t.action, t.long_window, t.min_samples), (Action::Pause, Some(Micros::from_secs(3_600)), 20));
    let gates = &p.stages[2].gates;
    assert_eq!(gates[0].bound, Bound::LikeLegacy { false_alarm: 0.01, max_ratio: 1.0 });
    assert_eq!(
        (gates[0].metric.as_str(), gates[0].side, gates[0].min_samples),
        ("latency.write", Some(Side::Next), 5_000)
    );
    assert_eq!(gates[1].bound, Bound::MaxRatioToBaseline(2.0));
    let slo = p.slo.unwrap();
    assert_eq!(
        (slo.objective, slo.period, slo.latency),
        (0.999, Micros::from_secs(2_592_000), Some(Micros::from_ms(250)))
    );
    assert_eq!((p.expects.reads, p.expects.writes), (Some(400.0), Some(100.0)));
    assert_eq!((p.strand, p.server_gate), (Strand::After(Micros::from_secs(30)), true));
    let p = parse(GOOD).unwrap();
    assert_eq!((p.strand, p.server_gate, p.slo, p.triggers[0].action), (Strand::Ask, false, None, Action::Pause));
}

#[test]
fn a_plan_in_place_has_a_shape_and_no_shares() {
    let text = r#"schema = 1
[plan]
id = "in-place"
[[collection]]
legacy = "shop.orders"
next = "shop.orders"
shape = '{ "schema_version": 2, "total": { "$type": "decimal" }, "customer": { "$exists": false } }'
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["backfill"]
"#;
    let p = parse(text).unwrap_or_else(|e| panic!("{e}"));
    assert!(p.collections[0].in_place());
    assert_eq!(p.collections[0].shape.as_ref().map(bson::Document::len), Some(3));
}

#[test]
fn a_pilot_is_read_and_inherited() {
    let cohort =
        "[pilot]\nfield = \"_id.shop\"\nin = [\"eu\", 7, { \"$oid\" = \"65a1b2c3d4e5f60718293a4b\" }]\n[throttle]";
    let plan = with(&[("[throttle]", cohort), ("shadow = 20\n", "shadow = 20\npilot = \"reads\"\n")]);
    let p = parse(&plan).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let pilot = p.pilot.as_ref().unwrap();
    assert_eq!((pilot.field(), pilot.values().count()), ("_id.shop", 3));
    assert_eq!(pilot.to_string(), "_id.shop in 7, \"eu\", ObjectId(65a1b2c3d4e5f60718293a4b)");
    let levels: Vec<_> = p.stages.iter().map(|s| (s.pilot.name(), s.pilot_said)).collect();
    assert_eq!(levels[..3], [("off", false), ("reads", true), ("reads", false)]);
}

/// The plans of `tests/it/broken`, by file name. What is said about each stands beside it; `TIDEGATE_BLESS=1` writes it anew.
pub(crate) fn broken_plans() -> Vec<(String, std::path::PathBuf)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/broken");
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), p))
        .collect();
    all.sort();
    all
}

#[test]
fn each_broken_plan_is_answered_with_its_diagnostic() {
    let all = broken_plans();
    assert!(all.len() >= 30, "only {} broken plans", all.len());
    let bless = std::env::var("TIDEGATE_BLESS").is_ok_and(|v| v == "1");
    let mut said_before = std::collections::BTreeMap::new();
    for (name, path) in &all {
        let e = Plan::parse(&std::fs::read_to_string(path).unwrap(), name).expect_err(name);
        let places: Vec<_> = e.list().iter().map(|d| (d.line, d.column)).collect();
        assert!(places.is_sorted(), "{name}: not in the order of the file: {places:?}");
        let (said, file) = (e.render(false), path.with_extension("txt"));
        assert!(!said.contains("hunter2"), "{name} shows a password");
        if bless {
            std::fs::write(&file, &said).unwrap();
        }
        let wanted = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(said, wanted, "{name}: run with TIDEGATE_BLESS=1 and look at the difference");
        let messages: Vec<_> = e.list().iter().map(|d| (d.message.clone(), d.help.clone())).collect();
        if let Some(other) = said_before.insert(messages, name) {
            panic!("{name} and {other} show the same mistake");
        }
    }
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    insta::assert_snapshot!(complaint(""));
}

#[test]
fn the_plan_of_the_documentation_parses_as_written() {
    let p = parse(GOOD).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.id.as_str(), p.version, p.owner.as_str()), ("orders-v2", 3, "payments"));
    assert_eq!(p.cluster.uri.as_deref(), Some("${TIDEGATE_URI}"));
    assert_eq!(
        (p.max_staleness, p.lease, p.freeze_max),
        (Micros::from_secs(2), Micros::from_secs(5), Micros::from_secs(3))
    );
    let c = &p.collections[0];
    assert_eq!((c.legacy.to_string(), c.next.to_string()), ("shop.orders".into(), "shop.orders_v2".into()));
    assert_eq!(
        c.steps,
        [
            Step::Rename { from: "customer.name".into(), to: "customer_name".into() },
            Step::Convert { path: "total".into(), from: ValueType::String, to: ValueType::Decimal, lossy: false },
            Step::Set { path: "schema_version".into(), value: 2i32.into() },
        ]
    );
    assert_eq!((c.indexes[0].name.as_str(), c.indexes[0].unique), ("by_customer", false));
    assert_eq!(p.throttle.max_lag, Some(Micros::from_secs(5)));
    assert_eq!((p.triggers[0].above, p.triggers[0].side), (0.01, Some(Side::Next)));
    let traffic: Vec<_> = p.stages.iter().map(|s| (s.id.as_str(), s.shadow, s.reads, s.writes)).collect();
    assert_eq!(
        traffic,
        [
            ("copy", 0, 0, 0),
            ("canary", 20, 5, 1),
            ("half", 20, 50, 50),
            ("full", 20, 100, 100),
            ("contract", 0, 100, 100)
        ]
    );
    assert_eq!(p.stages[0].work, [Work::Create, Work::Backfill, Work::Indexes]);
    assert_eq!((p.stages[3].advance, p.stages[3].soak), (Advance::Auto, Micros::from_secs(5_400)));
    assert!(p.stages[4].irreversible);
    let gates = &p.stages[1].gates;
    assert_eq!((gates[0].bound, gates[0].min_samples), (Bound::Max(25_000.0), 1_000));
    assert_eq!(gates[1].bound, Bound::MaxRatioToLegacy(1.5));
    assert_eq!(p.declared.queries[0].filters[1], bson::doc! { "customer_name": "Cust 7" });
}

#[test]
fn min_samples_defaults_to_ten_beyond_the_percentile() {
    let text = with(&[("for = \"30s\"\nmin_samples = 1000", "for = \"30s\"")]).replacen(
        "latency.read.p99",
        "latency.read.p999",
        1,
    );
    assert_eq!(parse(&text).unwrap().stages[1].gates[0].min_samples, 10_000);
}

#[test]
fn the_hash_names_the_plan_and_not_its_layout() {
    let hash = |text: &str| parse(text).unwrap_or_else(|e| panic!("{e}")).hash;
    let base = hash(GOOD);
    assert_eq!(base.len(), 64);
    for layout in [
        with(&[("schema = 1\n", "# comment\n\n  schema   =  0x1\n")]),
        with(&[
            ("id = \"orders-v2\"\ntitle", "title"),
            ("owner = \"payments\"", "owner = 'payments'\nid = \"orders\\u002dv2\""),
        ]),
        with(&[("[cutover]\nfreeze_max = \"3s\"", "[cutover]\n\"freeze_max\" = \"\"\"3s\"\"\"")]),
        GOOD.replace('\n', "\r\n"),
    ] {
        assert_eq!(hash(&layout), base);
    }
    let ordered = |keys: &str| hash(&with(&[("keys = { customer_name = 1 }", keys)]));
    assert_ne!(
        ordered("keys = { a = 1, b = 1 }"),
        ordered("keys = { b = 1, a = 1 }"),
        "the order of index keys means something"
    );
    let mapped = |v: &str| hash(&with(&[(SET, &format!("{{ map = \"s\", values = {v}, lossy = true }}"))]));
    assert_ne!(
        mapped("{ A = 1, B = 1 }"),
        mapped("{ B = 1, A = 1 }"),
        "the first value that is mapped to another is the one that comes back"
    );
    let value = |v: &str| hash(&with(&[("value = 2", v)]));
    assert_ne!(
        value("value = { a = 1, b = 1 }"),
        value("value = { b = 1, a = 1 }"),
        "and so does that of a document's fields"
    );
    assert_ne!(value("value = 2.0"), base, "2.0 is a double and 2 an int");
    assert_ne!(hash(&with(&[("reads = 50", "reads = 51")])), base);
}

#[test]
fn a_password_is_never_shown() {
    for uri in [
        "mongodb://app:hunter2@db1/",
        "mongodb+srv://app:hunter2@db1/?x=y",
        "mongodb://app:x${Y}hunter2@db1/",
        "mongodb://app:a/b@hunter2@db1/",
        "mongodb://app:a hunter2@db1/",
        "mongodb://app:it'shunter2@db1/",
        "mongodb://db1/?tlsCertificateKeyFilePassword=hunter2&x=y",
        "mongodb://db1/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
        "mongodb://app:\\u0068unter2\\u0040x@hunter2@db1/",
        "mongodb:\\u002f/app:\\u0068unter2@db1/hunter2",
    ] {
        for quote in ["\"", "\"\"\""] {
            let text = with(&[("\"${TIDEGATE_URI}\"", &format!("{quote}{uri}{quote}"))]);
            let e = parse(&text).expect_err(uri);
            for shown in [e.render(false), e.render(true), format!("{e:?}"), e.to_string()] {
                assert!(!shown.contains("unter2"), "{uri}: {shown}");
            }
            assert_eq!(e.list()[0].line, 10, "{uri}");
        }
    }
    // Nor where it does not belong: messages quote what they complain about.
    for from in
        ["id = \"orders-v2\"", "legacy = \"shop.orders\"", "mode = \"route\"", "freeze_max = \"3s\"", "id = \"half\""]
    {
        let key = from.split(' ').next().unwrap();
        let e = parse(&with(&[(from, &format!("{key} = \"mongodb://u:hunter2@h/\""))])).unwrap_err();
        assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
    }
    for uri in ["mongodb://app:${PW}@db1/", "mongodb://db1:27017,db2:27017/?tls=true", "mongodb+srv://app@db1/", "${A}"]
    {
        parse(&with(&[("\"${TIDEGATE_URI}\"", &format!("\"{uri}\""))])).unwrap_or_else(|e| panic!("{uri}: {e}"));
    }
}

#[test]
fn colour_changes_only_the_styles() {
    let e = parse(&with(&[("freeze_max", "freeze_maxx")])).unwrap_err();
    assert!(e.render(true).contains('\u{1b}'));
    assert!(!e.render(false).contains('\u{1b}'));
}

/// Fails with the text when parsing panics or a diagnostic has no place.
fn holds(text: &str) -> Result<(), TestCaseError> {
    let lines = text.lines().count().max(1) + 1;
    let result = catch_unwind(AssertUnwindSafe(|| parse(text).map_err(|e| (e.render(true), e))));
    match result {
        Err(_) => Err(TestCaseError::fail("it panics")),
        Ok(Ok(_)) => Ok(()),
        Ok(Err((shown, e))) => {
            prop_assert!(!e.list().is_empty());
            for d in e.list() {
                prop_assert!((1..=lines).contains(&d.line) && d.column >= 1, "{:?}", d);
                prop_assert!(shown.contains(&d.message), "{} is not in {}", d.message, shown);
                prop_assert!(
                    shown.contains(&format!("plan.toml:{}:{}", d.line, d.column)),
                    "{:?} is not in {}",
                    d,
                    shown
                );
            }
            Ok(())
        }
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(\\[{1,2}[a-z.]{0,8}\\]{0,2}|[a-z_]{1,6} ?= ?[-0-9a-z\"'{}\\[\\],.]{0,12}|[ \t\r\n#\"é\u{202E}\u{1b}]){0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered_with_places(text in any_text()) {
        holds(&text)?;
    }

    #[test]
    fn any_damaged_plan_is_answered_with_places(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, any_text()), 1..4),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, len, new) in cuts {
            let from = at.index(text.len());
            let to = (from + len).min(text.len());
            text.splice(from..to, new.chars().take(12));
        }
        holds(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn any_exchange_of_lines_is_answered_with_places(moves in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..5)) {
        let mut lines: Vec<&str> = GOOD.lines().collect();
        for (a, b) in moves {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        holds(&lines.join("\n"))?;
    }
}
