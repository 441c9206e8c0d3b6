//! How input changes the dashboard's state. Pure: time comes in as [`Input::Tick`], what is to be done goes out as [`Effect`]s.
//!
//! A command is shown as requested until the engine answers; nothing here ever assumes that it worked.

use ratatui::crossterm::event::{KeyCode, KeyEvent};

use crate::runtime::Micros;
use crate::snapshot::{Command, Reply, Snapshot, TraceAsk};

use super::app::{ANSWER_WITHIN, Overlay, Pane, Question, Request, RequestState, SETTLED_SHOWN, UiState};
use super::dialog::{ask, in_dialog, must_type};
use super::keymap::{self, Action, Key};
use super::rollback::Choice;
use super::trace;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A key.
    Key(KeyEvent),
    /// Pasted text: part of a key that is being typed, ignored otherwise, so that a paste never runs as keys.
    Paste(String),
    /// The terminal has another size.
    Resize,
    /// Time passed.
    Tick {
        /// Since the last tick.
        elapsed: Micros,
        /// How long the snapshot on screen has been the newest one.
        snapshot_age: Micros,
    },
    /// A frame with the current state is on screen.
    Drawn,
    /// The engine answered the command with this id.
    Reply(u64, Reply),
    /// Nobody answers what was asked to be traced, for this reason.
    Untraced(String),
    /// Something outside went wrong and should be said.
    Problem(String),
    /// Nobody moves what the snapshot shows, for this reason; `None` when somebody does.
    Absent(Option<String>),
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a command under this id; its replies come back as [`Input::Reply`].
    Send(u64, Command),
    /// Ask for a document; the answer comes with a snapshot.
    Trace(TraceAsk),
    /// Leave the dashboard; a drill ends with it.
    Quit,
    /// Leave the dashboard once the rollout has stopped at a safe point (a [`Command::Stop`] was sent under this id).
    QuitAfter(u64),
    /// As [`Effect::QuitAfter`], and then hand the rollout over to a process without a screen.
    HandOverAfter(u64),
    /// Leave the dashboard and let the rollout go on without it.
    Detach,
}

/// Takes one input. `snapshot` is the newest one, never the frozen one.
pub fn update(ui: &mut UiState, snapshot: &Snapshot, input: Input) -> Vec<Effect> {
    match input {
        Input::Key(event) => match Key::of(&event) {
            Some(key) => {
                ui.dirty = true;
                on_key(ui, snapshot, key)
            }
            None => Vec::new(),
        },
        Input::Paste(text) => {
            ui.dirty = true;
            if !trace::paste(ui, &text) {
                ui.notice("pasted text is ignored");
            }
            Vec::new()
        }
        Input::Resize => {
            ui.dirty = true;
            Vec::new()
        }
        Input::Tick { elapsed, snapshot_age } => {
            on_tick(ui, elapsed, snapshot_age);
            Vec::new()
        }
        Input::Drawn => {
            if let Some(Overlay::Dialog(d)) = &mut ui.overlay {
                d.drawn = true;
            }
            Vec::new()
        }
        Input::Reply(id, reply) => {
            on_reply(ui, id, reply);
            Vec::new()
        }
        Input::Absent(why) => {
            ui.dirty |= ui.absent != why;
            ui.absent = why;
            Vec::new()
        }
        Input::Untraced(why) => {
            ui.dirty = true;
            if let Some(screen) = &mut ui.trace {
                screen.refused = Some(crate::scrub::short(&why, 300));
            }
            Vec::new()
        }
        Input::Problem(text) => {
            ui.dirty = true;
            ui.remark(text);
            Vec::new()
        }
    }
}

fn on_tick(ui: &mut UiState, elapsed: Micros, snapshot_age: Micros) {
    let shown_before = ui.request_shown().map(|r| (r.id, r.state.clone()));
    let second_before = ui.clock.0 / 1_000_000;
    ui.clock += elapsed;
    let now = ui.clock;
    for r in &mut ui.requests {
        if r.state == RequestState::Requested && now.since(r.sent_at) >= ANSWER_WITHIN {
            r.state = RequestState::Unknown;
            r.changed_at = now;
        }
    }
    if ui.notice.as_ref().is_some_and(|n| now.since(n.at) >= SETTLED_SHOWN) {
        ui.notice = None;
        ui.dirty = true;
    }
    let shown = ui.request_shown().map(|r| (r.id, r.state.clone()));
    let waiting = matches!(&shown, Some((_, RequestState::Requested | RequestState::Accepted)));
    ui.dirty |= shown != shown_before || (waiting && now.0 / 1_000_000 != second_before);
    let age = Micros::from_secs(snapshot_age.0 / 1_000_000);
    ui.dirty |= age != ui.snapshot_age;
    ui.snapshot_age = age;
}

fn on_reply(ui: &mut UiState, id: u64, reply: Reply) {
    let now = ui.clock;
    let Some(r) = ui.requests.iter_mut().find(|r| r.id == id) else { return };
    // Applied and refused are final; a late "accepted" after them says nothing new.
    if matches!(r.state, RequestState::Applied | RequestState::Refused(_)) {
        return;
    }
    r.state = match reply {
        Reply::Accepted => RequestState::Accepted,
        Reply::Applied => RequestState::Applied,
        Reply::Refused(why) => RequestState::Refused(crate::scrub::short(&why, 200)),
    };
    r.changed_at = now;
    ui.dirty = true;
}

fn on_key(ui: &mut UiState, snapshot: &Snapshot, key: Key) -> Vec<Effect> {
    if ui.typing_filter {
        type_filter(ui, key);
        return Vec::new();
    }
    if let Some(effects) = trace::on_key(ui, snapshot, key) {
        return effects;
    }
    // A word that must be typed may contain letters that are keys elsewhere.
    if let Some(Overlay::Dialog(d)) = &mut ui.overlay
        && let Some(word) = must_type(d, snapshot)
    {
        match key {
            // Unless the word has them, a P still pauses and an R asks for the way back.
            Key::Char(c @ ('P' | 'R')) if !word.contains(c) => {}
            Key::Char(c) if d.drawn && d.typed.chars().count() < 64 => {
                d.typed.push(c);
                return Vec::new();
            }
            Key::Code(KeyCode::Backspace) => {
                d.typed.pop();
                return Vec::new();
            }
            _ => {}
        }
    }
    let action = keymap::action(key);
    // Pause never waits for anything, whatever is open.
    if action == Some(Action::Pause) {
        return pause(ui);
    }
    match ui.overlay.take() {
        Some(Overlay::Dialog(dialog)) => in_dialog(ui, snapshot, dialog, key, action),
        Some(open @ (Overlay::Help | Overlay::Why)) => {
            match (action, &open) {
                (Some(Action::Help), Overlay::Why) => ui.overlay = Some(Overlay::Help),
                (Some(Action::Why), Overlay::Help) => ui.overlay = Some(Overlay::Why),
                (Some(Action::Advance | Action::Continue | Action::Rollback), _) => {
                    return look_or_ask(ui, snapshot, action);
                }
                _ => {}
            }
            Vec::new()
        }
        None => look_or_ask(ui, snapshot, action),
    }
}

fn pause(ui: &mut UiState) -> Vec<Effect> {
    ui.overlay = None;
    let under_way = |r: &Request| {
        r.command == Command::Pause && matches!(r.state, RequestState::Requested | RequestState::Accepted)
    };
    // Another command sent after the pause may undo it, so only the newest one counts.
    if ui.requests.last().is_some_and(under_way) {
        return Vec::new();
    }
    vec![ui.send(Command::Pause)]
}

fn look_or_ask(ui: &mut UiState, snapshot: &Snapshot, action: Option<Action>) -> Vec<Effect> {
    let Some(action) = action else { return Vec::new() };
    match action {
        Action::Pause => return pause(ui),
        Action::Continue => ask(ui, snapshot, Question::Continue),
        Action::Advance => ask(ui, snapshot, Question::Advance),
        Action::Rollback => ask(ui, snapshot, Question::Rollback(Choice::first(snapshot))),
        Action::Quit if snapshot.phase.is_final() || ui.watching => return vec![Effect::Quit],
        Action::Quit if snapshot.drill => ask(ui, snapshot, Question::QuitDrill),
        Action::Quit => ask(ui, snapshot, Question::QuitLive),
        Action::Why => ui.overlay = Some(Overlay::Why),
        Action::Help => ui.overlay = Some(Overlay::Help),
        Action::Freeze => {
            ui.frozen = if ui.frozen.is_some() { None } else { Some(Box::new(snapshot.clone())) };
        }
        Action::Operation => ui.writes = !ui.writes,
        Action::Baseline => ui.baseline = !ui.baseline,
        Action::Zoom => {
            ui.zoomed = !ui.zoomed;
            ui.focus = ui.focus.or(Some(Pane::Heat));
        }
        Action::NextPane => focus(ui, 1),
        Action::PreviousPane => focus(ui, Pane::ALL.len() - 1),
        Action::Older => ui.scroll = (ui.scroll + 1).min(snapshot.events.len().saturating_sub(1)),
        Action::Newer => ui.scroll = ui.scroll.saturating_sub(1),
        Action::Filter => ui.typing_filter = true,
        Action::Trace => trace::open(ui),
        Action::Reveal => ui.notice(format!("{} traces a document first", keymap::label(Action::Trace))),
        Action::Theme => {
            let at = ui.themes.iter().position(|t| *t == ui.theme).map_or(0, |i| i + 1);
            if let Some(theme) = ui.themes.get(at).or(ui.themes.first()).cloned() {
                ui.notice(format!("theme {}", theme.name()));
                ui.theme = theme;
            }
        }
        Action::Close => {
            if ui.zoomed {
                ui.zoomed = false;
            } else if ui.scroll > 0 {
                ui.scroll = 0;
            } else if !ui.filter.is_empty() {
                ui.filter.clear();
            } else {
                ui.focus = None;
            }
        }
        Action::Confirm => {}
    }
    Vec::new()
}

fn focus(ui: &mut UiState, step: usize) {
    let n = Pane::ALL.len();
    let at = ui.focus.and_then(|f| Pane::ALL.iter().position(|p| *p == f));
    let next = match at {
        Some(i) => (i + step) % n,
        None if step == 1 => 0,
        None => n - 1,
    };
    ui.focus = Some(Pane::ALL[next]);
}

fn type_filter(ui: &mut UiState, key: Key) {
    match key {
        Key::Char(c) if ui.filter.chars().count() < 40 => ui.filter.push(c),
        Key::Code(KeyCode::Backspace) => {
            ui.filter.pop();
        }
        Key::Code(KeyCode::Enter) => ui.typing_filter = false,
        Key::Code(KeyCode::Esc) | Key::Ctrl(_) => {
            ui.typing_filter = false;
            ui.filter.clear();
        }
        _ => {}
    }
    ui.scroll = 0;
}
