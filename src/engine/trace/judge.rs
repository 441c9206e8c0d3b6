//! How the two documents of a key stand to each other: the same comparison that verifies a rollout, for one key.

use bson::RawDocumentBuf;

use super::read::{self, Unread};
use super::{Located, Looking, Places};
use crate::cluster::Doc;
use crate::engine::lossy::image_over;
use crate::engine::reconcile::{Finding, compare};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::TraceVerdict;

/// Rounds of comparing again while somebody keeps both sides in step, and the pause between two.
const ROUNDS: usize = 8;
const PAUSE: Micros = Micros::from_ms(250);

/// Both documents, as they were read last.
pub(super) struct Pair {
    /// By side.
    pub docs: [Result<Option<Doc>, Unread>; 2],
}

impl Pair {
    /// A side's document, where there is one and it could be read.
    pub(super) fn doc(&self, side: Side) -> Option<&Doc> {
        self.docs[side as usize].as_ref().ok().and_then(Option::as_ref)
    }
}

/// What was found.
pub(super) struct Judged {
    pub pair: Pair,
    pub verdict: TraceVerdict,
    pub why: String,
    /// What the copy should be, where it is not and that can be said.
    pub wanted: Option<Option<RawDocumentBuf>>,
}

/// The owner's document first: whatever it holds by then, its copy may hold already.
async fn pair(look: &Looking<'_>, places: &Places, at: &Located, owner: Side) -> Pair {
    let mut docs = [Ok(None), Ok(None)];
    for side in [owner, owner.other()] {
        let found = read::read(look.ctx, side, places.of(side), std::slice::from_ref(&at.key)).await;
        docs[side as usize] = found.map(|mut docs| docs.pop().flatten());
    }
    Pair { docs }
}

/// Compares until both are equal, or it is clear that they will not be by themselves.
pub(super) async fn judge(look: &Looking<'_>, places: &Places, at: &Located, owner: Side) -> Judged {
    let mut now = pair(look, places, at, owner).await;
    if let Some(side) = places.alone {
        return alone(now, places, side);
    }
    let rounds = if look.followed { ROUNDS } else { 1 };
    let (mut round, mut changed) = (1, false);
    loop {
        if let Some(why) = now.docs.iter().find_map(|d| d.as_ref().err()) {
            let why = format!("a side could not be read: {}", why.0);
            return Judged { pair: now, verdict: TraceVerdict::Unknown, why, wanted: None };
        }
        let (legacy, next) = (now.doc(Side::Legacy), now.doc(Side::Next));
        let found = compare(look.ctx, owner, legacy.map(|d| &**d), next.map(|d| &**d));
        if found.is_equal() || is_to_come(look, owner, found) || round == rounds {
            return judged(look, owner, now, found, changed);
        }
        look.ctx.sleep(PAUSE).await;
        round += 1;
        let again = pair(look, places, at, owner).await;
        changed |= again.doc(owner) != now.doc(owner);
        now = again;
    }
}

/// The first copy has not come to it yet.
fn is_to_come(look: &Looking<'_>, owner: Side, found: Finding) -> bool {
    found == Finding::Missing && owner == Side::Legacy && !look.history.copied() && look.ctx.observing.is_none()
}

fn alone(pair: Pair, places: &Places, side: Side) -> Judged {
    let (name, other) = (side.name(), side.other());
    let kept = match places.is_kept(other) {
        true => format!("{} is kept as {} and follows no longer", other.name(), places.of(other)),
        false => format!("{} follows no longer", other.name()),
    };
    let (verdict, why) = match &pair.docs[side as usize] {
        Err(why) => (TraceVerdict::Unknown, format!("{name} could not be read: {}", why.0)),
        Ok(None) => (TraceVerdict::Absent, format!("{name}, which alone counts, has no document; {kept}")),
        Ok(Some(_)) => (TraceVerdict::Alone, format!("{name}'s document alone counts: {kept}")),
    };
    Judged { pair, verdict, why, wanted: None }
}

fn judged(look: &Looking<'_>, owner: Side, pair: Pair, found: Finding, changed: bool) -> Judged {
    let (own, copy) = (owner.name(), owner.other().name());
    let lossy = look.ctx.transform.is_lossy();
    let made = match owner {
        Side::Next if !lossy => "what the inverse steps make of it",
        Side::Next => "what next's document goes over to, with what the steps lose kept",
        Side::Legacy => "what the steps make of it",
    };
    let mut wanted = None;
    let (verdict, why) = match found {
        Finding::Absent => (TraceVerdict::Absent, "neither side has a document of this key".to_owned()),
        Finding::Matched => (TraceVerdict::Agrees, format!("{own} owns it, and {copy} holds {made}")),
        Finding::Missing if is_to_come(look, owner, found) => {
            let begun = if look.begun { "the copy has not come to it yet" } else { "the rollout has not begun" };
            (TraceVerdict::NotCopied, format!("{own} owns it, and {copy} has none: {begun}"))
        }
        Finding::Missing | Finding::Extra | Finding::Differing => {
            let why = match pair.doc(owner) {
                None => {
                    wanted = Some(None);
                    format!("{own}, its owner, has none, and {copy} has one")
                }
                Some(doc) => match image_over(look.ctx, owner, doc, pair.doc(owner.other()).map(|d| &**d)) {
                    Ok(doc) => {
                        wanted = Some(Some(doc));
                        match found {
                            Finding::Missing => format!("{own} owns it, and {copy} has none"),
                            _ => format!("{own} owns it, and {copy} does not hold {made}"),
                        }
                    }
                    Err(why) => format!("{own} owns it, and it has no form on {copy}: {why}"),
                },
            };
            match changed {
                true => (TraceVerdict::Moving, format!("{why}; it is being written, look again")),
                false => (TraceVerdict::Differs, why),
            }
        }
    };
    Judged { pair, verdict, why, wanted }
}
