//! The last line: what became of the latest command, then the keys.

use crate::runtime::Micros;
use crate::snapshot::{Command, Phase, Snapshot};

use super::super::app::{Request, RequestState, UiState};
use super::super::canvas::Canvas;
use super::super::format;
use super::super::keymap::{Action, BINDINGS, Group};
use super::super::rollback;
use super::super::theme::Role;
use super::super::widgets::verdict;

fn name(command: &Command) -> &'static str {
    match command {
        Command::Pause => "PAUSE",
        Command::Continue => "CONTINUE",
        Command::Advance { .. } => "ADVANCE",
        Command::Stop => "STOP",
        Command::Rollback { hard: false, .. } => "ROLLBACK soft",
        Command::Rollback { hard: true, .. } => "ROLLBACK hard",
        Command::RollbackRange { .. } => "RANGE BACK",
        Command::LeaveBehind => "LEAVE BEHIND",
        Command::RollbackCohort { hard: false } => "COHORT BACK soft",
        Command::RollbackCohort { hard: true } => "COHORT BACK hard",
        Command::CohortForward => "COHORT FORWARD",
    }
}

/// `PAUSE requested -> accepted`, as far as it has come.
pub(crate) fn status(r: &Request, ui: &UiState) -> (String, Role) {
    let what = name(&r.command);
    let since = format::span(ui.clock.since(r.sent_at));
    match &r.state {
        RequestState::Requested if ui.clock.since(r.sent_at) < Micros::from_secs(1) => {
            (format!("{what} requested"), Role::Warn)
        }
        RequestState::Requested => (format!("{what} requested, no answer for {since}"), Role::Warn),
        RequestState::Accepted => (format!("{what} requested -> accepted, taking effect for {since}"), Role::Accent),
        // It is applied when it has begun; the verdict says how far it is.
        RequestState::Applied
            if matches!(
                r.command,
                Command::Rollback { .. }
                    | Command::RollbackRange { .. }
                    | Command::RollbackCohort { .. }
                    | Command::LeaveBehind
            ) =>
        {
            (format!("{what} requested -> accepted -> begun"), Role::Ok)
        }
        RequestState::Applied => (format!("{what} requested -> accepted -> applied"), Role::Ok),
        RequestState::Refused(why) => (format!("{what} refused: {why}"), Role::Bad),
        RequestState::Unknown => {
            (format!("{what} UNKNOWN: no answer for {since}; it may still take effect"), Role::Bad)
        }
    }
}

/// Draws the last row of the canvas.
pub(crate) fn footer(c: &mut Canvas<'_>, s: &Snapshot, ui: &UiState) {
    let w = c.width();
    let mut x = 1;
    let said = match (ui.request_shown(), &ui.notice) {
        (Some(r), Some(n)) if n.answers_key && n.at >= r.changed_at => Some((n.text.clone(), Role::Warn)),
        (Some(r), _) => Some(status(r, ui)),
        (None, Some(n)) => Some((n.text.clone(), Role::Warn)),
        (None, None) => None,
    };
    if let Some((text, role)) = said {
        // Pause stays in sight beside the longest message.
        let text = format::fit(&text, w.saturating_sub(14));
        x = c.put_styled(0, 0, &format!(" {text} "), c.theme.badge(role)) + 1;
    }
    if ui.typing_filter {
        c.put_fit(x, 0, "type to filter, Enter keeps, Esc clears", w.saturating_sub(x), Role::Dim);
        return;
    }
    if ui.overlay.is_none() && ui.trace.as_ref().is_some_and(|t| t.typing) {
        c.put_fit(x, 0, "type the key of a document, Enter traces it, Esc closes", w.saturating_sub(x), Role::Dim);
        return;
    }
    let mut group = Group::Act;
    for b in BINDINGS.iter().filter(|b| !b.short.is_empty()) {
        let Some(key) = b.keys.first().map(|k| k.label()) else { continue };
        // Only what can be done now: nothing at the end, and continuing only after a pause.
        if (b.group == Group::Act && s.phase.is_final()) || (b.action == Action::Continue && s.phase != Phase::Paused) {
            continue;
        }
        // While it goes back no stage is left, and what goes back hard goes no faster.
        let going = rollback::under_way(s).is_some();
        if going && (b.action == Action::Advance || (b.action == Action::Rollback && rollback::shut(s).is_some())) {
            continue;
        }
        let blocked = b.action == Action::Advance && verdict::advance(s).word == verdict::BLOCKED;
        let shut = b.action == Action::Rollback && rollback::shut(s).is_some();
        let text = match (blocked, shut) {
            (true, _) => format!("{} ({})", b.short, verdict::BLOCKED),
            (_, true) => format!("{} (shut)", b.short),
            _ => b.short.to_owned(),
        };
        let gap = if b.group != group && group == Group::Act { 2 } else { 0 };
        if x + gap + format::width(&key) + 1 + format::width(&text) > w {
            break;
        }
        if gap > 0 {
            c.put(x, 0, "│", Role::Border);
            x += gap;
        }
        group = b.group;
        x = c.put(x, 0, &key, Role::Accent) + 1;
        x = c.put(x, 0, &text, Role::Dim) + 2;
    }
}
