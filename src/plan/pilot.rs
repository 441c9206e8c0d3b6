//! Reads `[pilot]`: the cohort that goes first, told apart by a field inside `_id`.

use bson::Bson;
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{At, Reader, Table};
use super::steps::to_bson;
use crate::route::{COHORT_MAX, Cohort, CohortError};

/// The cohort. What is wrong with it is told with its place.
pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>) -> Option<Cohort> {
    let t = r.table(t, "pilot", "[pilot]")?;
    r.only(&t, &["field", "in"]);
    let field = r.required(&t, "field", "\"_id.region\"").and_then(|f| check_field(r, f));
    if !t.table.contains_key("in") {
        r.missing(&t, "in", "[\"eu\"]");
        return None;
    }
    let at = t.table.get("in").map_or(t.span.clone(), |v| v.span());
    let items = r.items(&t, "in", "an array of values");
    let mut values = Vec::new();
    let mut known = t.table.get("in").is_some_and(|v| v.get_ref().is_array());
    for item in items {
        match value(r, item) {
            Some(v) => values.push(v),
            None => known = false,
        }
    }
    if !known {
        return None;
    }
    match Cohort::new(&field?, &values) {
        Ok(cohort) if cohort.values().count() == values.len() => Some(cohort),
        Ok(_) => {
            let help = "numbers are equal whatever their type: 5 and 5.0 are one value";
            r.error(at, "`in` names a value twice", "expected each once", Some(help.into()));
            None
        }
        Err(CohortError::Count(n)) => {
            let message = format!("the cohort names {n} values");
            let help =
                "every process of the application reads the route several times a second, with these values in it";
            r.error(at, message, format!("expected 1 to {COHORT_MAX}"), (n > 0).then(|| help.into()));
            None
        }
        Err(e) => {
            r.error(at, e.to_string(), "", None);
            None
        }
    }
}

/// What a cohort cannot be together with yet: who owns a document would have to be told from its bucket alone.
pub(super) fn check_company(r: &mut Reader, t: &Table<'_, '_>, server_gate: bool) {
    if !t.table.contains_key("pilot") {
        return;
    }
    let key = |table: &str, key: &str| {
        t.table.get(table).and_then(|v| v.get_ref().as_table()).and_then(|v| v.get(key)).map(Spanned::span)
    };
    if let Some(span) = key("route", "server_gate").filter(|_| server_gate) {
        let help = "the validators of the gate tell buckets apart, not cohorts; leave out one of the two";
        r.error(
            span,
            "`server_gate` and `[pilot]` cannot be together",
            "expected false, or no `[pilot]`",
            Some(help.into()),
        );
    }
    if let Some(span) = key("cluster", "next_uri") {
        let help = "what is left behind on a next that does not answer is told by its buckets; leave out `[pilot]`";
        r.error(span, "`next_uri` and `[pilot]` cannot be together", "expected no `next_uri`", Some(help.into()));
    }
}

/// Ownership must follow from the key alone.
fn check_field(r: &mut Reader, field: At<String>) -> Option<String> {
    match Cohort::new(&field.value, &[Bson::Boolean(true)]) {
        Ok(_) => return Some(field.value),
        Err(CohortError::Outside(name)) => {
            let message = format!("`{name}` lies outside `_id`: who owns a document would not follow from its key");
            let help = "an event or a delete names a document by its `_id` alone, and another field may change; choose a field \
                        inside `_id`, or move by percentages";
            r.error(field.span, message, "expected `_id` or a path inside it, like `_id.region`", Some(help.into()));
        }
        Err(e) => r.error(field.span, e.to_string(), "expected a path like `_id.region`", None),
    }
    None
}

/// A scalar; `{ "$oid" = "…" }` and `{ "$uuid" = "…" }` for what TOML has no word for.
fn value(r: &mut Reader, item: &Spanned<DeValue<'_>>) -> Option<Bson> {
    let found = match to_bson(r, item)? {
        Bson::Document(d) => {
            let json = Bson::Document(d).into_relaxed_extjson();
            Bson::try_from(json).ok().filter(|b| matches!(b, Bson::ObjectId(_) | Bson::Binary(_)))
        }
        Bson::Array(_) => None,
        scalar => Some(scalar),
    };
    if found.is_none() {
        let expected =
            "expected a text, a number, true or false, a date, `{ \"$oid\" = \"…\" }` or `{ \"$uuid\" = \"…\" }`";
        r.error(item.span(), "a cohort is told by single values", expected, None);
    }
    found
}
