//! The pilot cohort: documents told apart by a field inside their `_id`, which go ahead of the buckets or stay behind them.
//!
//! The field lies inside `_id` so that ownership stays a function of the key. docs/routing.md defines the lookup for other languages;
//! its test vectors are checked here. Nothing in here decides that a cohort moves.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bson::{Bson, Document, RawBsonRef, doc};
use serde::{Deserialize, Serialize};

use super::{Bucket, Side};
use crate::cluster::Key;

/// Values that a cohort may name: the document is read by every process several times a second.
pub const COHORT_MAX: usize = 1_000;

/// Where the reads or the writes of a cohort go, from furthest back to furthest ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goes {
    /// Held on legacy, whatever the buckets do.
    Legacy,
    /// As everybody else's.
    #[default]
    Buckets,
    /// To next, ahead of the buckets.
    Next,
}

impl Goes {
    /// Its word in the route document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Goes::Legacy => "legacy",
            Goes::Buckets => "buckets",
            Goes::Next => "next",
        }
    }

    /// The side of a bucket's documents, where those below `below` are on next.
    #[must_use]
    pub fn side(self, bucket: Bucket, below: Bucket) -> Side {
        match self {
            Goes::Legacy => Side::Legacy,
            Goes::Next => Side::Next,
            Goes::Buckets if bucket < below => Side::Next,
            Goes::Buckets => Side::Legacy,
        }
    }
}

/// Which documents belong to the cohort: those whose `field` equals one of a few values. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Cohort {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq)]
struct Inner {
    field: String,
    values: BTreeSet<Key>,
}

/// Why a cohort cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CohortError {
    /// The field is not part of the key.
    #[error("`{0}` lies outside `_id`: who owns a document must follow from its key alone")]
    Outside(String),
    /// The field's path is malformed.
    #[error("`{0}` is not a field's path")]
    Path(String),
    /// Nothing, or too much, to compare with.
    #[error("a cohort names 1 to {COHORT_MAX} values, not {0}")]
    Count(usize),
    /// A value that is no scalar.
    #[error("`{0}` is no single value: a text, a number, true or false, a date, an ObjectId or a UUID")]
    Value(String),
}

impl Cohort {
    /// The documents whose `field`, `_id` or a path inside it, is one of `values`.
    ///
    /// # Errors
    /// When the field is no part of the key, or the values are none, too many, or no scalars.
    pub fn new(field: &str, values: &[Bson]) -> Result<Cohort, CohortError> {
        let mut parts = field.split('.');
        let first = parts.next().unwrap_or_default();
        if field.is_empty() || field.split('.').any(|p| p.is_empty() || p.starts_with('$') || p.contains('\0')) {
            return Err(CohortError::Path(crate::scrub::short(field, 80)));
        }
        if first != "_id" {
            return Err(CohortError::Outside(crate::scrub::short(field, 80)));
        }
        let values = values.iter().map(scalar).collect::<Result<BTreeSet<Key>, CohortError>>()?;
        if !(1..=COHORT_MAX).contains(&values.len()) {
            return Err(CohortError::Count(values.len()));
        }
        Ok(Cohort { inner: Arc::new(Inner { field: field.to_owned(), values }) })
    }

    /// The field's path: `_id`, or a path inside it.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.inner.field
    }

    /// The values, in MongoDB's order.
    pub fn values(&self) -> impl Iterator<Item = &Key> {
        self.inner.values.iter()
    }

    /// True for the `_id` of a document of the cohort. Arrays are not looked into; a field that is not there is in no cohort.
    #[must_use]
    pub fn contains(&self, id: RawBsonRef<'_>) -> bool {
        let mut at = id;
        for name in self.inner.field.split('.').skip(1) {
            let RawBsonRef::Document(d) = at else { return false };
            match d.get(name) {
                Ok(Some(v)) => at = v,
                _ => return false,
            }
        }
        Key::new(at).is_ok_and(|k| self.inner.values.contains(&k))
    }
}

fn scalar(value: &Bson) -> Result<Key, CohortError> {
    let refused = || CohortError::Value(crate::scrub::short(&value.to_string(), 40));
    match value {
        // A server takes null for a field that is not there, too.
        Bson::Document(_) | Bson::Array(_) | Bson::Undefined | Bson::Null => return Err(refused()),
        _ => {}
    }
    let raw = bson::RawBson::try_from(value.clone()).map_err(|_| refused())?;
    Key::new(raw.as_raw_bson_ref()).map_err(|_| refused())
}

impl fmt::Display for Cohort {
    /// `_id.region in "eu", "uk"`, shortened, scrubbed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<String> = self.inner.values.iter().take(3).map(Key::to_string).collect();
        if self.inner.values.len() > 3 {
            values.push(format!("{} more", self.inner.values.len() - 3));
        }
        f.write_str(&crate::scrub::short(&format!("{} in {}", self.inner.field, values.join(", ")), 120))
    }
}

impl fmt::Debug for Cohort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The cohort and where it goes. Its writes are never ahead of its reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pilot {
    /// Which documents.
    pub cohort: Cohort,
    /// Where their reads go.
    pub reads: Goes,
    /// Where their writes go.
    pub writes: Goes,
}

impl Pilot {
    /// The part of the route document.
    pub(super) fn to_document(&self) -> Document {
        let values: Vec<Bson> = self.cohort.values().map(Key::to_bson).collect();
        doc! { "field": self.cohort.field(), "in": values, "reads": self.reads.name(), "writes": self.writes.name() }
    }

    /// Reads the part of the route document; `Err` names what is wrong.
    pub(super) fn from_document(d: &Document) -> Result<Pilot, String> {
        let field = d.get_str("field").map_err(|_| "pilot.field is no text")?;
        let values = d.get_array("in").map_err(|_| "pilot.in is no array")?;
        let goes = |name: &str| {
            let word = d.get_str(name).unwrap_or_default();
            let found = [Goes::Legacy, Goes::Buckets, Goes::Next].into_iter().find(|g| g.name() == word);
            found.ok_or_else(|| format!("pilot.{name} is not `legacy`, `buckets` or `next`"))
        };
        let (reads, writes) = (goes("reads")?, goes("writes")?);
        if writes > reads {
            return Err("the writes of the pilot cohort are ahead of its reads".into());
        }
        let cohort = Cohort::new(field, values).map_err(|e| format!("pilot: {e}"))?;
        Ok(Pilot { cohort, reads, writes })
    }
}

/// Where the route finds a document. Applications may bring bucket and cohort code of their own.
pub trait Located {
    /// The bucket of its `_id`.
    fn bucket(&self) -> Bucket;
    /// True when it belongs to the cohort.
    fn is_in(&self, cohort: &Cohort) -> bool;
}

/// A key with its bucket.
impl Located for (&Key, Bucket) {
    fn bucket(&self) -> Bucket {
        self.1
    }

    fn is_in(&self, cohort: &Cohort) -> bool {
        cohort.contains(self.0.value())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(v: Bson) -> Key {
        Key::new(bson::RawBson::try_from(v).unwrap().as_raw_bson_ref()).unwrap()
    }

    /// The rows of the table in docs/routing.md: field, values, `_id`, whether it is in the cohort.
    fn vectors() -> Vec<(String, Vec<Bson>, Bson, bool)> {
        let text = include_str!("../../docs/routing.md");
        let rows = text.lines().skip_while(|l| !l.starts_with("| field | in |")).skip(2);
        let json = |t: &str| Bson::try_from(serde_json::from_str::<serde_json::Value>(t).unwrap()).unwrap();
        let row = |l: &str| {
            let cells: Vec<&str> = l.split('|').map(|c| c.trim().trim_matches('`')).collect();
            let Bson::Array(values) = json(cells[2]) else { panic!("{l}") };
            (cells[1].to_owned(), values, json(cells[3]), cells[4] == "yes")
        };
        rows.take_while(|l| l.starts_with('|')).map(row).collect()
    }

    #[test]
    fn the_vectors_of_the_documentation_hold() {
        let all = vectors();
        assert!(all.len() >= 15, "{}", all.len());
        for (field, values, id, within) in all {
            let cohort = Cohort::new(&field, &values).unwrap();
            assert_eq!(cohort.contains(key(id.clone()).value()), within, "{field} in {values:?}: {id}");
        }
    }

    #[test]
    fn what_cannot_be_told_by_the_key_is_refused() {
        let eu = [Bson::from("eu")];
        assert!(matches!(Cohort::new("region", &eu), Err(CohortError::Outside(_))));
        assert!(matches!(Cohort::new("_idx.region", &eu), Err(CohortError::Outside(_))));
        for path in ["", "_id.", "_id..a", ".a", "_id.$a", "_id.a\0"] {
            assert!(matches!(Cohort::new(path, &eu), Err(CohortError::Path(_))), "{path:?}");
        }
        assert!(matches!(Cohort::new("_id.region", &[]), Err(CohortError::Count(0))));
        let many: Vec<Bson> = (0..=COHORT_MAX as i64).map(Bson::from).collect();
        assert!(matches!(Cohort::new("_id.region", &many), Err(CohortError::Count(1_001))));
        assert!(Cohort::new("_id.region", &many[1..]).is_ok());
        for value in [Bson::Document(doc! { "a": 1 }), Bson::Array(vec![1.into()]), Bson::Null] {
            assert!(matches!(Cohort::new("_id.region", &[value]), Err(CohortError::Value(_))));
        }
    }

    #[test]
    fn writes_are_never_ahead_of_reads_in_a_document() {
        let cohort = Cohort::new("_id.region", &["eu".into(), 5.into()]).unwrap();
        for reads in [Goes::Legacy, Goes::Buckets, Goes::Next] {
            for writes in [Goes::Legacy, Goes::Buckets, Goes::Next] {
                let pilot = Pilot { cohort: cohort.clone(), reads, writes };
                let read = Pilot::from_document(&pilot.to_document());
                assert_eq!(read.ok(), (writes <= reads).then_some(pilot), "{reads:?} {writes:?}");
            }
        }
    }
}
