//! The questions that keys ask, and what their answers send. Pure, as all of [`super::input`].
//!
//! An answer counts only for what stood on the screen when it was given.

use ratatui::crossterm::event::KeyCode;

use crate::snapshot::{Command, PilotView, Snapshot, Verdict};

use super::app::{Dialog, Overlay, Question, RequestState, UiState, current_stage};
use super::format;
use super::input::Effect;
use super::keymap::{Action, Key};
use super::rollback::{self, Choice};

/// Opens a dialog, or says at once why there is nothing to ask.
pub(super) fn ask(ui: &mut UiState, snapshot: &Snapshot, question: Question) {
    let stage = current_stage(snapshot);
    let mut type_this = None;
    let lines = match question {
        Question::Rollback(_) => match rollback::shut(snapshot) {
            None => Vec::new(),
            Some(why) => return ui.notice(why),
        },
        Question::Advance | Question::Continue if snapshot.phase.is_final() => {
            return ui.notice("the rollout is over");
        }
        Question::Advance => {
            if let Some(b) = rollback::under_way(snapshot) {
                let then = if b.to.is_some() { "; when it rests there, it can go on" } else { "" };
                let place = b.to.as_ref().map_or_else(|| "legacy".to_owned(), |id| format!("stage {id}"));
                return ui.notice(format!("it is going back to {place}: nothing to advance{then}"));
            }
            let Some(at) = stage else { return ui.notice("there is no stage to leave") };
            let (lines, irreversible) = advance_lines(snapshot, at);
            if irreversible {
                type_this = Some(snapshot.plan.id.clone()).filter(|id| !id.is_empty());
            }
            lines
        }
        Question::Continue => {
            let what = match rollback::under_way(snapshot) {
                Some(_) => "Going back goes on from where it stopped.",
                None => "Copying and advancing go on from where they stopped.",
            };
            let mut lines = vec![what.to_owned(), format!("Now: {}", or_unknown(&snapshot.why))];
            if let Some(p) = held(snapshot) {
                lines.push(format!("{} stays on legacy; f takes it forward again instead.", p.cohort));
            }
            lines
        }
        Question::QuitDrill => vec!["End this drill? Its data is gone with it; the journal stays.".to_owned()],
        Question::QuitLive if snapshot.plan.is_observed() => vec![
            "Enter stops observing at a safe point; `tidegate resume` goes on, and compares afresh.".to_owned(),
            "The tool that migrates goes on meanwhile. It cannot be handed over: no other process would be seen."
                .to_owned(),
            "d leaves only this screen; observing goes on in this terminal.".to_owned(),
        ],
        Question::QuitLive => vec![
            "Enter stops the rollout at a safe point; it can be resumed.".to_owned(),
            "H hands it over to a process without a screen; `tidegate watch` comes back to it.".to_owned(),
            "d leaves only this screen; the rollout goes on in this terminal.".to_owned(),
        ],
    };
    ui.overlay = Some(Overlay::Dialog(Dialog {
        question,
        stage,
        epoch: snapshot.epoch,
        lines,
        type_this,
        typed: String::new(),
        drawn: false,
    }));
}

/// What must be typed before Enter counts, if anything. For a rollback the world decides, at every moment anew.
#[must_use]
pub fn must_type(d: &Dialog, snapshot: &Snapshot) -> Option<String> {
    match d.question {
        Question::Rollback(choice) => rollback::must_type(snapshot, choice),
        _ => d.type_this.clone(),
    }
}

/// The cohort, while it is held on legacy and nothing goes back.
pub(super) fn held(s: &Snapshot) -> Option<&PilotView> {
    s.pilot.as_ref().filter(|p| p.is_held() && rollback::under_way(s).is_none())
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "not known yet" } else { text }
}

/// What leaving stage `at` would do, and whether it cannot be undone.
fn advance_lines(s: &Snapshot, at: usize) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    let mut irreversible = false;
    let here = &s.stages[at];
    match s.stages.get(at + 1) {
        Some(next) => {
            lines.push(format!("Stage {} -> {}", here.id, next.id));
            lines.push(format!(
                "reads on next {}% -> {}%, writes on next {}% -> {}%",
                here.reads, next.reads, here.writes, next.writes
            ));
            if next.pilot > here.pilot {
                let (reads, writes) = next.pilot;
                lines.push(format!("pilot cohort: reads {}, writes {}", reads.name(), writes.name()));
            }
            if next.irreversible {
                irreversible = true;
                lines.push(format!("THERE IS NO WAY BACK from {}.", next.id));
            }
        }
        None => lines.push(format!("Stage {} is the last one: the rollout completes.", here.id)),
    }
    let passing = s.gates.iter().filter(|g| g.verdict == Verdict::Pass).count();
    let mut gates = format!("{passing} of {} gates pass", s.gates.len());
    if let Some(worst) = s.gates.iter().find(|g| g.verdict != Verdict::Pass) {
        gates.push_str(&format!("; not passing: {}", worst.name));
    }
    lines.push(gates);
    if let Some(why) = s.calendar.as_ref().and_then(|c| c.closed.as_ref()) {
        lines.push(why.clone());
    }
    if here.soaked < here.soak {
        lines.push(format!("soaked {} of {}", format::span(here.soaked), format::span(here.soak)));
    }
    (lines, irreversible)
}

/// Takes a key while `dialog` is open.
pub(super) fn in_dialog(
    ui: &mut UiState,
    snapshot: &Snapshot,
    dialog: Dialog,
    key: Key,
    action: Option<Action>,
) -> Vec<Effect> {
    let keep = |ui: &mut UiState, dialog: Dialog| {
        ui.overlay = Some(Overlay::Dialog(dialog));
        Vec::new()
    };
    if action == Some(Action::Close) || key == Key::Char('n') {
        return Vec::new();
    }
    // Keys typed before the question was on screen were not an answer to it.
    if !dialog.drawn {
        return keep(ui, dialog);
    }
    let again = action == Some(Action::Quit);
    let yes = action == Some(Action::Confirm);
    let typed = must_type(&dialog, snapshot).is_none_or(|word| word == dialog.typed);
    match dialog.question {
        Question::QuitDrill if yes || key == Key::Char('y') || again => vec![Effect::Quit],
        Question::QuitLive if key == Key::Char('d') => vec![Effect::Detach],
        Question::QuitLive if yes || key == Key::Char('H') => {
            let sent = ui.send(Command::Stop);
            let after = if yes { Effect::QuitAfter(ui.last_id) } else { Effect::HandOverAfter(ui.last_id) };
            vec![sent, after]
        }
        Question::Continue if key == Key::Char('f') && held(snapshot).is_some() => {
            if lease_moved(ui, snapshot, &dialog) { Vec::new() } else { vec![ui.send(Command::CohortForward)] }
        }
        Question::Advance | Question::Continue if yes && typed => confirmed(ui, snapshot, &dialog),
        Question::Rollback(choice) if yes && typed => go_back(ui, snapshot, &dialog, choice),
        Question::Rollback(choice) => {
            let question = Question::Rollback(chosen(choice, snapshot, key));
            keep(ui, Dialog { question, ..dialog })
        }
        // Whatever else is asked, the way back is one key away.
        _ if action == Some(Action::Rollback) => {
            ask(ui, snapshot, Question::Rollback(Choice::first(snapshot)));
            Vec::new()
        }
        _ => keep(ui, dialog),
    }
}

/// The choice after a key.
fn chosen(choice: Choice, snapshot: &Snapshot, key: Key) -> Choice {
    match key {
        Key::Code(KeyCode::Up) if choice.leave => choice.made(snapshot, true),
        Key::Char('s') | Key::Code(KeyCode::Up) => choice.made(snapshot, false),
        Key::Code(KeyCode::Down) if choice.hard => choice.leaving(snapshot),
        Key::Char('l') => choice.leaving(snapshot),
        Key::Char('h') | Key::Code(KeyCode::Down) => choice.made(snapshot, true),
        Key::Char('c') => choice.turned(snapshot),
        Key::Code(KeyCode::Right) => choice.moved(snapshot, true),
        Key::Code(KeyCode::Left) => choice.moved(snapshot, false),
        _ => choice,
    }
}

fn lease_moved(ui: &mut UiState, snapshot: &Snapshot, dialog: &Dialog) -> bool {
    let moved = snapshot.epoch != dialog.epoch;
    if moved {
        ui.notice("not sent: the lease changed hands while the question was open");
    }
    moved
}

fn confirmed(ui: &mut UiState, snapshot: &Snapshot, dialog: &Dialog) -> Vec<Effect> {
    // The answer was given to what stood on the screen; if that is no longer so, it is no answer.
    if current_stage(snapshot) != dialog.stage {
        ui.notice("not sent: the stage changed while the question was open");
        return Vec::new();
    }
    if lease_moved(ui, snapshot, dialog) {
        return Vec::new();
    }
    match (dialog.question, dialog.stage) {
        (Question::Advance, Some(stage)) => vec![ui.send(Command::Advance { stage })],
        (Question::Continue, _) => vec![ui.send(Command::Continue)],
        _ => Vec::new(),
    }
}

/// Unlike the way forward, the way back does not depend on the stage: it leads to the same place from wherever it is by now.
fn go_back(ui: &mut UiState, snapshot: &Snapshot, dialog: &Dialog, choice: Choice) -> Vec<Effect> {
    if lease_moved(ui, snapshot, dialog) {
        return Vec::new();
    }
    if let Some(why) = rollback::refused(snapshot, choice) {
        ui.notice(format!("not sent: {why}"));
        return Vec::new();
    }
    let command = choice.command();
    let asked = ui
        .requests
        .last()
        .is_some_and(|r| r.command == command && matches!(r.state, RequestState::Requested | RequestState::Accepted));
    if asked {
        ui.notice("not sent again: it has been asked for already");
        return Vec::new();
    }
    vec![ui.send(command)]
}
