//! The filter that tells next's documents from legacy's where both live in one collection, judged as a server judges it.
//!
//! Only what a plan may write there: `field: value`, `$exists` and `$type`. Paths go through documents and into arrays of documents.

use bson::{Bson, Document, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::cluster::Key;

/// A filter made ready to judge by.
#[derive(Clone, Debug)]
pub struct Shape(Vec<(Vec<String>, Test)>);

#[derive(Clone, Debug)]
enum Test {
    /// The order bytes of the value; true when it is null, which a missing field equals.
    Equal(Vec<u8>, bool),
    Exists(bool),
    Type(String),
}

impl Shape {
    /// Reads a plan's `shape`; parts that no plan that parses has match nothing.
    #[must_use]
    pub fn new(filter: &Document) -> Shape {
        let mut all = Vec::new();
        for (path, value) in filter {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            match value {
                Bson::Document(ops) if ops.keys().any(|k| k.starts_with('$')) => {
                    all.extend(ops.iter().map(|(op, v)| (path.clone(), operator(op, v))));
                }
                value => all.push((path, Test::Equal(comparable_bson(value), matches!(value, Bson::Null)))),
            }
        }
        Shape(all)
    }

    /// True for a document of next's shape.
    #[must_use]
    pub fn matches(&self, doc: &RawDocument) -> bool {
        self.0.iter().all(|(path, test)| {
            let mut found = Vec::new();
            values(doc, path, &mut found);
            test.holds(&found)
        })
    }
}

impl Shape {
    /// Reads any filter; `None` where it asks more than can be judged here as a server would.
    #[must_use]
    pub fn of_query(filter: &Document) -> Option<Shape> {
        let plain = |(path, value): (&String, &Bson)| {
            !path.starts_with('$')
                && match value {
                    Bson::Document(ops) if ops.keys().any(|k| k.starts_with('$')) => ops.iter().all(|(op, v)| {
                        matches!((op.as_str(), v), ("$exists", Bson::Boolean(_)) | ("$type", Bson::String(_)))
                    }),
                    value => !matches!(value, Bson::RegularExpression(_)),
                }
        };
        filter.iter().all(plain).then(|| Shape::new(filter))
    }
}

fn operator(op: &str, value: &Bson) -> Test {
    match (op, value) {
        ("$exists", Bson::Boolean(there)) => Test::Exists(*there),
        ("$type", Bson::String(name)) => Test::Type(name.clone()),
        // No plan that parses has another; no value has this type.
        _ => Test::Type(String::new()),
    }
}

impl Test {
    fn holds(&self, found: &[Found<'_>]) -> bool {
        match self {
            Test::Equal(want, null) => {
                found.iter().any(|f| f.each().any(|v| comparable(v) == *want)) || (*null && found.is_empty())
            }
            Test::Exists(there) => found.is_empty() != *there,
            Test::Type(name) => found.iter().any(|f| f.each().any(|v| is_type(v, name))),
        }
    }
}

/// A value at a path.
struct Found<'d> {
    value: RawBsonRef<'d>,
    /// Named by its number in an array: a server does not look into it once more.
    numbered: bool,
}

impl<'d> Found<'d> {
    /// The value, and the elements of an array.
    fn each(&self) -> impl Iterator<Item = RawBsonRef<'d>> {
        let array = self.value.as_array().filter(|_| !self.numbered);
        std::iter::once(self.value).chain(array.into_iter().flatten().filter_map(Result::ok))
    }
}

/// Every value at a path. In an array each document is looked into, and a number names an element.
fn values<'d>(doc: &'d RawDocument, path: &[String], out: &mut Vec<Found<'d>>) {
    let Some((first, rest)) = path.split_first() else { return };
    let Ok(Some(v)) = doc.get(first) else { return };
    through(v, rest, false, out);
}

fn through<'d>(v: RawBsonRef<'d>, rest: &[String], numbered: bool, out: &mut Vec<Found<'d>>) {
    let Some(first) = rest.first() else {
        out.push(Found { value: v, numbered });
        return;
    };
    match v {
        RawBsonRef::Document(d) => values(d, rest, out),
        RawBsonRef::Array(a) => {
            for d in a.into_iter().filter_map(Result::ok).filter_map(|v| v.as_document()) {
                values(d, rest, out);
            }
            if let Some(Ok(Some(v))) = first.parse().ok().map(|n: usize| a.get(n)) {
                through(v, &rest[1..], true, out);
            }
        }
        _ => {}
    }
}

/// Bytes that are equal when a server calls two values equal.
pub(crate) fn comparable(v: RawBsonRef<'_>) -> Vec<u8> {
    let mut d = RawDocumentBuf::new();
    // Within a document any value can stand, an array too.
    d.append(bson::cstr!(""), RawBson::from(v));
    Key::new(RawBsonRef::Document(&d)).map_or_else(|_| Vec::new(), |k| k.order_bytes().to_vec())
}

fn comparable_bson(v: &Bson) -> Vec<u8> {
    RawBson::try_from(v.clone()).map_or_else(|_| vec![0xFF], |v| comparable(v.as_raw_bson_ref()))
}

fn is_type(v: RawBsonRef<'_>, name: &str) -> bool {
    let own = match v {
        RawBsonRef::Double(_) => "double",
        RawBsonRef::String(_) => "string",
        RawBsonRef::Document(_) => "object",
        RawBsonRef::Array(_) => "array",
        RawBsonRef::Binary(_) => "binData",
        RawBsonRef::ObjectId(_) => "objectId",
        RawBsonRef::Boolean(_) => "bool",
        RawBsonRef::DateTime(_) => "date",
        RawBsonRef::Null => "null",
        RawBsonRef::Int32(_) => "int",
        RawBsonRef::Timestamp(_) => "timestamp",
        RawBsonRef::Int64(_) => "long",
        RawBsonRef::Decimal128(_) => "decimal",
        _ => return false,
    };
    own == name || (name == "number" && matches!(own, "double" | "int" | "long" | "decimal"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{doc, rawdoc};

    /// What a server answers to a find with these filters; `tests/mongo` asks one.
    #[test]
    fn a_shape_matches_what_a_server_finds() {
        let doc = rawdoc! {
            "_id": 1, "v": 2, "n": RawBson::Null, "c": { "name": "x", "tags": ["a", "b"] },
            "list": [{ "p": 1 }, { "p": 2i64 }, 7], "empty": [], "deep": [["a"]],
        };
        for (filter, want) in [
            (doc! { "v": 2 }, true),
            (doc! { "v": 2.0 }, true),
            (doc! { "v": "2" }, false),
            (doc! { "v": 2, "c.name": "y" }, false),
            (doc! { "c.name": "x" }, true),
            (doc! { "c": { "name": "x", "tags": ["a", "b"] } }, true),
            (doc! { "c": { "tags": ["a", "b"], "name": "x" } }, false),
            (doc! { "c.tags": "b" }, true),
            (doc! { "c.tags": ["a", "b"] }, true),
            (doc! { "c.tags.1": "b" }, true),
            (doc! { "deep.0": ["a"] }, true),
            (doc! { "deep.0": "a" }, false),
            (doc! { "list.p": 2 }, true),
            (doc! { "list.p": 3 }, false),
            (doc! { "gone": Bson::Null }, true),
            (doc! { "n": Bson::Null }, true),
            (doc! { "v": Bson::Null }, false),
            (doc! { "n": { "$exists": true } }, true),
            (doc! { "gone": { "$exists": false } }, true),
            (doc! { "c.name": { "$exists": false } }, false),
            (doc! { "c.name": { "$type": "string" } }, true),
            (doc! { "v": { "$type": "number", "$exists": true } }, true),
            (doc! { "v": { "$type": "long" } }, false),
            (doc! { "list": { "$type": "array" } }, true),
            (doc! { "list": { "$type": "int" } }, true),
            (doc! { "list.p": { "$type": "long" } }, true),
            (doc! { "empty": { "$type": "array" } }, true),
            (doc! { "empty": { "$type": "int" } }, false),
            (doc! { "n": { "$type": "null" } }, true),
        ] {
            assert_eq!(Shape::new(&filter).matches(&doc), want, "{filter}");
        }
    }
}
