#![allow(clippy::unwrap_used)]
use super::*;
use crate::plan::ValueType;
use bson::{Binary, Bson, Decimal128, Document, RawBson, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};
use proptest::prelude::*;

mod docs;
mod kinds;
mod steps;

fn raw(d: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(d).unwrap()
}
fn rename(from: &str, to: &str) -> Step {
    Step::Rename { from: from.into(), to: to.into() }
}
fn convert_step(path: &str, from: ValueType, to: ValueType) -> Step {
    Step::Convert { path: path.into(), from, to, lossy: false }
}
fn orders() -> Transform {
    Transform::new(&[
        rename("customer.name", "customer_name"),
        convert_step("total", ValueType::String, ValueType::Decimal),
        Step::Set { path: "schema_version".into(), value: 2.into() },
    ])
}
fn dec(t: &str) -> Decimal128 {
    t.parse().unwrap()
}
fn names(d: &RawDocument) -> Vec<String> {
    d.iter().map(|e| e.unwrap().0.as_str().to_owned()).collect()
}
fn why(t: &Transform, d: &Document) -> Why {
    t.apply(&raw(d)).unwrap_err().why
}

#[test]
fn an_order_goes_to_next_and_comes_back_byte_for_byte() {
    let t = orders();
    let d = raw(
        &doc! { "_id": 7, "customer": { "name": "Ann", "city": "Oslo" }, "total": "12.340", "items": [1, 2], "rev": 3i64 },
    );
    let n = t.apply(&d).unwrap();
    assert_eq!(
        n,
        raw(
            &doc! { "_id": 7, "customer_name": "Ann", "customer": { "city": "Oslo" }, "total": dec("12.340"), "items": [1, 2], "rev": 3i64, "schema_version": 2 }
        )
    );
    assert_eq!(t.invert(&n).unwrap(), d);
    assert_eq!(t.class(), Class::Reordered);
}

#[test]
fn a_parent_left_empty_goes_and_comes_again() {
    let t = orders();
    let d = raw(&doc! { "_id": 7, "customer": { "name": "Ann" }, "total": "1", "x": 1 });
    let n = t.apply(&d).unwrap();
    assert_eq!(names(&n), ["_id", "customer_name", "total", "x", "schema_version"]);
    assert_eq!(t.invert(&n).unwrap(), d);
    // An application on next that writes an empty parent beside the moved field would not get it back.
    let bad = raw(&doc! { "_id": 7, "customer": {}, "customer_name": "A", "total": dec("1"), "schema_version": 2 });
    let e = t.invert(&bad).unwrap_err();
    assert_eq!((e.path.as_str(), e.why), ("customer", Why::EmptyParent));
}

#[test]
fn field_order_lost_by_a_move_is_forgiven_only_where_it_moved() {
    let t = orders();
    let a = raw(
        &doc! { "_id": 7, "customer": { "city": "Oslo", "name": "Ann" }, "total": "1", "items": { "a": 1, "b": 2 } },
    );
    let b = t.invert(&t.apply(&a).unwrap()).unwrap();
    assert_ne!(a, b);
    assert!(t.same(&a, &b));
    let c = raw(
        &doc! { "_id": 7, "customer": { "city": "Oslo", "name": "Ann" }, "total": "1", "items": { "b": 2, "a": 1 } },
    );
    assert!(!t.same(&a, &c), "the order inside `items` is data");
    let exact = Transform::new(&[rename("a", "b")]);
    assert!(!exact.same(&raw(&doc! { "x": 1, "y": 1 }), &raw(&doc! { "y": 1, "x": 1 })));
}

#[test]
fn an_application_document_agrees_with_its_inverse_wherever_its_fields_stand() {
    let t = orders();
    let n = raw(
        &doc! { "schema_version": 2, "_id": 7, "total": dec("1.0"), "customer": { "city": "Oslo" }, "customer_name": "Ann" },
    );
    let d = t.invert(&n).unwrap();
    assert!(t.agree(&d, &n));
    assert!(!t.agree(&d, &raw(&doc! { "_id": 7 })));
    let exact = Transform::new(&[Step::Set { path: "v".into(), value: 2.into() }]);
    let n = raw(&doc! { "_id": 1, "v": 2, "x": 1 });
    assert!(exact.agree(&exact.invert(&n).unwrap(), &n));
}

#[test]
fn nesting_fields_makes_their_parent_and_unnesting_drops_it() {
    let t = Transform::new(&[
        rename("street", "address.street"),
        rename("city", "address.city"),
        rename("zip", "address.zip"),
    ]);
    let d = raw(&doc! { "_id": 1, "a": 1, "street": "s", "city": "c", "zip": "z", "b": 2 });
    let n = t.apply(&d).unwrap();
    assert_eq!(n, raw(&doc! { "_id": 1, "a": 1, "address": { "street": "s", "city": "c", "zip": "z" }, "b": 2 }));
    assert_eq!(t.invert(&n).unwrap(), d);
    let flat = Transform::new(&[rename("p.a", "a"), rename("p.b", "b"), rename("p.c.d", "d")]);
    let d = raw(&doc! { "_id": 1, "p": { "a": 1, "b": 2, "c": { "d": 3 } }, "z": 0 });
    let n = flat.apply(&d).unwrap();
    assert_eq!(names(&n), ["_id", "a", "b", "d", "z"]);
    assert_eq!(flat.invert(&n).unwrap(), d);
}

#[test]
fn what_would_not_come_back_is_refused_by_name() {
    let t = orders();
    let base = doc! { "_id": 7, "total": "1" };
    let with = |k: &str, v: Bson| {
        let mut d = base.clone();
        d.insert(k, v);
        d
    };
    let lossy = |d: &Document| matches!(why(&t, d), Why::NotExact { .. });
    for text in
        ["1e3", "+1", "01", "1.", ".5", "", "abc", "1,5", " 1", "nan", "1E400", "12345678901234567890123456789012345"]
    {
        assert!(lossy(&with("total", text.into())), "{text:?}");
    }
    for text in [
        "0",
        "-0",
        "0.00",
        "12.340",
        "-1E+3",
        "1.5E-9",
        "NaN",
        "Infinity",
        "-Infinity",
        "9999999999999999999999999999999999",
    ] {
        let d = raw(&with("total", text.into()));
        assert_eq!(t.invert(&t.apply(&d).unwrap()).unwrap(), d, "{text:?}");
    }
    assert_eq!(why(&t, &with("total", 5.into())), Why::Type { expected: "string", found: "int" });
    assert_eq!(why(&t, &with("customer_name", "x".into())), Why::Occupied);
    assert_eq!(why(&t, &with("schema_version", 2.into())), Why::Occupied);
    assert!(matches!(why(&t, &with("customer", Bson::Array(vec![]))), Why::Type { found: "array", .. }));
    let e = t.apply(&raw(&with("total", "1e3".into()))).unwrap_err();
    assert_eq!(
        e.to_string(),
        "the document with _id 7 cannot be carried: `total` of type string does not come back exactly from decimal: the value coming back would be written differently"
    );
}

#[test]
fn absent_stays_absent_and_null_stays_null() {
    let t = orders();
    for d in [
        doc! {},
        doc! { "_id": 1 },
        doc! { "_id": 1, "customer": null, "total": null },
        doc! { "_id": 1, "customer": { "name": null } },
        doc! { "_id": 1, "customer": {} },
    ] {
        let d = raw(&d);
        assert_eq!(t.invert(&t.apply(&d).unwrap()).unwrap(), d);
    }
}

#[test]
fn the_constant_must_be_the_plans_on_the_way_back() {
    let t = orders();
    let back = |v: Bson| t.invert(&raw(&doc! { "_id": 1, "schema_version": v })).unwrap_err().why;
    assert_eq!(back(3.into()), Why::Differs { found: "int" });
    assert_eq!(back(2i64.into()), Why::Differs { found: "long" });
    assert_eq!(t.invert(&raw(&doc! { "_id": 1 })).unwrap_err().why, Why::Absent);
    let unset = Transform::new(&[Step::Unset { path: "old".into(), was: Some("x".into()) }]);
    let d = raw(&doc! { "_id": 1, "old": "x", "b": 1 });
    assert!(unset.same(&unset.invert(&unset.apply(&d).unwrap()).unwrap(), &d));
    assert_eq!(why(&unset, &doc! { "old": "y" }), Why::Differs { found: "string" });
    assert_eq!(why(&unset, &doc! {}), Why::Absent);
}

#[test]
fn duplicate_names_and_touched_ids_are_refused() {
    let mut bytes = raw(&doc! { "a": 1, "b": 2 }).into_bytes();
    bytes[12] = b'a';
    let twice = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert_eq!(orders().apply(&twice).unwrap_err().why, Why::Duplicate);
    for path in ["_id", "_id.x"] {
        assert_eq!(why(&Transform::new(&[rename(path, "y")]), &doc! { "_id": 1 }), Why::Id);
    }
}

#[test]
fn numbers_convert_exactly_or_not_at_all() {
    use ValueType::*;
    let yes: Vec<(ValueType, ValueType, Bson, Bson)> = vec![
        (Int, Long, 5.into(), 5i64.into()),
        (Long, Int, (-5i64).into(), (-5).into()),
        (Int, Double, 5.into(), 5.0.into()),
        (Long, Double, (1i64 << 53).into(), 9_007_199_254_740_992.0.into()),
        (Double, Long, 5.0.into(), 5i64.into()),
        (Double, Decimal, (-0.0).into(), dec("-0").into()),
        (Double, Decimal, 0.1.into(), dec("0.1").into()),
        (Double, Decimal, 1e300.into(), dec("1E+300").into()),
        (Double, Decimal, f64::NAN.into(), dec("NaN").into()),
        (Double, Decimal, f64::NEG_INFINITY.into(), dec("-Infinity").into()),
        (Decimal, Double, dec("2.5").into(), 2.5.into()),
        (Decimal, Int, dec("-7").into(), (-7).into()),
        (Long, Decimal, i64::MIN.into(), dec("-9223372036854775808").into()),
        (Long, String, i64::MIN.into(), "-9223372036854775808".into()),
        (String, Double, "1.5".into(), 1.5.into()),
        (String, Int, "-3".into(), (-3).into()),
        (Decimal, String, dec("1E-7").into(), "1E-7".into()),
    ];
    for (from, to, a, b) in yes {
        let t = Transform::new(&[convert_step("v", from, to)]);
        let d = raw(&doc! { "v": a.clone() });
        let n = t.apply(&d).unwrap_or_else(|e| panic!("{a:?}: {e}"));
        assert_eq!(n, raw(&doc! { "v": b }), "{a:?}");
        assert_eq!(t.invert(&n).unwrap(), d);
    }
    let no: Vec<(ValueType, ValueType, Bson)> = vec![
        (Long, Int, (1i64 << 31).into()),
        (Long, Double, ((1i64 << 53) + 1).into()),
        (Long, Double, i64::MAX.into()),
        (Double, Long, (-0.0).into()),
        (Double, Int, 0.5.into()),
        (Double, Long, f64::NAN.into()),
        (Double, Long, 1e19.into()),
        (Decimal, Int, dec("7.0").into()),
        (Decimal, Double, dec("0.10").into()),
        (Decimal, Double, dec("0.1234567890123456789").into()),
        (String, Int, "007".into()),
        (String, Double, "1.50".into()),
    ];
    for (from, to, a) in no {
        let t = Transform::new(&[convert_step("v", from, to)]);
        assert!(matches!(why(&t, &doc! { "v": a.clone() }), Why::NotExact { .. }), "{a:?}");
    }
}

fn any_scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![
        Just(Bson::Null),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        Just(Bson::Undefined),
        any::<bool>().prop_map(Bson::Boolean),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<u64>().prop_map(|b| Bson::Double(f64::from_bits(b))),
        any::<f64>().prop_map(Bson::Double),
        prop::sample::select(vec![0.0, -0.0, f64::NAN, 2.0, 1e300]).prop_map(Bson::Double),
        any::<[u8; 16]>().prop_map(|b| Bson::Decimal128(Decimal128::from_bytes(b))),
        "-?[0-9]{1,12}(\\.[0-9]{1,20})?(E[+-]?[0-9]{1,4})?".prop_map(Bson::String),
        "\\PC{0,6}".prop_map(Bson::String),
        any::<[u8; 12]>().prop_map(|b| Bson::ObjectId(ObjectId::from_bytes(b))),
        any::<i64>().prop_map(|n| Bson::DateTime(bson::DateTime::from_millis(n))),
        (any::<u32>(), any::<u32>()).prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        prop::collection::vec(any::<u8>(), 0..9)
            .prop_map(|bytes| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })),
        "[a-z]{0,4}".prop_map(Bson::JavaScriptCode),
        "[a-z]{0,4}".prop_map(Bson::Symbol),
        "[a-z]{0,4}".prop_map(|c| Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
            code: c,
            scope: doc! { "x": 1 }
        })),
        "[a-z]{0,4}".prop_map(|p| Bson::RegularExpression(bson::Regex {
            pattern: bson::raw::CString::try_from(p).unwrap(),
            options: bson::raw::CString::try_from("i").unwrap()
        })),
    ]
}

/// Names that the steps below like to meet.
fn any_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["_id", "a", "b", "c", "d", "customer", "name", "total", "v"]).prop_map(str::to_owned)
}

fn any_value() -> impl Strategy<Value = Bson> {
    any_scalar().prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::vec((any_name(), inner), 0..5).prop_map(|f| Bson::Document(f.into_iter().collect())),
        ]
    })
}

fn any_doc() -> impl Strategy<Value = Document> {
    prop::collection::vec((any_name(), any_value()), 0..9).prop_map(|f| f.into_iter().collect())
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", "customer", "name", "total", "v"]), 1..4)
        .prop_map(|p| p.join("."))
}

fn any_step() -> impl Strategy<Value = Step> {
    use ValueType::*;
    let kind = || prop::sample::select(vec![String, Int, Long, Double, Decimal]);
    prop_oneof![
        3 => (any_path(), any_path()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => (any_path(), kind(), kind()).prop_map(|(path, from, to)| Step::Convert { path, from, to, lossy: false }),
        1 => (any_path(), any_scalar()).prop_map(|(path, value)| Step::Set { path, value }),
        1 => (any_path(), any_scalar()).prop_map(|(path, was)| Step::Unset { path, was: Some(was) }),
    ]
}

fn overlap(a: &str, b: &str) -> bool {
    a == b || a.starts_with(&format!("{b}.")) || b.starts_with(&format!("{a}."))
}

/// What the plan's checks let through: steps whose paths do not overlap.
fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..5).prop_map(|steps| {
        let mut touched: Vec<String> = Vec::new();
        let mut fits = |step: &Step| {
            let paths = match step {
                Step::Rename { from, to } => vec![from.clone(), to.clone()],
                Step::Convert { path, .. } | Step::Set { path, .. } | Step::Unset { path, .. } => vec![path.clone()],
                _ => Vec::new(),
            };
            let free = paths.iter().all(|p| touched.iter().all(|q| !overlap(p, q)))
                && (paths.len() == 1 || !overlap(&paths[0], &paths[1]));
            if free {
                touched.extend(paths);
            }
            free
        };
        steps.into_iter().filter(|s| fits(s)).collect()
    })
}

#[test]
fn a_name_that_stands_twice_is_found_whatever_its_length_and_place() {
    for length in 0..30 {
        for between in [0, 1, 5, 23, 24, 40] {
            let name = "n".repeat(length);
            // As long, and the same in its first bytes.
            let alike = (0..between).map(|i| format!("{}{i:02}", &"n".repeat(length.saturating_sub(2))));
            let names: Vec<String> = alike.collect();
            let fields = std::iter::once(&name).chain(&names);
            let once: Vec<docs::Field> = fields.map(|n| (n.clone(), RawBson::Int32(1))).collect();
            let bytes = docs::document(&once).into_bytes();
            assert!(tree::parse(&bytes, "").is_ok(), "{length} {between}");
            let twice = [&once[..], &[(name.clone(), RawBson::Null)]].concat();
            let bytes = docs::document(&twice).into_bytes();
            assert_eq!(tree::parse(&bytes, "").unwrap_err(), (name, Why::Duplicate), "{length} {between}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_decimal_by_the_short_way_is_what_it_is_by_the_long_way(text in "-?[0-9]{0,14}([.][0-9]{0,8})?", bits in any::<u128>(), small in any::<u64>()) {
        if let Some(d) = number::decimal_at_once(&number::text_bytes(&text)) {
            prop_assert_eq!(number::decimal(&text), Some(d));
            prop_assert_eq!(number::decimal_text(d), text);
        }
        for d in [bits.to_le_bytes(), number::pack(bits % 2 == 0, -((bits >> 3) as i32 & 7), u128::from(small))] {
            if let Some(string) = number::text_at_once(&d) {
                let text = number::decimal_text(d);
                prop_assert_eq!(number::decimal(&text), Some(d));
                prop_assert_eq!(number::text_bytes(&text), string);
            }
        }
    }
}

#[test]
fn amounts_go_the_short_way() {
    for text in ["0", "7", "12.50", "-0.07", "123456789012.345678"] {
        let string = number::text_bytes(text);
        let d = number::decimal_at_once(&string).unwrap();
        assert_eq!(number::text_at_once(&d).unwrap(), string);
    }
    for text in ["", "-", ".5", "5.", "007", "+1", "1e3", "NaN", "1.2345678", "1234567890123", "1.2.3", " 1"] {
        assert_eq!(number::decimal_at_once(&number::text_bytes(text)), None, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_carried_comes_back(d in any_doc(), steps in any_steps()) {
        let t = Transform::new(&steps);
        let d = raw(&d);
        if let Ok(n) = t.apply(&d) {
            let back = t.invert(&n);
            prop_assert!(back.is_ok(), "{:?}: {:?} -> {:?}: {:?}", steps, d, n, back);
            let back = back.unwrap();
            prop_assert!(t.same(&back, &d), "{:?}: {:?} -> {:?} -> {:?}", steps, d, n, back);
            if t.class() == Class::Exact {
                prop_assert_eq!(back.as_bytes(), d.as_bytes());
            }
            // By bytes: a NaN does not equal itself.
            let id = |d: &RawDocument| d.get("_id").unwrap().map(|v| crate::cluster::value_bytes(v).unwrap());
            prop_assert_eq!(id(&n), id(&d));
            Document::try_from(n.as_ref()).unwrap();
        }
        if let Ok(l) = t.invert(&d) {
            let again = t.apply(&l);
            prop_assert!(again.is_ok(), "{:?}: {:?} -> {:?}: {:?}", steps, d, l, again);
            prop_assert!(t.agree(&l, &d));
        }
    }

    /// What a comparison asks is answered without writing the document; the answer is the same.
    #[test]
    fn what_t_makes_is_told_without_making_it(
        d in any_doc(), other in any_doc(), steps in any_steps(), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let t = Transform::new(&steps);
        let d = raw(&d);
        let mut copies = vec![d.clone(), raw(&other)];
        if let Ok(n) = t.apply(&d) {
            let mut fields: Vec<(String, Bson)> = Document::try_from(n.as_ref()).unwrap().into_iter().collect();
            fields.reverse();
            copies.push(raw(&fields.into_iter().collect()));
            let mut bytes = n.clone().into_bytes();
            let i = at.index(bytes.len() - 4) + 4;
            bytes[i] = to;
            copies.extend(RawDocumentBuf::from_bytes(bytes).ok());
            copies.push(n);
        }
        for c in copies {
            prop_assert_eq!(t.makes(&d, &c), t.apply(&d).is_ok_and(|m| t.same(&m, &c)), "{:?}: {:?} {:?}", steps, d, c);
        }
    }

    #[test]
    fn every_value_converts_exactly_or_is_refused(v in any_scalar(), a in 0..5usize, b in 0..5usize) {
        use ValueType::*;
        let kinds = [String, Int, Long, Double, Decimal];
        let t = Transform::new(&[convert_step("v", kinds[a], kinds[b])]);
        let d = raw(&doc! { "v": v });
        if let Ok(n) = t.apply(&d) {
            prop_assert_eq!(t.invert(&n).unwrap(), d);
        }
    }

    #[test]
    fn the_fast_decimal_agrees_with_bson(text in "-?[0-9]{1,26}(\\.[0-9]{1,8})?", bytes in any::<[u8; 16]>()) {
        let t = Transform::new(&[convert_step("v", ValueType::String, ValueType::Decimal)]);
        if let Ok(n) = t.apply(&raw(&doc! { "v": &text })) {
            prop_assert_eq!(n, raw(&doc! { "v": dec(&text) }));
            prop_assert_eq!(dec(&text).to_string(), text);
        } else {
            prop_assert_ne!(dec(&text).to_string(), text);
        }
        let back = Transform::new(&[convert_step("v", ValueType::Decimal, ValueType::String)]);
        let d = Decimal128::from_bytes(bytes);
        if let Ok(n) = back.apply(&raw(&doc! { "v": d })) {
            prop_assert_eq!(n, raw(&doc! { "v": d.to_string() }));
        }
    }

    #[test]
    fn damaged_bytes_never_panic(d in any_doc(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = raw(&d).into_bytes();
        let i = at.index(bytes.len() - 4) + 4;
        bytes[i] = to;
        if let Ok(d) = RawDocumentBuf::from_bytes(bytes) {
            for r in [orders().apply(&d), orders().invert(&d)] {
                if let Err(e) = r { let _ = e.to_string(); }
            }
            let _ = orders().same(&d, &raw(&doc! { "a": 1 }));
        }
    }
}
