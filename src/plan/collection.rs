//! Reads `[[collection]]`: namespaces and indexes; its steps are read in `steps`.

use bson::Document;

use super::declared;
use super::reader::{At, Reader, Table};
use super::shape;
use super::steps;
use super::types::Collection;
use crate::cluster::{CONTROL_DB, IndexSpec, Ns};

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
    r.only(t, &["legacy", "next", "steps", "indexes", "shape", "types"]);
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
    let steps = steps::read(r, t);
    let in_place = legacy_ns.is_some() && legacy_ns == next_ns;
    let indexes = read_indexes(r, t, in_place);
    let types = declared::read_types(r, t);
    if let Some(v) = t.table.get("types").filter(|_| in_place) {
        r.error(
            v.span(),
            "`types` is asked of next beside legacy, and this plan migrates in place",
            "expected no `types`",
            None,
        );
    }
    Some(Collection { legacy: legacy_ns?, next: next_ns?, steps, indexes, shape, types })
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

fn read_indexes(r: &mut Reader, t: &Table<'_, '_>, in_place: bool) -> Vec<IndexSpec> {
    let mut all: Vec<IndexSpec> = Vec::new();
    for t in r.tables(t, "indexes", "this index") {
        r.only(&t, &["name", "keys", "unique", "expire_after_seconds"]);
        let name = r.required(&t, "name", "\"by_customer\"");
        if !t.table.contains_key("keys") {
            r.missing(&t, "keys", "{ customer_name = 1 }");
        }
        let keys = r.table(&t, "keys", "the index keys").and_then(|k| read_keys(r, &k));
        let unique = r.boolean(&t, "unique").is_some_and(|b| b.value);
        let expire = read_expiry(r, &t, keys.as_ref(), in_place);
        let Some(name) = name else { continue };
        if name.value.is_empty() || name.value == "_id_" || name.value.contains(['\0', '*']) {
            r.error(name.span, format!("`{}` is not a usable index name", name.value), "expected another name", None);
        } else if all.iter().any(|i| i.name == name.value) {
            r.error(name.span, format!("two indexes are named `{}`", name.value), "expected another name", None);
        } else if let Some(keys) = keys {
            all.push(IndexSpec { name: name.value, keys, unique, expire_after: expire, options: Document::new() });
        }
    }
    all
}

/// After how many seconds documents expire by a TTL index; less than what a suspended one is set to.
fn read_expiry(r: &mut Reader, t: &Table<'_, '_>, keys: Option<&Document>, in_place: bool) -> Option<i64> {
    let seconds = r.integer(t, "expire_after_seconds", 0, i64::from(i32::MAX) - 1)?;
    if in_place {
        let help = "leave it out, and make the index once the rollout is over";
        let message = "what expires in place does not come back with a rollback";
        r.error(seconds.span, message, "expected no `expire_after_seconds`", Some(help.into()));
    } else if let Some(keys) = keys
        && (keys.len() != 1 || keys.contains_key("_id") || keys.values().any(|v| v.as_i32().is_none()))
    {
        let message = "a TTL index has one key, a field with a date, and not `_id`";
        r.error(seconds.span, message, "expected `keys = { expires_at = 1 }`", None);
    } else {
        return Some(seconds.value);
    }
    None
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
