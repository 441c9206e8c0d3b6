//! Values masked in their own type and form, so that the steps of most plans still find what they look for.

use bson::{RawArray, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::runtime::{fnv1a, keyed_hash};

/// Draw stream of masked values.
const STREAM: u32 = 0x6D61_736B;

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

/// Another value of the same type, and a text of the same form: letters for letters, digits for digits. Equal values become equal ones,
/// and different ones hardly ever do, so that what must be unique still is.
fn hidden(value: RawBsonRef<'_>) -> Option<RawBson> {
    let seed = crate::cluster::value_bytes(value).map(|b| fnv1a(b.iter().copied())).unwrap_or_default();
    let n = (seed % 1_000_000) as i32;
    Some(match value {
        RawBsonRef::String(text) => RawBson::String(text.chars().zip(draws(seed)).map(letter).collect()),
        RawBsonRef::Symbol(text) => RawBson::Symbol(text.chars().zip(draws(seed)).map(letter).collect()),
        RawBsonRef::JavaScriptCode(_) => RawBson::JavaScriptCode(format!("/* {n} */")),
        RawBsonRef::Int32(_) => RawBson::Int32(n),
        RawBsonRef::Int64(_) => RawBson::Int64(n.into()),
        RawBsonRef::Double(_) => RawBson::Double(f64::from(n) + 0.5),
        RawBsonRef::Decimal128(_) => RawBson::Decimal128(format!("{n}.50").parse().ok()?),
        RawBsonRef::Boolean(_) => RawBson::Boolean(false),
        RawBsonRef::DateTime(_) => RawBson::DateTime(bson::DateTime::from_millis(i64::from(n) * 1_000)),
        RawBsonRef::Timestamp(_) => RawBson::Timestamp(bson::Timestamp { time: n as u32 + 1, increment: 1 }),
        RawBsonRef::Binary(b) => {
            let bytes = draws(seed).take(b.bytes.len()).map(|d| d as u8).collect();
            RawBson::Binary(bson::Binary { subtype: b.subtype, bytes })
        }
        RawBsonRef::ObjectId(_) => {
            let mut id = [0; 12];
            id.iter_mut().zip(draws(seed)).for_each(|(byte, d)| *byte = d as u8);
            RawBson::ObjectId(bson::oid::ObjectId::from_bytes(id))
        }
        RawBsonRef::Array(a) => RawBson::Array(each(a, hidden)?),
        RawBsonRef::Document(d) => {
            let mut out = RawDocumentBuf::new();
            for field in d {
                let (name, value) = field.ok()?;
                out.append(name, hidden(value)?);
            }
            RawBson::Document(out)
        }
        RawBsonRef::RegularExpression(_) => RawBson::String(format!("/{n}/")),
        // Null and the ends of the order say nothing.
        other => other.into(),
    })
}

/// Numbers that follow from one.
fn draws(seed: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |i| keyed_hash(seed, STREAM, i, 0))
}

fn each(array: &RawArray, f: impl Fn(RawBsonRef<'_>) -> Option<RawBson>) -> Option<RawArrayBuf> {
    array.into_iter().map(|v| f(v.ok()?)).collect()
}

/// A character of the same kind.
fn letter((c, draw): (char, u64)) -> char {
    let of = |from: u8, n: u64| char::from(from + (draw % n) as u8);
    match c {
        '0' => '0',
        '1'..='9' => of(b'1', 9),
        c if c.is_uppercase() => of(b'A', 26),
        c if c.is_alphanumeric() => of(b'a', 26),
        c => c,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::rawdoc;

    fn paths<'a>(all: &[&'a str]) -> Vec<Vec<&'a str>> {
        all.iter().map(|p| p.split('.').collect()).collect()
    }

    #[test]
    fn only_what_is_named_is_masked_and_types_and_forms_stay() {
        let doc = rawdoc! {
            "_id": 1, "name": "Zoë O'Hara-9", "total": "12.50", "n": 42_i64,
            "address": { "street": "Elm 3", "zip": "X1" },
            "phones": [{ "number": "+49 30 1", "kind": "home" }, "none", { "number": 5 }],
        };
        let masked = masked(&doc, &paths(&["name", "total", "address", "phones.number"])).unwrap();
        let text = |d: &RawDocument, field: &str| d.get_str(field).unwrap().to_owned();
        let form = |t: &str| -> String {
            let kind = |c: char| {
                if c == '0' {
                    '0'
                } else if c.is_ascii_digit() {
                    '7'
                } else {
                    c
                }
            };
            t.chars()
                .map(|c| {
                    if c.is_uppercase() {
                        'X'
                    } else if c.is_alphabetic() {
                        'x'
                    } else {
                        kind(c)
                    }
                })
                .collect()
        };
        assert_eq!((masked.get_i32("_id").unwrap(), masked.get_i64("n").unwrap()), (1, 42));
        for field in ["name", "total"] {
            assert_ne!(text(&masked, field), text(&doc, field));
            assert_eq!(form(&text(&masked, field)), form(&text(&doc, field)));
        }
        assert_eq!(form(&text(masked.get_document("address").unwrap(), "street")), "Xxx 7");
        let shown = bson::Document::try_from(masked).unwrap().to_string();
        assert!(shown.contains("home") && shown.contains("none"), "{shown}");
        for hidden in ["O'Hara", "Elm"] {
            assert!(!shown.contains(hidden), "{hidden} in {shown}");
        }
        assert_eq!(super::masked(&doc, &[]).unwrap(), doc);
    }

    #[test]
    fn what_is_unique_stays_unique_and_what_is_equal_stays_equal() {
        let one = |v: &str| masked(&rawdoc! { "_id": 1, "v": v }, &paths(&["v"])).unwrap();
        assert_eq!(one("ann@example.org"), one("ann@example.org"));
        let all: std::collections::BTreeSet<String> =
            (0..500).map(|n| format!("{:?}", one(&format!("user{n:03}@x")))).collect();
        assert!(all.len() >= 499, "{}", all.len());
        let ids = |n: i32| masked(&rawdoc! { "_id": 1, "v": n }, &paths(&["v"])).unwrap();
        assert_ne!(ids(1), ids(2));
    }
}
