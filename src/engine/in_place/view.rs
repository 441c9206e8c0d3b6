//! What the screen says of a migration in place: where it came to rest, and the way back.

use super::super::ctx::Ctx;
use super::super::live_view::LiveView;
use super::undo_ns;
use crate::rollout::{State, Status};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::{RestView, WayBack};

/// Where it came to rest; `None` while it has not.
pub(in crate::engine) fn rest(ctx: &Ctx, state: &State, live: &LiveView) -> Option<RestView> {
    let shape = match state.status {
        Status::Completed => "next",
        Status::RolledBack => "legacy",
        _ => return None,
    };
    let ns = ctx.ns(Side::Legacy);
    Some(RestView {
        applications: format!("applications read and write {ns} in {shape}'s shape"),
        collections: vec![
            format!("{ns} is the collection in use, in {shape}'s shape"),
            format!("{} keeps what every changed document was", undo_ns()),
        ],
        proof: match live.reconcile.last.as_ref().filter(|r| r.is_clean()) {
            Some(r) if r.aside > 0 => {
                format!("{} documents found in {shape}'s shape, {} of neither are in quarantine", r.matched, r.aside)
            }
            Some(r) => format!("{} documents found in {shape}'s shape", r.matched),
            None => "no document had been changed".to_owned(),
        },
    })
}

/// The way back: every document that was changed has its pre-image, or an inverse.
pub(in crate::engine) fn way_back(ctx: &Ctx, state: &State) -> WayBack {
    if matches!(state.status, Status::RolledBack | Status::Completed) {
        let text = match state.status {
            Status::Completed => format!("the rollout is over; pre-images are kept in {}", undo_ns()),
            _ => "every document is in legacy's shape".into(),
        };
        return WayBack { open: false, writes_at_risk: Some(0), text, ..WayBack::default() };
    }
    let text = format!("every document of {} comes back from its pre-image or by its inverse", ctx.ns(Side::Legacy));
    let none = Some(Micros::ZERO);
    WayBack { open: true, writes_at_risk: Some(0), seconds_at_risk: none, until_stage: None, freeze: none, text }
}
