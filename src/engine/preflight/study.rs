//! The sampled documents, carried there and back: nothing is written, every document is judged as the engine would judge it.

use std::collections::{BTreeMap, BTreeSet};

use bson::spec::BinarySubtype;
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::super::in_place::judge::{Judge, Standing};
use super::Facts;
use crate::cluster::{Doc, Key};
use crate::plan::Plan;
use crate::route::bucket_of;
use crate::scrub::short;
use crate::transform::{Shape, Transform, Why};

/// A document and what is said of it.
pub(super) struct Named {
    /// Its `_id`, safe to print.
    pub id: String,
    /// Why it is named.
    pub why: String,
}

/// What the sample shows.
#[derive(Default)]
pub(super) struct Study {
    /// Distinct documents.
    pub documents: usize,
    /// Their bytes on legacy.
    pub bytes: u64,
    /// Bytes of those that could be carried, as next would hold them.
    pub bytes_next: u64,
    /// Those that T refuses.
    pub refused: Vec<Named>,
    /// Those that T⁻¹ does not bring back as they were.
    pub changed: Vec<Named>,
    /// They come back byte for byte.
    pub exact: usize,
    /// They come back up to the order of fields.
    pub reordered: usize,
    /// They do not come back, and the plan says so.
    pub lossy: usize,
    /// In place: they have next's shape already.
    pub already: usize,
    /// In place: they are neither shape.
    pub mixed: Vec<Named>,
    /// `_id`s that have no bucket.
    pub placeless: Vec<Named>,
    /// The largest document on either side, bytes.
    pub largest: usize,
    /// Those that come near the server's limit.
    pub large: Vec<Named>,
    /// Field names with dots, dollars, or nothing.
    pub odd: Vec<Named>,
    /// Field names that stand in one document twice.
    pub twice: Vec<Named>,
    /// Documents that a unique index of the plan would refuse beside another one.
    pub doubled: Vec<Named>,
    /// Members of the pilot cohort.
    pub cohort: usize,
    /// Values that an application has encrypted.
    pub encrypted: Vec<Named>,
}

/// Near the server's limit of 16 MiB: the copy must also fit into a record of the quarantine, with a few fields around it.
const NEAR_LIMIT: usize = 15 << 20;
/// In place a record of `undo` may hold two earlier versions.
const NEAR_HALF: usize = 7 << 20;

impl Study {
    /// Carries every distinct document of a sample there and back.
    pub(super) fn of(f: &Facts, sample: &[Doc]) -> Study {
        let collection = f.collection();
        let transform = Transform::new(&collection.steps);
        let shape = collection.shape.as_ref().filter(|_| f.in_place()).map(Shape::new);
        let limit = if f.in_place() { NEAR_HALF } else { NEAR_LIMIT };
        let mut study = Study::default();
        let mut seen = BTreeSet::new();
        let mut uniques = Uniques::of(&f.plan);
        for doc in sample {
            let key = Key::of(doc);
            let id = key.as_ref().map_or_else(|_| "?".into(), |k| short(&k.to_string(), 80));
            match &key {
                Ok(k) if !seen.insert(k.clone()) => continue,
                Ok(k) => study.key(f, k, &id),
                Err(e) => study.placeless.push(Named { id: id.clone(), why: e.to_string() }),
            }
            study.documents += 1;
            study.bytes += doc.size() as u64;
            study.names(doc, &id);
            let made = study.carry(&transform, shape.as_ref(), doc, &id);
            let size = made.as_ref().map_or(0, |m| m.as_bytes().len()).max(doc.size());
            study.largest = study.largest.max(size);
            if size > limit {
                study.large.push(Named { id: id.clone(), why: format!("{:.1} MiB", size as f64 / f64::from(1 << 20)) });
            }
            if let Some(made) = made {
                study.bytes_next += made.as_bytes().len() as u64;
                study.doubled.extend(uniques.add(&made, &id));
            }
        }
        study
    }

    fn key(&mut self, f: &Facts, key: &Key, id: &str) {
        if let Err(e) = bucket_of(key) {
            self.placeless.push(Named { id: id.to_owned(), why: e.to_string() });
        }
        if f.plan.pilot.as_ref().is_some_and(|cohort| cohort.contains(key.value())) {
            self.cohort += 1;
        }
    }

    /// T and T⁻¹ of one document; answers what next would hold.
    fn carry(&mut self, t: &Transform, shape: Option<&Shape>, doc: &RawDocument, id: &str) -> Option<RawDocumentBuf> {
        if let Some(shape) = shape {
            match (Judge { transform: t, shape }).standing(doc) {
                Standing::Next => {
                    self.already += 1;
                    return Some(doc.to_owned());
                }
                Standing::Mixed(why) => {
                    self.mixed.push(Named { id: id.to_owned(), why });
                    return None;
                }
                Standing::Legacy => {}
            }
        }
        let made = match t.apply(doc) {
            Ok(made) => made,
            Err(e) => {
                self.refused.push(Named { id: id.to_owned(), why: subject(&e.path, &e.why) });
                return None;
            }
        };
        match t.invert(&made) {
            Ok(back) if back.as_bytes() == doc.as_bytes() => self.exact += 1,
            Ok(back) if t.same(&back, doc) => self.reordered += 1,
            _ if t.is_lossy() => self.lossy += 1,
            Ok(_) => self.changed.push(Named { id: id.to_owned(), why: "comes back different".into() }),
            Err(e) => self.changed.push(Named { id: id.to_owned(), why: subject(&e.path, &e.why) }),
        }
        Some(made)
    }

    /// Field names and values at every depth.
    fn names(&mut self, doc: &RawDocument, id: &str) {
        let mut found = Found::default();
        found.document(doc, "", 0);
        let add = |to: &mut Vec<Named>, why: Option<String>| {
            to.extend(why.map(|why| Named { id: id.to_owned(), why }));
        };
        add(&mut self.odd, found.odd);
        add(&mut self.twice, found.twice);
        add(&mut self.encrypted, found.encrypted);
    }
}

/// A path and what is wrong with it.
fn subject(path: &str, why: &Why) -> String {
    if path.is_empty() { why.to_string() } else { format!("`{path}` {why}") }
}

/// The first of each kind in one document.
#[derive(Default)]
struct Found {
    odd: Option<String>,
    twice: Option<String>,
    encrypted: Option<String>,
}

/// Deeper than a server nests documents.
const DEEPEST: usize = 200;

impl Found {
    fn document(&mut self, doc: &RawDocument, path: &str, depth: usize) {
        let mut seen = BTreeSet::new();
        for (name, value) in doc.iter().flatten() {
            let name = name.as_str();
            let at = || short(&if path.is_empty() { name.to_owned() } else { format!("{path} / {name}") }, 120);
            // A database reference is the one place where `$` belongs into a name.
            let reference = !path.is_empty() && matches!(name, "$ref" | "$id" | "$db");
            if (name.is_empty() || name.contains('.') || name.starts_with('$')) && !reference {
                self.odd.get_or_insert_with(at);
            }
            if !seen.insert(name) {
                self.twice.get_or_insert_with(at);
            }
            self.value(value, &at(), depth);
        }
    }

    fn value(&mut self, value: RawBsonRef<'_>, path: &str, depth: usize) {
        match value {
            _ if depth > DEEPEST => {}
            RawBsonRef::Document(d) => self.document(d, path, depth + 1),
            RawBsonRef::Array(a) => a.into_iter().flatten().for_each(|v| self.value(v, path, depth + 1)),
            RawBsonRef::Binary(b) if b.subtype == BinarySubtype::Encrypted => {
                self.encrypted.get_or_insert_with(|| path.to_owned());
            }
            _ => {}
        }
    }
}

/// What each unique index of the plan holds so far.
struct Uniques<'p>(Vec<(&'p str, Vec<&'p str>, BTreeMap<Key, String>)>);

impl<'p> Uniques<'p> {
    fn of(plan: &'p Plan) -> Uniques<'p> {
        let unique = plan.collections.iter().flat_map(|c| &c.indexes).filter(|i| i.unique);
        Uniques(
            unique.map(|i| (i.name.as_str(), i.keys.keys().map(String::as_str).collect(), BTreeMap::new())).collect(),
        )
    }

    /// Takes a document up; answers where another one has its values already.
    fn add(&mut self, doc: &RawDocument, id: &str) -> Vec<Named> {
        let mut out = Vec::new();
        for (index, paths, seen) in &mut self.0 {
            let mut values = RawDocumentBuf::new();
            for path in paths.iter() {
                // What is missing is null to an index.
                values.append(bson::cstr!("v"), at(doc, path).map_or(RawBson::Null, RawBson::from));
            }
            let Ok(values) = Key::new(RawBsonRef::Document(&values)) else { continue };
            match seen.get(&values) {
                Some(other) => {
                    out.push(Named { id: id.to_owned(), why: format!("has the values of {other} in `{index}`") });
                }
                None => drop(seen.insert(values, id.to_owned())),
            }
        }
        out
    }
}

/// The value at a dotted path, through documents only.
fn at<'d>(doc: &'d RawDocument, path: &str) -> Option<RawBsonRef<'d>> {
    match path.split_once('.') {
        None => doc.get(path).ok().flatten(),
        Some((first, rest)) => at(doc.get(first).ok().flatten()?.as_document()?, rest),
    }
}
