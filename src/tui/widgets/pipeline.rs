//! The stages in a line, and beneath them what the current one is doing and how far its soak is.

use crate::snapshot::{Activity, Snapshot, StageStatus, StageView};

use super::super::canvas::Canvas;
use super::super::format;
use super::super::theme::Role;

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
        .map(|st| match st.status {
            StageStatus::Passed => (passed(st), Role::Ok),
            StageStatus::Current => (current(st, long), Role::Accent),
            StageStatus::Pending if st.irreversible => (format!("{}!", st.id), Role::Warn),
            StageStatus::Pending => (st.id.clone(), Role::Dim),
        })
        .collect()
}

fn current(st: &StageView, long: bool) -> String {
    let name = st.id.to_uppercase();
    if long && st.reads + st.writes > 0 {
        format!("» {name} reads {}% writes {}% {}", st.reads, st.writes, format::span(st.elapsed))
    } else {
        format!("» {name} {}", format::span(st.elapsed))
    }
}

/// For narrow screens and long plans: counts instead of the stages far away.
fn folded(s: &Snapshot) -> Vec<(String, Role)> {
    let passed = s.stages.iter().filter(|st| st.status == StageStatus::Passed).count();
    let mut line = vec![(format!("✓ {passed}"), Role::Ok)];
    line.extend(
        s.stages.iter().filter(|st| st.status == StageStatus::Current).map(|st| (current(st, false), Role::Accent)),
    );
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

fn progress(c: &mut Canvas<'_>, s: &Snapshot, y: usize) {
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
        c.put_fit(x, y, &format!("slowed: {why}"), end - x, Role::Warn);
    }
}
