//! A write in the making: statements evaluated against a snapshot and against each other, then committed as one or not at all.

use std::collections::BTreeMap;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::config::Config;
use super::state::{Event, State};
use super::store::{Chain, Ts, comparable, index_entry, lookup, stored};
use crate::cluster::{ChangeKind, Doc, Expect, Key, Ns, Reason, SessionId};
use crate::runtime::Micros;

#[derive(Default)]
struct Touched {
    docs: BTreeMap<Key, Option<Doc>>,
    /// Entries taken (by whom) or given up, by index and value.
    unique: BTreeMap<(usize, Vec<u8>), Option<Key>>,
    events: Vec<Event>,
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
    touched: BTreeMap<Ns, Touched>,
}

/// What a stage wants committed.
pub(super) struct Staged {
    writes: Vec<(Ns, Key, Option<Doc>)>,
    events: Vec<(Ns, Vec<Event>)>,
}

impl Staged {
    /// True when there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn commit(
        mut self,
        state: &mut State,
        config: &Config,
        now: Micros,
        session: Option<SessionId>,
        bits: u64,
    ) -> Ts {
        for (_, events) in &mut self.events {
            for e in events {
                e.session = session;
            }
        }
        state.commit(config, now, self.writes, self.events, false, bits)
    }
}

impl<'s> Stage<'s> {
    /// A plain write: sees the newest state, is validated, cannot conflict.
    pub(super) fn plain(state: &'s State, now: Micros) -> Self {
        Stage { state, snapshot: None, stamp: state.next_ts(now), validate: true, touched: BTreeMap::new() }
    }

    /// A transaction: sees `snapshot`, conflicts with whatever was committed since, bypasses validators.
    pub(super) fn transaction(state: &'s State, snapshot: Ts, now: Micros) -> Self {
        Stage { state, snapshot: Some(snapshot), stamp: state.next_ts(now), validate: false, touched: BTreeMap::new() }
    }

    /// The document as this stage sees it.
    pub(super) fn get(&self, ns: &Ns, key: &Key) -> Option<Doc> {
        self.look(ns, key).doc
    }

    fn look(&self, ns: &Ns, key: &Key) -> Seen {
        let chain = self.state.colls.get(ns).and_then(|c| c.docs.get(key));
        let written = chain.map(Chain::written);
        if let Some(doc) = self.touched.get(ns).and_then(|t| t.docs.get(key)) {
            return Seen { doc: doc.clone(), written };
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
        let seen = self.look(ns, &key);
        self.writable(ns, &key, seen.written)?;
        if seen.doc.is_some() {
            let message = format!("E11000 duplicate key error collection: {ns} index: _id_ dup key: {{ _id: {key} }}");
            return Err(Reason::DuplicateKey { key: Some(key), message });
        }
        self.store(ns, key, Some(doc), ChangeKind::Insert, None)
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
        self.no_view(ns)?;
        let seen = self.look(ns, key);
        let kind = match &seen.doc {
            Some(old) if !holds(only_if, old) => return Ok(0),
            // An equal document is no write: no version, no event, no conflict.
            Some(old) if *old == doc => return Ok(1),
            Some(_) => ChangeKind::Replace,
            None if upsert && only_if.is_none() => ChangeKind::Insert,
            None => return Ok(0),
        };
        self.writable(ns, key, seen.written)?;
        self.store(ns, own, Some(doc), kind, seen.doc)?;
        Ok(1)
    }

    /// Deletes; answers how many documents that was.
    ///
    /// # Errors
    /// A conflict or a refusal.
    pub(super) fn delete(&mut self, ns: &Ns, key: &Key, only_if: Option<&Expect>) -> Result<u64, Reason> {
        self.no_view(ns)?;
        let seen = self.look(ns, key);
        let Some(old) = seen.doc.filter(|old| holds(only_if, old)) else { return Ok(0) };
        self.writable(ns, key, seen.written)?;
        // The event carries the `_id` as it was stored; its numeric type may differ from that of the key asked for.
        let stored = Key::of(&old).unwrap_or_else(|_| key.clone());
        self.store(ns, stored, None, ChangeKind::Delete, Some(old))?;
        Ok(1)
    }

    fn no_view(&self, ns: &Ns) -> Result<(), Reason> {
        if self.state.views.contains(ns) {
            return Err(Reason::Refused(format!("{ns} is a view, not a collection (166)")));
        }
        Ok(())
    }

    /// First committer wins: nobody else may have written here since the snapshot.
    fn writable(&self, ns: &Ns, key: &Key, written: Option<Ts>) -> Result<(), Reason> {
        self.no_view(ns)?;
        let Some(snapshot) = self.snapshot else { return Ok(()) };
        if self.state.ddl.get(ns).is_some_and(|ts| *ts > snapshot) {
            return Err(Reason::Conflict(format!("{ns} was changed since the transaction began (246)")));
        }
        if written.is_some_and(|ts| ts > snapshot) {
            return Err(Reason::Conflict(format!("{key} in {ns} was written since the transaction began (112)")));
        }
        Ok(())
    }

    /// `old` is the document that this stage saw there.
    fn store(&mut self, ns: &Ns, key: Key, doc: Option<Doc>, kind: ChangeKind, old: Option<Doc>) -> Result<(), Reason> {
        let coll = self.state.colls.get(ns);
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
            let holder = match self.touched.get(ns).and_then(|t| t.unique.get(&(i, entry.clone()))) {
                Some(changed) => changed.clone(),
                None => taken.get(&entry).cloned(),
            };
            if let Some(holder) = holder.filter(|h| *h != key) {
                self.writable(ns, &holder, self.look(ns, &holder).written)?;
                let message = format!("E11000 duplicate key error collection: {ns} index: {}", index.spec.name);
                return Err(Reason::DuplicateKey { key: Some(key), message });
            }
            entries.extend(left.filter(|l| *l != entry).map(|l| ((i, l), None)));
            entries.push(((i, entry), Some(key.clone())));
        }
        if !self.touched.contains_key(ns) {
            self.touched.insert(ns.clone(), Touched::default());
        }
        if let Some(touched) = self.touched.get_mut(ns) {
            touched.unique.extend(entries);
            touched.events.push(Event { ts: 0, key: Some(key.clone()), kind, session: None });
            touched.docs.insert(key, doc);
        }
        Ok(())
    }

    /// What to commit.
    pub(super) fn finish(self) -> Staged {
        let (mut writes, mut events) = (Vec::new(), Vec::new());
        for (ns, t) in self.touched {
            writes.reserve(t.docs.len());
            writes.extend(t.docs.into_iter().map(|(key, doc)| (ns.clone(), key, doc)));
            events.push((ns, t.events));
        }
        Staged { writes, events }
    }
}

/// As the server compares: numbers by value, a missing field as null.
fn holds(only_if: Option<&Expect>, doc: &RawDocument) -> bool {
    let Some(expect) = only_if else { return true };
    // What is compared as a rule: a revision, an epoch.
    if let (bson::Bson::Int64(want), Some(RawBsonRef::Int64(have))) = (&expect.value, lookup(doc, expect.field)) {
        return *want == have;
    }
    let Ok(want) = bson::RawBson::try_from(expect.value.clone()) else { return false };
    let have = lookup(doc, expect.field).unwrap_or(bson::RawBsonRef::Null);
    comparable(have) == comparable(want.as_raw_bson_ref())
}
