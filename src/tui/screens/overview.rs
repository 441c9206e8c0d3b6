//! The main screen. At 120x36 and above:
//!
//! ```text
//! identity                                            state, time
//! USERS / NOW / IF IDLE / BACK     | ON NEXT / ADVANCE / LEASE / DATA
//! pipeline, progress
//! latency heat map        | gates; going back or at rest, what of it
//! distribution            | percentiles
//! lag       | reconciliation
//! events
//! command status, keys
//! ```
//!
//! While a document is traced, the trace takes the place of the panels. Smaller: first the second row of panels goes, then events, latency and the pipeline; the verdict and pause stay.

use ratatui::layout::Rect;

use crate::snapshot::Snapshot;

use super::super::app::{Pane, UiState};
use super::super::canvas::Canvas;
use super::super::widgets::identity::{identity, row};
use super::super::widgets::{
    distribution, events, gates, has_rest, heat, lag, percentiles, pipeline, reconcile, rest, rest_height, verdict,
};
use super::footer::footer;
use super::trace;

/// From this size on every panel has its place.
const FULL: (u16, u16) = (110, 32);
/// From this width on the verdict has two columns.
const TWO_COLUMNS: u16 = 100;

fn cut(area: Rect, y: u16, height: u16) -> Rect {
    let y = y.min(area.height);
    Rect::new(area.x, area.y + y, area.width, height.min(area.height - y))
}

fn split(area: Rect, left: u16) -> (Rect, Rect) {
    let left = left.min(area.width);
    (Rect::new(area.x, area.y, left, area.height), Rect::new(area.x + left, area.y, area.width - left, area.height))
}

/// Draws the overview.
pub(crate) fn draw(c: &mut Canvas<'_>, area: Rect, live: &Snapshot, ui: &UiState) {
    // The verdict, the pipeline and the age are always live; freezing stops the panels only.
    let shown = ui.frozen.as_deref().unwrap_or(live);
    let mut top = verdict_rows(c, area, live, ui);
    let last = area.height - 1;
    footer(&mut c.part(cut(area, last, 1)), live, ui);
    let mut left = last - top;
    if left >= 1 {
        let rows = if left >= 6 { 2 } else { 1 };
        pipeline(&mut c.part(cut(area, top, rows)), live);
        top += rows;
        left -= rows;
    }
    let body = cut(area, top, left);
    if let Some(screen) = &ui.trace {
        return trace::draw(c, body, live, ui, screen);
    }
    if let (true, Some(pane)) = (ui.zoomed, ui.focus) {
        one(c, body, pane, shown, live, ui);
    } else if area.width >= FULL.0 && area.height >= FULL.1 {
        full(c, body, shown, live, ui);
    } else {
        reduced(c, body, shown, live, ui);
    }
}

/// Draws the identity and the answers; returns how many rows they took.
fn verdict_rows(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, ui: &UiState) -> u16 {
    identity(&mut c.part(cut(area, 0, 1)), s, ui);
    let (users, now) = (verdict::users(s, ui), verdict::now_of(s, ui));
    let (idle, back) = (verdict::idle_of(s, ui), verdict::back_of(s, ui));
    let (on_next, advance) = (verdict::on_next(s), verdict::advance(s));
    let (lease, data) = (verdict::lease(s), verdict::data(s, ui));
    let w = usize::from(area.width);
    if area.width >= TWO_COLUMNS {
        let right = w - (w * 11 / 30).clamp(44, 64);
        let mut c = c.part(cut(area, 1, 4));
        for (y, (label, a)) in
            [("USERS", &users), ("NOW", &now), ("IF IDLE", &idle), ("BACK", &back)].iter().enumerate()
        {
            // The first three words line up; a bare sentence begins where they do.
            let word = if a.word.is_empty() { 1 } else { 11 };
            row(&mut c, (1, right - 2), y, label, word, a);
        }
        let answers = [("ON NEXT", &on_next), ("ADVANCE", &advance), ("LEASE", &lease), ("DATA", &data)];
        for (y, (label, a)) in answers.iter().enumerate() {
            row(&mut c, (right, w - 1), y, label, 0, a);
        }
        return 5;
    }
    // In the order in which they survive as the height shrinks.
    let answers = [
        ("USERS", &users),
        ("ON NEXT", &on_next),
        ("NOW", &now),
        ("BACK", &back),
        ("IF IDLE", &idle),
        ("LEASE", &lease),
        ("ADVANCE", &advance),
    ];
    // The gates say the same as the last one, so it only comes in where there is plenty of room.
    let most = if area.height >= 30 { 7 } else { 6 };
    let shown = most.min(usize::from(area.height) - 2);
    let mut c = c.part(cut(area, 1, shown as u16));
    for (y, (label, a)) in answers[..shown].iter().enumerate() {
        let word = if *label == "ON NEXT" {
            0
        } else if a.word.is_empty() || w < 60 {
            1
        } else {
            10
        };
        row(&mut c, (1, w - 1), y, label, word, a);
    }
    1 + shown as u16
}

/// One panel, wherever it stands.
fn one(c: &mut Canvas<'_>, area: Rect, pane: Pane, shown: &Snapshot, live: &Snapshot, ui: &UiState) {
    let focused = ui.focus == Some(pane);
    match pane {
        Pane::Heat => heat(c, area, shown, ui, focused),
        // What it came to is live, whatever the panels were frozen at.
        Pane::Gates if has_rest(live) => rest(c, area, live, focused),
        Pane::Gates => gates(c, area, shown, focused),
        Pane::Distribution => distribution(c, area, shown, ui, focused),
        Pane::Percentiles => percentiles(c, area, shown, ui, focused),
        Pane::Lag => lag(c, area, shown, focused),
        Pane::Reconcile => reconcile(c, area, shown, focused),
        Pane::Events => events(c, area, shown, live, ui, focused),
    }
}

/// Every panel.
fn full(c: &mut Canvas<'_>, body: Rect, shown: &Snapshot, live: &Snapshot, ui: &UiState) {
    let mut draw = |area, pane| one(c, area, pane, shown, live, ui);
    // What is beyond the basic height goes to the heat map first, then to lag and distribution, the rest to the events.
    let spare = body.height.saturating_sub(28);
    let heat_h = 10 + (spare / 2).min(11) + u16::from(body.height >= 28);
    let dist_h = if spare >= 8 { 11 } else { 7 };
    let lag_h = if spare >= 12 { 8 } else { 5 };
    let events_h = body.height.saturating_sub(heat_h + dist_h + lag_h);
    let (heat_h, events_h) = if events_h < 4 { (heat_h - (4 - events_h), 4) } else { (heat_h, events_h) };

    // 64 quarter octaves and the border: the narrowest width at which the distribution has a column each.
    let narrow = 66;
    let heat_w = (body.width * 11 / 20).clamp(narrow, 129);
    let dist_w = if body.width >= 190 { 130 } else { narrow };
    let lag_w = (body.width * 3 / 8).clamp(44, 70);

    let (left, right) = split(cut(body, 0, heat_h), heat_w);
    draw(left, Pane::Heat);
    draw(right, Pane::Gates);
    let (left, right) = split(cut(body, heat_h, dist_h), dist_w);
    draw(left, Pane::Distribution);
    draw(right, Pane::Percentiles);
    let (left, right) = split(cut(body, heat_h + dist_h, lag_h), lag_w);
    draw(left, Pane::Lag);
    draw(right, Pane::Reconcile);
    draw(cut(body, heat_h + dist_h + lag_h, events_h), Pane::Events);
}

/// Gates, one latency panel and events, as far as they fit.
fn reduced(c: &mut Canvas<'_>, body: Rect, shown: &Snapshot, live: &Snapshot, ui: &UiState) {
    let mut draw = |area, pane| one(c, area, pane, shown, live, ui);
    if body.height < 3 {
        return;
    }
    let events_h = if body.height >= 13 { (body.height / 4).max(4) } else { 0 };
    let main = cut(body, 0, body.height - events_h);
    let latency = [Pane::Heat, Pane::Distribution, Pane::Percentiles, Pane::Lag, Pane::Reconcile];
    // Tab reaches the panels that have no place of their own here.
    let pane = ui.focus.filter(|f| latency.contains(f)).unwrap_or(Pane::Heat);
    if body.width >= 76 && main.height >= 5 {
        let (left, right) = split(main, body.width - (body.width / 2).max(46));
        draw(left, pane);
        draw(right, Pane::Gates);
    } else if main.height >= 11 {
        let width = usize::from(body.width.saturating_sub(4));
        let lines = if has_rest(live) { rest_height(live, width) } else { live.gates.len() };
        let gates_h = (lines as u16 + 2).clamp(3, main.height - 7);
        draw(cut(main, 0, gates_h), Pane::Gates);
        draw(cut(main, gates_h, main.height - gates_h), pane);
    } else {
        draw(main, ui.focus.unwrap_or(Pane::Gates));
    }
    if events_h > 0 {
        draw(cut(body, body.height - events_h, events_h), Pane::Events);
    }
}
