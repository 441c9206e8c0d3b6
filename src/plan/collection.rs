//! Reads `[[collection]]`: namespaces, steps and indexes, and whether they fit together.

use std::ops::Range;

use bson::{Bson, Document};
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{At, Reader, Table, nearest};
use super::shape;
use super::types::{Collection, Step, ValueType};
use crate::cluster::{CONTROL_DB, IndexSpec, Ns};

/// What a step may be, and what it may become.
const STEPS: [&str; 4] = ["rename", "convert", "set", "unset"];
const LATER: [&str; 8] = ["nest", "flatten", "split", "join", "wrap", "map", "pipeline", "lookup"];
const TYPES: [(&str, ValueType); 5] = [
    ("string", ValueType::String),
    ("int", ValueType::Int),
    ("long", ValueType::Long),
    ("double", ValueType::Double),
    ("decimal", ValueType::Decimal),
];

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>) -> Vec<Collection> {
    let all = r.tables(t, "collection", "[[collection]]");
    if all.is_empty() && !t.table.contains_key("collection") {
        let help = "add `[[collection]]` with `legacy`, `next` and `steps`";
        r.error(0..0, "the plan has no `[[collection]]`", "", Some(help.into()));
    }
    if let Some(second) = all.get(1) {
        let help = "make a plan for each collection";
        r.error(
            second.span.clone(),
            "only one collection a plan is available yet",
            "this is the second",
            Some(help.into()),
        );
    }
    all.iter().filter_map(|t| read_one(r, t)).collect()
}

fn read_one(r: &mut Reader, t: &Table<'_, '_>) -> Option<Collection> {
    r.only(t, &["legacy", "next", "steps", "indexes", "shape"]);
    let legacy = r.required(t, "legacy", "\"shop.orders\"");
    let next = r.required(t, "next", "\"shop.orders_v2\"");
    let legacy_ns = legacy.as_ref().and_then(|n| read_ns(r, n));
    let next_ns = next.as_ref().and_then(|n| read_ns(r, n));
    let shape = r.string(t, "shape");
    if let (Some(a), Some(b), Some(at)) = (&legacy_ns, &next_ns, &next) {
        match t.table.get("shape") {
            None if a == b => {
                let help = "in place, `shape` tells which documents are done: '{ \"schema_version\": 2 }'; or give `next` another name";
                let message = "`next` is the same collection as `legacy`, and `shape` is missing";
                r.error(at.span.clone(), message, "", Some(help.into()));
            }
            Some(v) if a != b => {
                let help = "two collections tell the shapes apart; leave it out";
                r.error(v.span(), "`shape` is for migrating in place", "expected no `shape`", Some(help.into()));
            }
            _ => {}
        }
    }
    let shape = shape.and_then(|s| shape::read(r, s));
    let steps = read_steps(r, t);
    let indexes = read_indexes(r, t);
    Some(Collection { legacy: legacy_ns?, next: next_ns?, steps, indexes, shape })
}

fn read_ns(r: &mut Reader, text: &At<String>) -> Option<Ns> {
    let fail = |r: &mut Reader, message: String, expected: &str| {
        r.error(text.span.clone(), message, expected, None);
        None
    };
    let Some(ns) = Ns::parse(&text.value) else {
        return fail(r, format!("`{}` is not a namespace", text.value), "expected `database.collection`");
    };
    if ns.db.len() > 63 || ns.db.chars().any(|c| "/\\ \"$*<>:|?".contains(c) || c.is_control()) {
        return fail(
            r,
            format!("`{}` is not a database name", ns.db),
            "expected at most 63 bytes without /\\ \"$*<>:|?",
        );
    }
    if ns.coll.contains('$') || ns.coll.chars().any(char::is_control) || text.value.len() > 255 {
        return fail(
            r,
            format!("`{}` is not a collection name", ns.coll),
            "expected at most 255 bytes in all, without $",
        );
    }
    if ns.coll.starts_with("system.") {
        return fail(r, "system collections are never migrated".into(), "expected a collection of the application");
    }
    let db = ns.db.to_ascii_lowercase();
    if db == CONTROL_DB {
        return fail(r, format!("`{CONTROL_DB}` is tidegate's own control database"), "expected another database");
    }
    if ["admin", "local", "config"].contains(&db.as_str()) {
        return fail(r, format!("`{}` is the server's own database", ns.db), "expected another database");
    }
    Some(ns)
}

fn read_steps(r: &mut Reader, t: &Table<'_, '_>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut touched: Vec<At<String>> = Vec::new();
    for s in r.tables(t, "steps", "this step") {
        let verb = STEPS.iter().find(|v| s.table.contains_key(**v));
        let Some(verb) = verb else {
            let first = s.table.keys().min_by_key(|k| k.span().start);
            match first {
                Some(k) if LATER.contains(&k.get_ref().as_ref()) => {
                    let message = format!("the step `{}` is not available yet", k.get_ref());
                    r.error(k.span(), message, "available: rename, convert, set and unset", None);
                }
                Some(k) => {
                    let message = format!("unknown step `{}`", k.get_ref());
                    r.error(k.span(), message, "", Some(nearest(k.get_ref(), STEPS.into_iter())));
                }
                None => r.error(s.span.clone(), "this step is empty", "expected rename, convert, set or unset", None),
            }
            continue;
        };
        if let Some(step) = read_step(r, &s, verb, &mut touched) {
            steps.push(step);
        }
    }
    steps
}

fn read_step(r: &mut Reader, s: &Table<'_, '_>, verb: &str, touched: &mut Vec<At<String>>) -> Option<Step> {
    match verb {
        "rename" => {
            r.only(s, &["rename", "to"]);
            let from = r.string(s, "rename").and_then(|p| path(r, p, touched));
            let to = r.required(s, "to", "\"new_name\"").and_then(|p| path(r, p, touched));
            Some(Step::Rename { from: from?, to: to? })
        }
        "convert" => {
            r.only(s, &["convert", "from", "to"]);
            let p = r.string(s, "convert").and_then(|p| path(r, p, touched));
            let from = r.required(s, "from", "\"string\"").and_then(|w| r.word(&w, "type", &TYPES));
            let to = r.required(s, "to", "\"decimal\"");
            let to = to.and_then(|w| r.word(&w, "type", &TYPES).map(|v| (v, w.span)));
            if let (Some(f), Some((t, span))) = (from, &to)
                && f == *t
            {
                r.error(span.clone(), "this converts a type to itself", "expected another type", None);
                return None;
            }
            Some(Step::Convert { path: p?, from: from?, to: to?.0 })
        }
        "set" => {
            r.only(s, &["set", "value"]);
            let p = r.string(s, "set").and_then(|p| path(r, p, touched));
            let value = constant(r, s, "value");
            Some(Step::Set { path: p?, value: value? })
        }
        _ => {
            r.only(s, &["unset", "was"]);
            let p = r.string(s, "unset").and_then(|p| path(r, p, touched));
            if !s.table.contains_key("was") {
                let help = "say the value that every legacy document has there, so that the way back can put it back: `was = …`";
                r.error(
                    s.span.clone(),
                    "`was` is missing: without it this step cannot be undone",
                    "",
                    Some(help.into()),
                );
            }
            let was = constant(r, s, "was");
            Some(Step::Unset { path: p?, was: was? })
        }
    }
}

/// Checks a path and that no other step touches it, its parents or its children.
fn path(r: &mut Reader, p: At<String>, touched: &mut Vec<At<String>>) -> Option<String> {
    let parts: Vec<&str> = p.value.split('.').collect();
    let fail = |r: &mut Reader, message: String, expected: &str| {
        r.error(p.span.clone(), message, expected, None);
        None
    };
    if parts.iter().any(|s| s.is_empty() || s.starts_with('$') || s.contains('\0')) || parts.len() > 20 {
        return fail(r, format!("`{}` is not a path", p.value), "expected field names joined by dots");
    }
    if parts[0] == "_id" {
        return fail(r, "a step must not touch `_id`".into(), "the key is what both sides are matched by");
    }
    if parts.iter().any(|s| s.bytes().all(|b| b.is_ascii_digit())) {
        return fail(r, format!("`{}` points into an array", p.value), "expected field names only");
    }
    let overlaps = |a: &str, b: &str| {
        a == b
            || a.strip_prefix(b).is_some_and(|x| x.starts_with('.'))
            || b.strip_prefix(a).is_some_and(|x| x.starts_with('.'))
    };
    if let Some(other) = touched.iter().find(|o| overlaps(&o.value, &p.value)) {
        let message = if other.value == p.value {
            format!("two steps touch `{}`", p.value)
        } else {
            format!("two steps touch `{}` and `{}`, one inside the other", other.value, p.value)
        };
        return fail(r, message, "expected each path once");
    }
    touched.push(p.clone());
    Some(p.value)
}

/// A TOML value as BSON: integers become int when they fit, else long.
fn constant(r: &mut Reader, s: &Table<'_, '_>, key: &str) -> Option<Bson> {
    match s.table.get(key) {
        Some(v) => to_bson(r, v),
        None => {
            if key == "value" {
                r.missing(s, key, "1");
            }
            None
        }
    }
}

fn to_bson(r: &mut Reader, v: &Spanned<DeValue<'_>>) -> Option<Bson> {
    let unusable = |r: &mut Reader, span: Range<usize>, expected: &str| {
        r.error(span, "this value cannot be stored", expected, None);
        None
    };
    match v.get_ref() {
        DeValue::String(s) => Some(Bson::String(s.to_string())),
        DeValue::Boolean(b) => Some(Bson::Boolean(*b)),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Some(i32::try_from(n).map_or(Bson::Int64(n), Bson::Int32)),
            Err(_) => unusable(r, v.span(), "expected a 64-bit integer"),
        },
        DeValue::Float(x) => match x.as_str().parse::<f64>() {
            Ok(x) => Some(Bson::Double(x)),
            Err(_) => unusable(r, v.span(), "expected a number"),
        },
        DeValue::Datetime(d) => match d.to_string().parse::<jiff::Timestamp>() {
            Ok(at) => Some(Bson::DateTime(bson::DateTime::from_millis(at.as_millisecond()))),
            Err(_) => unusable(r, v.span(), "expected a date and time with an offset, like 2027-01-01T00:00:00Z"),
        },
        DeValue::Array(items) => items.iter().map(|i| to_bson(r, i)).collect::<Option<Vec<_>>>().map(Bson::Array),
        DeValue::Table(t) => {
            let mut entries: Vec<_> = t.iter().collect();
            entries.sort_by_key(|(k, _)| k.span().start);
            let mut d = Document::new();
            for (k, v) in entries {
                let name = k.get_ref().as_ref();
                if name.contains('\0') {
                    return unusable(r, k.span(), "expected a field name without NUL");
                }
                d.insert(name, to_bson(r, v)?);
            }
            Some(Bson::Document(d))
        }
    }
}

fn read_indexes(r: &mut Reader, t: &Table<'_, '_>) -> Vec<IndexSpec> {
    let mut all: Vec<IndexSpec> = Vec::new();
    for t in r.tables(t, "indexes", "this index") {
        r.only(&t, &["name", "keys", "unique"]);
        let name = r.required(&t, "name", "\"by_customer\"");
        if !t.table.contains_key("keys") {
            r.missing(&t, "keys", "{ customer_name = 1 }");
        }
        let keys = r.table(&t, "keys", "the index keys").and_then(|k| read_keys(r, &k));
        let unique = r.boolean(&t, "unique").is_some_and(|b| b.value);
        let Some(name) = name else { continue };
        if name.value.is_empty() || name.value == "_id_" || name.value.contains(['\0', '*']) {
            r.error(name.span, format!("`{}` is not a usable index name", name.value), "expected another name", None);
        } else if all.iter().any(|i| i.name == name.value) {
            r.error(name.span, format!("two indexes are named `{}`", name.value), "expected another name", None);
        } else if let Some(keys) = keys {
            all.push(IndexSpec { name: name.value, keys, unique });
        }
    }
    all
}

fn read_keys(r: &mut Reader, t: &Table<'_, '_>) -> Option<Document> {
    let mut entries: Vec<_> = t.table.iter().collect();
    entries.sort_by_key(|(k, _)| k.span().start);
    if entries.is_empty() {
        r.error(t.span.clone(), "an index needs keys", "expected `{ field = 1 }`", None);
        return None;
    }
    let mut keys = Document::new();
    for (k, v) in entries {
        let direction = v.get_ref().as_integer().and_then(|n| i32::from_str_radix(n.as_str(), n.radix()).ok());
        let hashed = v.get_ref().as_str() == Some("hashed");
        let name = k.get_ref().as_ref();
        if name.is_empty() || name.starts_with('$') || name.contains('\0') || v.get_ref().is_table() {
            let help = "quote a path with dots: { \"customer.city\" = 1 }";
            r.error(k.span(), format!("`{name}` is not an index key"), "expected a field's path", Some(help.into()));
            return None;
        }
        match direction {
            Some(d @ (1 | -1)) => keys.insert(name, d),
            _ if hashed => keys.insert(name, "hashed"),
            _ => {
                r.error(v.span(), format!("`{name}` has no usable direction"), "expected 1, -1 or \"hashed\"", None);
                return None;
            }
        };
    }
    Some(keys)
}
