//! The few query filters that the embedded cluster can enforce as a validator. Anything else is refused when it is set.

use bson::{Bson, Document, RawBsonRef, RawDocument, doc};

use super::store::{comparable, lookup};
use crate::cluster::{Validation, hash64};

/// What a collection's documents are held against.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    set: Validation,
    parsed: Option<Validator>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { set: Validation::strict(None), parsed: None }
    }
}

impl Rules {
    /// # Errors
    /// Names the part that is not supported.
    pub(super) fn parse(v: &Validation) -> Result<Rules, String> {
        if !["strict", "moderate", "off"].contains(&v.level.as_str()) {
            return Err(format!("there is no validation level {}", crate::scrub::short(&v.level, 40)));
        }
        if !["error", "warn"].contains(&v.action.as_str()) {
            return Err(format!("there is no validation action {}", crate::scrub::short(&v.action, 40)));
        }
        // As a server: a filter of nothing is none.
        let validator = v.validator.clone().filter(|d| !d.is_empty());
        let parsed = validator.as_ref().map(Validator::parse).transpose()?;
        Ok(Rules { set: Validation { validator, ..v.clone() }, parsed })
    }

    pub(super) fn as_set(&self) -> Validation {
        self.set.clone()
    }

    /// The filter that keeps a document from being stored over `old`.
    pub(super) fn refuse(&self, doc: &RawDocument, old: Option<&RawDocument>) -> Option<&Document> {
        let validator = self.parsed.as_ref().filter(|_| self.set.level != "off" && self.set.action == "error")?;
        let exempt = self.set.level == "moderate" && old.is_some_and(|old| !validator.accepts(old));
        if exempt || validator.accepts(doc) { None } else { self.set.validator.as_ref() }
    }
}

/// A parsed validator.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Validator {
    All(Vec<Validator>),
    Any(Vec<Validator>),
    Not(Box<Validator>),
    Const(bool),
    Exists(String),
    /// Equal bytes under the path; a missing field equals null.
    Equal(String, Vec<u8>),
    /// The hashed-index value of `_id` is below this.
    HashBelow(i64),
}

impl Validator {
    /// Reads a filter made of equality, `$eq`, `$ne`, `$in`, `$exists`, `$and`, `$or`, `$nor`, `$jsonSchema` with `required`, and
    /// `$expr` with constants and the hash of `_id`.
    ///
    /// # Errors
    /// Names the part that is not supported.
    pub(super) fn parse(filter: &Document) -> Result<Self, String> {
        let mut all = Vec::new();
        for (name, value) in filter {
            all.push(match (name.as_str(), value) {
                ("$and", Bson::Array(a)) => Validator::All(list(a)?),
                ("$or", Bson::Array(a)) => Validator::Any(list(a)?),
                ("$nor", Bson::Array(a)) => Validator::Not(Box::new(Validator::Any(list(a)?))),
                ("$expr", e) => expression(e)?,
                ("$comment", _) => Validator::Const(true),
                ("$alwaysFalse", _) => Validator::Const(false),
                ("$alwaysTrue", _) => Validator::Const(true),
                ("$jsonSchema", Bson::Document(d)) => schema(d)?,
                (op, _) if op.starts_with('$') => return Err(unsupported(op)),
                (path, Bson::Document(d)) if d.keys().next().is_some_and(|k| k.starts_with('$')) => operators(path, d)?,
                (path, value) => equal(path, value)?,
            });
        }
        Ok(Validator::All(all))
    }

    /// Whether a document may be stored.
    pub(super) fn accepts(&self, doc: &RawDocument) -> bool {
        match self {
            Validator::All(v) => v.iter().all(|v| v.accepts(doc)),
            Validator::Any(v) => v.iter().any(|v| v.accepts(doc)),
            Validator::Not(v) => !v.accepts(doc),
            Validator::Const(b) => *b,
            // A value without a hash of its own (it is refused as a key everywhere) hashes to something: to 0 here.
            Validator::HashBelow(n) => doc.get("_id").ok().flatten().map_or(0, |v| hash64(v).unwrap_or(0)) < *n,
            Validator::Exists(path) => lookup(doc, path).is_some(),
            Validator::Equal(path, want) => comparable(lookup(doc, path).unwrap_or(RawBsonRef::Null)) == *want,
        }
    }
}

/// `true`, `$and`, `$or`, and `$lt` or `$gte` of `$toHashedIndexKey` of `_id` and a whole number.
fn expression(e: &Bson) -> Result<Validator, String> {
    let of_hash = |a: &[Bson]| match a {
        [Bson::Document(h), Bson::Int64(n)] if *h == doc! { "$toHashedIndexKey": "$_id" } => Some(*n),
        _ => None,
    };
    let Bson::Document(d) = e else {
        return e.as_bool().map(Validator::Const).ok_or_else(|| unsupported("$expr"));
    };
    match d.iter().next() {
        Some((op, Bson::Array(a))) if d.len() == 1 => match (op.as_str(), of_hash(a)) {
            ("$and", _) => Ok(Validator::All(a.iter().map(expression).collect::<Result<_, _>>()?)),
            ("$or", _) => Ok(Validator::Any(a.iter().map(expression).collect::<Result<_, _>>()?)),
            ("$lt", Some(n)) => Ok(Validator::HashBelow(n)),
            ("$gte", Some(n)) => Ok(Validator::Not(Box::new(Validator::HashBelow(n)))),
            _ => Err(unsupported(&format!("$expr.{op}"))),
        },
        _ => Err(unsupported("$expr")),
    }
}

fn list(items: &[Bson]) -> Result<Vec<Validator>, String> {
    items
        .iter()
        .map(|item| match item {
            Bson::Document(d) => Validator::parse(d),
            other => Err(format!("expected a filter, found {other}")),
        })
        .collect()
}

fn operators(path: &str, ops: &Document) -> Result<Validator, String> {
    let mut all = Vec::new();
    for (op, value) in ops {
        all.push(match (op.as_str(), value) {
            ("$exists", Bson::Boolean(true)) => Validator::Exists(path.into()),
            ("$exists", Bson::Boolean(false)) => Validator::Not(Box::new(Validator::Exists(path.into()))),
            ("$eq", v) => equal(path, v)?,
            ("$ne", v) => Validator::Not(Box::new(equal(path, v)?)),
            ("$in", Bson::Array(a)) => Validator::Any(a.iter().map(|v| equal(path, v)).collect::<Result<_, _>>()?),
            (op, _) => return Err(unsupported(op)),
        });
    }
    Ok(Validator::All(all))
}

fn schema(d: &Document) -> Result<Validator, String> {
    let mut all = Vec::new();
    for (name, value) in d {
        match (name.as_str(), value) {
            ("required", Bson::Array(a)) => {
                all.extend(a.iter().filter_map(Bson::as_str).map(|f| Validator::Exists(f.into())));
            }
            ("bsonType", Bson::String(t)) if t == "object" => {}
            (other, _) => return Err(unsupported(&format!("$jsonSchema.{other}"))),
        }
    }
    Ok(Validator::All(all))
}

fn equal(path: &str, value: &Bson) -> Result<Validator, String> {
    let raw = bson::RawBson::try_from(value.clone()).map_err(|e| e.to_string())?;
    Ok(Validator::Equal(path.into(), comparable(raw.as_raw_bson_ref())))
}

fn unsupported(what: &str) -> String {
    format!(
        "the embedded cluster cannot enforce a validator with {what}; use equality, $exists, $jsonSchema.required or $expr: false"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::rawdoc;

    #[test]
    fn filters_accept_what_a_server_accepts() {
        let doc = rawdoc! { "_id": 1, "state": "open", "n": 5, "c": { "name": "x" } };
        for (filter, want) in [
            (doc! {}, true),
            (doc! { "state": "open", "n": 5.0 }, true),
            (doc! { "state": "done" }, false),
            (doc! { "c.name": { "$exists": true }, "c.age": { "$exists": false } }, true),
            (doc! { "gone": Bson::Null }, true),
            (doc! { "_id": { "$exists": false } }, false),
            (doc! { "$expr": false }, false),
            (doc! { "$jsonSchema": { "bsonType": "object", "required": ["state", "n"] } }, true),
            (doc! { "$jsonSchema": { "required": ["x"] } }, false),
            (doc! { "$or": [{ "n": 4 }, { "n": { "$in": [5, 6] } }] }, true),
            (doc! { "$nor": [{ "state": "open" }] }, false),
        ] {
            assert_eq!(Validator::parse(&filter).unwrap().accepts(&doc), want, "{filter}");
        }
    }

    #[test]
    fn an_unknown_operator_is_refused_by_name() {
        let e = Validator::parse(&doc! { "n": { "$gt": 1 } }).unwrap_err();
        assert!(e.contains("$gt"), "{e}");
        assert!(Validator::parse(&doc! { "$expr": { "$eq": [1, 1] } }).is_err());
    }
}
