//! Each kind of step on a document that it carries, and on those that it refuses.

use super::docs::plan;
use super::*;
use crate::plan::Plan;

fn steps(toml: &str) -> Transform {
    match Plan::parse(&plan(toml), "plan.toml") {
        Ok(p) => Transform::new(&p.collections[0].steps),
        Err(e) => panic!("{e}"),
    }
}

/// There and back, byte for byte.
fn carries(toml: &str, legacy: Document, next: Document) {
    let t = steps(toml);
    let n = t.apply(&raw(&legacy)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(n, raw(&next), "{n:?}");
    assert_eq!(t.invert(&n).unwrap_or_else(|e| panic!("{e}")), raw(&legacy));
}

fn refuses(toml: &str, legacy: Document, path: &str, why: Why) {
    let e = steps(toml).apply(&raw(&legacy)).unwrap_err();
    assert_eq!((e.path.as_str(), e.why), (path, why));
}

fn refuses_back(toml: &str, next: Document, path: &str, why: Why) {
    let e = steps(toml).invert(&raw(&next)).unwrap_err();
    assert_eq!((e.path.as_str(), e.why), (path, why));
}

#[test]
fn fields_are_nested_and_flattened() {
    let flat = doc! { "_id": 1, "street": "s", "zip": "z", "b": 2 };
    let deep = doc! { "_id": 1, "address": { "street": "s", "zip": "z" }, "b": 2 };
    carries("{ nest = ['street', 'zip'], into = 'address' }", flat.clone(), deep.clone());
    carries("{ flatten = 'address', fields = ['street', 'zip'] }", deep.clone(), flat);
    let all = "{ flatten = 'address', prefix = 'a_' }";
    carries(all, deep, doc! { "_id": 1, "a_street": "s", "a_zip": "z", "b": 2 });
    carries(all, doc! { "address": null }, doc! { "address": null });
    refuses(all, doc! { "address": { "x": 1 }, "a_y": 2 }, "a_y", Why::Prefix);
    refuses(all, doc! { "a_y": 2 }, "a_y", Why::Prefix);
    refuses(all, doc! { "address": {} }, "address", Why::EmptyParent);
    refuses(all, doc! { "address": 5 }, "address", Why::Type { expected: "document", found: "int" });
    refuses_back(all, doc! { "address": { "x": 1 } }, "address", Why::Occupied);
    refuses_back(all, doc! { "address": null, "a_x": 1 }, "address", Why::Occupied);
}

#[test]
fn a_text_is_split_at_the_first_separators_and_joined_only_if_it_splits_the_same() {
    let split = "{ split = 'name', at = ' ', into = ['first', 'last'] }";
    carries(split, doc! { "name": "Ann van Dyke", "b": 1 }, doc! { "first": "Ann", "last": "van Dyke", "b": 1 });
    carries(split, doc! { "name": " " }, doc! { "first": "", "last": "" });
    carries(split, doc! { "name": null }, doc! { "name": null });
    refuses(split, doc! { "name": "Ann" }, "name", Why::Parts { expected: 2, found: 1 });
    refuses(split, doc! { "name": 5 }, "name", Why::Type { expected: "string", found: "int" });
    refuses(split, doc! { "name": "A B", "last": 1 }, "last", Why::Occupied);
    refuses(split, doc! { "last": 1 }, "last", Why::Occupied);
    refuses_back(split, doc! { "first": "Mary Ann", "last": "Lee" }, "first", Why::Separator);
    refuses_back(split, doc! { "first": "Ann" }, "last", Why::Part);
    refuses_back(split, doc! { "name": null, "first": "Ann", "last": "Lee" }, "name", Why::Occupied);
    let join = "{ join = ['first', 'last'], with = 'aa', to = 'name' }";
    carries(join, doc! { "first": "x", "last": "y", "b": 1 }, doc! { "name": "xaay", "b": 1 });
    // The separator begins in the first part: "xaaay" splits after the x.
    refuses(join, doc! { "first": "xa", "last": "y" }, "first", Why::Separator);
}

#[test]
fn a_value_is_wrapped_and_unwrapped() {
    let array = "{ wrap = 'tag', as = 'array' }";
    carries(array, doc! { "tag": "x", "b": 1 }, doc! { "tag": ["x"], "b": 1 });
    carries(array, doc! { "tag": [1, 2] }, doc! { "tag": [[1, 2]] });
    carries(array, doc! { "tag": null }, doc! { "tag": [null] });
    carries(array, doc! { "b": 1 }, doc! { "b": 1 });
    refuses_back(array, doc! { "tag": [1, 2] }, "tag", Why::NotOne("element"));
    refuses_back(array, doc! { "tag": [] }, "tag", Why::NotOne("element"));
    refuses_back(array, doc! { "tag": "x" }, "tag", Why::Type { expected: "array", found: "string" });
    let document = "{ wrap = 'price', as = 'document', field = 'amount' }";
    carries(document, doc! { "price": 5, "b": 1 }, doc! { "price": { "amount": 5 }, "b": 1 });
    let other = Why::NotOne("field, named as the plan says");
    refuses_back(document, doc! { "price": { "sum": 5 } }, "price", other.clone());
    refuses_back(document, doc! { "price": { "amount": 5, "currency": "EUR" } }, "price", other);
}

#[test]
fn values_are_mapped_by_their_bytes() {
    let map = "{ map = 's', values = { A = 'active', I = 'inactive' } }";
    carries(map, doc! { "s": "A" }, doc! { "s": "active" });
    carries(map, doc! { "s": null }, doc! { "s": null });
    refuses(map, doc! { "s": "X" }, "s", Why::Unmapped { found: "string" });
    refuses_back(map, doc! { "s": "A" }, "s", Why::Unmapped { found: "string" });
    let keep = "{ map = 's', values = [[1, 'one']], otherwise = 'keep' }";
    carries(keep, doc! { "s": 1 }, doc! { "s": "one" });
    carries(keep, doc! { "s": 1i64 }, doc! { "s": 1i64 });
    refuses(keep, doc! { "s": "one" }, "s", Why::Target { found: "string" });
    refuses_back(keep, doc! { "s": 1 }, "s", Why::Target { found: "int" });
    let lossy = steps("{ map = 's', values = { A = 'on', B = 'on' }, lossy = true }");
    assert!(lossy.is_lossy());
    let n = lossy.apply(&raw(&doc! { "s": "B" })).unwrap();
    assert_eq!(lossy.invert(&n).unwrap(), raw(&doc! { "s": "A" }), "the first that becomes it");
}

#[test]
fn what_is_lossy_changes_documents_only_when_the_plan_says_so() {
    let exact = "{ convert = 'n', from = 'string', to = 'int' }";
    carries(exact, doc! { "n": "-7" }, doc! { "n": -7 });
    assert!(matches!(steps(exact).apply(&raw(&doc! { "n": "007" })).unwrap_err().why, Why::NotExact { .. }));
    let lossy = steps("{ convert = 'n', from = 'string', to = 'int', lossy = true }");
    assert_eq!(lossy.apply(&raw(&doc! { "n": "007" })).unwrap(), raw(&doc! { "n": 7 }));
    assert!(matches!(lossy.apply(&raw(&doc! { "n": "7 pieces" })).unwrap_err().why, Why::NotExact { .. }));
    let id = steps("{ convert = 'n', from = 'objectId', to = 'date', lossy = true }");
    let n = id.apply(&raw(&doc! { "n": ObjectId::from_bytes([1; 12]) })).unwrap();
    assert_eq!(id.invert(&n).unwrap_err().why, Why::NoInverse);
    assert_eq!(id.inverse_pipeline(), None);
    let gone = steps("{ unset = 'n', lossy = true }");
    assert_eq!(gone.apply(&raw(&doc! { "a": 1, "n": 2 })).unwrap(), raw(&doc! { "a": 1 }));
    assert_eq!(gone.invert(&raw(&doc! { "n": 2 })).unwrap_err().why, Why::Occupied);
}

#[test]
fn dates_ids_and_booleans_convert() {
    let convert = |from: &str, to: &str| format!("{{ convert = 'v', from = '{from}', to = '{to}' }}");
    let date = bson::DateTime::from_millis(1_709_208_000_123);
    let id = ObjectId::parse_str("65a1b2c3d4e5f60718293a4b").unwrap();
    for (from, to, a, b) in [
        ("string", "date", Bson::from("2024-02-29T12:00:00.123Z"), Bson::from(date)),
        ("date", "string", date.into(), "2024-02-29T12:00:00.123Z".into()),
        ("date", "long", date.into(), 1_709_208_000_123i64.into()),
        ("date", "decimal", date.into(), dec("1709208000123").into()),
        ("objectId", "string", id.into(), "65a1b2c3d4e5f60718293a4b".into()),
        ("string", "objectId", "65a1b2c3d4e5f60718293a4b".into(), id.into()),
        ("string", "bool", "true".into(), true.into()),
        ("bool", "int", false.into(), 0.into()),
        ("long", "bool", 1i64.into(), true.into()),
        ("bool", "decimal", true.into(), dec("1").into()),
    ] {
        carries(&convert(from, to), doc! { "v": a }, doc! { "v": b });
    }
    for (from, to, a) in [
        ("string", "date", Bson::from("2024-02-29T12:00:00Z")),
        ("string", "date", "2024-02-30T12:00:00.000Z".into()),
        ("string", "date", "2024-06-30T23:59:60.000Z".into()),
        ("date", "string", bson::DateTime::from_millis(i64::MAX).into()),
        ("string", "objectId", "65A1B2C3D4E5F60718293A4B".into()),
        ("string", "bool", "yes".into()),
        ("int", "bool", 2.into()),
        ("decimal", "bool", dec("1.0").into()),
    ] {
        let e = steps(&convert(from, to)).apply(&raw(&doc! { "v": a.clone() })).unwrap_err();
        assert!(matches!(e.why, Why::NotExact { .. }), "{a}: {e}");
    }
}

#[test]
fn a_pipeline_is_held_to_its_declared_inverse() {
    let toml = r#"{ pipeline = '[{ "$set": { "full": { "$concat": ["$a", "-", "$b"] } } }, { "$unset": ["a", "b"] }]',
        inverse = '[{ "$set": { "a": "x", "b": "y" } }, { "$unset": "full" }]' }"#;
    carries(toml, doc! { "_id": 1, "a": "x", "b": "y" }, doc! { "_id": 1, "full": "x-y" });
    refuses(toml, doc! { "_id": 1, "a": "x", "b": "z" }, "", Why::NotDeclared);
    refuses_back(toml, doc! { "_id": 1, "full": "q" }, "", Why::NotDeclared);
    assert_eq!(steps(toml).class(), Class::Declared);
    let lossy = |stage: &str| format!("{{ pipeline = '[{stage}]', lossy = true }}");
    let set = lossy(r#"{ "$set": { "a.b": 1 } }"#);
    refuses(&set, doc! { "a": [1] }, "a.b", Why::Compute("a path goes through an array"));
    refuses_back(&set, doc! { "a": 1 }, "", Why::NoInverse);
    // A server would move it to the front when it stores the document.
    let last = lossy(r#"{ "$replaceWith": { "x": 1, "_id": "$_id" } }"#);
    refuses(&last, doc! { "_id": 1 }, "_id", Why::Id);
    refuses(&lossy(r#"{ "$set": { "_id": 2 } }"#), doc! { "_id": 1 }, "_id", Why::Id);
    let text = lossy(r#"{ "$set": { "t": { "$toString": "$x" } } }"#);
    refuses(&text, doc! { "x": 0.5 }, "", Why::Compute("a server rounds this double"));
}

#[test]
fn every_step_says_what_it_is() {
    let text = |toml: &str| {
        let p = Plan::parse(&plan(toml), "plan.toml").unwrap_or_else(|e| panic!("{e}"));
        let s = &p.collections[0].steps[0];
        format!("{s}: {}: {}", s.class(), s.reason())
    };
    assert_eq!(text("{ rename = 'a', to = 'b' }"), "rename a -> b: exact: stays in its place");
    assert_eq!(
        text("{ map = 's', values = { A = 'on', B = 'on' }, lossy = true }"),
        "map s, 2 values: lossy: loses which value it was: 1 of 2 become what another one becomes"
    );
    assert_eq!(text("{ unset = 'a', lossy = true }"), "unset a: lossy: loses the value");
}
