//! The journey of one document: both versions and how they stand, its bucket and who owns it, what is kept of it, its latest changes,
//! what the journal says of it, and what the plan's steps do to it.
//!
//! The command and the dashboard ask the same code. It reads through the port and gives up rather than wait; it writes nothing, takes
//! no lease, and decides nothing. Values leave documents through `shown` alone.

mod events;
mod history;
mod in_place;
mod judge;
mod kept;
mod lineage;
mod places;
mod read;
mod shown;

use std::sync::Arc;

use bson::RawDocument;
use tokio::sync::mpsc;

pub(super) use history::History;

use super::ctx::Ctx;
use super::publish::Publisher;
use super::watch::{Looker, ViewError};
use super::{Config, Deps, start};
use crate::cluster::{Doc, Key, Observation};
use crate::journal::{Journal, JournalError};
use crate::rollout::{Event, EventError, State};
use crate::route::client::routes_ns;
use crate::route::{Bucket, Route, Side, bucket_of};
use crate::runtime::{Micros, timeout};
use crate::snapshot::{TraceAsk, TraceRoute, TraceVersion, TraceView};
use crate::transform::Hidden;
use judge::Judged;
use places::Places;
use read::Unread;
use shown::Shower;

/// How long a cluster has to say what time it is.
const OBSERVE_WITHIN: Micros = Micros::from_secs(5);

/// Why a document cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The lease and the picture of its runner.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal record of another version.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// A key, and where it lies.
pub(super) struct Located {
    pub key: Key,
    /// As the journal shows it.
    pub text: String,
    pub bucket: Option<Bucket>,
    /// Why it has no bucket.
    pub no_bucket: Option<String>,
}

impl Located {
    fn new(key: Key) -> Located {
        let (bucket, no_bucket) = match bucket_of(&key) {
            Ok(bucket) => (Some(bucket), None),
            Err(e) => (None, Some(e.to_string())),
        };
        Located { text: key.to_string(), key, bucket, no_bucket }
    }
}

/// What is looked at, and what is known of the rollout.
pub(super) struct Looking<'a> {
    ctx: &'a Arc<Ctx>,
    state: &'a State,
    history: &'a History,
    begun: bool,
    /// Somebody keeps both sides in step now.
    followed: bool,
}

/// Traces a key as an onlooker; `deps` has the journal that is in the database.
///
/// # Errors
/// When the rollout's records cannot be read. What else cannot be read is said in the answer.
pub async fn trace(deps: &Deps, ask: &TraceAsk) -> Result<TraceView, TraceError> {
    let (to_runner, _inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, &Config::default(), 0, to_runner);
    let (mut followed, mut records) = (true, Vec::new());
    // An onlooker's records are in a file that its process holds.
    if ctx.observing.is_none() {
        followed = Looker::new(&deps.rt, &deps.clusters[0], &deps.plan.id).look().await?.holder().is_some();
        records = Journal::new(deps.journal.clone(), deps.rt.clone(), deps.plan.id.clone()).open().await?;
    }
    let (begun, state) = start::replay(&records, deps)?;
    let mut history = History::default();
    for record in &records {
        history.note(record, &Event::from_parts(&record.kind, &record.body)?);
    }
    let look = Looking { ctx: &ctx, state: &state, history: &history, begun, followed };
    Ok(look.at(ask).await)
}

/// Answers somebody at the screen of a running engine: the answer is part of the next snapshot.
pub(super) async fn answer(
    ctx: Arc<Ctx>,
    publisher: Arc<Publisher>,
    state: State,
    history: Arc<History>,
    ask: TraceAsk,
) {
    let look = Looking { ctx: &ctx, state: &state, history: &history, begun: true, followed: true };
    let view = look.at(&ask).await;
    publisher.set_trace(view);
}

impl Looking<'_> {
    /// Everything about the key that is asked for.
    async fn at(&self, ask: &TraceAsk) -> TraceView {
        match self.view(ask).await {
            Ok(view) => view,
            Err(Unread(why)) => TraceView::failed(ask, &why),
        }
    }

    async fn view(&self, ask: &TraceAsk) -> Result<TraceView, Unread> {
        let keys = Key::read(&ask.key).map_err(|e| Unread(e.to_string()))?;
        let seen = [self.observe(Side::Legacy).await, self.observe(Side::Next).await];
        let plan = &self.ctx.plan;
        let plan_hides = Hidden::new(&plan.masked, &plan.collections[0].steps);
        let shower = Shower::new(plan_hides, ask.reveal);
        let mut view = TraceView { ask: ask.id, at_ms: self.ctx.rt.wall_ms(), ..TraceView::default() };
        let route = self.route().await?;
        let places = self.places().await;
        let at = Located::new(self.choose(keys, &places, &mut view.notes).await);
        view.key = crate::scrub::short(&at.text, 300);
        view.bucket = at.bucket;
        view.notes.extend(at.no_bucket.as_ref().map(|why| format!("it has no bucket: {why}")));
        let kept = match self.ctx.observing {
            Some(_) => kept::Kept::default(),
            None => kept::kept(self, &at, &shower).await.unwrap_or_else(|Unread(why)| {
                view.notes.push(format!("what is kept of it could not be read: {why}"));
                kept::unread(self, &at)
            }),
        };
        view.person = kept.open.clone();
        let docs = match &self.ctx.in_place {
            Some(place) => self.one_place(&mut view, place, &at, &kept, &shower).await,
            None => self.two_sides(&mut view, route.as_ref(), &places, &at, &shower).await,
        };
        let doc = |side: Side| docs[side as usize].as_deref();
        view.lineage = lineage::lineage(&plan.collections[0].steps, doc(Side::Legacy), doc(Side::Next));
        let hides = shower.has_met_masked();
        (view.masked, view.revealed) = (hides && !ask.reveal, hides && ask.reveal);
        view.kept = kept.all;
        view.journal = self.history.of(plan, &at);
        self.past(&mut view, &at, &seen).await;
        if self.begun && self.state.plan_hash != plan.hash {
            view.notes.push("the rollout runs with another plan than this one".to_owned());
        }
        Ok(view)
    }

    /// The cluster's time and oplog; reads after this are no older.
    async fn observe(&self, side: Side) -> Option<Observation> {
        let seen = timeout(&self.ctx.rt, OBSERVE_WITHIN, self.ctx.db(side).observe()).await?.ok()?;
        self.ctx.saw(side, seen.majority);
        Some(seen)
    }

    /// The route in force; `None` before there is one, and where there never is.
    async fn route(&self) -> Result<Option<Route>, Unread> {
        if self.ctx.observing.is_some() {
            return Ok(None);
        }
        let keys = [Key::from(self.ctx.plan.id.as_str())];
        let found = read::read(self.ctx, Side::Legacy, &routes_ns(), &keys).await?;
        let Some(doc) = found.into_iter().next().flatten() else { return Ok(None) };
        Route::from_raw(&doc).map(Some).map_err(|e| Unread(e.to_string()))
    }

    /// Two collections: who owns the key, both versions, and what each would make of the other.
    async fn two_sides(
        &self,
        view: &mut TraceView,
        route: Option<&Route>,
        places: &Places,
        at: &Located,
        shower: &Shower,
    ) -> [Option<Doc>; 2] {
        let routed = route.zip(at.bucket.map(|bucket| (&at.key, bucket)));
        let owner = routed.map_or(Side::Legacy, |(r, at)| r.owner(&at));
        let reads = routed.map_or(Side::Legacy, |(r, at)| r.reader(&at));
        let Judged { pair, verdict, why, wanted } = judge::judge(self, places, at, owner).await;
        (view.verdict, view.why) = (verdict, crate::scrub::short(&why, 500));
        if self.ctx.observing.is_none() {
            view.route = Some(TraceRoute {
                epoch: route.map(|r| r.epoch),
                owner,
                reads,
                frozen: route.zip(at.bucket).is_some_and(|(r, b)| r.is_frozen(b)),
                cohort: self.ctx.plan.pilot.as_ref().map(|c| (c.contains(at.key.value()), c.to_string())),
                reads_next_below: route.map_or(0, |r| r.reads_next_below),
                writes_next_below: route.map_or(0, |r| r.writes_next_below),
            });
        }
        for side in Side::BOTH {
            let place = places.of(side).to_string();
            view.versions.push(match &pair.docs[side as usize] {
                Ok(doc) => shower.version(side.name(), &place, doc.as_deref()),
                Err(why) => Shower::problem(side.name(), &place, &why.0),
            });
        }
        let (legacy, next) = (pair.doc(Side::Legacy), pair.doc(Side::Next));
        let (there, back) = (next.map(|d| &**d), legacy.map(|d| &**d));
        view.versions.extend(legacy.map(|d| self.made("T(legacy)", d, Side::Legacy, there, shower)));
        view.versions.extend(next.map(|d| self.made("inverse(next)", d, Side::Next, back, shower)));
        if let Some(wanted) = wanted {
            let copy = pair.doc(owner.other()).map(|d| &**d);
            view.differences = shower.differences(wanted.as_deref(), copy);
            if view.differences.is_empty() && copy.is_some() && wanted.is_some() {
                let all = [wanted.as_deref(), copy].into_iter().flatten().all(|d| shower.sees_all(d));
                let note = if all {
                    "the same values in another order of fields"
                } else {
                    "they differ beyond what is compared here"
                };
                view.notes.push(note.to_owned());
            }
        }
        let [legacy, next] = pair.docs;
        [legacy.ok().flatten(), next.ok().flatten()]
    }

    /// One collection: which shape the document has, and what the other shape of it would be.
    async fn one_place(
        &self,
        view: &mut TraceView,
        place: &super::in_place::InPlace,
        at: &Located,
        kept: &kept::Kept,
        shower: &Shower,
    ) -> [Option<Doc>; 2] {
        let stands = in_place::judge(self, place, at, kept).await;
        (view.verdict, view.why) = (stands.verdict, crate::scrub::short(&stands.why, 500));
        if stands.mixed && view.person.is_none() {
            view.person = Some("it has to be mended by hand: nothing can be made of it".to_owned());
        }
        let ns = self.ctx.ns(Side::Legacy).to_string();
        let doc = match stands.doc {
            Ok(doc) => doc,
            Err(why) => {
                view.versions.push(Shower::problem("document", &ns, &why.0));
                return [None, None];
            }
        };
        view.versions.push(shower.version("document", &ns, doc.as_deref()));
        match (stands.shape, doc) {
            (Some(Side::Next), Some(doc)) => {
                view.versions.push(self.made("inverse(document)", &doc, Side::Next, None, shower));
                [None, Some(doc)]
            }
            (_, Some(doc)) => {
                view.versions.push(self.made("T(document)", &doc, Side::Legacy, None, shower));
                [Some(doc), None]
            }
            (_, None) => [None, None],
        }
    }

    /// What T, or its inverse, makes of a document, and whether the other side holds that.
    fn made(
        &self,
        name: &str,
        doc: &RawDocument,
        of: Side,
        there: Option<&RawDocument>,
        shower: &Shower,
    ) -> TraceVersion {
        let t = &self.ctx.transform;
        let made = match of {
            Side::Legacy => t.apply(doc),
            Side::Next => t.invert(doc),
        };
        match made {
            Ok(made) => {
                let is_held = there.map(|there| t.same(&made, there));
                TraceVersion { is_held, ..shower.version(name, "", Some(&made)) }
            }
            Err(e) => Shower::problem(name, "", &e.reason()),
        }
    }

    /// The latest changes on both sides.
    async fn past(&self, view: &mut TraceView, at: &Located, seen: &[Option<Observation>; 2]) {
        let sides = if self.ctx.in_place.is_some() { &Side::BOTH[..1] } else { &Side::BOTH[..] };
        for side in sides {
            let Some(seen) = &seen[*side as usize] else {
                view.notes.push(format!("{} does not answer: its changes are not known", side.name()));
                continue;
            };
            let past = events::events(self.ctx, *side, &at.key, seen).await;
            view.events.extend(past.events);
            view.reach.push(past.reach);
        }
        view.events.sort_by_key(|e| e.at_ms);
    }
}
