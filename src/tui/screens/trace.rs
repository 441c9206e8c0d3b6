//! The trace screen: below the verdict, in the place of the panels. What it shows is [`super::super::journey`]'s.

use ratatui::layout::Rect;

use crate::snapshot::Snapshot;

use super::super::app::UiState;
use super::super::canvas::{Canvas, Titles};
use super::super::format;
use super::super::journey;
use super::super::keymap::{Action, label};
use super::super::theme::Role;
use super::super::trace::TraceScreen;

/// Draws it.
pub(crate) fn draw(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, ui: &UiState, t: &TraceScreen) {
    let answer = t.answer(s);
    let right = answer.map_or((String::new(), None), |v| (v.verdict.word().to_owned(), Some(journey::role(v.verdict))));
    let reveal =
        if answer.is_some_and(|v| v.masked) { format!("   {} reveals", label(Action::Reveal)) } else { String::new() };
    let bottom = match t.typing {
        true => "Esc closes   Enter traces".to_owned(),
        false => format!("Esc closes   Up Down scroll   Enter looks again   {} new key{reveal}", label(Action::Trace)),
    };
    let titles = Titles { name: "TRACE", right, bottom: (bottom, Some(Role::Dim)), focused: true, ..Titles::default() };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    let max = w.saturating_sub(2);
    let cursor = if t.typing { "_" } else { "" };
    // Of a long key its end is what is being typed.
    let skip = t.typed.chars().count().saturating_sub(max.saturating_sub(6));
    let typed: String = t.typed.chars().skip(skip).collect();
    c.put_fit(1, 0, &format!("key  {typed}{cursor}"), max, if t.typing { Role::Accent } else { Role::Title });
    let lines = match (ui.watching, &t.refused, answer) {
        (true, ..) => said(elsewhere(), max, Role::Warn),
        (_, Some(why), _) => said(why, max, Role::Bad),
        (_, None, Some(v)) => journey::lines(v, max),
        (_, None, None) if t.is_waiting(s, ui.clock) => said("looking …", max, Role::Dim),
        (_, None, None) if t.asked.is_some() => said("no answer; Enter asks again", max, Role::Warn),
        _ => said(how(), max, Role::Dim),
    };
    let room = h.saturating_sub(1);
    let from = t.scroll.min(lines.len().saturating_sub(room));
    for (y, (line, role)) in lines.iter().skip(from).take(room).enumerate() {
        // What is cut off is not left out without a sign.
        let more = y + 1 == room && from + room < lines.len();
        c.put_fit(1, y + 1, if more { "…" } else { line }, max, if more { Role::Dim } else { *role });
    }
}

fn said(text: &str, max: usize, role: Role) -> journey::Lines {
    format::wrap(text, max).into_iter().map(|l| (l, role)).collect()
}

fn how() -> &'static str {
    "a document's _id as the journal shows it: 17, \"A-17\", ObjectId(…), {\"region\":\"eu\",\"n\":1}; Enter looks for it on both sides"
}

fn elsewhere() -> &'static str {
    "a document is traced on the screen of the terminal that runs the rollout; from here: tidegate trace PLAN KEY"
}
