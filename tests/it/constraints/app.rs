//! An application that follows the route, one document after the other, and remembers what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bson::RawDocumentBuf;
use tidegate::cluster::embedded::Embedded;
use tidegate::cluster::{Cluster, Key, WriteOp};
use tidegate::route::client::RouteClient;
use tidegate::route::{Side, bucket_of};
use tidegate::runtime::{Group, Micros, Rt, sleep};

use super::World;

/// Documents from here on are made by the application.
pub const NEW: i64 = 1_000;

/// What a document holds besides its `_id`, and how each side writes it down.
pub type Shape = fn(Side, i64, &Value) -> RawDocumentBuf;

#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub text: String,
    pub at_ms: i64,
}

#[derive(Clone)]
pub struct App {
    rt: Rt,
    cluster: Arc<Embedded>,
    route: RouteClient,
    shape: Shape,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    known: Mutex<BTreeMap<i64, Value>>,
    violations: Mutex<Vec<String>>,
    lanes: AtomicUsize,
    stop: AtomicBool,
    writes: AtomicUsize,
}

impl App {
    /// Loads the documents onto legacy.
    pub fn new(world: &World, shape: Shape, first: BTreeMap<i64, Value>) -> App {
        let legacy = world.plan.collections[0].legacy.clone();
        let docs = first.iter().map(|(id, v)| shape(Side::Legacy, *id, v)).collect();
        world.cluster.load(&legacy, docs).unwrap();
        let route = RouteClient::new(world.rt.clone(), world.cluster.clone(), &world.plan.id, "app", legacy);
        route.start(Group(2));
        let inner = Arc::new(Inner { known: Mutex::new(first), ..Inner::default() });
        App { rt: world.rt.clone(), cluster: world.cluster.clone(), route, shape, inner }
    }

    pub fn wall_ms(&self) -> i64 {
        self.rt.wall_ms()
    }

    pub fn known(&self) -> BTreeMap<i64, Value> {
        self.inner.known.lock().unwrap().clone()
    }

    pub fn writes(&self) -> usize {
        self.inner.writes.load(Ordering::SeqCst)
    }

    pub fn violation(&self) -> Option<String> {
        self.inner.violations.lock().unwrap().first().cloned()
    }

    pub fn stopping(&self) -> bool {
        self.inner.stop.load(Ordering::SeqCst)
    }

    pub async fn pause(&self, span: Micros) {
        sleep(&self.rt, span).await;
    }

    /// Replaces a document that must be there, until that is acknowledged. Only one lane writes a document, so that the same write may be
    /// made again.
    pub async fn write(&self, id: i64, value: Value) {
        let key = Key::from(id);
        loop {
            let Some(permit) = self.route.permit(&(&key, bucket_of(&key).unwrap())).await else { return };
            let doc = (self.shape)(permit.side, id, &value);
            let op =
                WriteOp::Replace { ns: permit.ns.clone(), key: key.clone(), only_if: None, doc, upsert: id >= NEW };
            match self.cluster.write(&op).await {
                Ok(w) if w.matched == 1 => break,
                Ok(_) => {
                    let text = format!("{id} is not there on {} at {}", permit.side.name(), self.rt.now());
                    return self.inner.violations.lock().unwrap().push(text);
                }
                // A refusal by a unique index is one too: the value was given up by its holder before.
                Err(e) if e.reason().is_some_and(|r| !r.is_transient()) => {
                    let text = format!("{id} on {}: {e}", permit.side.name());
                    return self.inner.violations.lock().unwrap().push(text);
                }
                Err(_) => self.pause(Micros::from_ms(20)).await,
            }
        }
        self.inner.known.lock().unwrap().insert(id, value);
        self.inner.writes.fetch_add(1, Ordering::SeqCst);
    }

    /// A lane of work of its own.
    pub fn lane(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.lanes.fetch_add(1, Ordering::SeqCst);
        let inner = self.inner.clone();
        let lane = async move {
            work.await;
            inner.lanes.fetch_sub(1, Ordering::SeqCst);
        };
        self.rt.spawn(Group(2), "lane", Box::pin(lane));
    }

    /// Lets every lane come to its end.
    pub fn stop(&self, world: &mut World) {
        self.inner.stop.store(true, Ordering::SeqCst);
        let end = world.rt.now() + Micros::from_secs(60);
        while self.inner.lanes.load(Ordering::SeqCst) > 0 {
            assert!(world.rt.now() < end, "the application does not stop: {}", world.why());
            world.step().unwrap();
        }
        assert_eq!(self.violation(), None);
    }

    /// What a side must hold.
    pub fn expected(&self, side: Side) -> BTreeMap<Key, RawDocumentBuf> {
        self.known().iter().map(|(id, v)| (Key::from(*id), (self.shape)(side, *id, v))).collect()
    }
}
