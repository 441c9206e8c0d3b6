//! Small aggregation expressions, and the walk down to a document within the document.

use bson::{Bson, Document, doc};

use super::super::Path;

pub(super) fn literal(value: impl Into<Bson>) -> Bson {
    Bson::Document(doc! { "$literal": value.into() })
}

pub(super) fn name(name: &[u8]) -> Bson {
    literal(String::from_utf8_lossy(name).into_owned())
}

pub(super) fn empty() -> Bson {
    literal(Document::new())
}

pub(super) fn call(operator: &str, arguments: impl IntoIterator<Item = Bson>) -> Bson {
    Bson::Document(doc! { operator: Bson::Array(arguments.into_iter().collect()) })
}

pub(super) fn one(operator: &str, argument: Bson) -> Bson {
    Bson::Document(doc! { operator: argument })
}

pub(super) fn cond(test: Bson, then: Bson, other: Bson) -> Bson {
    call("$cond", [test, then, other])
}

pub(super) fn eq(a: Bson, b: Bson) -> Bson {
    call("$eq", [a, b])
}

pub(super) fn has_type(value: Bson, alias: &str) -> Bson {
    eq(one("$type", value), literal(alias))
}

pub(super) fn is_document(value: Bson) -> Bson {
    has_type(value, "object")
}

pub(super) fn get(document: Bson, field: &[u8]) -> Bson {
    Bson::Document(doc! { "$getField": { "field": name(field), "input": document } })
}

/// In place, or as the last field.
pub(super) fn set(document: Bson, field: &[u8], value: Bson) -> Bson {
    Bson::Document(doc! { "$setField": { "field": name(field), "input": document, "value": value } })
}

pub(super) fn unset(document: Bson, field: &[u8]) -> Bson {
    Bson::Document(doc! { "$unsetField": { "field": name(field), "input": document } })
}

/// `[{ k, v }, …]`.
pub(super) fn pairs(document: Bson) -> Bson {
    one("$objectToArray", document)
}

pub(super) fn object(pairs: Bson) -> Bson {
    one("$arrayToObject", pairs)
}

pub(super) fn pair(field: Bson, value: Bson) -> Bson {
    Bson::Document(doc! { "k": field, "v": value })
}

/// True when the document has the field.
pub(super) fn has(document: Bson, field: &[u8]) -> Bson {
    let missing = has_type(get(document.clone(), field), "missing");
    call("$and", [is_document(document), one("$not", missing)])
}

/// A document for each name, outermost first.
pub(super) fn nested(names: &[Vec<u8>], value: Bson) -> Bson {
    names.iter().rev().fold(value, |v, n| set(empty(), n, v))
}

/// The document that the names lead to; something else when they lead nowhere.
pub(super) fn chain(document: Bson, names: &[Vec<u8>]) -> Bson {
    names.iter().fold(document, |d, n| get(d, n))
}

/// The document with each pair replaced by an array of pairs, which `change` makes of `$$f` (its name is `$$f.k`).
pub(super) fn each_field(document: Bson, change: Bson) -> Bson {
    let in_order = doc! { "input": pairs(document), "initialValue": [], "in": call("$concatArrays", [
        Bson::String("$$value".into()),
        Bson::Document(doc! { "$let": { "vars": { "f": "$$this" }, "in": change } }),
    ]) };
    object(one("$reduce", Bson::Document(in_order)))
}

/// `[$$f]`: the field as it is.
pub(super) fn as_it_is() -> Bson {
    Bson::Array(vec![Bson::String("$$f".into())])
}

/// True for the field of this name.
pub(super) fn is_named(field: &[u8]) -> Bson {
    eq(Bson::String("$$f.k".into()), name(field))
}

/// Hands out variables, so that an expression used twice is computed once.
#[derive(Default)]
pub(super) struct Build {
    used: u32,
}

impl Build {
    /// `value` under a name of its own.
    pub(super) fn bind(&mut self, value: Bson, then: impl FnOnce(&mut Self, Bson) -> Bson) -> Bson {
        self.used += 1;
        let variable = format!("v{}", self.used);
        let inner = then(self, Bson::String(format!("$${variable}")));
        Bson::Document(doc! { "$let": { "vars": { variable: value }, "in": inner } })
    }

    /// The document with the one that `names` lead to changed; as it is when there is none. `document` is a variable.
    pub(super) fn edit(
        &mut self,
        document: Bson,
        names: &[Vec<u8>],
        change: impl FnOnce(&mut Self, Bson) -> Bson,
    ) -> Bson {
        let Some((first, rest)) = names.split_first() else { return change(self, document) };
        self.bind(get(document.clone(), first), |b, inner| {
            let new = b.edit(inner.clone(), rest, change);
            cond(is_document(inner), set(document.clone(), first, new), document)
        })
    }

    /// As [`Build::edit`], for the document that holds the path's last field.
    pub(super) fn edit_parent(
        &mut self,
        document: Bson,
        path: &Path,
        change: impl FnOnce(&mut Self, Bson) -> Bson,
    ) -> Bson {
        self.edit(document, path.parents(), change)
    }

    /// The document with the value at the path changed in its place; as it is when there is none.
    pub(super) fn edit_value(
        &mut self,
        document: Bson,
        path: &Path,
        change: impl FnOnce(&mut Self, Bson) -> Bson,
    ) -> Bson {
        self.edit_parent(document, path, |b, level| {
            b.bind(get(level.clone(), path.last()), |b, v| {
                let new = set(level.clone(), path.last(), change(b, v.clone()));
                cond(has_type(v, "missing"), level, new)
            })
        })
    }

    /// The document without the value at the path, which is there, and without the parents that it leaves empty.
    pub(super) fn take(&mut self, document: Bson, names: &[Vec<u8>]) -> Bson {
        match names {
            [] => document,
            [last] => unset(document, last),
            [first, rest @ ..] => self.bind(get(document.clone(), first), |b, inner| {
                let less = b.take(inner, rest);
                b.bind(less, |_, less| {
                    let gone = eq(less.clone(), empty());
                    cond(gone, unset(document.clone(), first), set(document, first, less))
                })
            }),
        }
    }

    /// As [`Build::take`], for a value that may not be there.
    pub(super) fn drop_if_there(&mut self, document: Bson, path: &Path) -> Bson {
        let there = has(chain(document.clone(), path.parents()), path.last());
        let less = self.take(document.clone(), &path.parts);
        cond(there, less, document)
    }

    /// The document with a value where nothing is; first or last among its new neighbours.
    pub(super) fn put(&mut self, document: Bson, names: &[Vec<u8>], value: Bson, first: bool) -> Bson {
        let Some((head, rest)) = names.split_first() else { return document };
        let new = |document: Bson, value: Bson| {
            if first {
                call("$mergeObjects", [set(empty(), head, value), document])
            } else {
                set(document, head, value)
            }
        };
        if rest.is_empty() {
            return new(document, value);
        }
        self.bind(get(document.clone(), head), |b, inner| {
            let within = b.put(inner.clone(), rest, value.clone(), first);
            cond(is_document(inner), set(document.clone(), head, within), new(document, nested(rest, value)))
        })
    }
}
