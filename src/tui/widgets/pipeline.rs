//! The stages in a line, and beneath them what the current one is doing and how far its soak is, or how far the way back is.

use crate::snapshot::{Activity, BackView, Goes, Phase, Snapshot, StageStatus, StageView};

use super::super::canvas::Canvas;
use super::super::format;
use super::super::rollback;
use super::super::theme::Role;

/// How a stage stands on the way forward or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Pending,
    Current,
    Passed,
    /// It is being undone.
    Undoing,
    /// It has been undone.
    GoneBack,
}

/// How each stage stands. A stage counts as gone back as soon as the route says so; the last thing undone is the copy itself.
fn marks(s: &Snapshot) -> Vec<Mark> {
    let mut marks: Vec<Mark> = s
        .stages
        .iter()
        .map(|st| match st.status {
            StageStatus::Pending => Mark::Pending,
            StageStatus::Current => Mark::Current,
            StageStatus::Passed => Mark::Passed,
        })
        .collect();
    let entered = marks.iter().rposition(|m| *m != Mark::Pending).map_or(0, |i| i + 1);
    if s.phase == Phase::RolledBack {
        marks[..entered].fill(Mark::GoneBack);
    } else if rollback::under_way(s).is_some_and(|b| !b.cohort) {
        for at in (rollback::rests(s)..entered).rev() {
            if !is_undone(s, at) {
                marks[at] = Mark::Undoing;
                break;
            }
            marks[at] = Mark::GoneBack;
        }
    }
    marks
}

/// Whether the route is back at what it was before stage `at`. Asked from the last stage down.
fn is_undone(s: &Snapshot, at: usize) -> bool {
    // Isolating next, which undoes the copy, is the rollback's last step.
    let Some(before) = at.checked_sub(1).map(|i| &s.stages[i]) else { return false };
    let (st, r) = (&s.stages[at], &s.route);
    let pilot = s.pilot.as_ref().map_or_else(Default::default, |p| (p.reads, p.writes));
    if pilot.0 > before.pilot.0 || pilot.1 > before.pilot.1 {
        return false;
    }
    if (st.reads, st.writes) == (before.reads, before.writes) {
        return st.shadow <= before.shadow || r.shadow <= before.shadow;
    }
    r.reads_next_below <= rollback::buckets(before.reads) && r.writes_next_below <= rollback::buckets(before.writes)
}

/// Draws the stages on the first row and progress on the second, if there is one.
pub(crate) fn pipeline(c: &mut Canvas<'_>, s: &Snapshot) {
    if s.stages.is_empty() {
        c.put(1, 0, "no stages known yet", Role::Dim);
        return;
    }
    let width = c.width().saturating_sub(1);
    let mut x = 1;
    // The fullest wording that fits the line.
    let wordings = [
        words(s, passed_long, true),
        words(s, |st| format!("✓ {}", st.id), true),
        words(s, |st| format!("✓ {}", st.id), false),
        folded(s),
    ];
    let line_width = |l: &[(String, Role)]| l.iter().map(|(t, _)| format::width(t) + 3).sum::<usize>();
    let [rest @ .., last] = wordings;
    let chosen = rest.into_iter().find(|l| line_width(l) <= width).unwrap_or(last);
    for (i, (text, role)) in chosen.iter().enumerate() {
        if i > 0 {
            x = c.put(x, 0, "─", Role::Border);
        }
        let text = format::fit(text, width.saturating_sub(x + 1));
        x = c.put(x, 0, "[", Role::Border);
        x = c.put(x, 0, &text, *role);
        x = c.put(x, 0, "]", Role::Border);
    }
    if c.height() > 1 {
        progress(c, s, 1);
    }
}

fn passed_long(st: &StageView) -> String {
    format!("✓ {} {}", st.id, format::span(st.elapsed))
}

fn words(s: &Snapshot, passed: impl Fn(&StageView) -> String, long: bool) -> Vec<(String, Role)> {
    s.stages
        .iter()
        .zip(marks(s))
        .map(|(st, mark)| match mark {
            Mark::Passed => (passed(st), Role::Ok),
            Mark::Current => (current(st, long), Role::Accent),
            Mark::Pending if st.irreversible => (format!("{}!", st.id), Role::Warn),
            Mark::Pending => (st.id.clone(), Role::Dim),
            Mark::Undoing => (format!("« {}", st.id.to_uppercase()), Role::Warn),
            Mark::GoneBack => (format!("← {}", st.id), Role::Legacy),
        })
        .collect()
}

fn current(st: &StageView, long: bool) -> String {
    let name = st.id.to_uppercase();
    let cohort = match st.pilot {
        (Goes::Next, Goes::Next) => "cohort ",
        (Goes::Next, _) => "cohort's reads ",
        _ => "",
    };
    if long && (st.reads + st.writes > 0 || !cohort.is_empty()) {
        let (reads, writes) = (st.reads, st.writes);
        format!("» {name} {cohort}reads {reads}% writes {writes}% {}", format::span(st.elapsed))
    } else {
        format!("» {name} {}", format::span(st.elapsed))
    }
}

/// For narrow screens and long plans: counts instead of the stages far away.
fn folded(s: &Snapshot) -> Vec<(String, Role)> {
    let marks = marks(s);
    let count = |mark| marks.iter().filter(|m| **m == mark).count();
    let mut line = Vec::new();
    if count(Mark::Passed) > 0 || count(Mark::GoneBack) == 0 {
        line.push((format!("✓ {}", count(Mark::Passed)), Role::Ok));
    }
    for (st, mark) in s.stages.iter().zip(&marks) {
        match mark {
            Mark::Current => line.push((current(st, false), Role::Accent)),
            Mark::Undoing => line.push((format!("« {}", st.id.to_uppercase()), Role::Warn)),
            _ => {}
        }
    }
    if count(Mark::GoneBack) > 0 {
        line.push((format!("← {}", count(Mark::GoneBack)), Role::Legacy));
    }
    let mut pending = s.stages.iter().filter(|st| st.status == StageStatus::Pending);
    if let Some(next) = pending.next() {
        line.push((next.id.clone(), Role::Dim));
    }
    let more = pending.count();
    if more > 0 {
        line.push((format!("+{more}"), Role::Dim));
    }
    line
}

fn bar(done: f64, width: usize) -> (String, String) {
    let full = ((done.clamp(0.0, 1.0) * width as f64) as usize).min(width);
    ("█".repeat(full), "░".repeat(width - full))
}

/// How far the way back is, where to and why.
fn going_back(c: &mut Canvas<'_>, s: &Snapshot, b: &BackView, y: usize) {
    let end = c.width().saturating_sub(1);
    let (n, of) = rollback::step(b);
    let moving = s.phase == Phase::RollingBack;
    let head = if moving { "GOING BACK" } else { "STANDS STILL GOING BACK" };
    let role = if moving && !b.hard { Role::Warn } else { Role::Bad };
    let mut x = c.put_styled(1, y, &format!(" {head} {} ", rollback::word(b.hard)), c.theme.badge(role)) + 1;
    let (full, rest) = bar(b.steps.0 as f64 / of.max(1) as f64, if end > 90 { 20 } else { 10 });
    x = c.put(x, y, &full, role);
    x = c.put(x, y, &rest, Role::Border) + 1;
    x = c.put(x, y, &format!("{n} of {of}"), Role::Text);
    if let Some(a) = s.activity.as_ref().filter(|_| moving) {
        let done = match a.total {
            Some(total) if total > 0 => format::share((a.done as f64 / total as f64).min(1.0)),
            _ => format!("{} done", format::grouped(a.done)),
        };
        let text = format!(" ({} {done})", a.name);
        if x + format::width(&text) + 30 < end {
            x = c.put(x, y, &text, Role::Text);
        }
    }
    let text = match &b.to {
        None if b.cohort => format!(", only the pilot cohort, {}", b.why),
        Some(stage) => format!(", to {stage}, {}", b.why),
        None => format!(", {}", b.why),
    };
    c.put_fit(x, y, &text, end.saturating_sub(x), Role::Dim);
}

/// What it came to, in a line.
fn at_rest(c: &mut Canvas<'_>, s: &Snapshot, y: usize) {
    let now = super::verdict::now(s);
    let x = c.put_styled(1, y, &format!(" {} ", now.word), c.theme.badge(now.level.role())) + 1;
    let text = s.rest.as_ref().map_or(s.why.as_str(), |r| r.applications.as_str());
    c.put_fit(x, y, text, c.width().saturating_sub(x + 1), Role::Text);
}

fn progress(c: &mut Canvas<'_>, s: &Snapshot, y: usize) {
    if s.phase.is_final() {
        return at_rest(c, s, y);
    }
    if let Some(b) = rollback::under_way(s) {
        return going_back(c, s, b, y);
    }
    let width = c.width().saturating_sub(1);
    let mut end = width;
    if let Some(last) = s.stages.iter().find(|st| st.irreversible && st.status == StageStatus::Pending) {
        let note = format!("no way back after {}!", last.id);
        let slowed = s.activity.as_ref().is_some_and(|a| a.throttled.is_some());
        if !slowed && width > format::width(&note) + 50 {
            c.put_right(width, y, &note, Role::Warn);
            end = width - format::width(&note) - 2;
        }
    }
    let Some(st) = s.stages.iter().find(|st| st.status == StageStatus::Current) else { return };
    if let Some(a) = &s.activity {
        activity(c, a, y, end);
    } else if st.soak.0 > 0 {
        let mut x = c.put(1, y, "soak ", Role::Dim);
        let (full, rest) = bar(st.soaked.0 as f64 / st.soak.0 as f64, if width > 90 { 30 } else { 16 });
        x = c.put(x, y, &full, Role::Accent);
        x = c.put(x, y, &rest, Role::Border);
        let mut text = format!("{} of {}", format::span(st.soaked), format::span(st.soak));
        if st.operator {
            text.push_str(", then an operator advances");
        }
        c.put_fit(x + 1, y, &text, end.saturating_sub(x + 1), Role::Text);
    } else {
        c.put_fit(1, y, "this stage has no soak", end.saturating_sub(1), Role::Dim);
    }
}

fn activity(c: &mut Canvas<'_>, a: &Activity, y: usize, end: usize) {
    let mut x = c.put(1, y, &a.name, Role::Title) + 1;
    match a.total {
        Some(total) if total > 0 => {
            let share = (a.done as f64 / total as f64).min(1.0);
            let (full, rest) = bar(share, if end > 90 { 20 } else { 10 });
            x = c.put(x, y, &full, Role::Accent);
            x = c.put(x, y, &rest, Role::Border) + 1;
            x = c.put(x, y, &format!("{} ", format::share(share)), Role::Text);
            let text = format!("{} of {}", format::grouped(a.done), format::grouped(total));
            if x + format::width(&text) + 20 < end {
                x = c.put(x, y, &text, Role::Text) + 2;
            }
        }
        _ => x = c.put(x, y, &format!("{} done", format::grouped(a.done)), Role::Text) + 2,
    }
    let rate = a.rate.map_or_else(|| "rate not known".to_owned(), |r| format!("{}/s", format::compact(r)));
    let eta = a.eta.map_or_else(|| "time left not known".to_owned(), |t| format!("{} left", format::span(t)));
    for part in [rate, eta] {
        if x + format::width(&part) <= end {
            x = c.put(x, y, &part, Role::Text) + 2;
        }
    }
    if let Some(why) = &a.throttled
        && x + 12 < end
    {
        c.put_fit(x, y, why, end - x, Role::Warn);
    }
}
