//! The trace screen's state and its keys. Pure, as all of [`super::input`]: what is asked goes out as an effect, and the answer comes
//! with a snapshot.

use ratatui::crossterm::event::KeyCode;

use crate::runtime::Micros;
use crate::snapshot::{Snapshot, TraceAsk, TraceView};

use super::app::UiState;
use super::input::Effect;
use super::journey;
use super::keymap::{self, Action, Key};

/// Characters of a key that can be typed.
const TYPED_MAX: usize = 512;
/// Without an answer for so long, it may be asked again.
pub const ANSWER_WITHIN: Micros = Micros::from_secs(30);
/// Lines that a page key scrolls.
const PAGE: usize = 10;

/// What was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceAsked {
    /// As it was asked.
    pub ask: TraceAsk,
    /// When, on the dashboard's clock.
    pub at: Micros,
}

/// The trace screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceScreen {
    /// The key, as far as it has been typed.
    pub typed: String,
    /// It is being typed: every character belongs to it.
    pub typing: bool,
    /// What was asked last.
    pub asked: Option<TraceAsked>,
    /// Why that will not be answered.
    pub refused: Option<String>,
    /// Lines skipped from the top.
    pub scroll: usize,
}

impl TraceScreen {
    /// The answer, once the snapshot has it.
    #[must_use]
    pub fn answer<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s TraceView> {
        let asked = self.asked.as_ref()?;
        snapshot.trace.as_deref().filter(|v| v.ask == asked.ask.id)
    }

    /// It is asked, and not answered yet.
    #[must_use]
    pub fn is_waiting(&self, snapshot: &Snapshot, clock: Micros) -> bool {
        let waits = |a: &TraceAsked| clock.since(a.at) < ANSWER_WITHIN;
        self.refused.is_none() && self.asked.as_ref().is_some_and(waits) && self.answer(snapshot).is_none()
    }
}

/// Opens the screen, or the line for another key.
pub(super) fn open(ui: &mut UiState) {
    let screen = ui.trace.get_or_insert_with(TraceScreen::default);
    screen.typing = true;
}

/// What was pasted is part of the key, and never more than that.
pub(super) fn paste(ui: &mut UiState, text: &str) -> bool {
    let open = ui.overlay.is_none();
    let Some(screen) = ui.trace.as_mut().filter(|s| s.typing && open) else { return false };
    let line = crate::scrub::line(text.lines().next().unwrap_or_default().trim());
    let room = TYPED_MAX.saturating_sub(screen.typed.chars().count());
    screen.typed.extend(line.chars().take(room));
    true
}

/// Takes a key while the screen is open and nothing lies over it; `None` when it means what it means elsewhere.
pub(super) fn on_key(ui: &mut UiState, snapshot: &Snapshot, key: Key) -> Option<Vec<Effect>> {
    let screen = ui.trace.as_mut().filter(|_| ui.overlay.is_none())?;
    if screen.typing {
        return Some(typed(ui, snapshot, key));
    }
    let lines = screen.answer(snapshot).map_or(0, |v| journey::lines(v, 100).len());
    let step = if matches!(key, Key::Code(KeyCode::PageDown | KeyCode::PageUp)) { PAGE } else { 1 };
    match keymap::action(key)? {
        Action::Close => ui.trace = None,
        Action::Trace | Action::Filter => screen.typing = true,
        Action::Older => screen.scroll = (screen.scroll + step).min(lines.saturating_sub(1)),
        Action::Newer => screen.scroll = screen.scroll.saturating_sub(step),
        Action::Confirm => return Some(ask(ui, snapshot, false)),
        Action::Reveal => {
            let masks = screen.answer(snapshot).is_some_and(|v| v.masked);
            if masks {
                return Some(ask(ui, snapshot, true));
            }
            ui.notice("nothing of it is masked");
        }
        _ => return None,
    }
    Some(Vec::new())
}

fn typed(ui: &mut UiState, snapshot: &Snapshot, key: Key) -> Vec<Effect> {
    let Some(screen) = &mut ui.trace else { return Vec::new() };
    match key {
        Key::Char(c) if screen.typed.chars().count() < TYPED_MAX => screen.typed.push(c),
        Key::Code(KeyCode::Backspace) => drop(screen.typed.pop()),
        Key::Code(KeyCode::Enter) => return ask(ui, snapshot, false),
        Key::Code(KeyCode::Esc) | Key::Ctrl(_) if screen.asked.is_none() => ui.trace = None,
        Key::Code(KeyCode::Esc) | Key::Ctrl(_) => screen.typing = false,
        _ => {}
    }
    Vec::new()
}

fn ask(ui: &mut UiState, snapshot: &Snapshot, reveal: bool) -> Vec<Effect> {
    let (at, id) = (ui.clock, ui.last_id + 1);
    let watching = ui.watching;
    let Some(screen) = &mut ui.trace else { return Vec::new() };
    // Where nobody answers the screen says so already.
    if screen.typed.trim().is_empty() || watching {
        return Vec::new();
    }
    if screen.is_waiting(snapshot, at) {
        // What is typed stays what is asked next: the answer on its way is for another key.
        return Vec::new();
    }
    screen.typing = false;
    // What is journalled of a reveal names the key as everything else does.
    let known = screen.answer(snapshot).filter(|_| reveal).map(|v| v.key.clone());
    let ask = TraceAsk { id, key: known.unwrap_or_else(|| screen.typed.clone()), reveal };
    screen.asked = Some(TraceAsked { ask: ask.clone(), at });
    (screen.refused, screen.scroll) = (None, 0);
    ui.last_id = id;
    vec![Effect::Trace(ask)]
}
