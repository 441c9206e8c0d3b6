//! Documents as texts: each value on its path, what the plan masks masked, everything scrubbed. No value leaves a document in any other
//! way than through here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use bson::{Bson, RawBsonRef, RawDocument};

use crate::cluster::{Doc, value_bytes};
use crate::scrub;
use crate::snapshot::{TraceDifference, TraceField, TraceVersion};
use crate::transform::Hidden;

/// Values shown of a document.
const FIELDS: usize = 200;
/// Values compared of a document.
const COMPARED: usize = 20_000;
/// Bytes of all paths together: names may be long, and each value has its own copy of them.
const PATHS: usize = 4 << 20;
/// Documents inside each other that are shown value by value; what lies deeper is one value.
const DEEP: usize = 12;
/// Characters of a value, and of a path.
const VALUE: usize = 300;
const PATH: usize = 120;
/// Bytes of a value that is put into words; more is only counted.
const LARGE: usize = 4_096;
/// Differences told.
const DIFFERENCES: usize = 50;

/// Shows documents, hiding what must not be seen.
pub(super) struct Shower {
    hidden: Hidden,
    /// It is shown all the same.
    reveal: bool,
    /// There was something to hide.
    met: AtomicBool,
}

/// The values of a document, as far as there is room.
#[derive(Default)]
struct Leaves<'a> {
    all: Vec<Leaf<'a>>,
    path_bytes: usize,
}

impl Leaves<'_> {
    fn is_full(&self) -> bool {
        self.all.len() >= COMPARED || self.path_bytes >= PATHS
    }
}

/// A value and where it stands.
struct Leaf<'a> {
    path: String,
    value: RawBsonRef<'a>,
    masked: bool,
}

impl Shower {
    pub(super) fn new(hidden: Hidden, reveal: bool) -> Shower {
        Shower { hidden, reveal, met: AtomicBool::new(false) }
    }

    /// True once something that was to be shown is masked by the plan, revealed or not.
    pub(super) fn has_met_masked(&self) -> bool {
        self.met.load(Ordering::SeqCst)
    }

    /// True when no value of the document is left out for want of room.
    pub(super) fn sees_all(&self, doc: &RawDocument) -> bool {
        self.leaves(doc).is_some_and(|l| !l.is_full())
    }

    /// A document, or none, under a name.
    pub(super) fn version(&self, name: &str, place: &str, doc: Option<&RawDocument>) -> TraceVersion {
        let mut version = TraceVersion { name: name.to_owned(), place: scrub::short(place, 200), ..Default::default() };
        let Some(doc) = doc else { return version };
        version.bytes = Some(doc.as_bytes().len());
        match self.leaves(doc) {
            Some(leaves) => {
                version.more = leaves.all.len().saturating_sub(FIELDS);
                version.fields = leaves.all.iter().take(FIELDS).map(field).collect();
            }
            None => version.problem = Some("it is not valid BSON".to_owned()),
        }
        version
    }

    /// As [`Shower::version`], for one that could not be read or made.
    pub(super) fn problem(name: &str, place: &str, why: &str) -> TraceVersion {
        let (place, problem) = (scrub::short(place, 200), Some(scrub::short(why, 300)));
        TraceVersion { name: name.to_owned(), place, problem, ..TraceVersion::default() }
    }

    /// The values in which a document is not what it should be.
    pub(super) fn differences<'a>(
        &self,
        wanted: Option<&'a RawDocument>,
        holds: Option<&'a RawDocument>,
    ) -> Vec<TraceDifference> {
        let leaves = |d: &'a RawDocument| self.leaves(d).unwrap_or_default().all;
        let (wanted, holds) = (wanted.map(leaves).unwrap_or_default(), holds.map(leaves).unwrap_or_default());
        let there: BTreeMap<&str, &Leaf<'_>> = holds.iter().map(|l| (l.path.as_str(), l)).collect();
        let known: BTreeSet<&str> = wanted.iter().map(|l| l.path.as_str()).collect();
        let one = |w: Option<&Leaf<'_>>, h: Option<&Leaf<'_>>| TraceDifference {
            path: w.or(h).map_or_else(String::new, |l| scrub::short(&l.path, PATH)),
            wanted: w.map(text),
            holds: h.map(text),
        };
        let changed = wanted.iter().filter_map(|w| match there.get(w.path.as_str()) {
            Some(h) if same(w.value, h.value) => None,
            h => Some(one(Some(w), h.copied())),
        });
        let extra = holds.iter().filter(|h| !known.contains(h.path.as_str())).map(|h| one(None, Some(h)));
        changed.chain(extra).take(DIFFERENCES).collect()
    }

    fn leaves<'a>(&self, doc: &'a RawDocument) -> Option<Leaves<'a>> {
        let mut out = Leaves::default();
        self.walk(RawBsonRef::Document(doc), &mut Vec::new(), &mut String::new(), &mut out, 0)?;
        Some(out)
    }

    /// `names` is the path without places in arrays, `path` the one that is shown.
    fn walk<'a>(
        &self,
        value: RawBsonRef<'a>,
        names: &mut Vec<&'a str>,
        path: &mut String,
        out: &mut Leaves<'a>,
        deep: usize,
    ) -> Option<()> {
        if out.is_full() {
            return Some(());
        }
        let covered = !names.is_empty() && self.hidden.covers(names);
        let inside = match value {
            RawBsonRef::Document(d) => d.iter().next().is_some(),
            RawBsonRef::Array(a) => a.into_iter().next().is_some(),
            _ => false,
        };
        if covered || !inside || deep >= DEEP {
            // Deeper than anybody looks: one value, hidden when something in it is.
            let masked = covered || (inside && self.hidden.reaches_into(names));
            if masked {
                self.met.store(true, Ordering::SeqCst);
            }
            out.path_bytes += path.len();
            out.all.push(Leaf { path: path.clone(), value, masked: masked && !self.reveal });
            return Some(());
        }
        let length = path.len();
        let step = |name: &str, path: &mut String| {
            path.truncate(length);
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        };
        match value {
            RawBsonRef::Document(d) => {
                for field in d {
                    let (name, value) = field.ok()?;
                    step(name.as_str(), path);
                    names.push(name.as_str());
                    self.walk(value, names, path, out, deep + 1)?;
                    names.pop();
                }
            }
            RawBsonRef::Array(a) => {
                for (i, value) in a.into_iter().enumerate() {
                    step(&i.to_string(), path);
                    self.walk(value.ok()?, names, path, out, deep + 1)?;
                }
            }
            _ => {}
        }
        path.truncate(length);
        Some(())
    }
}

/// The same bytes of the same type.
fn same(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> bool {
    a.element_type() == b.element_type() && value_bytes(a).ok() == value_bytes(b).ok()
}

fn field(leaf: &Leaf<'_>) -> TraceField {
    TraceField { path: scrub::short(&leaf.path, PATH), value: text(leaf), masked: leaf.masked }
}

fn text(leaf: &Leaf<'_>) -> String {
    if leaf.masked { format!("masked {}", kind(leaf.value)) } else { scrub::short(&words(leaf.value), VALUE) }
}

/// A value as people and tests read it: numbers of a type that their text does not tell say it.
fn words(value: RawBsonRef<'_>) -> String {
    let size = value_bytes(value).map_or(0, |b| b.len());
    match value {
        RawBsonRef::String(s) => format!("{:?}", s.chars().take(VALUE).collect::<String>()),
        _ if size > LARGE => format!("{} of {size} bytes", kind(value)),
        RawBsonRef::Int64(n) => format!("{n} (long)"),
        RawBsonRef::Decimal128(d) => format!("{d} (decimal)"),
        RawBsonRef::ObjectId(id) => format!("ObjectId({id})"),
        RawBsonRef::DateTime(d) => match d.try_to_rfc3339_string() {
            Ok(time) => time,
            Err(_) => format!("date {}", d.timestamp_millis()),
        },
        other => Bson::try_from(other)
            .map_or_else(|_| format!("{} that is not valid", kind(other)), |v| v.into_relaxed_extjson().to_string()),
    }
}

/// A type's name as servers have it.
fn kind(value: RawBsonRef<'_>) -> &'static str {
    match value {
        RawBsonRef::Double(_) => "double",
        RawBsonRef::String(_) => "string",
        RawBsonRef::Array(_) => "array",
        RawBsonRef::Document(_) => "document",
        RawBsonRef::Boolean(_) => "bool",
        RawBsonRef::Null => "null",
        RawBsonRef::RegularExpression(_) => "regex",
        RawBsonRef::JavaScriptCode(_) | RawBsonRef::JavaScriptCodeWithScope(_) => "javascript",
        RawBsonRef::Int32(_) => "int",
        RawBsonRef::Int64(_) => "long",
        RawBsonRef::Timestamp(_) => "timestamp",
        RawBsonRef::Binary(_) => "binary",
        RawBsonRef::ObjectId(_) => "objectId",
        RawBsonRef::DateTime(_) => "date",
        RawBsonRef::Symbol(_) => "symbol",
        RawBsonRef::Decimal128(_) => "decimal",
        RawBsonRef::Undefined => "undefined",
        RawBsonRef::MaxKey => "maxKey",
        RawBsonRef::MinKey => "minKey",
        RawBsonRef::DbPointer(_) => "dbPointer",
    }
}

/// A document inside a record.
pub(super) fn inner(record: &Doc, name: &str) -> Option<Doc> {
    record.get_document(name).ok().map(Doc::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::rawdoc;

    fn shower(masked: &[&str]) -> Shower {
        Shower::new(Hidden::new(&masked.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>(), &[]), false)
    }

    fn lines(s: &Shower, doc: &RawDocument) -> Vec<String> {
        s.version("x", "", Some(doc)).fields.iter().map(|f| format!("{}={}", f.path, f.value)).collect()
    }

    #[test]
    fn every_value_stands_on_its_path_and_says_its_type_where_its_text_does_not() {
        let doc = rawdoc! {
            "_id": 1, "a": { "b": "x", "c": [1i64, { "d": 2.5 }] }, "e": {}, "f": [], "n": bson::RawBson::Null,
            "t": bson::DateTime::from_millis(0),
        };
        let told = lines(&shower(&[]), &doc);
        let wanted =
            ["_id=1", "a.b=\"x\"", "a.c.0=1 (long)", "a.c.1.d=2.5", "e={}", "f=[]", "n=null", "t=1970-01-01T00:00:00Z"];
        assert_eq!(told, wanted);
    }

    #[test]
    fn masked_values_say_their_type_only_at_any_depth_and_in_arrays() {
        let doc = rawdoc! {
            "_id": 1, "name": "secret-1", "phones": [{ "number": "secret-2", "kind": "home" }, "secret-not"],
            "deep": { "a": { "x": "secret-3" } },
        };
        let s = shower(&["name", "phones.number", "deep.a"]);
        let told = lines(&s, &doc).join("\n");
        assert!(s.has_met_masked());
        let other = shower(&["name"]);
        lines(&other, &rawdoc! { "_id": 1, "other": 1 });
        assert!(!other.has_met_masked());
        for n in 1..=3 {
            assert!(!told.contains(&format!("secret-{n}")), "{told}");
        }
        assert!(told.contains("phones.0.number=masked string") && told.contains("phones.0.kind=\"home\""), "{told}");
        assert!(told.contains("deep.a=masked document"), "{told}");
        // Below what is shown value by value nothing leaks either.
        let mut nested = rawdoc! { "secret": "secret-9" };
        for _ in 0..40 {
            nested = rawdoc! { "d": nested };
        }
        let path = vec!["d"; 40].join(".") + ".secret";
        let s = shower(&[&path]);
        let told = lines(&s, &nested).join("\n");
        assert!(!told.contains("secret-9") && told.contains("masked document"), "{told}");
    }

    #[test]
    fn a_long_name_above_many_values_takes_no_room_for_each_of_them() {
        let mut values = bson::RawArrayBuf::new();
        (0..COMPARED).for_each(|_| values.push(0));
        let mut doc = rawdoc! { "_id": 1 };
        doc.append(bson::raw::CString::try_from("n".repeat(1 << 20)).unwrap(), values);
        let s = shower(&[]);
        assert!(s.leaves(&doc).unwrap().path_bytes < PATHS + (2 << 20) && !s.sees_all(&doc));
        assert!(lines(&s, &doc).iter().all(|l| l.chars().count() < 2 * PATH + VALUE));
    }

    #[test]
    fn hostile_and_huge_documents_become_short_and_safe_lines() {
        let mut doc =
            rawdoc! { "_id": 1, "a\u{1b}[2J\u{202e}": "x\u{1b}]52;c;eA==\u{7}\n", "big": "y".repeat(1 << 20) };
        doc.append(
            bson::cstr!("bin"),
            bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![7; 1 << 20] },
        );
        for n in 0..500 {
            doc.append(bson::raw::CString::try_from(format!("f{n}")).unwrap(), n);
        }
        let v = shower(&[]).version("x", "p\u{202e}", Some(&doc));
        assert_eq!((v.fields.len(), v.more), (FIELDS, 504 - FIELDS));
        for f in &v.fields {
            assert!(f.path.chars().count() <= PATH && f.value.chars().count() <= VALUE);
            let text = format!("{}{}{}", f.path, f.value, v.place);
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text}");
        }
        assert!(v.fields.iter().any(|f| f.value.starts_with("binary of 10485")));
    }

    #[test]
    fn differences_name_path_and_both_values() {
        let (a, b) =
            (rawdoc! { "_id": 1, "n": 5, "s": "x", "gone": 1 }, rawdoc! { "_id": 1, "s": "y", "n": 5i64, "new": 2 });
        let told: Vec<String> = shower(&["s"])
            .differences(Some(&a), Some(&b))
            .iter()
            .map(|d| format!("{}: {:?} {:?}", d.path, d.wanted.as_deref(), d.holds.as_deref()))
            .collect();
        let wanted = [
            "n: Some(\"5\") Some(\"5 (long)\")",
            "s: Some(\"masked string\") Some(\"masked string\")",
            "gone: Some(\"1\") None",
            "new: None Some(\"2\")",
        ];
        assert_eq!(told, wanted);
        let turned = rawdoc! { "_id": 1, "s": "x", "n": 5, "gone": 1 };
        assert!(shower(&[]).differences(Some(&a), Some(&turned)).is_empty(), "another order is no other value");
    }
}
