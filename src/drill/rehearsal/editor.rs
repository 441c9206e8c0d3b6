//! An application that knows nothing of the documents but that they can have one field more: it edits, deletes and inserts them again
//! through the route, and remembers what each must be.
//!
//! Unlike the simulated application it makes next's documents with the plan's own steps, for it has no other knowledge of the shapes:
//! a rehearsal shows that documents and edits survive, not that the steps are what the team wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::raw::CStr;
use bson::{RawDocument, RawDocumentBuf};

use super::Cast;
use super::judge::how;
use crate::cluster::{ClusterTime, Db, Failed, Key, Ns, WriteOp};
use crate::route::{OpKind, RouteClient, Side, WritePermit, bucket_of};
use crate::runtime::{Group, Micros, Rt, sleep};
use crate::transform::Transform;

/// The field that an edit sets.
const FIELD: &CStr = bson::cstr!("tidegate_rehearsal");
/// Draw stream of the editor.
const STREAM: u32 = 0x7265_6865;
/// How often a write that was not made is tried again.
const TRIES: u64 = 20;

/// The document with the field set to `n`, at its end.
fn edited(doc: &RawDocument, n: i64) -> Option<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    for field in doc {
        let (name, value) = field.ok()?;
        if name != FIELD {
            out.append(name, value);
        }
    }
    out.append(FIELD, n);
    Some(out)
}

/// True when an edit of the document is carried there and comes back.
pub(super) fn survives(transform: &Transform, doc: &RawDocument) -> bool {
    let made = |d: &RawDocument| transform.apply(d).ok();
    let Some(legacy) = edited(doc, 1) else { return false };
    let Some(next) = made(doc).and_then(|n| edited(&n, 1)) else { return false };
    let back = || transform.invert(&next).is_ok_and(|b| transform.same(&b, &legacy));
    made(&legacy).is_some() && (transform.is_lossy() || back())
}

/// What the editor knows.
pub(super) struct State {
    /// Every document as legacy would hold it.
    pub(super) expected: BTreeMap<Key, RawDocumentBuf>,
    /// Deleted ones, to be inserted again.
    deleted: BTreeMap<Key, RawDocumentBuf>,
    /// Edited while next owned them, at least once.
    on_next: BTreeSet<Key>,
    /// Acknowledged writes, by side.
    pub(super) edits: [u64; 2],
    /// What went wrong first.
    pub(super) failure: Option<String>,
    seen: [ClusterTime; 2],
    ended: bool,
}

impl State {
    /// Before the first edit.
    pub(super) fn untouched(cast: &Cast) -> State {
        State {
            expected: cast.documents.clone(),
            deleted: BTreeMap::new(),
            on_next: BTreeSet::new(),
            edits: [0; 2],
            failure: None,
            seen: [ClusterTime::ZERO; 2],
            ended: false,
        }
    }

    /// A lossy step may have taken something from it: it was edited where that is not.
    pub(super) fn may_have_lost(&self, transform: &Transform, key: &Key) -> bool {
        transform.is_lossy() && self.on_next.contains(key)
    }
}

/// The editor at work.
#[derive(Clone)]
pub(super) struct Editor {
    rt: Rt,
    clusters: [Db; 2],
    transform: Arc<Transform>,
    client: RouteClient,
    keys: Arc<Vec<Key>>,
    state: Arc<Mutex<State>>,
}

impl Editor {
    /// Begins to edit in `group`; without documents to edit it follows the route all the same.
    pub(super) fn start(
        rt: &Rt,
        group: Group,
        clusters: [Db; 2],
        (plan, legacy): (&str, &Ns),
        transform: &Transform,
        cast: &Cast,
        edits_per_s: u32,
    ) -> Editor {
        let client = RouteClient::new(rt.clone(), clusters[0].clone(), plan, "rehearsal", legacy.clone());
        client.report(|r| r.has_oracle = true);
        client.start(group);
        let editor = Editor {
            rt: rt.clone(),
            clusters,
            transform: Arc::new(transform.clone()),
            client,
            keys: Arc::new(cast.editable.clone()),
            state: Arc::new(Mutex::new(State::untouched(cast))),
        };
        let me = editor.clone();
        rt.spawn(group, "rehearsal editor", Box::pin(async move { me.run(edits_per_s).await }));
        editor
    }

    /// What it knows now.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends, once what is under way is settled.
    pub(super) async fn stop(&self) {
        self.client.stop().await;
        while !self.state().ended {
            sleep(&self.rt, Micros::from_ms(20)).await;
        }
    }

    async fn run(&self, edits_per_s: u32) {
        let every = Micros(1_000_000 / u64::from(edits_per_s.max(1)));
        for n in 1.. {
            sleep(&self.rt, every).await;
            if self.client.is_stopping() || !self.edit(n).await {
                break;
            }
        }
        self.state().ended = true;
    }

    /// One write of a document drawn at random. False once the client is stopping.
    async fn edit(&self, n: u64) -> bool {
        if self.keys.is_empty() {
            return true;
        }
        let draw = |k| self.rt.draw(STREAM, k, n);
        let key = &self.keys[(draw(0) % self.keys.len() as u64) as usize];
        // Only documents that have a bucket take part.
        let Ok(bucket) = bucket_of(key) else { return true };
        let began = self.rt.now();
        let Some(permit) = self.client.permit(&(key, bucket)).await else { return false };
        let done = self.write(&permit, key, n as i64, draw(1).is_multiple_of(8)).await;
        let (took, side) = (self.rt.now().since(began), permit.side);
        self.client.report(|r| match &done {
            Ok(()) => {
                r.latency(OpKind::Write, side, took);
                r.totals.acknowledged += 1;
            }
            Err(_) => r.error(OpKind::Write, side),
        });
        if let Err(why) = done {
            self.state().failure.get_or_insert_with(|| format!("_id {key} on {}: {why}", side.name()));
        }
        true
    }

    async fn write(&self, permit: &WritePermit, key: &Key, n: i64, delete: bool) -> Result<(), String> {
        let (side, ns) = (permit.side, permit.ns.clone());
        let there = self.read(side, &ns, key).await?;
        let expected = self.state().expected.get(key).cloned();
        let (op, becomes) = match (there, expected) {
            (Some(found), Some(expected)) => {
                self.is_as_expected(side, key, &found, &expected)?;
                if delete {
                    (WriteOp::Delete { ns, key: key.clone(), only_if: None }, None)
                } else {
                    let new = |d: &RawDocument| edited(d, n).ok_or("it is not valid BSON");
                    let (doc, becomes) = (new(&found)?, new(&expected)?);
                    (WriteOp::Replace { ns, key: key.clone(), only_if: None, doc, upsert: false }, Some(becomes))
                }
            }
            (None, None) => {
                let Some(old) = self.state().deleted.get(key).cloned() else { return Ok(()) };
                let doc = match side {
                    Side::Legacy => old.clone(),
                    Side::Next => self.transform.apply(&old).map_err(|e| e.to_string())?,
                };
                (WriteOp::Insert { ns, doc }, Some(old))
            }
            (Some(_), None) => return Err("it was deleted and is there".into()),
            (None, Some(_)) => return Err("it is not there".into()),
        };
        self.send(side, &op).await?;
        let mut state = self.state();
        state.edits[side as usize] += 1;
        if side == Side::Next {
            state.on_next.insert(key.clone());
        }
        match becomes {
            Some(doc) => drop(state.expected.insert(key.clone(), doc)),
            None => {
                let old = state.expected.remove(key);
                state.deleted.extend(old.map(|d| (key.clone(), d)));
            }
        }
        Ok(())
    }

    /// The owner's document must be what was last written.
    fn is_as_expected(&self, side: Side, key: &Key, found: &RawDocument, expected: &RawDocument) -> Result<(), String> {
        let may_have_lost = self.state().may_have_lost(&self.transform, key);
        let how = how(&self.transform, expected, found, side, may_have_lost);
        how.map(drop).map_err(|why| format!("it is not what was written last: it {why}"))
    }

    async fn read(&self, side: Side, ns: &Ns, key: &Key) -> Result<Option<RawDocumentBuf>, String> {
        let after = self.state().seen[side as usize];
        for n in 0..TRIES {
            match self.clusters[side as usize].read(ns, std::slice::from_ref(key), after).await {
                Ok(read) => return Ok(read.docs.into_iter().next().flatten().map(|d| (*d).to_owned())),
                Err(e) if e.is_transient() => sleep(&self.rt, Micros::from_ms(50 * (n + 1))).await,
                Err(e) => return Err(e.to_string()),
            }
        }
        Err("it could not be read".into())
    }

    async fn send(&self, side: Side, op: &WriteOp) -> Result<(), String> {
        for n in 0..TRIES {
            match self.clusters[side as usize].write(op).await {
                Ok(written) => {
                    let mut state = self.state();
                    let seen = &mut state.seen[side as usize];
                    *seen = (*seen).max(written.at);
                    return if written.matched == 1 { Ok(()) } else { Err("the write found no document".into()) };
                }
                Err(Failed::NotDone(why)) if why.is_transient() => {
                    sleep(&self.rt, Micros::from_ms(50 * (n + 1))).await;
                }
                Err(e) => return Err(format!("the write was refused: {e}")),
            }
        }
        Err("the write could not be made".into())
    }
}
