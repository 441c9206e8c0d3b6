//! A plan rehearsed: its stages carried out on the embedded cluster, on documents of the real collection, forward to the end and back
//! from each stage, while an editor writes through the route.
//!
//! What is judged is the data. Gates, triggers, change windows and hooks are left out, for nothing here is as fast, as slow or as late
//! as it will be. The documents are given: no socket, no file, and nothing of them leaves the process but `_id`s and names of fields.

mod editor;
mod judge;
mod mask;
mod pass;

use std::collections::{BTreeMap, BTreeSet};

use bson::{RawDocument, RawDocumentBuf};

use crate::cluster::{IndexSpec, Key};
use crate::engine::{Refusal, unique_refusal};
use crate::plan::{Calendar, Collection, Plan, Stage};
use crate::route::bucket_of;
use crate::runtime::Micros;
use crate::transform::{Shape, Transform};

/// A stage soaks at least so long, or it would be over before anybody could go back from it.
const SOAK_MIN: Micros = Micros::from_secs(6);
/// And no longer than this: nothing new happens in the next hour.
const SOAK_MAX: Micros = Micros::from_secs(15);

/// What a rehearsal is given of the real collection.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Documents of legacy; one that stands there twice counts once.
    pub documents: Vec<RawDocumentBuf>,
    /// Legacy's unique indexes.
    pub unique: Vec<IndexSpec>,
}

/// How it is gone about.
#[derive(Clone, Copy, Debug)]
pub struct Rehearse {
    /// Everything random derives from it.
    pub seed: u64,
    /// What the editor writes, operations a second of virtual time.
    pub edits_per_s: u32,
}

/// Where a pass goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through every stage to the end.
    Through,
    /// Back from a stage, step by step.
    Soft,
    /// Back from a stage, everything at once.
    Hard,
}

impl Way {
    /// One word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Way::Through => "through",
            Way::Soft => "soft",
            Way::Hard => "hard",
        }
    }
}

/// One rollout of the rehearsal.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The stage that it went back from; the last one of the plan when it went through.
    pub stage: String,
    /// Where it went.
    pub way: Way,
    /// Virtual time from beginning to end.
    pub took: Micros,
    /// Writes of the editor while legacy, and while next, owned the document.
    pub edits: [u64; 2],
    /// How the documents are afterwards, or why the pass failed.
    pub outcome: Result<Proof, String>,
}

/// How every document was found at the end of a pass: each is what it was, with the edits made to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Byte for byte.
    pub exact: u64,
    /// Up to the order of fields, where a step does not keep it.
    pub reordered: u64,
    /// Edited on next and back without what a lossy step loses, as the plan says.
    pub lossy: u64,
}

impl Proof {
    /// How many documents there are.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.exact + self.reordered + self.lossy
    }
}

/// What a rehearsal has shown.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Documents that were carried.
    pub documents: usize,
    /// Documents that T refuses, and why; they stay out of every pass.
    pub refused: Vec<String>,
    /// Documents that the steps no longer carry once they are masked; they stay out, too.
    pub masked_out: usize,
    /// In place: documents that have next's shape already, an application's; they stay out, too.
    pub already: usize,
    /// Documents that an added field would keep from being carried, and that are therefore not edited.
    pub unedited: usize,
    /// Every pass, in order.
    pub passes: Vec<Pass>,
}

impl Rehearsal {
    /// How many passes failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.passes.iter().filter(|p| p.outcome.is_err()).count()
    }

    /// True when every pass went well and T carries every document.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.refused.is_empty() && self.failed() == 0
    }
}

/// Why there is no rehearsal.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// There is nothing to rehearse with.
    #[error("no document was drawn that the steps can carry: {0}")]
    Nothing(String),
    /// A document without a usable `_id`.
    #[error(transparent)]
    Key(#[from] crate::cluster::KeyError),
    /// `run` would refuse the plan on this collection before it does anything.
    #[error("`run` refuses it: {0}")]
    Refused(Refusal),
    /// The embedded cluster cannot be built like the real collection.
    #[error("the embedded cluster could not be made ready: {0}")]
    World(String),
}

/// The documents of a pass, by key, and which of them the editor may write.
struct Cast {
    documents: BTreeMap<Key, RawDocumentBuf>,
    editable: Vec<Key>,
}

/// Carries out every pass; `told` hears of each when it is over.
///
/// # Errors
/// When nothing could be carried, or no world could be built for it. A pass that fails is no error: it is what a rehearsal is for.
pub fn rehearse(
    plan: &Plan,
    sample: &Sample,
    how: Rehearse,
    mut told: impl FnMut(&Pass),
) -> Result<Rehearsal, RehearsalError> {
    let plan = without_waiting(plan);
    let Some(collection) = plan.collections.first() else {
        return Err(RehearsalError::Nothing("the plan has no collection".into()));
    };
    let transform = Transform::new(&collection.steps);
    if sample.unique.iter().any(IndexSpec::is_narrow)
        && let Some(refusal) = unique_refusal(&plan, &transform, &sample.unique, &[])
    {
        return Err(RehearsalError::Refused(refusal));
    }
    let Drawn { cast, refused, masked_out, already } = draw(collection, &transform, &plan.masked, &sample.documents)?;
    if cast.documents.is_empty() {
        let none = match masked_out {
            0 => format!("{} is empty", collection.legacy),
            n => format!("masked as the plan says, {n} documents no longer fit its steps"),
        };
        let why = refused.first().cloned().unwrap_or(none);
        return Err(RehearsalError::Nothing(why));
    }
    let mut passes = Vec::new();
    for (stage, way) in ways(&plan.stages) {
        let pass = pass::run(&plan, &transform, sample, &cast, how, (stage, way))?;
        told(&pass);
        passes.push(pass);
    }
    let unedited = cast.documents.len() - cast.editable.len();
    Ok(Rehearsal { documents: cast.documents.len(), refused, masked_out, already, unedited, passes })
}

/// Through everything first, then back from each stage that there is a way back from.
fn ways(stages: &[Stage]) -> Vec<(usize, Way)> {
    let back = stages.iter().take_while(|s| !s.irreversible).count();
    let mut all = vec![(stages.len().saturating_sub(1), Way::Through)];
    all.extend((0..back).flat_map(|i| [(i, Way::Soft), (i, Way::Hard)]));
    all
}

/// The plan without what only time, load or other people could fulfil.
fn without_waiting(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.triggers.clear();
    plan.hooks.clear();
    plan.calendar = Calendar::default();
    for index in plan.collections.iter_mut().flat_map(|c| &mut c.indexes) {
        index.expire_after = None;
    }
    for stage in &mut plan.stages {
        stage.gates.clear();
        stage.triggers.clear();
        stage.soak = stage.soak.clamp(SOAK_MIN, SOAK_MAX);
    }
    plan
}

/// Who takes part, and who does not.
struct Drawn {
    cast: Cast,
    /// Why the steps refuse a document.
    refused: Vec<String>,
    masked_out: usize,
    already: usize,
}

/// Tries the steps on what was drawn as it is, and masks it then.
fn draw(
    collection: &Collection,
    transform: &Transform,
    mask: &[String],
    all: &[RawDocumentBuf],
) -> Result<Drawn, RehearsalError> {
    let paths: Vec<Vec<&str>> = mask.iter().map(|p| p.split('.').collect()).collect();
    let shape = collection.shape.as_ref().filter(|_| collection.in_place()).map(Shape::new);
    let becomes = |d: &RawDocument| shape.as_ref().is_none_or(|s| s.matches(d));
    let mut documents = BTreeMap::new();
    let mut refused = BTreeMap::new();
    let (mut masked_out, mut already) = (BTreeSet::new(), BTreeSet::new());
    for d in all {
        let key = Key::of(d)?;
        if shape.as_ref().is_some_and(|s| s.matches(d)) {
            already.insert(key);
            continue;
        }
        let why = match (bucket_of(&key), transform.apply(d)) {
            (Err(e), _) => Some(format!("the document with _id {key} cannot be routed: {e}")),
            (_, Err(e)) => Some(e.to_string()),
            (_, Ok(next)) if !becomes(&next) => Some(format!("the document with _id {key} does not get next's shape")),
            _ => None,
        };
        if let Some(why) = why {
            refused.insert(key, why);
            continue;
        }
        let masked = mask::masked(d, &paths).filter(|m| transform.apply(m).is_ok_and(|next| becomes(&next)));
        match masked {
            Some(m) => drop(documents.insert(key, m)),
            None => drop(masked_out.insert(key)),
        }
    }
    let may = |d: &RawDocumentBuf| editor::survives(transform, d);
    let editable = documents.iter().filter(|(_, d)| may(d)).map(|(k, _)| k.clone()).collect();
    let refused = refused.into_values().collect();
    Ok(Drawn { cast: Cast { documents, editable }, refused, masked_out: masked_out.len(), already: already.len() })
}
