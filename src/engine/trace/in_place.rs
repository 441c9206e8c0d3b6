//! How a document stands that changes where it is: which shape it has, and which it is to have.

use super::kept::Kept;
use super::read::{self, Unread};
use super::{Located, Looking};
use crate::cluster::Doc;
use crate::engine::in_place::judge::{Judge, Standing, Verdict};
use crate::engine::in_place::{InPlace, Way, record};
use crate::rollout::Status;
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::TraceVerdict;

/// Rounds of looking again while somebody brings documents into shape, and the pause between two.
const ROUNDS: usize = 8;
const PAUSE: Micros = Micros::from_ms(250);

/// What was found.
pub(super) struct Stands {
    pub doc: Result<Option<Doc>, Unread>,
    /// Whose shape it has; `None` for neither, or for no document.
    pub shape: Option<Side>,
    pub verdict: TraceVerdict,
    pub why: String,
    /// It is neither shape: a person has to mend it.
    pub mixed: bool,
}

/// Looks until the document is as it is to be, or it is clear that it will not be by itself.
pub(super) async fn judge(look: &Looking<'_>, place: &InPlace, at: &Located, kept: &Kept) -> Stands {
    let rounds = if look.followed { ROUNDS } else { 1 };
    let mut last: Option<Stands> = None;
    for round in 1..=rounds {
        let ns = look.ctx.ns(Side::Legacy);
        let found = read::read(look.ctx, Side::Legacy, ns, std::slice::from_ref(&at.key)).await;
        let now = stands(look, place, found.map(|mut docs| docs.pop().flatten()), kept);
        let changed = last.as_ref().is_some_and(|l| l.doc != now.doc);
        let open = now.verdict == TraceVerdict::Differs && !now.mixed;
        if !open {
            return now;
        }
        if round == rounds && changed {
            let why = format!("{}; it is being written, look again", now.why);
            return Stands { verdict: TraceVerdict::Moving, why, ..now };
        }
        last = Some(now);
        if round < rounds {
            look.ctx.sleep(PAUSE).await;
        }
    }
    last.unwrap_or_else(|| stands(look, place, Ok(None), kept))
}

fn stands(look: &Looking<'_>, place: &InPlace, doc: Result<Option<Doc>, Unread>, kept: &Kept) -> Stands {
    let of = |shape, verdict, why: String, mixed| Stands { doc: Ok(None), shape, verdict, why, mixed };
    let found = match &doc {
        Err(why) => of(None, TraceVerdict::Unknown, format!("it could not be read: {}", why.0), false),
        Ok(None) => of(None, TraceVerdict::Absent, "there is no document of this key".to_owned(), false),
        Ok(Some(there)) => {
            let judge = Judge { transform: &look.ctx.transform, shape: &place.shape };
            match (judge.standing(there), way(look)) {
                (Standing::Mixed(why), Way::There) => {
                    of(None, TraceVerdict::Differs, format!("it is neither shape: {why}"), true)
                }
                (Standing::Next, Way::There) => agrees(Some(Side::Next), "it has next's shape"),
                (Standing::Legacy, Way::There) => to_come(look),
                (standing, Way::Back) => back(look, judge, there, standing, kept),
            }
        }
    };
    Stands { doc, ..found }
}

/// The way that documents go now, as the journal has it.
pub(super) fn way(look: &Looking<'_>) -> Way {
    if look.state.back.is_some() { Way::Back } else { Way::There }
}

fn agrees(shape: Option<Side>, why: &str) -> Stands {
    Stands { doc: Ok(None), shape, verdict: TraceVerdict::Agrees, why: why.to_owned(), mixed: false }
}

/// Legacy's shape, on the way to next's.
fn to_come(look: &Looking<'_>) -> Stands {
    let (verdict, why) = match (look.begun, look.history.copied()) {
        (false, _) => (TraceVerdict::NotCopied, "it has legacy's shape: the rollout has not begun"),
        (true, false) => (TraceVerdict::NotCopied, "it has legacy's shape: the pass has not come to it yet"),
        (true, true) => (TraceVerdict::Differs, "it has legacy's shape, and should have next's by now"),
    };
    Stands { doc: Ok(None), shape: Some(Side::Legacy), verdict, why: why.to_owned(), mixed: false }
}

fn back(look: &Looking<'_>, judge: Judge<'_>, doc: &Doc, standing: Standing, kept: &Kept) -> Stands {
    let shape = match standing {
        Standing::Legacy => Some(Side::Legacy),
        Standing::Next => Some(Side::Next),
        Standing::Mixed(_) => None,
    };
    let undo = kept.undo.as_ref().and_then(|d| record::parse(d));
    let (verdict, why, mixed) = match judge.verdict(Way::Back, doc, undo.as_ref()) {
        Verdict::Leave => return agrees(shape, "it is as legacy has it"),
        Verdict::Write(..) if look.state.status == Status::RolledBack => {
            (TraceVerdict::Differs, "it has next's shape, and everything else has gone back".to_owned(), false)
        }
        Verdict::Write(..) => {
            (TraceVerdict::NotCopied, "it has next's shape: the way back has not come to it yet".into(), false)
        }
        Verdict::Mixed(why) => (TraceVerdict::Differs, format!("it cannot go back: {why}"), true),
    };
    Stands { doc: Ok(None), shape, verdict, why, mixed }
}
