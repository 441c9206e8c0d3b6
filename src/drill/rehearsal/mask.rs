//! Values masked in their own type and form, so that the steps of most plans still find what they look for.

use bson::{RawArray, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

/// The document with the values at these paths masked, in every element of the arrays on the way; `None` when it is not valid BSON.
pub(super) fn masked(doc: &RawDocument, paths: &[Vec<&str>]) -> Option<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    for field in doc {
        let (name, value) = field.ok()?;
        let below: Vec<Vec<&str>> = paths
            .iter()
            .filter_map(|p| {
                p.split_first().filter(|(first, _)| **first == name.as_str()).map(|(_, rest)| rest.to_vec())
            })
            .collect();
        if below.is_empty() {
            out.append(name, value);
        } else if below.iter().any(Vec::is_empty) {
            out.append(name, hidden(value)?);
        } else {
            out.append(name, inside(value, &below)?);
        }
    }
    Some(out)
}

/// A value on the way to one that is masked.
fn inside(value: RawBsonRef<'_>, below: &[Vec<&str>]) -> Option<RawBson> {
    Some(match value {
        RawBsonRef::Document(d) => RawBson::Document(masked(d, below)?),
        RawBsonRef::Array(a) => RawBson::Array(each(a, |v| inside(v, below))?),
        other => other.into(),
    })
}

/// A value of the same type, and a text of the same form: `x` for a letter, `7` for a digit.
fn hidden(value: RawBsonRef<'_>) -> Option<RawBson> {
    Some(match value {
        RawBsonRef::String(text) => RawBson::String(text.chars().map(letter).collect()),
        RawBsonRef::Int32(_) => RawBson::Int32(7),
        RawBsonRef::Int64(_) => RawBson::Int64(7),
        RawBsonRef::Double(_) => RawBson::Double(7.5),
        RawBsonRef::Decimal128(_) => RawBson::Decimal128("7.77".parse().ok()?),
        RawBsonRef::Boolean(_) => RawBson::Boolean(false),
        RawBsonRef::DateTime(_) => RawBson::DateTime(bson::DateTime::from_millis(0)),
        RawBsonRef::Binary(b) => RawBson::Binary(bson::Binary { subtype: b.subtype, bytes: vec![0; b.bytes.len()] }),
        RawBsonRef::ObjectId(_) => RawBson::ObjectId(bson::oid::ObjectId::from_bytes([0; 12])),
        RawBsonRef::Array(a) => RawBson::Array(each(a, hidden)?),
        RawBsonRef::Document(d) => {
            let mut out = RawDocumentBuf::new();
            for field in d {
                let (name, value) = field.ok()?;
                out.append(name, hidden(value)?);
            }
            RawBson::Document(out)
        }
        // Null says nothing, and what is left is no data of people's.
        other => other.into(),
    })
}

fn each(array: &RawArray, f: impl Fn(RawBsonRef<'_>) -> Option<RawBson>) -> Option<RawArrayBuf> {
    array.into_iter().map(|v| f(v.ok()?)).collect()
}

fn letter(c: char) -> char {
    match c {
        '0'..='9' => '7',
        c if c.is_uppercase() => 'X',
        c if c.is_alphanumeric() => 'x',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::rawdoc;

    #[test]
    fn only_what_is_named_is_masked_and_types_and_forms_stay() {
        let doc = rawdoc! {
            "_id": 1, "name": "Zoë O'Hara-9", "total": "12.50", "n": 42_i64,
            "address": { "street": "Elm 3", "zip": "X1" },
            "phones": [{ "number": "+49 30 1", "kind": "home" }, "none", { "number": 5 }],
        };
        let paths: Vec<Vec<&str>> =
            ["name", "total", "address", "phones.number"].iter().map(|p| p.split('.').collect()).collect();
        let wanted = rawdoc! {
            "_id": 1, "name": "Xxx X'Xxxx-7", "total": "77.77", "n": 42_i64,
            "address": { "street": "Xxx 7", "zip": "X7" },
            "phones": [{ "number": "+77 77 7", "kind": "home" }, "none", { "number": 7 }],
        };
        assert_eq!(masked(&doc, &paths).unwrap(), wanted);
        assert_eq!(masked(&doc, &[]).unwrap(), doc);
    }
}
