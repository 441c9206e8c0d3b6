//! Random operation histories: the same seed gives the same operations anywhere, and every cluster must give the same transcript.

use bson::{RawBson, doc, rawdoc};
use tidegate::cluster::{IndexSpec, Reason};
use tidegate::runtime::keyed_hash;

use super::*;

struct Dice {
    seed: u64,
    n: u64,
}

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.n += 1;
        keyed_hash(self.seed, 0xD1CE, 0, self.n) % n
    }
}

fn outcome<T>(r: &Result<T, Failed>) -> String {
    match r {
        Ok(_) => "ok".into(),
        Err(Failed::Fenced { newer }) => format!("fenced by {newer}"),
        Err(Failed::Unknown(r)) => format!("unknown: {r}"),
        Err(Failed::NotDone(Reason::Conflict(_))) => "conflict".into(),
        Err(Failed::NotDone(Reason::DuplicateKey { .. })) => "duplicate".into(),
        Err(Failed::NotDone(Reason::Refused(_))) => "refused".into(),
        Err(Failed::NotDone(r)) => format!("not done: {r}"),
    }
}

/// A small world of keys, so that operations meet: numbers of three types, strings and sub-documents.
fn random_key(dice: &mut Dice) -> RawBson {
    let n = dice.below(6) as i32;
    match dice.below(6) {
        0 | 1 => RawBson::Int32(n),
        2 => RawBson::Double(f64::from(n)),
        3 => RawBson::Int64(n.into()),
        4 => RawBson::String(format!("k{n}")),
        _ => RawBson::Document(rawdoc! { "k": n % 3 }),
    }
}

/// A document as text; canonical extended JSON keeps numeric types apart.
fn show(doc: &RawDocument) -> String {
    bson::Document::try_from(doc)
        .map_or_else(|e| e.to_string(), |d| bson::Bson::Document(d).into_canonical_extjson().to_string())
}

/// Runs `ops` random operations and answers what an observer without a clock can tell: the results, the final documents and the
/// change events of both collections (with those of one transaction sorted by key).
///
/// # Errors
/// When an operation that must work does not.
pub async fn random_history(rt: Rt, db: Db, name: String, seed: u64, ops: usize) -> R<Vec<String>> {
    let env = Env { rt, db, name };
    let mut dice = Dice { seed, n: 0 };
    let colls = [env.ns("one"), env.ns("two")];
    for ns in &colls {
        env.admin(AdminOp::Create { ns: ns.clone() }).await?;
    }
    let index = IndexSpec { name: "by_u".into(), keys: doc! { "u": 1 }, unique: true, options: bson::Document::new() };
    env.admin(AdminOp::CreateIndex { ns: colls[1].clone(), index }).await?;
    let mut slot = env.open("w", 1).await?;
    let mut epoch = 1;
    let start = env.insert(&env.ns("start"), rawdoc! { "_id": 1 }).await?.at;
    let mut last = start;
    let mut out = Vec::new();
    // Versions, by collection and key: a compare-and-set needs a fair chance to hit.
    let mut version = 0i32;
    for step in 0..ops {
        let ns = colls[dice.below(2) as usize].clone();
        let fresh = |dice: &mut Dice, version: &mut i32| {
            *version += 1;
            let id = random_key(dice);
            // `u` repeats now and then, in different numeric types.
            let u = dice.below(40) as i32;
            let u = if dice.below(2) == 0 { RawBson::Int32(u) } else { RawBson::Double(u.into()) };
            rawdoc! { "_id": id, "v": *version, "w": *version % 3, "u": u }
        };
        let key_of = |d: &RawDocument| Key::of(d).map_err(|e| e.to_string());
        let line = match dice.below(16) {
            0..=2 => {
                let doc = fresh(&mut dice, &mut version);
                let r = env.db.write(&WriteOp::Insert { ns: ns.clone(), doc: doc.clone() }).await;
                last = r.as_ref().map_or(last, |w| w.at);
                format!("insert {ns} {}: {}", show(&doc), outcome(&r))
            }
            3..=5 => {
                let mut doc = fresh(&mut dice, &mut version);
                let key = key_of(&doc)?;
                // A replacement keeps the `_id` as it is stored, so that no server has to decide about its numeric type.
                if let Some(id) = env.get(&ns, &key, last).await?.and_then(|d| field(&d, "_id")) {
                    doc = with_id(&doc, id)?;
                }
                let only_if =
                    (dice.below(3) == 0).then(|| Expect { field: "w", value: bson::Bson::Int32(dice.below(3) as i32) });
                let upsert = only_if.is_none() && dice.below(2) == 0;
                let op = WriteOp::Replace { ns: ns.clone(), key, only_if: only_if.clone(), doc: doc.clone(), upsert };
                let r = env.db.write(&op).await;
                last = r.as_ref().map_or(last, |w| w.at);
                let matched = r.as_ref().ok().map(|w| w.matched);
                let want = only_if.map(|e| e.value);
                format!("replace {ns} {} if {want:?} upsert {upsert}: {} {matched:?}", show(&doc), outcome(&r))
            }
            6 | 7 => {
                let key = key(random_key(&mut dice))?;
                let only_if = (dice.below(2) == 0)
                    .then(|| Expect { field: "w", value: bson::Bson::Double(dice.below(3) as f64) });
                let want = only_if.clone().map(|e| e.value);
                let r = env.db.write(&WriteOp::Delete { ns: ns.clone(), key: key.clone(), only_if }).await;
                last = r.as_ref().map_or(last, |w| w.at);
                let matched = r.as_ref().ok().map(|w| w.matched);
                format!("delete {ns} {key} if {want:?}: {} {matched:?}", outcome(&r))
            }
            8..=11 => {
                let mut txn = Vec::new();
                let mut told = Vec::new();
                for _ in 0..=dice.below(3) {
                    let ns = colls[dice.below(2) as usize].clone();
                    match dice.below(4) {
                        3 => {
                            // Only where no unique index could object as well.
                            let (ns, key) = (colls[0].clone(), key(random_key(&mut dice))?);
                            let Some(is) = env.get(&ns, &key, last).await? else { continue };
                            let id = field(&is, "_id").ok_or("no _id")?;
                            let fits = dice.below(4) > 0;
                            let was = if fits { is } else { with_id(&fresh(&mut dice, &mut version), id.clone())? };
                            let doc = with_id(&fresh(&mut dice, &mut version), id)?;
                            told.push(format!("swap {ns} {} fits {fits}", show(&doc)));
                            let key = Key::of(&was).map_err(|e| e.to_string())?;
                            txn.push(TxnOp::Expect { ns: ns.clone(), key, doc: Some(was.into()) });
                            txn.push(TxnOp::Put { ns, doc });
                        }
                        0 => {
                            let keys = vec![key(random_key(&mut dice))?, key(random_key(&mut dice))?];
                            told.push(format!("delete {ns} {keys:?}"));
                            txn.push(TxnOp::Delete { ns, keys });
                        }
                        1 => {
                            let docs: Vec<_> = (0..=dice.below(2)).map(|_| fresh(&mut dice, &mut version)).collect();
                            told.push(format!("insert {ns} {:?}", docs.iter().map(|d| show(d)).collect::<Vec<_>>()));
                            txn.push(TxnOp::Insert { ns, docs });
                        }
                        _ => {
                            // Puts use string keys: their type never differs from the stored one.
                            let doc = with_id(
                                &fresh(&mut dice, &mut version),
                                RawBson::String(format!("k{}", dice.below(6))),
                            )?;
                            told.push(format!("put {ns} {}", show(&doc)));
                            txn.push(TxnOp::Put { ns, doc });
                        }
                    }
                }
                let mut fence = env.fence("w", &slot);
                fence.checkpoint = (dice.below(2) == 0).then(|| rawdoc! { "step": step as i64 });
                match dice.below(8) {
                    0 => fence.seq -= 1,
                    1 => fence.epoch -= 1,
                    _ => {}
                }
                let r = env.db.transact(&fence, &txn).await;
                if let Ok(done) = &r {
                    slot.seq += 1;
                    last = done.at;
                }
                format!("transaction {told:?}: {}", outcome(&r))
            }
            12 => {
                if dice.below(2) == 0 {
                    slot = env.bump("w", epoch).await?;
                } else {
                    epoch += 1;
                    env.admin(AdminOp::BumpAll { rollout: env.name.clone(), epoch }).await?;
                    slot = env.open("w", epoch).await?;
                }
                format!("slot at epoch {epoch}, checkpoint {:?}", slot.checkpoint.as_deref().map(show))
            }
            13 => {
                let keys: Vec<Key> = (0..3).map(|_| key(random_key(&mut dice))).collect::<R<_>>()?;
                let read = text(env.db.read(&ns, &keys, last).await)?;
                let docs: Vec<_> = read.docs.iter().map(|d| d.as_deref().map(show)).collect();
                format!("read {ns} {keys:?}: {docs:?}")
            }
            14 => {
                let from = key(random_key(&mut dice))?;
                let page = env.page(&ns, Some(&from), docs(1 + dice.below(4) as usize), last).await?;
                let docs: Vec<_> = page.docs.iter().map(|(_, d)| show(d)).collect();
                format!("scan {ns} after {from}: {docs:?} end {}", page.end)
            }
            _ => {
                let done = slot_done(&mut slot, &env, epoch).await?;
                format!("the last transaction is told apart: {done}")
            }
        };
        out.push(format!("{step} {}", line.replace(&format!("{}.", env.name), "")));
    }
    let end = env.insert(&env.ns("start"), rawdoc! { "_id": 2 }).await?.at;
    for ns in &colls {
        for (_, d) in env.all(ns, 7, end).await? {
            out.push(format!("left in {}: {}", ns.coll, show(&d)));
        }
        let mut stream = env.stream_after(ns, start).await?;
        let (mut events, _) = env.until(&mut *stream, end).await?;
        events.sort_by(|a, b| (a.at, &a.key).cmp(&(b.at, &b.key)));
        for e in events {
            let key = e.key.as_ref().map_or("?".into(), Key::to_string);
            out.push(format!("event in {}: {} {key}, ours {}", ns.coll, word(e.kind), e.session.is_some()));
        }
    }
    Ok(out)
}

/// Bumps the slot and says whether the newest sequence number was set by a transaction.
async fn slot_done(slot: &mut SlotState, env: &Env, epoch: i64) -> R<bool> {
    let before = slot.seq;
    *slot = env.bump("w", epoch).await?;
    Ok(slot.done == before)
}

/// The document under another `_id`.
fn with_id(doc: &RawDocument, id: RawBson) -> R<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    out.append(bson::cstr!("_id"), id);
    for item in doc {
        let (name, v) = item.map_err(|e| e.to_string())?;
        if name.as_str() != "_id" {
            out.append(name, v);
        }
    }
    Ok(out)
}
