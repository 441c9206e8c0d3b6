//! Every kind of step as a plan writes it, and random documents that it meets: all BSON types, NaN, -0, decimals of any exponent,
//! deep nesting, fields in any order, names that stand twice. The tests on a real server use them too.

use bson::raw::{CString, RawJavaScriptCodeWithScope};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Decimal128, RawArrayBuf, RawBson, RawDocumentBuf, Regex, Timestamp, oid::ObjectId};
use proptest::prelude::*;

/// A field of a document to come.
pub type Field = (String, RawBson);

/// Steps, and the fields that they look for.
pub struct Case {
    pub name: String,
    /// The elements of `steps = […]`.
    pub steps: String,
    pub fields: BoxedStrategy<Vec<Field>>,
}

/// A plan with these steps.
pub fn plan(steps: &str) -> String {
    format!(
        "schema = 1\nplan = {{ id = \"p\" }}\n[[collection]]\nlegacy = \"a.b\"\nnext = \"a.c\"\nsteps = [{steps}]\n\
         [[stage]]\nid = \"copy\"\ndo = [\"create\", \"backfill\"]\n"
    )
}

pub fn document(fields: &[Field]) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    for (name, value) in fields {
        d.append(CString::try_from(name.as_str()).unwrap(), value.clone());
    }
    d
}

fn nested(fields: &[Field]) -> RawBson {
    RawBson::Document(document(fields))
}

pub fn decimal(text: &str) -> RawBson {
    RawBson::Decimal128(text.parse().unwrap())
}

/// Texts of a pattern, which is read once.
fn like(pattern: &str) -> prop::string::RegexGeneratorStrategy<String> {
    prop::string::string_regex(pattern).unwrap()
}

pub fn any_scalar() -> impl Strategy<Value = RawBson> {
    let date = prop_oneof![any::<i64>(), -62_167_219_200_000i64..253_402_300_800_000];
    prop_oneof![
        Just(RawBson::Null),
        Just(RawBson::MinKey),
        Just(RawBson::MaxKey),
        Just(RawBson::Undefined),
        any::<bool>().prop_map(RawBson::Boolean),
        any::<i32>().prop_map(RawBson::Int32),
        any::<i64>().prop_map(RawBson::Int64),
        any_double().prop_map(RawBson::Double),
        any_decimal(),
        any_text().prop_map(RawBson::String),
        any::<[u8; 12]>().prop_map(|b| RawBson::ObjectId(ObjectId::from_bytes(b))),
        date.prop_map(|n| RawBson::DateTime(DateTime::from_millis(n))),
        any::<(u32, u32)>().prop_map(|(time, increment)| RawBson::Timestamp(Timestamp { time, increment })),
        Just(RawBson::Timestamp(Timestamp { time: 0, increment: 0 })),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(s, bytes)| {
            // Subtype 2 has a second length inside, which bson writes.
            let subtype = if s == 2 { BinarySubtype::Generic } else { BinarySubtype::from(s) };
            RawBson::Binary(Binary { subtype, bytes })
        }),
        like("[a-z]{0,4}").prop_map(RawBson::JavaScriptCode),
        like("[a-z]{0,4}").prop_map(RawBson::Symbol),
        like("[a-z]{0,4}").prop_map(|code| {
            let scope = document(&[("x".into(), RawBson::Int32(1))]);
            RawBson::JavaScriptCodeWithScope(RawJavaScriptCodeWithScope { code, scope })
        }),
        like("[a-z]{0,4}").prop_map(|p| {
            let pattern = CString::try_from(p).unwrap();
            RawBson::RegularExpression(Regex { pattern, options: CString::try_from("i").unwrap() })
        }),
    ]
}

pub fn any_double() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<f64>(),
        (-1_000_000i64..1_000_000, 0..8i32).prop_map(|(n, e)| n as f64 / 10f64.powi(e)),
        any::<i32>().prop_map(f64::from),
        prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, 1.0, 2.0, 1e15, 1e300, 1.5e-7, 9.3e18]),
    ]
}

fn any_decimal() -> impl Strategy<Value = RawBson> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|b| RawBson::Decimal128(Decimal128::from_bytes(b))),
        like("-?[0-9]{1,12}(\\.[0-9]{1,20})?(E[+-]?[0-5][0-9]{0,3})?").prop_map(|t| decimal(&t)),
        like("-?[0-9]{1,10}").prop_map(|t| decimal(&t)),
        prop::sample::select(vec!["NaN", "Infinity", "-Infinity", "-0", "0E+3", "1", "1.0", "1E-6176"])
            .prop_map(decimal),
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        like("[a-z]{0,4}( [a-z]{0,4}){0,3}"),
        like("\\PC{0,6}"),
        like("[-+]?0{0,2}[1-9][0-9]{0,8}"),
        like("-?[0-9]{1,12}(\\.[0-9]{1,20})?(E[+-]?[0-9]{1,3})?"),
        like("[0-9a-f]{24}|[0-9A-Fa-f]{24}"),
        like("20[0-9]{2}-(0[1-9]|1[0-2])-[0-2][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9]\\.[0-9]{3}Z"),
        like("20[0-9]{2}-(0[1-9]|1[0-2])-[0-2][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,2})?(Z|[+-]0[0-9]:30)"),
        prop::sample::select(vec!["A", "I", "X", "active", "true", "false", "NaN", "$x", "$$ROOT", "a.b"])
            .prop_map(str::to_owned),
    ]
}

/// Names that no step here looks for, with dots and dollars too.
fn other_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["x", "y", "z", "x.y", "$set", "", "ä", "0", "k", "v"]).prop_map(str::to_owned)
}

/// Names may stand twice: a document that no step opens is carried as it is.
pub fn any_value() -> BoxedStrategy<RawBson> {
    // Made once: reading the patterns takes longer than drawing a document.
    thread_local!(static VALUE: BoxedStrategy<RawBson> = new_value().boxed());
    VALUE.with(Clone::clone)
}

fn new_value() -> impl Strategy<Value = RawBson> {
    let shallow = any_scalar().prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| RawBson::Array(RawArrayBuf::from_iter(items))),
            prop::collection::vec((other_name(), inner), 0..4).prop_map(|f| nested(&f)),
        ]
    });
    let deep = (any_scalar(), 1..60usize).prop_map(|(v, n)| {
        (0..n).fold(v, |v, i| {
            if i % 3 == 2 { [v].into_iter().collect::<RawArrayBuf>().into() } else { nested(&[("d".into(), v)]) }
        })
    });
    prop_oneof![9 => shallow, 1 => deep]
}

/// The documents of a case: its fields and others between them, mostly with an `_id`.
pub fn documents(case: &Case) -> BoxedStrategy<RawDocumentBuf> {
    let others = prop::collection::btree_map(other_name(), any_value(), 0..4);
    (case.fields.clone(), others, any::<u64>(), 0..10u8)
        .prop_map(|(fields, others, order, id)| {
            let mut all: Vec<Field> = fields.into_iter().chain(others).collect();
            shuffle(&mut all, order);
            if id > 0 {
                all.insert(0, ("_id".into(), RawBson::Int32(id.into())));
            }
            document(&all)
        })
        .boxed()
}

pub fn shuffle<T>(all: &mut [T], mut seed: u64) {
    for i in (1..all.len()).rev() {
        all.swap(i, (seed % (i as u64 + 1)) as usize);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 7;
    }
}

fn maybe(name: &str, value: impl Strategy<Value = RawBson> + 'static) -> BoxedStrategy<Vec<Field>> {
    let name = name.to_owned();
    prop_oneof![
        8 => value.prop_map(Some),
        1 => Just(Some(RawBson::Null)),
        1 => Just(None),
    ]
    .prop_map(move |v| v.map(|v| (name.clone(), v)).into_iter().collect())
    .boxed()
}

fn together(all: Vec<BoxedStrategy<Vec<Field>>>) -> BoxedStrategy<Vec<Field>> {
    all.prop_map(|f| f.into_iter().flatten().collect()).boxed()
}

/// A document with these fields in any order, and with others or not.
fn inside(name: &str, all: Vec<BoxedStrategy<Vec<Field>>>) -> BoxedStrategy<Vec<Field>> {
    let others = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::btree_map(other_name(), any_value(), 0..3).prop_map(|m| m.into_iter().collect()),
    ];
    let fields = (together(all), others, any::<u64>()).prop_map(|(mut f, o, order): (Vec<Field>, Vec<Field>, u64)| {
        f.extend(o);
        shuffle(&mut f, order);
        nested(&f)
    });
    maybe(name, fields)
}

fn case(name: &str, steps: &str, fields: Vec<BoxedStrategy<Vec<Field>>>) -> Case {
    Case { name: name.into(), steps: steps.into(), fields: together(fields) }
}

fn texts(pattern: &'static str) -> impl Strategy<Value = RawBson> {
    like(pattern).prop_map(RawBson::String)
}

/// Every kind of step in every form; conversions have [`conversions`].
pub fn cases() -> Vec<Case> {
    let field = |name: &str| maybe(name, any_value());
    vec![
        case("rename in place", "{ rename = 'a', to = 'b' }", vec![field("a"), field("c")]),
        case("rename up", "{ rename = 'p.a', to = 'b' }", vec![inside("p", vec![field("a"), field("c")])]),
        case(
            "rename up twice",
            "{ rename = 'p.q.a', to = 'p.a' }",
            vec![inside("p", vec![inside("q", vec![field("a")])])],
        ),
        case("rename down", "{ rename = 'a', to = 'p.q.b' }", vec![field("a"), inside("p", vec![field("c")])]),
        case("rename down anew", "{ rename = 'a', to = 'p.q.b' }", vec![field("a")]),
        case(
            "rename across",
            "{ rename = 'p.q.a', to = 'p.r.b' }",
            vec![inside("p", vec![inside("q", vec![field("a")]), inside("r", vec![field("c")])])],
        ),
        case(
            "set",
            "{ set = 's', value = 2 }, { set = 'p.t', value = { '$a' = 1, b = [1.5, true] } }",
            vec![field("a"), inside("p", vec![field("c")])],
        ),
        case(
            "unset",
            "{ unset = 'p.a', was = 'gone' }",
            vec![inside("p", vec![field("b"), Just(vec![("a".into(), RawBson::String("gone".into()))]).boxed()])],
        ),
        case("unset lossy", "{ unset = 'p.a', lossy = true }", vec![inside("p", vec![field("a"), field("b")])]),
        case("nest", "{ nest = ['street', 'zip'], into = 'address' }", vec![field("street"), field("zip"), field("b")]),
        case(
            "nest into what is there",
            "{ nest = ['street', 'zip'], into = 'address' }",
            vec![field("street"), field("zip"), inside("address", vec![field("city")])],
        ),
        case(
            "flatten",
            "{ flatten = 'address', prefix = 'address_' }",
            vec![field("b"), inside("address", vec![field("street"), field("zip")])],
        ),
        case(
            "flatten below",
            "{ flatten = 'p.address', prefix = 'ad_' }",
            vec![inside("p", vec![field("b"), inside("address", vec![field("street"), field("zip")])])],
        ),
        case(
            "flatten some",
            "{ flatten = 'address', fields = ['street', 'zip'], prefix = 'a_' }",
            vec![inside("address", vec![field("street"), field("zip")])],
        ),
        case(
            "split",
            "{ split = 'name', at = ' ', into = ['first', 'last'] }",
            vec![maybe("name", texts("[a-zä]{0,3} [ a-zä]{0,6}")), field("b")],
        ),
        case(
            "split in three",
            "{ split = 'p.name', at = 'ab$', into = ['p.one', 'p.two', 'p.three'] }",
            vec![inside("p", vec![maybe("name", texts("[ab$]{0,3}ab\\$[ab$]{0,4}ab\\$[ab$ä]{0,3}"))])],
        ),
        case(
            "join",
            "{ join = ['first', 'last'], with = ' ', to = 'name' }",
            vec![
                (like("[a-z]{0,3}"), like("[a-zä ]{0,5}"))
                    .prop_map(|(a, b)| vec![("first".into(), RawBson::String(a)), ("last".into(), RawBson::String(b))])
                    .boxed(),
                field("b"),
            ],
        ),
        case("wrap in an array", "{ wrap = 'tag', as = 'array' }", vec![field("tag"), field("b")]),
        case(
            "wrap in a document",
            "{ wrap = 'p.tag', as = 'document', field = 'v' }",
            vec![inside("p", vec![field("tag")])],
        ),
        case(
            "map",
            "{ map = 's', values = { A = 'active', I = 'inactive', '$x' = 7 } }",
            vec![maybe(
                "s",
                prop::sample::select(vec!["A", "I", "$x", "A", "?"]).prop_map(|t| RawBson::String(t.into())),
            )],
        ),
        case(
            "map and keep",
            "{ map = 's', values = [[1, 'one'], [2, true]], otherwise = 'keep' }",
            vec![maybe(
                "s",
                prop_oneof![any_scalar(), (0..3).prop_map(RawBson::Int32), (0..3i64).prop_map(RawBson::Int64)],
            )],
        ),
        case(
            "map lossy",
            "{ map = 's', values = { A = 'on', B = 'on', C = 'off' }, otherwise = 'keep', lossy = true }",
            vec![maybe(
                "s",
                prop_oneof![
                    any_scalar(),
                    prop::sample::select(vec!["A", "B", "C", "on"]).prop_map(|t| RawBson::String(t.into()))
                ],
            )],
        ),
        case(
            "pipeline",
            PIPELINE,
            vec![maybe("first", texts("[A-Z]{0,3}")), maybe("n", any::<i32>().prop_map(RawBson::Int32)), field("b")],
        ),
        case(
            "pipeline lossy",
            LOSSY_PIPELINE,
            vec![
                maybe("a", any_scalar()),
                maybe("s", texts("[a-zA-Zä]{0,5}")),
                maybe("n", any_scalar()),
                inside("p", vec![field("a"), field("c")]),
            ],
        ),
        case(
            "several steps",
            "{ rename = 'p.a', to = 'b' }, { convert = 'n', from = 'int', to = 'long' }, { set = 's', value = 1 }, \
             { pipeline = '[{ \"$set\": { \"m\": \"$n\" } }]', inverse = '[{ \"$unset\": \"m\" }]' }, { wrap = 't', as = 'array' }",
            vec![
                inside("p", vec![field("a"), field("c")]),
                maybe("n", any::<i32>().prop_map(RawBson::Int32)),
                field("t"),
            ],
        ),
    ]
}

const PIPELINE: &str = r#"{ pipeline = '''[{ "$set": { "full": "$first", "p": { "n": { "$toLong": "$n" }, "t": { "$type": "$n" } } } },
    { "$unset": ["first", "n"] }]''',
  inverse = '''[{ "$set": { "first": "$full" } }, { "$unset": "full" },
    { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "n": { "$cond": [{ "$eq": ["$p.t", "missing"] }, "$$REMOVE", { "$toInt": "$p.n" }] } }] } },
    { "$unset": "p" }]''' }"#;

const LOSSY_PIPELINE: &str = r#"{ pipeline = '''[{ "$addFields": { "t": { "$type": "$a" }, "u": { "$toUpper": "$s" }, "p.x": ["$a", { "k": "$p.a", "m": "$none" }],
    "i": { "$ifNull": ["$n", "$none", "none"] }, "c": { "$cond": { "if": "$a", "then": { "$literal": "$a" }, "else": "$$REMOVE" } } } },
    { "$replaceRoot": { "newRoot": { "$mergeObjects": ["$$ROOT", { "o": { "$or": ["$a", { "$not": ["$n"] }] }, "b": { "$and": ["$a", "$n"] } }, null] } } },
    { "$unset": ["p.c", "s"] }]''', lossy = true }"#;

/// Every conversion that there is, and again as a lossy step where a plan may say so.
pub fn conversions() -> Vec<Case> {
    const TYPES: [&str; 8] = ["string", "int", "long", "double", "decimal", "date", "objectId", "bool"];
    let mut all = Vec::new();
    for from in TYPES {
        for to in TYPES {
            for lossy in [false, true] {
                let value: BoxedStrategy<RawBson> = match (from, to) {
                    ("string", _) => any_text_of(to).prop_map(RawBson::String).boxed(),
                    ("int", _) => prop_oneof![any::<i32>(), 0..3].prop_map(RawBson::Int32).boxed(),
                    ("long", _) => prop_oneof![any::<i64>(), any::<i32>().prop_map(i64::from), 0..3i64]
                        .prop_map(RawBson::Int64)
                        .boxed(),
                    ("double", _) => any_double().prop_map(RawBson::Double).boxed(),
                    ("decimal", _) => any_decimal().boxed(),
                    ("date", _) => (-62_167_219_200_000i64..253_402_300_800_000)
                        .prop_map(|n| RawBson::DateTime(DateTime::from_millis(n)))
                        .boxed(),
                    ("objectId", _) => {
                        any::<[u8; 12]>().prop_map(|b| RawBson::ObjectId(ObjectId::from_bytes(b))).boxed()
                    }
                    _ => any::<bool>().prop_map(RawBson::Boolean).boxed(),
                };
                let said = if lossy { ", lossy = true" } else { "" };
                all.push(case(
                    &format!("convert {from} to {to}{}", if lossy { " lossy" } else { "" }),
                    &format!("{{ convert = 'p.v', from = '{from}', to = '{to}'{said} }}"),
                    vec![inside("p", vec![maybe("v", value), maybe("b", any_value())])],
                ));
            }
        }
    }
    all
}

fn any_text_of(to: &str) -> BoxedStrategy<String> {
    match to {
        "int" | "long" => like("[-+]?0{0,2}[1-9][0-9]{0,8}|-?[1-9][0-9]{0,8}").boxed(),
        "double" | "decimal" => prop_oneof![
            like("-?[1-9][0-9]{0,5}(\\.[0-9]{0,5}[1-9])?"),
            like("[-+]?[0-9]{1,12}(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?"),
            prop::sample::select(vec!["NaN", "Infinity", "-Infinity", "-0", "1E+300", "1.5E-7"])
                .prop_map(str::to_owned),
        ]
        .boxed(),
        "bool" => prop::sample::select(vec!["true", "false", "True"]).prop_map(str::to_owned).boxed(),
        _ => any_text().boxed(),
    }
}
