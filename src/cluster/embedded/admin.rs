//! Work that is not document traffic: slots, collections, indexes, validators, renames and views.

use std::sync::Arc;

use bson::{RawBson, RawBsonRef, doc};

use super::Core;
use super::faults::OpKind;
use super::ops::{Fate, OnItsWay};
use super::slots::{self, fences, parse_slot, session_doc, slot_doc};
use super::stage::Stage;
use super::state::State;
use super::store::{Coll, Index, Ts, comparable, lookup};
use super::validator::Rules;
use crate::cluster::survey::Explained;
use crate::cluster::{
    AdminDone, AdminOp, CollKind, Doc, Failed, HOLDERS_MAX, Held, IndexSpec, Key, Ns, Reason, SessionId, SlotState,
    Validation,
};
use crate::runtime::{Micros, sleep};

type Applied = Result<(AdminDone, Option<Ts>), Failed>;

/// By the first index that begins with a field of the query, as a server might. Of `$or` and its like nothing is known.
fn explained(s: &State, ns: &Ns, filter: &bson::Document) -> Explained {
    let serves = |i: &IndexSpec| i.keys.keys().next().is_some_and(|k| filter.contains_key(k));
    let index = indexes(s, ns).into_iter().find(serves).map(|i| i.name);
    let plain = !filter.keys().any(|k| k.starts_with('$'));
    Explained { scans: plain && index.is_none(), indexes: index.into_iter().collect() }
}

fn refused(message: String) -> Failed {
    Failed::NotDone(Reason::Refused(message))
}

impl Core {
    pub(super) async fn admin(self: &Arc<Self>, op: &AdminOp) -> Result<AdminDone, Failed> {
        let fences = fences();
        let (ns, per) = match op {
            AdminOp::OpenSlot { .. }
            | AdminOp::BumpSlot { .. }
            | AdminOp::BumpAll { .. }
            | AdminOp::Sessions { .. }
            | AdminOp::Load => (&fences, 0),
            // Building an index reads every document.
            AdminOp::CreateIndex { ns, .. } => {
                (ns, 2_000 * self.with(|s, _| s.colls.get(ns).map_or(0, |c| c.live)) as u64)
            }
            AdminOp::Create { ns }
            | AdminOp::Indexes { ns }
            | AdminOp::SetExpiry { ns, .. }
            | AdminOp::Holders { ns, .. }
            | AdminOp::DropIndex { ns, .. }
            | AdminOp::SetValidator { ns, .. }
            | AdminOp::Validation { ns }
            | AdminOp::SetValidation { ns, .. }
            | AdminOp::Rename { from: ns, .. }
            | AdminOp::CreateEmptyView { ns, .. }
            | AdminOp::Kind { ns }
            | AdminOp::Explain { ns, .. }
            | AdminOp::Count { ns }
            | AdminOp::Latency { ns }
            | AdminOp::Building { ns }
            | AdminOp::Drop { ns } => (ns, 0),
        };
        // What a server says about itself.
        let looks = matches!(op, AdminOp::Load | AdminOp::Latency { .. } | AdminOp::Building { .. });
        let kind = if looks { OpKind::Observe } else { OpKind::Admin };
        let plan = self.begin(kind, ns, per).await?;
        let deadline = self.rt.now() + self.config.majority_timeout;
        let reads = looks
            || matches!(
                op,
                AdminOp::Sessions { .. }
                    | AdminOp::Indexes { .. }
                    | AdminOp::Holders { .. }
                    | AdminOp::Kind { .. }
                    | AdminOp::Explain { .. }
                    | AdminOp::Count { .. }
                    | AdminOp::Validation { .. }
            );
        let late = || {
            let (op, bits) = (op.clone(), plan.bits);
            self.land_late(&plan, "late admin", move |core, s, now| {
                core.apply_admin(s, now, &op, bits).is_ok_and(|(_, ts)| ts.is_some())
            });
        };
        let sent = OnItsWay::new(|| {
            if plan.survives() && !reads {
                late()
            }
        });
        sleep(&self.rt, plan.before).await;
        sent.arrived();
        let lands = self.arrives(plan.bits)?;
        match plan.fate {
            Fate::Late if lands && !reads => {
                late();
                return Err(self.lost(&plan).await);
            }
            Fate::Never | Fate::Late => return Err(self.lost(&plan).await),
            _ if !lands => return Err(self.lost(&plan).await),
            _ => {}
        }
        let (applied, newest, term) =
            self.with(|s, now| (self.apply_admin(s, now, op, plan.bits), s.newest(), s.term()));
        match applied {
            Ok((done, _)) if looks => {
                self.answer(&plan).await?;
                Ok(done)
            }
            Ok((done, ts)) => {
                self.acknowledge(ts.unwrap_or(newest), term, deadline, &plan).await?;
                Ok(done)
            }
            Err(failed) => {
                self.answer(&plan).await?;
                Err(failed)
            }
        }
    }

    fn apply_admin(&self, s: &mut State, now: Micros, op: &AdminOp, bits: u64) -> Applied {
        let done = |ts| Ok((AdminDone::Done, ts));
        match op {
            AdminOp::OpenSlot { slot, epoch } => self.move_slot(s, now, slot, *epoch, true, bits),
            AdminOp::BumpSlot { slot, epoch } => self.move_slot(s, now, slot, *epoch, false, bits),
            AdminOp::BumpAll { rollout, epoch } => self.bump_all(s, now, rollout, *epoch, bits),
            AdminOp::Sessions { rollout } => Ok((AdminDone::Sessions(sessions_of(s, rollout)), None)),
            AdminOp::Kind { ns } => Ok((AdminDone::Kind(kind(s, ns)), None)),
            AdminOp::Indexes { ns } => Ok((AdminDone::Indexes(indexes(s, ns)), None)),
            AdminOp::Load => Ok((AdminDone::Load(s.load(now)), None)),
            // An index is there at once.
            AdminOp::Building { .. } => Ok((AdminDone::Names(Vec::new()), None)),
            AdminOp::Latency { ns } => {
                let told = (!s.faults.tells_nothing).then(|| {
                    let entity = s.log(ns).entity;
                    s.busy.latency(entity)
                });
                Ok((AdminDone::Latency(told), None))
            }
            AdminOp::Explain { ns, filter } => Ok((AdminDone::Explained(explained(s, ns, filter)), None)),
            AdminOp::Count { ns } => Ok((AdminDone::Count(s.colls.get(ns).map_or(0, |c| c.live) as u64), None)),
            AdminOp::Create { ns } => match kind(s, ns) {
                CollKind::Absent => {
                    s.colls.insert(ns.clone(), Coll::default());
                    done(Some(s.commit_ddl(&self.config, now, &[ns], &[], bits)))
                }
                CollKind::Collection => done(None),
                _ => Err(refused(format!("{ns} is a view (48)"))),
            },
            AdminOp::CreateIndex { ns, index } => self.create_index(s, now, ns, index, bits),
            AdminOp::SetExpiry { ns, index, seconds } => {
                let found = s.colls.get_mut(ns).and_then(|c| c.indexes.iter_mut().find(|i| i.spec.name == *index));
                match found.and_then(|i| i.spec.expire_after.as_mut()) {
                    None => Err(refused(format!("{ns} has no TTL index {} (27)", crate::scrub::short(index, 80)))),
                    Some(now_set) if now_set == seconds => done(None),
                    Some(now_set) => {
                        *now_set = *seconds;
                        done(Some(s.commit_ddl(&self.config, now, &[ns], &[], bits)))
                    }
                }
            }
            AdminOp::Holders { ns, any } => Ok((AdminDone::Keys(holders(s, ns, any)), None)),
            AdminOp::DropIndex { name, .. } if name == "_id_" => Err(refused("cannot drop _id index (72)".into())),
            AdminOp::DropIndex { ns, name } => {
                let indexes = s.colls.get_mut(ns).map(|c| &mut c.indexes);
                let gone = indexes.is_some_and(|all| {
                    let before = all.len();
                    all.retain(|i| i.spec.name != *name);
                    all.len() < before
                });
                done(gone.then(|| s.commit_ddl(&self.config, now, &[ns], &[], bits)))
            }
            AdminOp::SetValidator { ns, validator } => {
                self.set_validation(s, now, ns, &Validation::strict(validator.clone()), bits)
            }
            AdminOp::SetValidation { ns, validation } => self.set_validation(s, now, ns, validation, bits),
            AdminOp::Validation { ns } => {
                let coll = s.colls.get(ns).ok_or_else(|| refused(format!("{ns} is not a collection")))?;
                Ok((AdminDone::Validation(coll.rules.as_set()), None))
            }
            AdminOp::Rename { from, to } => match (kind(s, from), kind(s, to)) {
                _ if from.db != to.db => Err(refused(format!("cannot rename {from} into another database: {to}"))),
                (CollKind::Absent, CollKind::Collection) => done(None),
                (CollKind::Collection, CollKind::Absent) => {
                    s.rename(from, to);
                    done(Some(s.commit_ddl(&self.config, now, &[from, to], &[from, to], bits)))
                }
                (CollKind::Absent, _) => Err(refused(format!("{from} does not exist (26)"))),
                _ => Err(refused(format!("cannot rename {from}: {to} exists (48)"))),
            },
            AdminOp::CreateEmptyView { ns, .. } => match kind(s, ns) {
                CollKind::View => done(None),
                CollKind::Absent => {
                    s.views.insert(ns.clone());
                    done(Some(s.commit_ddl(&self.config, now, &[ns], &[], bits)))
                }
                _ => Err(refused(format!("{ns} exists and is not a view (48)"))),
            },
            AdminOp::Drop { ns } => {
                let (coll, view) = (s.colls.remove(ns).is_some(), s.views.remove(ns));
                let gone: &[&Ns] = if coll { &[ns] } else { &[] };
                done((coll || view).then(|| s.commit_ddl(&self.config, now, &[ns], gone, bits)))
            }
        }
    }

    fn set_validation(&self, s: &mut State, now: Micros, ns: &Ns, v: &Validation, bits: u64) -> Applied {
        let rules = Rules::parse(v).map_err(refused)?;
        let coll = s.colls.get_mut(ns).ok_or_else(|| refused(format!("{ns} does not exist (26)")))?;
        coll.rules = rules;
        Ok((AdminDone::Done, Some(s.commit_ddl(&self.config, now, &[ns], &[], bits))))
    }

    fn create_index(&self, s: &mut State, now: Micros, ns: &Ns, index: &IndexSpec, bits: u64) -> Applied {
        if s.views.contains(ns) {
            return Err(refused(format!("{ns} is a view (166)")));
        }
        let coll = s.colls.get_or(ns, Coll::default);
        let named = coll.indexes.iter().find(|i| i.spec.name == index.name);
        if let Some(there) = named {
            return if there.spec == *index {
                Ok((AdminDone::Done, None))
            } else {
                Err(refused(format!("{ns} has another index called {} (86)", crate::scrub::short(&index.name, 80))))
            };
        }
        let entries = match index.unique.then(|| coll.build(&index.keys)).transpose() {
            Ok(entries) => entries,
            Err(key) => {
                let message = format!("E11000 duplicate key error collection: {ns} index: {}", index.name);
                return Err(Failed::NotDone(Reason::DuplicateKey { key: Some(key), message }));
            }
        };
        coll.indexes.push(Index { spec: index.clone(), entries });
        Ok((AdminDone::Done, Some(s.commit_ddl(&self.config, now, &[ns], &[], bits))))
    }

    fn move_slot(&self, s: &mut State, now: Micros, name: &str, epoch: i64, open: bool, bits: u64) -> Applied {
        let rollout = name.split_once('/').map_or(name, |(r, _)| r);
        if open && let Some(newer) = newest(&slots_of(s, rollout)).filter(|e| *e > epoch) {
            return Err(Failed::Fenced { newer });
        }
        let session = self.session(epoch, name);
        let mut stage = Stage::plain(s, now);
        let old = stage.get(&fences(), &Key::from(name)).and_then(|d| parse_slot(&d));
        let new = match old {
            Some(old) if old.epoch > epoch => return Err(Failed::Fenced { newer: old.epoch }),
            Some(old) if open => SlotState { session, epoch, seq: old.seq + 1, ..old },
            Some(old) => SlotState { epoch, seq: old.seq + 1, ..old },
            None if open => SlotState { session, epoch, seq: 1, done: 0, checkpoint: None },
            None => return Err(refused(format!("there is no slot {}", crate::scrub::short(name, 80)))),
        };
        self.store_slot(&mut stage, name, &new)?;
        if open {
            let doc = session_doc(new.session, name);
            let key = Key::of(&doc).map_err(|e| refused(e.to_string()))?;
            stage.replace(&slots::sessions(), &key, None, &doc, true, true).map_err(Failed::NotDone)?;
        }
        let ts = stage.finish().commit(s, &self.config, now, None, bits);
        Ok((AdminDone::Slot(new), Some(ts)))
    }

    fn store_slot(&self, stage: &mut Stage<'_>, name: &str, slot: &SlotState) -> Result<(), Failed> {
        let doc = slot_doc(name, slot);
        stage.replace(&fences(), &Key::from(name), None, &doc, true, true).map(drop).map_err(Failed::NotDone)
    }

    fn bump_all(&self, s: &mut State, now: Micros, rollout: &str, epoch: i64, bits: u64) -> Applied {
        let mut slots = slots_of(s, rollout);
        if let Some(newer) = newest(&slots).filter(|e| *e > epoch) {
            return Err(Failed::Fenced { newer });
        }
        // A slot that no worker uses keeps the epoch: an older runner must not open one that was not there to be bumped.
        let mark = format!("{rollout}/");
        if slots.iter().all(|(name, _)| *name != mark) {
            let state = SlotState { session: SessionId([0; 16]), epoch, seq: 0, done: 0, checkpoint: None };
            slots.push((mark, state));
        }
        let mut stage = Stage::plain(s, now);
        for (name, slot) in slots {
            self.store_slot(&mut stage, &name, &SlotState { epoch, seq: slot.seq + 1, ..slot })?;
        }
        let staged = stage.finish();
        let ts = (!staged.is_empty()).then(|| staged.commit(s, &self.config, now, None, bits));
        Ok((AdminDone::Done, ts))
    }

    /// The session of a slot under an epoch. Whoever opens it twice, or whose opening lands late, finds the one it has.
    fn session(&self, epoch: i64, slot: &str) -> SessionId {
        let n = epoch as u64;
        let entity =
            slot.bytes().fold(u64::from(self.config.id), |h, b| h.wrapping_mul(0x0100_0000_01B3) ^ u64::from(b));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.rt.draw(super::DRAWS + 1, entity, n).to_be_bytes());
        id[8..].copy_from_slice(&self.rt.draw(super::DRAWS + 2, entity, n).to_be_bytes());
        // Version 4, variant 1, as a real one.
        id[6] = id[6] & 0x0F | 0x40;
        id[8] = id[8] & 0x3F | 0x80;
        SessionId(id)
    }
}

/// The slots of a rollout.
fn slots_of(s: &State, rollout: &str) -> Vec<(String, SlotState)> {
    let prefix = format!("{rollout}/");
    let name = |k: &Key| match k.value() {
        RawBsonRef::String(name) if name.starts_with(&prefix) => Some(name.to_owned()),
        _ => None,
    };
    let docs = s.colls.get(&fences()).into_iter().flat_map(|c| &c.docs);
    docs.filter_map(|(k, c)| Some((name(k)?, parse_slot(c.newest()?)?))).collect()
}

fn newest(slots: &[(String, SlotState)]) -> Option<i64> {
    slots.iter().map(|(_, slot)| slot.epoch).max()
}

fn kind(s: &State, ns: &Ns) -> CollKind {
    if s.views.contains(ns) {
        CollKind::View
    } else if s.colls.contains_key(ns) {
        CollKind::Collection
    } else {
        CollKind::Absent
    }
}

fn indexes(s: &State, ns: &Ns) -> Vec<IndexSpec> {
    let Some(coll) = s.colls.get(ns) else { return Vec::new() };
    let id = IndexSpec { name: "_id_".into(), keys: doc! { "_id": 1 }, unique: true, ..IndexSpec::default() };
    std::iter::once(id).chain(coll.indexes.iter().map(|i| i.spec.clone())).collect()
}

/// Arrays are filed whole, as by the unique indexes of this model.
fn holders(s: &State, ns: &Ns, any: &[Held]) -> Vec<Key> {
    let entries = |held: &Held| -> Vec<(String, Vec<Vec<u8>>)> {
        let bytes = |all: &Vec<RawBson>| all.iter().map(|v| comparable(v.as_raw_bson_ref())).collect();
        held.iter().map(|(path, all)| (path.clone(), bytes(all))).collect()
    };
    let wanted: Vec<_> = any.iter().map(entries).collect();
    let holds = |doc: &Doc| {
        let at = |path: &str| comparable(lookup(doc, path).unwrap_or(RawBsonRef::Null));
        wanted.iter().any(|held| held.iter().all(|(path, all)| all.contains(&at(path))))
    };
    let docs = s.colls.get(ns).into_iter().flat_map(|c| &c.docs);
    docs.filter(|(_, c)| c.newest().is_some_and(holds)).map(|(k, _)| k.clone()).take(HOLDERS_MAX).collect()
}

fn sessions_of(s: &State, rollout: &str) -> Vec<SessionId> {
    let docs = s.colls.get(&slots::sessions()).into_iter().flat_map(|c| c.docs.values());
    docs.filter_map(|c| c.newest())
        .filter(|d| d.get_str("rollout").is_ok_and(|r| r == rollout))
        .filter_map(|d| slots::session_of(d.get("_id").ok().flatten()))
        .collect()
}
