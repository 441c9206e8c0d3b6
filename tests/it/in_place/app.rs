//! An application for a collection with both shapes in it: it reads either, writes the one it is told to, and remembers what was
//! acknowledged. It knows nothing of tidegate and shares no code with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bson::{Bson, Decimal128, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use tidegate::cluster::{ClusterTime, Db, Expect, Failed, Key, Ns, Reason, WriteOp};
use tidegate::runtime::{Group, Micros, Rt, keyed_hash, sleep};

/// An order as the application thinks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: i64,
    pub name: String,
    pub city: String,
    pub cents: i64,
    pub note: i64,
    pub rev: i64,
}

impl Order {
    pub fn initial(id: i64) -> Order {
        Order {
            id,
            name: format!("Cust {}", id % 97),
            city: format!("city {}", id % 7),
            cents: 100 + id * 13,
            note: 0,
            rev: 0,
        }
    }

    fn total(&self) -> String {
        format!("{}.{:02}", self.cents / 100, self.cents % 100)
    }

    pub fn legacy(&self) -> RawDocumentBuf {
        rawdoc! {
            "_id": self.id, "rev": self.rev, "customer": { "city": &*self.city, "name": &*self.name },
            "total": self.total(), "note": self.note,
        }
    }

    pub fn next(&self) -> RawDocumentBuf {
        let total: Decimal128 = self.total().parse().unwrap();
        rawdoc! {
            "_id": self.id, "rev": self.rev, "customer_name": &*self.name, "customer": { "city": &*self.city },
            "total": total, "note": self.note, "schema_version": 2,
        }
    }

    /// Reads either shape; anything else is an error.
    pub fn read(d: &RawDocument) -> Result<Order, String> {
        let bad = |e: bson::error::Error| format!("{e}: {d:?}");
        let int = |name| d.get_i64(name).map_err(bad);
        let customer = d.get_document("customer").map_err(bad)?;
        let is_next = d.get("schema_version").ok().flatten() == Some(RawBsonRef::Int32(2));
        let (name, total) = match (is_next, d.get("total").ok().flatten()) {
            (true, Some(RawBsonRef::Decimal128(t))) => (d.get_str("customer_name").map_err(bad)?, t.to_string()),
            (false, Some(RawBsonRef::String(t))) => (customer.get_str("name").map_err(bad)?, t.to_owned()),
            other => return Err(format!("neither shape, {other:?}: {d:?}")),
        };
        let (whole, part) = total.split_once('.').ok_or_else(|| total.clone())?;
        let cents = whole.parse::<i64>().and_then(|w| Ok(w * 100 + part.parse::<i64>()?)).map_err(|e| e.to_string())?;
        Ok(Order {
            id: int("_id")?,
            name: name.to_owned(),
            city: customer.get_str("city").map_err(bad)?.to_owned(),
            cents,
            note: int("note")?,
            rev: int("rev")?,
        })
    }
}

/// Which shape the application writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    Legacy = 0,
    Next = 1,
    Either = 2,
}

/// What is known of one key.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// As last acknowledged; `None` when it is not there.
    pub order: Option<Order>,
    /// The bytes acknowledged; `None` for one that was never written here.
    pub written: Option<RawDocumentBuf>,
    /// Writes of unknown outcome since.
    pending: Vec<Option<Order>>,
    pub edits: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub documents: i64,
    /// Only keys divisible by this are written.
    pub every: i64,
    /// Between two operations of a lane.
    pub pause: Micros,
    pub lanes: i64,
    /// Documents are inserted and deleted too.
    pub churn: bool,
}

pub struct App {
    rt: Rt,
    db: Db,
    ns: Ns,
    config: Config,
    writes: AtomicU8,
    stop: AtomicBool,
    running: AtomicU64,
    known: Mutex<BTreeMap<i64, Known>>,
    violations: Mutex<Vec<String>>,
}

impl App {
    pub fn new(rt: &Rt, db: Db, ns: &Ns, config: Config) -> Arc<App> {
        let first = |id| (id, Known { order: Some(Order::initial(id)), ..Known::default() });
        Arc::new(App {
            rt: rt.clone(),
            db,
            ns: ns.clone(),
            config,
            writes: AtomicU8::new(Writes::Either as u8),
            stop: AtomicBool::new(false),
            running: AtomicU64::new(0),
            known: Mutex::new((0..config.documents).map(first).collect()),
            violations: Mutex::default(),
        })
    }

    /// The documents before anything was written.
    pub fn documents(&self) -> Vec<RawDocumentBuf> {
        (0..self.config.documents).map(|id| Order::initial(id).legacy()).collect()
    }

    pub fn start(self: &Arc<App>, group: Group) {
        for lane in 0..self.config.lanes {
            self.running.fetch_add(1, Ordering::SeqCst);
            let app = self.clone();
            self.rt.spawn(group, "application", Box::pin(async move { app.lane(lane).await }));
        }
    }

    pub fn write(&self, writes: Writes) {
        self.writes.store(writes as u8, Ordering::SeqCst);
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn has_stopped(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }

    pub fn known(&self) -> BTreeMap<i64, Known> {
        self.known.lock().unwrap().clone()
    }

    /// How many keys were written at least once.
    pub fn edited(&self) -> usize {
        self.known.lock().unwrap().values().filter(|k| k.edits > 0).count()
    }

    pub fn violation(&self) -> Option<String> {
        self.violations.lock().unwrap().first().cloned()
    }

    /// The keys of a lane are its own: nobody else writes them but tidegate.
    async fn lane(&self, lane: i64) {
        let mut n = 0;
        let mut seen = ClusterTime::ZERO;
        let mut fresh = self.config.documents + lane;
        while !self.stop.load(Ordering::SeqCst) {
            sleep(&self.rt, self.config.pause).await;
            n += 1;
            let draw = |k: u64| keyed_hash(self.rt.draw(0xAB, lane as u64, n), 0xAB, 0, k) >> 8;
            let keys = self.config.documents / self.config.every / self.config.lanes;
            let id = ((draw(0) as i64 % keys.max(1)) * self.config.lanes + lane) * self.config.every;
            let outcome = match draw(1) % 10 {
                0 if self.config.churn => {
                    fresh += self.config.lanes;
                    self.insert(fresh, draw(2), &mut seen).await
                }
                1 if self.config.churn => self.change(id, None, draw(2), &mut seen).await,
                _ => self.change(id, Some(draw(3)), draw(2), &mut seen).await,
            };
            if let Err(v) = outcome {
                self.violations.lock().unwrap().push(v);
            }
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn shaped(&self, order: &Order, draw: u64) -> RawDocumentBuf {
        match self.writes.load(Ordering::SeqCst) {
            0 => order.legacy(),
            1 => order.next(),
            _ if draw & 1 == 0 => order.legacy(),
            _ => order.next(),
        }
    }

    fn acknowledged(&self, id: i64, order: Option<Order>, written: Option<RawDocumentBuf>) {
        let mut known = self.known.lock().unwrap();
        let k = known.entry(id).or_default();
        *k = Known { order, written, pending: Vec::new(), edits: k.edits + 1 };
    }

    fn unknown(&self, id: i64, order: Option<Order>) {
        self.known.lock().unwrap().entry(id).or_default().pending.push(order);
    }

    async fn get(&self, id: i64, seen: &mut ClusterTime) -> Result<Option<Order>, String> {
        loop {
            match self.db.read(&self.ns, &[Key::from(id)], *seen).await {
                Ok(read) => {
                    *seen = (*seen).max(read.at);
                    let doc = read.docs.into_iter().next().flatten();
                    let order = doc.map(|d| Order::read(&d)).transpose()?;
                    let known = self.known.lock().unwrap().get(&id).cloned().unwrap_or_default();
                    if known.order != order && !known.pending.contains(&order) {
                        return Err(format!("{id} is {order:?}, acknowledged was {known:?}"));
                    }
                    return Ok(order);
                }
                Err(_) => sleep(&self.rt, Micros::from_ms(30)).await,
            }
        }
    }

    /// Edits an order, or deletes it (or, where it is gone, puts it there anew). Tries until the outcome is known.
    async fn change(&self, id: i64, edit: Option<u64>, shape: u64, seen: &mut ClusterTime) -> Result<(), String> {
        loop {
            let Some(is) = self.get(id, seen).await? else {
                // Deletes and inserts of one key in turn.
                let gone = self.known.lock().unwrap().get(&id).is_none_or(|k| k.pending.is_empty());
                return match edit {
                    Some(_) if self.config.churn && gone => self.insert(id, shape, seen).await,
                    _ => {
                        self.acknowledged(id, None, None);
                        Ok(())
                    }
                };
            };
            let key = Key::from(id);
            let only_if = Some(Expect { field: "rev", value: Bson::Int64(is.rev) });
            let (op, new, bytes) = match edit {
                None => (WriteOp::Delete { ns: self.ns.clone(), key, only_if }, None, None),
                Some(n) => {
                    let mut new = Order { rev: is.rev + 1, note: (n % 1_000_000) as i64 + 1, ..is };
                    if n % 3 == 0 {
                        new.name = format!("Renamed {}", n % 1_000);
                        new.cents += 1;
                    }
                    let doc = self.shaped(&new, shape);
                    let ns = self.ns.clone();
                    (WriteOp::Replace { ns, key, only_if, doc: doc.clone(), upsert: false }, Some(new), Some(doc))
                }
            };
            match self.db.write(&op).await {
                Ok(w) => {
                    *seen = (*seen).max(w.at);
                    if w.matched == 1 {
                        self.acknowledged(id, new, bytes);
                        return Ok(());
                    }
                }
                Err(Failed::Unknown(_)) => {
                    self.unknown(id, new);
                    sleep(&self.rt, Micros::from_ms(30)).await;
                }
                Err(_) => sleep(&self.rt, Micros::from_ms(30)).await,
            }
        }
    }

    async fn insert(&self, id: i64, shape: u64, seen: &mut ClusterTime) -> Result<(), String> {
        // A key that was there before goes on counting: a late write of before never fits again.
        let rev = 1_000 * (1 + self.known.lock().unwrap().get(&id).map_or(0, |k| k.edits as i64));
        let order = Order { rev, ..Order::initial(id) };
        let doc = self.shaped(&order, shape);
        let op = WriteOp::Insert { ns: self.ns.clone(), doc: doc.clone() };
        let mut tried = false;
        loop {
            match self.db.write(&op).await {
                Ok(w) => {
                    *seen = (*seen).max(w.at);
                    break;
                }
                Err(Failed::NotDone(Reason::DuplicateKey { .. })) if tried => break,
                Err(Failed::Unknown(_)) => {
                    tried = true;
                    self.unknown(id, Some(order.clone()));
                }
                Err(Failed::NotDone(r)) if !r.is_transient() => return Err(format!("inserting {id}: {r}")),
                Err(_) => {}
            }
            sleep(&self.rt, Micros::from_ms(30)).await;
        }
        if tried {
            // An insert expects nothing: one that is late must not come after a delete.
            sleep(&self.rt, Micros::from_secs(5)).await;
        }
        self.acknowledged(id, Some(order), Some(doc));
        Ok(())
    }
}
