//! What keys do: commands, dialogs, and what must never happen by accident.
#![allow(clippy::unwrap_used)] // helpers of tests

use proptest::prelude::*;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tidegate::runtime::Micros;
use tidegate::snapshot::{Command, Phase, Reply, Snapshot, StageStatus};
use tidegate::tui::app::RequestState;
use tidegate::tui::{Effect, Input, UiState, render_text, update};

use crate::fixture::canary;

fn key(c: char) -> Input {
    Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))
}

const ENTER: Input = Input::Key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
const ESC: Input = Input::Key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));

fn tick(ms: u64) -> Input {
    Input::Tick { elapsed: Micros::from_ms(ms), snapshot_age: Micros::ZERO }
}

/// Feeds the inputs; every frame in between is drawn, as the event loop does.
fn feed(ui: &mut UiState, s: &Snapshot, inputs: &[Input]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for input in inputs {
        effects.extend(update(ui, s, input.clone()));
        effects.extend(update(ui, s, Input::Drawn));
    }
    effects
}

fn footer(s: &Snapshot, ui: &UiState) -> String {
    render_text(s, ui, 120, 36).lines().last().unwrap().to_owned()
}

#[test]
fn pause_is_sent_at_once_and_twice_changes_nothing() {
    let (s, mut ui) = (canary(), UiState::default());
    assert_eq!(feed(&mut ui, &s, &[key('P')]), [Effect::Send(1, Command::Pause)]);
    assert_eq!(feed(&mut ui, &s, &[key('P'), key('P')]), []);
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Accepted)]);
    assert_eq!(feed(&mut ui, &s, &[key('P')]), []);
    // Once it is settled, asking again is a new request.
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Applied)]);
    assert_eq!(feed(&mut ui, &s, &[key('P')]), [Effect::Send(2, Command::Pause)]);
}

#[test]
fn pause_works_whatever_is_open() {
    for open in ['A', 'C', 'R', '?', 'w', 'q', 'z', 'f'] {
        let (s, mut ui) = (canary(), UiState::default());
        assert_eq!(feed(&mut ui, &s, &[key(open), key('P')]), [Effect::Send(1, Command::Pause)], "{open}");
        assert_eq!(ui.overlay, None);
    }
}

#[test]
fn a_pause_after_a_continue_is_sent_although_an_older_pause_is_not_settled() {
    let (s, mut ui) = (canary(), UiState::default());
    let effects = feed(&mut ui, &s, &[key('P'), key('C'), ENTER, key('P')]);
    let sent: Vec<_> = effects.iter().map(|e| if let Effect::Send(_, c) = e { *c } else { panic!("{e:?}") }).collect();
    assert_eq!(sent, [Command::Pause, Command::Continue, Command::Pause]);
}

#[test]
fn the_status_line_says_requested_accepted_applied_and_never_more() {
    let (s, mut ui) = (canary(), UiState::default());
    feed(&mut ui, &s, &[key('P')]);
    let text = footer(&s, &ui);
    assert!(text.contains("PAUSE requested") && !text.contains("accepted"), "{text}");
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Accepted)]);
    let text = footer(&s, &ui);
    assert!(text.contains("accepted") && !text.contains("applied"), "{text}");
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Applied)]);
    assert!(footer(&s, &ui).contains("applied"));
    feed(&mut ui, &s, &[tick(9_000)]);
    assert!(!footer(&s, &ui).contains("PAUSE"));
}

#[test]
fn without_an_answer_the_outcome_is_unknown_and_a_late_answer_settles_it() {
    let (s, mut ui) = (canary(), UiState::default());
    feed(&mut ui, &s, &[key('P'), tick(4_900)]);
    assert_eq!(ui.requests[0].state, RequestState::Requested);
    feed(&mut ui, &s, &[tick(200)]);
    assert_eq!(ui.requests[0].state, RequestState::Unknown);
    assert!(footer(&s, &ui).contains("UNKNOWN"));
    // It may be asked for again, and the first may still answer.
    assert_eq!(feed(&mut ui, &s, &[key('P')]), [Effect::Send(2, Command::Pause)]);
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Applied)]);
    assert_eq!(ui.requests[0].state, RequestState::Applied);
}

#[test]
fn a_refusal_is_shown_with_its_reason() {
    let (s, mut ui) = (canary(), UiState::default());
    feed(&mut ui, &s, &[key('A'), ENTER, Input::Reply(1, Reply::Refused("next read p99\u{1b}[2J fails".into()))]);
    let text = footer(&s, &ui);
    assert!(text.contains("ADVANCE refused: next read p99") && !text.contains('\u{1b}'), "{text}");
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Applied)]);
    assert!(matches!(ui.requests[0].state, RequestState::Refused(_)));
}

#[test]
fn advancing_names_the_stage_that_was_seen() {
    let (s, mut ui) = (canary(), UiState::default());
    assert_eq!(feed(&mut ui, &s, &[key('A'), ENTER]), [Effect::Send(1, Command::Advance { stage: 3 })]);
    assert_eq!(ui.overlay, None);
}

#[test]
fn an_answer_to_a_question_about_another_stage_or_epoch_is_not_sent() {
    for question in ['A', 'C'] {
        let (s, mut ui) = (canary(), UiState::default());
        feed(&mut ui, &s, &[key(question)]);
        let mut moved = canary();
        moved.stages[3].status = StageStatus::Passed;
        moved.stages[4].status = StageStatus::Current;
        assert_eq!(feed(&mut ui, &moved, &[ENTER]), []);
        assert!(footer(&moved, &ui).contains("not sent: the stage changed"));

        feed(&mut ui, &s, &[key(question)]);
        let taken_over = Snapshot { epoch: 19, ..canary() };
        assert_eq!(feed(&mut ui, &taken_over, &[ENTER]), []);
        assert!(footer(&taken_over, &ui).contains("not sent: the lease changed hands"));
    }
}

#[test]
fn enter_before_the_question_is_on_screen_is_no_answer() {
    let (s, mut ui) = (canary(), UiState::default());
    update(&mut ui, &s, key('A'));
    assert_eq!(update(&mut ui, &s, ENTER), []);
    assert!(ui.overlay.is_some());
    update(&mut ui, &s, Input::Drawn);
    assert_eq!(update(&mut ui, &s, ENTER).len(), 1);
}

#[test]
fn escape_sends_nothing() {
    for open in ['A', 'C', 'R', 'q', '?', 'w'] {
        let (s, mut ui) = (canary(), UiState::default());
        assert_eq!(feed(&mut ui, &s, &[key(open), ESC]), []);
        assert_eq!(ui.overlay, None, "{open}");
    }
}

#[test]
fn what_cannot_be_undone_must_be_typed() {
    let mut s = canary();
    s.stages[3].status = StageStatus::Passed;
    s.stages[5].status = StageStatus::Current;
    let mut ui = UiState::default();
    assert_eq!(feed(&mut ui, &s, &[key('A'), ENTER]), []);
    assert!(render_text(&s, &ui, 80, 24).contains("THERE IS NO WAY BACK from contract."));
    assert_eq!(feed(&mut ui, &s, &"orders-v".chars().map(key).collect::<Vec<_>>()), []);
    assert_eq!(feed(&mut ui, &s, &[ENTER]), []);
    assert_eq!(feed(&mut ui, &s, &[key('2'), ENTER]), [Effect::Send(1, Command::Advance { stage: 5 })]);
    // Even there a P pauses.
    let mut ui = UiState::default();
    assert_eq!(feed(&mut ui, &s, &[key('A'), key('P')]), [Effect::Send(1, Command::Pause)]);
}

#[test]
fn releases_repeats_and_pastes_do_nothing() {
    let (s, mut ui) = (canary(), UiState::default());
    for kind in [KeyEventKind::Release, KeyEventKind::Repeat] {
        let event = KeyEvent::new_with_kind(KeyCode::Char('P'), KeyModifiers::NONE, kind);
        assert_eq!(feed(&mut ui, &s, &[Input::Key(event)]), []);
    }
    assert_eq!(feed(&mut ui, &s, &[Input::Paste("PACR\nq\n".into())]), []);
    assert!(ui.requests.is_empty() && ui.overlay.is_none());
}

#[test]
fn leaving_asks_what_should_become_of_the_rollout() {
    let (live, mut ui) = (canary(), UiState::default());
    assert_eq!(feed(&mut ui, &live, &[key('q'), key('q'), key('y')]), []);
    assert_eq!(feed(&mut ui, &live, &[key('d')]), [Effect::Detach]);
    let mut ui = UiState::default();
    let effects = feed(&mut ui, &live, &[key('q'), ENTER]);
    assert_eq!(effects, [Effect::Send(1, Command::Stop), Effect::QuitAfter(1)]);
    let mut ui = UiState::default();
    assert_eq!(feed(&mut ui, &live, &[key('q'), key('h')]), []);
    assert_eq!(feed(&mut ui, &live, &[key('H')]), [Effect::Send(1, Command::Stop), Effect::HandOverAfter(1)]);
    let mut ui = UiState::default();
    ui.watching = true;
    assert_eq!(feed(&mut ui, &live, &[key('q')]), [Effect::Quit]);

    let drill = Snapshot { drill: true, ..canary() };
    for yes in [key('y'), ENTER, key('q')] {
        assert_eq!(feed(&mut UiState::default(), &drill, &[key('q'), yes]), [Effect::Quit]);
    }
    let done = Snapshot { phase: Phase::Completed, ..canary() };
    assert_eq!(feed(&mut UiState::default(), &done, &[key('q')]), [Effect::Quit]);
}

#[test]
fn typing_a_filter_is_not_steering() {
    let (s, mut ui) = (canary(), UiState::default());
    let typed = [key('/'), key('P'), key('A'), key('q')];
    assert_eq!(feed(&mut ui, &s, &typed), []);
    assert_eq!(ui.filter, "PAq");
    assert_eq!(feed(&mut ui, &s, &[ESC, key('P')]), [Effect::Send(1, Command::Pause)]);
    assert!(ui.filter.is_empty());
}

#[test]
fn nothing_is_redrawn_while_nothing_changes() {
    let (s, mut ui) = (canary(), UiState::default());
    ui.take_dirty();
    feed(&mut ui, &s, &[tick(33), tick(33)]);
    assert!(!ui.take_dirty());
    update(&mut ui, &s, Input::Tick { elapsed: Micros::from_ms(33), snapshot_age: Micros::from_ms(1_010) });
    assert!(ui.take_dirty(), "the age on screen has changed");
}

proptest! {
    /// Only the keys that act, and Enter in their dialogs, ever send anything.
    #[test]
    fn looking_never_acts(keys in proptest::collection::vec("[a-z?/]", 0..60)) {
        let (s, mut ui) = (canary(), UiState::default());
        for k in keys {
            let c = k.chars().next().unwrap();
            let effects = feed(&mut ui, &s, &[key(c)]);
            prop_assert!(!effects.iter().any(|e| matches!(e, Effect::Send(..))), "{c}: {effects:?}");
        }
    }
}
