//! Collections as chains of versions, so that older snapshots stay readable, and the unique indexes over their newest state.
//!
//! Nothing here knows about time, faults or fences.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bson::spec::ElementType;
use bson::{Document, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::validator::Rules;
use crate::cluster::fields::fields;
use crate::cluster::{Doc, IndexSpec, Key, KeyError, value_bytes};

/// A cluster time in one word: seconds above, increment below.
pub(super) type Ts = u64;

#[derive(Debug)]
struct Version {
    ts: Ts,
    doc: Option<Doc>,
}

/// The versions of one document.
#[derive(Debug)]
pub(super) struct Chain {
    newest: Version,
    /// Oldest first.
    older: Vec<Version>,
}

impl Chain {
    pub(super) fn newest(&self) -> Option<&Doc> {
        self.newest.doc.as_ref()
    }

    /// When the document was last written.
    pub(super) fn written(&self) -> Ts {
        self.newest.ts
    }

    /// The document as of `ts`.
    pub(super) fn at(&self, ts: Ts) -> Option<&Doc> {
        if self.newest.ts <= ts {
            return self.newest.doc.as_ref();
        }
        self.older.iter().rev().find(|v| v.ts <= ts).and_then(|v| v.doc.as_ref())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        1 + self.older.len()
    }

    /// Forgets what no snapshot at `floor` or later can see. False when nothing is left to see at all.
    pub(super) fn prune(&mut self, floor: Ts) -> bool {
        if self.newest.ts <= floor {
            self.older = Vec::new();
            return self.newest.doc.is_some();
        }
        let keep = self.older.iter().rposition(|v| v.ts <= floor).unwrap_or(0);
        self.older.drain(..keep);
        true
    }
}

/// An index; `entries` only when it is unique.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) spec: IndexSpec,
    pub(super) entries: Option<BTreeMap<Vec<u8>, Key>>,
}

/// A collection.
#[derive(Debug, Default)]
pub(super) struct Coll {
    pub(super) docs: BTreeMap<Key, Chain>,
    /// Documents in the newest state.
    pub(super) live: usize,
    /// All but `_id_`.
    pub(super) indexes: Vec<Index>,
    pub(super) rules: Rules,
}

impl Coll {
    /// Puts documents there as if they had always been there, over older ones with the same keys.
    ///
    /// # Errors
    /// When a document has no usable `_id`; nothing is loaded then.
    pub(super) fn load(&mut self, docs: Vec<RawDocumentBuf>) -> Result<(), KeyError> {
        let mut docs = docs.into_iter().map(|d| Ok((Key::of(&d)?, d))).collect::<Result<Vec<_>, KeyError>>()?;
        docs.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Copied in the order of the keys, so that a scan finds them one after the other in memory.
        let new = docs.iter().map(|(key, d)| (key.clone(), Some(Doc::from(&**d))));
        if self.docs.is_empty() && self.indexes.is_empty() {
            // Built in bulk, several times faster than one by one; the last of equal keys stays, as below.
            let chain = |doc| Chain { newest: Version { ts: 0, doc }, older: Vec::new() };
            self.docs = new.map(|(key, doc)| (key, chain(doc))).collect();
            self.live = self.docs.len();
            return Ok(());
        }
        for (key, doc) in new {
            self.set(&key, 0, doc);
            self.prune(&key, 0);
        }
        Ok(())
    }

    /// Stores a version. True when an older one is left behind it.
    pub(super) fn set(&mut self, key: &Key, ts: Ts, doc: Option<Doc>) -> bool {
        let new = Version { ts, doc };
        match self.docs.entry(key.clone()) {
            Entry::Occupied(mut there) => {
                let chain = there.get_mut();
                self.live = self.live + usize::from(new.doc.is_some()) - usize::from(chain.newest.doc.is_some());
                let old = std::mem::replace(&mut chain.newest, new);
                reindex(&mut self.indexes, key, old.doc.as_deref(), chain.newest.doc.as_deref());
                chain.older.push(old);
                true
            }
            Entry::Vacant(empty) => {
                self.live += usize::from(new.doc.is_some());
                reindex(&mut self.indexes, key, None, new.doc.as_deref());
                empty.insert(Chain { newest: new, older: Vec::new() });
                false
            }
        }
    }

    /// Takes back the version written at `ts`, when it is the newest.
    pub(super) fn undo(&mut self, key: &Key, ts: Ts) {
        let Some(chain) = self.docs.get_mut(key) else { return };
        if chain.newest.ts != ts {
            return;
        }
        let before = chain.older.pop().unwrap_or(Version { ts: 0, doc: None });
        self.live = self.live + usize::from(before.doc.is_some()) - usize::from(chain.newest.doc.is_some());
        let undone = std::mem::replace(&mut chain.newest, before);
        reindex(&mut self.indexes, key, undone.doc.as_deref(), chain.newest.doc.as_deref());
        if chain.newest.doc.is_none() && chain.older.is_empty() {
            self.docs.remove(key);
        }
    }

    /// Forgets the versions of one document that nobody can see.
    pub(super) fn prune(&mut self, key: &Key, floor: Ts) {
        if let Some(chain) = self.docs.get_mut(key)
            && !chain.prune(floor)
        {
            self.docs.remove(key);
        }
    }

    /// Builds the entries of a unique index; the key of a document that another one clashes with when it cannot be.
    pub(super) fn build(&self, keys: &Document) -> Result<BTreeMap<Vec<u8>, Key>, Key> {
        let mut entries = BTreeMap::new();
        for (key, chain) in &self.docs {
            if let Some(doc) = chain.newest()
                && entries.insert(index_entry(keys, doc), key.clone()).is_some()
            {
                return Err(key.clone());
            }
        }
        Ok(entries)
    }
}

fn reindex(indexes: &mut [Index], key: &Key, old: Option<&RawDocument>, new: Option<&RawDocument>) {
    for index in indexes {
        let Some(entries) = &mut index.entries else { continue };
        if let Some(old) = old {
            let entry = index_entry(&index.spec.keys, old);
            // Within one transaction another document may have taken the entry over already.
            if entries.get(&entry) == Some(key) {
                entries.remove(&entry);
            }
        }
        if let Some(new) = new {
            entries.insert(index_entry(&index.spec.keys, new), key.clone());
        }
    }
}

/// The bytes under which an index files a document; a missing field is null. Arrays are filed whole, not by element.
pub(super) fn index_entry(keys: &Document, doc: &RawDocument) -> Vec<u8> {
    let mut out = Vec::new();
    for path in keys.keys() {
        let value = lookup(doc, path).unwrap_or(RawBsonRef::Null);
        let bytes = comparable(value);
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// Bytes that are equal when the server calls two values equal.
pub(super) fn comparable(value: RawBsonRef<'_>) -> Vec<u8> {
    match Key::new(value) {
        Ok(key) => key.order_bytes().to_vec(),
        Err(_) => {
            let mut bytes = vec![0xFF, value.element_type() as u8];
            bytes.extend(value_bytes(value).unwrap_or_default());
            bytes
        }
    }
}

/// The value at a dotted path through sub-documents.
pub(super) fn lookup<'a>(doc: &'a RawDocument, path: &str) -> Option<RawBsonRef<'a>> {
    match path.split_once('.') {
        None => doc.get(path).ok().flatten(),
        Some((head, rest)) => match doc.get(head).ok().flatten()? {
            RawBsonRef::Document(d) => lookup(d, rest),
            _ => None,
        },
    }
}

/// A document as a server stores it: `_id` first, and, unless written byte for byte, a top-level `Timestamp(0, 0)` replaced.
///
/// `known` spares working out the key where it is the document's.
///
/// # Errors
/// When there is no usable `_id` or the bytes are no document.
pub(super) fn stored(doc: &RawDocumentBuf, stamp: Option<Ts>, known: Option<&Key>) -> Result<(Key, Doc), KeyError> {
    let key = match known.filter(|k| k.is_id_of(doc)) {
        Some(key) => key.clone(),
        None => Key::of(doc)?,
    };
    let bytes = doc.as_bytes();
    let id_first = bytes.get(5..9) == Some(b"_id\0");
    // A short document is looked through faster than its fields are.
    let zero = stamp.filter(|_| (bytes.len() > 1_024 || bytes.contains(&0x11)) && has_zero_timestamp(doc));
    if id_first && zero.is_none() {
        return Ok((key, Doc::from(&**doc)));
    }
    let mut out = RawDocumentBuf::new();
    out.append(bson::cstr!("_id"), RawBson::from(key.value()));
    for item in doc {
        let (name, value) = item.map_err(|e| KeyError::Malformed(e.to_string()))?;
        match (name.as_str(), value, zero) {
            ("_id", _, _) => {}
            (_, RawBsonRef::Timestamp(t), Some(ts)) if t.time == 0 && t.increment == 0 => {
                out.append(name, bson::Timestamp { time: (ts >> 32) as u32, increment: ts as u32 });
            }
            (_, value, _) => out.append(name, RawBson::from(value)),
        }
    }
    Ok((key, out.into()))
}

fn has_zero_timestamp(doc: &RawDocument) -> bool {
    let timestamp = ElementType::Timestamp as u8;
    fields(doc.as_bytes()).any(|f| f.kind == timestamp && f.value == [0; 8] && f.name != b"_id")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{doc, rawdoc};

    fn d(v: i32) -> Option<Doc> {
        Some(rawdoc! { "_id": 1, "v": v }.into())
    }

    #[test]
    fn older_snapshots_stay_readable_until_pruned() {
        let (mut coll, key) = (Coll::default(), Key::from(1));
        coll.set(&key, 10, d(1));
        coll.set(&key, 20, d(2));
        coll.set(&key, 30, None);
        let chain = coll.docs.get(&key).unwrap();
        assert_eq!([5, 10, 19, 20, 30].map(|ts| chain.at(ts).cloned()), [None, d(1), d(1), d(2), None]);
        coll.prune(&key, 20);
        assert_eq!(coll.docs.get(&key).unwrap().at(25).cloned(), d(2));
        coll.prune(&key, 30);
        assert!(coll.docs.is_empty());
    }

    #[test]
    fn undoing_the_newest_version_restores_the_one_before_and_its_index_entries() {
        let (mut coll, key) = (Coll::default(), Key::from(1));
        let spec = IndexSpec { name: "v".into(), keys: doc! { "v": 1 }, unique: true, ..IndexSpec::default() };
        coll.indexes.push(Index { spec, entries: Some(BTreeMap::new()) });
        coll.set(&key, 10, d(1));
        let before = coll.indexes[0].entries.clone();
        coll.set(&key, 20, d(2));
        coll.undo(&key, 20);
        assert_eq!(coll.docs.get(&key).unwrap().newest().cloned(), d(1));
        assert_eq!((coll.live, &coll.indexes[0].entries), (1, &before));
        coll.undo(&key, 10);
        assert_eq!((coll.live, coll.docs.len()), (0, 0));
    }

    #[test]
    fn a_zero_timestamp_survives_only_byte_for_byte() {
        let zero = bson::Timestamp { time: 0, increment: 0 };
        let doc = rawdoc! { "t": zero, "_id": 1, "sub": { "t": zero } };
        let (_, kept) = stored(&doc, None, None).unwrap();
        assert_eq!(kept, rawdoc! { "_id": 1, "t": zero, "sub": { "t": zero } });
        let (_, stamped) = stored(&doc, Some(7 << 32 | 9), None).unwrap();
        assert_eq!(stamped, rawdoc! { "_id": 1, "t": bson::Timestamp { time: 7, increment: 9 }, "sub": { "t": zero } });
    }
}
