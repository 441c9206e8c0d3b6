//! The current stage's gates, worst first: actual beside limit, room, how long it has held. Missing data never looks like a pass.

use crate::snapshot::{GateView, Snapshot, Verdict};

use super::super::canvas::{Canvas, Titles};
use super::super::format::{self, NOT_KNOWN};
use super::super::theme::Role;
use super::verdict::Level;
use ratatui::layout::Rect;

/// Room below this share is worth a look.
const LITTLE_ROOM: f64 = 0.2;

fn level(g: &GateView) -> Level {
    match g.verdict {
        Verdict::Fail | Verdict::Stale => Level::Bad,
        Verdict::Inconclusive => Level::Unknown,
        Verdict::Holding => Level::Warn,
        Verdict::Pass if g.room.is_some_and(|r| r < LITTLE_ROOM) && g.limit != 0.0 => Level::Warn,
        Verdict::Pass => Level::Ok,
    }
}

/// What the verdict is called.
fn word(v: Verdict) -> &'static str {
    match v {
        Verdict::Fail => "FAIL",
        Verdict::Stale => "STALE",
        Verdict::Inconclusive => "NO DATA",
        Verdict::Holding => "holding",
        Verdict::Pass => "pass",
    }
}

fn room(g: &GateView) -> String {
    match g.room {
        // A limit of 0 has no share that could be left.
        _ if g.limit == 0.0 => NOT_KNOWN.into(),
        Some(r) if r.is_finite() && r > 9.99 => ">999%".into(),
        Some(r) if r.is_finite() && r < -9.99 => "<-999%".into(),
        Some(r) if r.is_finite() => format!("{:+.0}%", r * 100.0),
        _ => NOT_KNOWN.into(),
    }
}

/// Draws the panel.
pub(crate) fn gates(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, focused: bool) {
    let passing = s.gates.iter().filter(|g| g.verdict == Verdict::Pass).count();
    let total = s.gates.len();
    let right = if total == 0 { String::new() } else { format!("{passing} of {total} pass") };
    let titles = Titles {
        name: "GATES",
        note: "worst first".into(),
        right: (right, Some(if passing == total { Role::Ok } else { Role::Warn })),
        focused,
        ..Titles::default()
    };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if h == 0 || w < 20 {
        return;
    }
    if s.gates.is_empty() {
        c.put_fit(1, 0, "no gates on this stage", w - 2, Role::Dim);
        return;
    }
    let columns = Columns::of(w);
    let head = usize::from(h > 3);
    if head == 1 {
        columns.header(&mut c);
    }
    let fits = h - head;
    let shown = if total > fits { fits.saturating_sub(1) } else { total };
    for (i, g) in s.gates.iter().take(shown).enumerate() {
        columns.row(&mut c, i + head, g);
    }
    let legend = "✗ fails  ? no data  ! holding or little room  ✓ passes";
    if h > head + total + 1 && w > format::width(legend) + 1 {
        c.put(1, h - 1, legend, Role::Dim);
    } else if shown < total {
        c.put_fit(1, h - 1, &format!("and {} more: z zooms", total - shown), w - 2, Role::Dim);
    }
}

/// Where each column ends; the name takes what is left, and what does not fit is left out.
struct Columns {
    name: usize,
    actual: usize,
    limit: usize,
    room: Option<usize>,
    held: Option<usize>,
    samples: Option<usize>,
    word: Option<usize>,
}

impl Columns {
    fn of(w: usize) -> Columns {
        // Widths in the order in which they come in as the panel grows.
        let (mut room, mut held, mut samples, mut word) = (0, 0, 0, 0);
        let mut left = w.saturating_sub(2 + 15 + 8 + 9 + 1);
        for (width, slot) in [(7, &mut room), (8, &mut held), (6, &mut samples), (9, &mut word)] {
            if left < width {
                break;
            }
            *slot = width;
            left -= width;
        }
        let word_end = w.saturating_sub(1);
        let samples_end = word_end - word;
        let held_end = samples_end - samples;
        let room_end = held_end - held;
        let limit = room_end - room;
        let actual = limit.saturating_sub(9);
        let some = |width: usize, end: usize| (width > 0).then_some(end);
        Columns {
            name: actual.saturating_sub(8 + 3),
            actual,
            limit,
            room: some(room, room_end),
            held: some(held, held_end),
            samples: some(samples, samples_end),
            word: some(word, word_end),
        }
    }

    fn header(&self, c: &mut Canvas<'_>) {
        c.put(3, 0, "gate", Role::Dim);
        c.put_right(self.actual, 0, "actual", Role::Dim);
        c.put_right(self.limit, 0, "limit", Role::Dim);
        for (end, text) in [(self.room, "room"), (self.held, "for"), (self.samples, "n"), (self.word, "says")] {
            if let Some(end) = end {
                c.put_right(end, 0, text, Role::Dim);
            }
        }
    }

    fn row(&self, c: &mut Canvas<'_>, y: usize, g: &GateView) {
        let level = level(g);
        c.put(1, y, level.glyph(), level.role());
        let name_role = if g.verdict == Verdict::Fail { Role::Bad } else { Role::Text };
        c.put_fit(3, y, &g.name, self.name, name_role);
        let actual = g.actual.map_or_else(|| NOT_KNOWN.to_owned(), |a| format::value(a, g.unit));
        c.put_right(self.actual, y, &actual, level.role());
        let relation = if g.relation == ">=" { "≥" } else { "≤" };
        c.put_right(self.limit, y, &format!("{relation} {}", format::value(g.limit, g.unit)), Role::Text);
        // Without data there is neither room nor a time it has held: the space says what is missing instead.
        let missing = match g.verdict {
            Verdict::Stale => Some(g.age.map_or_else(|| "no data".to_owned(), |a| format!("{} old", format::lag(a)))),
            Verdict::Inconclusive if g.samples < g.min_samples && self.held.is_some() => {
                Some(format!("n {} of {}", format::compact(g.samples as f64), format::compact(g.min_samples as f64)))
            }
            Verdict::Inconclusive if g.samples < g.min_samples => {
                Some(format!("n<{}", format::compact(g.min_samples as f64)))
            }
            Verdict::Inconclusive => Some("no data".to_owned()),
            _ => None,
        };
        if let Some(text) = &missing {
            if let Some(end) = self.held.or(self.room) {
                // Never over the limit: what does not fit is only marked.
                let text = if end - self.limit > format::width(text) { text } else { "?" };
                c.put_right(end, y, text, Role::Warn);
            }
        } else {
            if let Some(end) = self.room {
                c.put_right(end, y, &room(g), level.role());
            }
            if let Some(end) = self.held {
                let role = if g.verdict == Verdict::Fail { Role::Bad } else { Role::Dim };
                c.put_right(end, y, &format::of(g.held, g.hold_for), role);
            }
        }
        if let Some(end) = self.samples {
            c.put_right(end, y, &format::compact(g.samples as f64), Role::Dim);
        }
        if let Some(end) = self.word {
            c.put_right(end, y, word(g.verdict), level.role());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pass_with_room_looks_good() {
        let gate = |verdict, room| level(&GateView { verdict, room: Some(room), limit: 1.0, ..GateView::default() });
        assert_eq!(gate(Verdict::Pass, 0.5), Level::Ok);
        assert_eq!(gate(Verdict::Pass, 0.1), Level::Warn);
        assert_eq!(gate(Verdict::Stale, 0.5), Level::Bad);
        assert_eq!(gate(Verdict::Inconclusive, 0.5), Level::Unknown);
        // A limit of 0 leaves no room at all, which is as it should be.
        let zero = GateView { verdict: Verdict::Pass, room: Some(0.0), limit: 0.0, ..GateView::default() };
        assert_eq!(level(&zero), Level::Ok);
    }
}
