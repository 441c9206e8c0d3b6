//! A write in the making: statements evaluated against a snapshot and against each other, then committed as one or not at all.

use std::collections::BTreeMap;

use bson::{RawDocument, RawDocumentBuf};

use super::config::Config;
use super::state::{Event, State, Writes};
use super::store::{Chain, Coll, Ts, comparable, index_entry, lookup, stored};
use crate::cluster::fields::field;
use crate::cluster::{ChangeKind, Doc, Expect, Key, Ns, Reason, SessionId};
use crate::runtime::Micros;

/// What a stage does to one namespace, and what it must know of it.
struct Touched<'s> {
    ns: Ns,
    coll: Option<&'s Coll>,
    is_view: bool,
    /// When the name last stood for something else.
    changed: Option<Ts>,
    /// In the order of the keys. Most stages come in that order, and then this is only ever added to.
    docs: Vec<(Key, Option<Doc>)>,
    /// Entries taken (by whom) or given up, by index and value.
    unique: BTreeMap<(usize, Vec<u8>), Option<Key>>,
    events: Vec<Event>,
}

impl Touched<'_> {
    /// Where a key is, or where it belongs.
    fn find(&self, key: &Key) -> Result<usize, usize> {
        match self.docs.last() {
            Some((last, _)) if last >= key => self.docs.binary_search_by(|(k, _)| k.cmp(key)),
            _ => Err(self.docs.len()),
        }
    }

    fn put(&mut self, key: Key, doc: Option<Doc>) {
        match self.find(&key) {
            Ok(i) => self.docs[i].1 = doc,
            Err(i) => self.docs.insert(i, (key, doc)),
        }
    }
}

/// What a stage sees of a key.
struct Seen {
    doc: Option<Doc>,
    /// When it was last written by others, whoever may see it.
    written: Option<Ts>,
}

/// Statements that will commit together.
pub(super) struct Stage<'s> {
    state: &'s State,
    /// What reads see; `None` is the newest state, which cannot conflict.
    snapshot: Option<Ts>,
    stamp: Ts,
    validate: bool,
    /// In the order of their first use; there are hardly ever more than three.
    touched: Vec<Touched<'s>>,
}

/// What a stage wants committed: no namespace without a write.
pub(super) struct Staged(Vec<Writes>);

impl Staged {
    /// True when there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn commit(
        mut self,
        state: &mut State,
        config: &Config,
        now: Micros,
        session: Option<SessionId>,
        bits: u64,
    ) -> Ts {
        for e in self.0.iter_mut().flat_map(|w| &mut w.events) {
            e.session = session;
        }
        state.commit(config, now, self.0, false, bits)
    }
}

impl<'s> Stage<'s> {
    /// A plain write: sees the newest state, is validated, cannot conflict.
    pub(super) fn plain(state: &'s State, now: Micros) -> Self {
        Stage { state, snapshot: None, stamp: state.next_ts(now), validate: true, touched: Vec::new() }
    }

    /// A transaction: sees `snapshot`, conflicts with whatever was committed since, bypasses validators.
    pub(super) fn transaction(state: &'s State, snapshot: Ts, now: Micros) -> Self {
        Stage { state, snapshot: Some(snapshot), stamp: state.next_ts(now), validate: false, touched: Vec::new() }
    }

    /// The document as this stage sees it.
    pub(super) fn get(&mut self, ns: &Ns, key: &Key) -> Option<Doc> {
        let at = self.at(ns);
        self.look(at, key).doc
    }

    /// The place of a namespace in `touched`.
    fn at(&mut self, ns: &Ns) -> usize {
        if let Some(i) = self.touched.iter().position(|t| t.ns == *ns) {
            return i;
        }
        let state = self.state;
        self.touched.push(Touched {
            ns: ns.clone(),
            coll: state.colls.get(ns),
            is_view: state.views.contains(ns),
            changed: state.ddl.get(ns).copied(),
            docs: Vec::new(),
            unique: BTreeMap::new(),
            events: Vec::new(),
        });
        self.touched.len() - 1
    }

    fn look(&self, at: usize, key: &Key) -> Seen {
        let touched = &self.touched[at];
        let chain = touched.coll.and_then(|c| c.docs.get(key));
        let written = chain.map(Chain::written);
        if let Ok(i) = touched.find(key) {
            return Seen { doc: touched.docs[i].1.clone(), written };
        }
        let doc = chain.and_then(|c| self.snapshot.map_or_else(|| c.newest(), |ts| c.at(ts))).cloned();
        Seen { doc, written }
    }

    /// Inserts.
    ///
    /// # Errors
    /// A duplicate, a conflict, or a refusal.
    pub(super) fn insert(&mut self, ns: &Ns, doc: &RawDocumentBuf) -> Result<(), Reason> {
        let (key, doc) = stored(doc, Some(self.stamp), None).map_err(|e| Reason::Refused(e.to_string()))?;
        let at = self.at(ns);
        let seen = self.look(at, &key);
        self.writable(at, &key, seen.written)?;
        if seen.doc.is_some() {
            let message = format!("E11000 duplicate key error collection: {ns} index: _id_ dup key: {{ _id: {key} }}");
            return Err(Reason::DuplicateKey { key: Some(key), message });
        }
        self.store(at, key, Some(doc), ChangeKind::Insert, None)
    }

    /// Replaces, or inserts when `upsert`; answers how many documents that was.
    ///
    /// # Errors
    /// A duplicate in another index, a conflict, or a refusal.
    pub(super) fn replace(
        &mut self,
        ns: &Ns,
        key: &Key,
        only_if: Option<&Expect>,
        doc: &RawDocumentBuf,
        upsert: bool,
        bytes: bool,
    ) -> Result<u64, Reason> {
        let (own, doc) =
            stored(doc, (!bytes).then_some(self.stamp), Some(key)).map_err(|e| Reason::Refused(e.to_string()))?;
        if own != *key {
            return Err(Reason::Refused(format!("the replacement of {key} in {ns} has the _id {own}")));
        }
        let at = self.at(ns);
        self.no_view(at)?;
        let seen = self.look(at, key);
        let kind = match &seen.doc {
            Some(old) if !holds(only_if, old) => return Ok(0),
            // An equal document is no write: no version, no event, no conflict.
            Some(old) if *old == doc => return Ok(1),
            Some(_) => ChangeKind::Replace,
            None if upsert && only_if.is_none() => ChangeKind::Insert,
            None => return Ok(0),
        };
        self.writable(at, key, seen.written)?;
        self.store(at, own, Some(doc), kind, seen.doc)?;
        Ok(1)
    }

    /// Deletes; answers how many documents that was.
    ///
    /// # Errors
    /// A conflict or a refusal.
    pub(super) fn delete(&mut self, ns: &Ns, key: &Key, only_if: Option<&Expect>) -> Result<u64, Reason> {
        let at = self.at(ns);
        self.no_view(at)?;
        let seen = self.look(at, key);
        let Some(old) = seen.doc.filter(|old| holds(only_if, old)) else { return Ok(0) };
        self.writable(at, key, seen.written)?;
        // The event carries the `_id` as it was stored; its numeric type may differ from that of the key asked for.
        let stored = Key::of(&old).unwrap_or_else(|_| key.clone());
        self.store(at, stored, None, ChangeKind::Delete, Some(old))?;
        Ok(1)
    }

    fn no_view(&self, at: usize) -> Result<(), Reason> {
        let Touched { ns, is_view, .. } = &self.touched[at];
        if *is_view {
            return Err(Reason::Refused(format!("{ns} is a view, not a collection (166)")));
        }
        Ok(())
    }

    /// First committer wins: nobody else may have written here since the snapshot.
    fn writable(&self, at: usize, key: &Key, written: Option<Ts>) -> Result<(), Reason> {
        self.no_view(at)?;
        let Some(snapshot) = self.snapshot else { return Ok(()) };
        let Touched { ns, changed, .. } = &self.touched[at];
        if changed.is_some_and(|ts| ts > snapshot) {
            return Err(Reason::Conflict(format!("{ns} was changed since the transaction began (246)")));
        }
        if written.is_some_and(|ts| ts > snapshot) {
            return Err(Reason::Conflict(format!("{key} in {ns} was written since the transaction began (112)")));
        }
        Ok(())
    }

    /// `old` is the document that this stage saw there.
    fn store(
        &mut self,
        at: usize,
        key: Key,
        doc: Option<Doc>,
        kind: ChangeKind,
        old: Option<Doc>,
    ) -> Result<(), Reason> {
        let Touched { ns, coll, .. } = &self.touched[at];
        if let (true, Some(doc), Some(coll)) = (self.validate, &doc, coll)
            && let Some(filter) = coll.rules.refuse(doc, old.as_deref())
        {
            return Err(Reason::Refused(format!(
                "document failed validation in {ns} (121): {key} does not satisfy {filter}"
            )));
        }
        let mut entries = Vec::new();
        for (i, index) in coll.iter().flat_map(|c| c.indexes.iter().enumerate()) {
            let Some(taken) = &index.entries else { continue };
            let left = old.as_ref().map(|d| index_entry(&index.spec.keys, d));
            let Some(entry) = doc.as_ref().map(|d| index_entry(&index.spec.keys, d)) else {
                entries.extend(left.map(|l| ((i, l), None)));
                continue;
            };
            let holder = match self.touched[at].unique.get(&(i, entry.clone())) {
                Some(changed) => changed.clone(),
                None => taken.get(&entry).cloned(),
            };
            if let Some(holder) = holder.filter(|h| *h != key) {
                self.writable(at, &holder, self.look(at, &holder).written)?;
                let message = format!("E11000 duplicate key error collection: {ns} index: {}", index.spec.name);
                return Err(Reason::DuplicateKey { key: Some(key), message });
            }
            entries.extend(left.filter(|l| *l != entry).map(|l| ((i, l), None)));
            entries.push(((i, entry), Some(key.clone())));
        }
        let touched = &mut self.touched[at];
        touched.unique.extend(entries);
        touched.events.push(Event { ts: 0, key: Some(key.clone()), kind, session: None });
        touched.put(key, doc);
        Ok(())
    }

    /// What to commit.
    pub(super) fn finish(mut self) -> Staged {
        self.touched.retain(|t| !t.docs.is_empty());
        self.touched.sort_by(|a, b| a.ns.cmp(&b.ns));
        Staged(self.touched.into_iter().map(|t| Writes { ns: t.ns, docs: t.docs, events: t.events }).collect())
    }
}

/// As the server compares: numbers by value, a missing field as null.
fn holds(only_if: Option<&Expect>, doc: &RawDocument) -> bool {
    let Some(expect) = only_if else { return true };
    // What is compared as a rule: a revision, an epoch.
    if let bson::Bson::Int64(want) = &expect.value
        && let Some(have) = field(doc.as_bytes(), expect.field).and_then(|f| f.int64())
    {
        return *want == have;
    }
    let Ok(want) = bson::RawBson::try_from(expect.value.clone()) else { return false };
    let have = lookup(doc, expect.field).unwrap_or(bson::RawBsonRef::Null);
    comparable(have) == comparable(want.as_raw_bson_ref())
}
