//! What stands in the place of the gates once nothing depends on them any more: the way back while it is under way, then where the
//! rollout came to rest (what applications use, what became of each side, what proves that all is there).

use ratatui::layout::Rect;

use crate::snapshot::{BackView, Phase, RestView, Snapshot};

use super::super::canvas::{Canvas, Titles};
use super::super::format;
use super::super::rollback;
use super::super::theme::Role;
use super::verdict;

/// A sentence and the glyph before it.
type Point = (&'static str, Role, String);

/// Whether there is something to say in the place of the gates.
#[must_use]
pub(crate) fn has_rest(s: &Snapshot) -> bool {
    s.rest.is_some() || rollback::under_way(s).is_some()
}

fn points(s: &Snapshot) -> Vec<Point> {
    let mut points = match (&s.rest, rollback::under_way(s)) {
        (Some(r), _) => came_to(s, r),
        (None, Some(b)) => under_way(s, b),
        (None, None) => Vec::new(),
    };
    points.retain(|(_, _, text)| !text.is_empty());
    points
}

fn came_to(s: &Snapshot, r: &RestView) -> Vec<Point> {
    let role = if s.phase == Phase::Failed { Role::Warn } else { Role::Ok };
    let sentences = [&r.applications].into_iter().chain(&r.collections).chain([&r.proof]);
    sentences.map(|text| ("✓", role, text.clone())).collect()
}

fn under_way(s: &Snapshot, b: &BackView) -> Vec<Point> {
    let now = if s.phase == Phase::RollingBack {
        ("«", Role::Accent, s.why.clone())
    } else {
        ("!", Role::Warn, format!("stands still before {} is done: {}", b.step, s.why))
    };
    let idle = if s.if_nothing.is_empty() { String::new() } else { format!("if nobody acts: {}", s.if_nothing) };
    let place = match b.cohort {
        true => "in the stage it is in; only the cohort is on legacy then",
        false => rollback::place(s, rollback::Choice::first(s).to),
    };
    let mut all = left_behind(s);
    all.extend([
        now,
        ("·", Role::Dim, idle),
        ("·", Role::Dim, format!("why: {}", b.why)),
        ("·", Role::Dim, format!("comes to rest: {place}")),
    ]);
    all
}

/// What is at risk, or was: the seal, how far the salvage is, the conflicts.
fn left_behind(s: &Snapshot) -> Vec<Point> {
    let Some(v) = &s.strand else { return Vec::new() };
    let since = v.since_ms.map(|ms| format!(" since {}", format::clock(ms))).unwrap_or_default();
    let mut points = Vec::new();
    if v.is_outstanding() {
        points.push(("✗", Role::Bad, format!("NEXT IS SEALED: {}, on next only{since}", rollback::stranded(v))));
    } else if v.silent.is_some() && !v.sealed && s.route.writes_next_below > 0 {
        points.push(("✗", Role::Bad, format!("at risk: {}{since}", rollback::stranded(v))));
    }
    match (v.salvaged, v.progress) {
        (Some(c), _) => points.push((
            "✓",
            Role::Ok,
            format!(
                "salvaged {} keys changed on next: {} carried over, {} equal, {} conflicts",
                format::grouped(c.changed),
                format::grouped(c.carried),
                format::grouped(c.equal),
                format::grouped(c.conflicts)
            ),
        )),
        (None, Some((done, all))) => {
            points.push((
                "«",
                Role::Accent,
                format!("salvage: {} of {} keys", format::grouped(done), format::grouped(all)),
            ));
        }
        (None, None) => {}
    }
    if v.conflicts.1 > 0 {
        let more = if v.conflicts.1 > 3 { " …" } else { "" };
        let named = v.conflicts.0.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let text = format!("{} keys written on both sides: {named}{more}", format::grouped(v.conflicts.1));
        points.push(("!", Role::Bad, text));
    }
    points
}

/// How many lines the panel's text takes at a width.
#[must_use]
pub(crate) fn rest_height(s: &Snapshot, width: usize) -> usize {
    points(s).iter().map(|(_, _, text)| format::wrap(text, width.saturating_sub(2)).len()).sum()
}

/// Draws the panel.
pub(crate) fn rest(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, focused: bool) {
    let now = verdict::now(s);
    let (name, right) = match rollback::under_way(s) {
        Some(b) => {
            let (n, of) = rollback::step(b);
            ("GOING BACK", format!("{}, step {n} of {of}", rollback::word(b.hard)))
        }
        None => ("CAME TO REST", now.word),
    };
    let titles = Titles { name, right: (right, Some(now.level.role())), focused, ..Titles::default() };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    let points = points(s);
    // A blank line between the points where there is room for all of them.
    let gap = usize::from(h >= rest_height(s, w.saturating_sub(2)) + points.len().saturating_sub(1));
    let mut y = 0;
    for (i, (glyph, role, text)) in points.iter().enumerate() {
        y += if i > 0 { gap } else { 0 };
        c.put(1, y, glyph, *role);
        let lines = format::wrap(text, w.saturating_sub(4));
        let last = i + 1 == points.len();
        for (n, line) in lines.iter().enumerate() {
            // What is cut off is not left out without a sign.
            let cut = y + 1 == h && !(last && n + 1 == lines.len());
            let line = if cut { format!("{line}…") } else { line.clone() };
            c.put_fit(3, y, &line, w.saturating_sub(4), Role::Text);
            y += 1;
        }
    }
}
