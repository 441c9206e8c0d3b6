//! The few query filters that the embedded cluster can enforce as a validator. Anything else is refused when it is set.

use bson::{Bson, Document, RawBsonRef, RawDocument};

use super::store::{comparable, lookup};

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
}

impl Validator {
    /// Reads a filter made of equality, `$eq`, `$ne`, `$in`, `$exists`, `$and`, `$or`, `$nor`, a constant `$expr` and
    /// `$jsonSchema` with `required`.
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
                ("$expr", Bson::Boolean(b)) => Validator::Const(*b),
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
            Validator::Exists(path) => lookup(doc, path).is_some(),
            Validator::Equal(path, want) => comparable(lookup(doc, path).unwrap_or(RawBsonRef::Null)) == *want,
        }
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
    use bson::{doc, rawdoc};

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
