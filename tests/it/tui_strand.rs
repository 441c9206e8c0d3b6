//! Next does not answer: what the dashboard says of it, and how an operator leaves it behind.
#![allow(clippy::unwrap_used)] // helpers of tests

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tidegate::runtime::Micros;
use tidegate::snapshot::{BackView, Command, Phase, RouteView, Salvaged, Snapshot, StrandView, WayBack};
use tidegate::tui::{Effect, Input, UiState, render_text, update};

use crate::tui_rollback::going_back;

const ENTER: KeyCode = KeyCode::Enter;

fn key(c: KeyCode) -> Input {
    Input::Key(KeyEvent::new(c, KeyModifiers::NONE))
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

fn feed(s: &Snapshot, keys: &[KeyCode]) -> (UiState, Vec<Command>) {
    let (mut ui, mut effects) = (UiState::default(), Vec::new());
    for k in keys {
        effects.extend(update(&mut ui, s, key(*k)));
        effects.extend(update(&mut ui, s, Input::Drawn));
    }
    let sent = effects.into_iter().filter_map(|e| if let Effect::Send(_, c) = e { Some(c) } else { None });
    (ui, sent.collect())
}

fn screen(s: &Snapshot, keys: &[KeyCode], w: u16, h: u16) -> String {
    render_text(s, &feed(s, keys).0, w, h)
}

/// A hard rollback whose next fell silent.
fn asking() -> Snapshot {
    let mut s = going_back(true);
    s.phase = Phase::NeedsOperator;
    s.why =
        "next has not answered for 12s; legacy lacks its last 14s of writes (about 1320, an estimate); wait, or leave \
             them behind (R)"
            .into();
    s.if_nothing = "goes back by itself, losing nothing, once next answers".into();
    s.back = Some(BackView { step: "writes back to legacy".into(), steps: (0, 7), ..s.back.unwrap() });
    s.route = RouteView { epoch: 20, shadow: 0, reads_next_below: 1024, writes_next_below: 1024, frozen: None };
    s.way_back = WayBack { open: true, text: "100% of writes are on next".into(), ..WayBack::default() };
    s.strand = Some(StrandView {
        silent: Some(Micros::from_secs(12)),
        since_ms: Some(s.wall_ms - 13_600),
        at_risk: Some(Micros::from_ms(13_600)),
        estimate: Some(1_320),
        basis: "writes that applications reported as acknowledged by next in the last 13.6s".into(),
        asks: true,
        ..StrandView::default()
    });
    s
}

/// Everything is on legacy but what was left behind.
fn sealed(silent: bool) -> Snapshot {
    let mut s = asking();
    s.why = "salvage outstanding: next has not answered for 95s".into();
    s.if_nothing = "salvages by itself once next answers".into();
    s.back = Some(BackView { step: "salvage".into(), steps: (3, 8), ..s.back.unwrap() });
    s.route = RouteView { epoch: 23, ..RouteView::default() };
    let v = s.strand.as_mut().unwrap();
    v.asks = false;
    v.sealed = true;
    v.decided = Some("by the operator: the rack has no power".into());
    v.silent = silent.then(|| Micros::from_secs(95));
    if !silent {
        s.phase = Phase::RollingBack;
        s.why = "salvage is under way".into();
        s.strand.as_mut().unwrap().progress = Some((700, 1_284));
    }
    s
}

fn conflicts() -> Snapshot {
    let mut s = sealed(false);
    s.phase = Phase::NeedsOperator;
    s.why = "4 keys were written on both sides, legacy holds its own version: \"ord-17\", 88, 91, 204; both versions are in \
             tidegate.quarantine, say which is right with `tidegate repair PLAN --resolve KEY=legacy|next`"
        .into();
    s.if_nothing = "stays stopped until somebody acts".into();
    s.back = Some(BackView { step: "conflicts".into(), steps: (7, 8), ..s.back.unwrap() });
    let v = s.strand.as_mut().unwrap();
    v.salvaged = Some(Salvaged { changed: 1_284, carried: 1_271, equal: 9, conflicts: 4 });
    v.conflicts = (["\"ord-17\"", "88", "91", "204"].map(str::to_owned).to_vec(), 4);
    s
}

#[test]
fn screens_of_a_next_that_does_not_answer() {
    for (w, h) in [(120, 36), (80, 24)] {
        insta::assert_snapshot!(format!("asking_{w}x{h}"), screen(&asking(), &[], w, h));
        let leave = [KeyCode::Char('R'), KeyCode::Char('l')];
        insta::assert_snapshot!(format!("question_{w}x{h}"), screen(&asking(), &leave, w, h));
        insta::assert_snapshot!(format!("sealed_{w}x{h}"), screen(&sealed(true), &[], w, h));
        insta::assert_snapshot!(format!("salvaging_{w}x{h}"), screen(&sealed(false), &[], w, h));
        insta::assert_snapshot!(format!("conflicts_{w}x{h}"), screen(&conflicts(), &[], w, h));
    }
}

#[test]
fn writes_are_left_behind_only_by_a_typed_word() {
    let s = asking();
    let with = |more: &[KeyCode]| {
        let keys = [&[KeyCode::Char('R'), KeyCode::Char('l')], &typed("orders-v2")[..], more].concat();
        feed(&s, &keys).1
    };
    assert_eq!(feed(&s, &[KeyCode::Char('R'), ENTER]).1, []);
    assert_eq!(feed(&s, &[KeyCode::Char('R'), KeyCode::Char('l'), ENTER]).1, []);
    assert_eq!(with(&[ENTER]), [Command::LeaveBehind]);
    assert_eq!(with(&[KeyCode::Esc, ENTER]), []);
    let down = [&[KeyCode::Char('R'), KeyCode::Down], &typed("orders-v2")[..], &[ENTER]].concat();
    assert_eq!(feed(&s, &down).1, [Command::LeaveBehind]);
}

#[test]
fn nothing_is_left_behind_while_next_answers_or_once_it_is_sealed() {
    let mut answers = asking();
    answers.strand = None;
    for s in [answers, sealed(true)] {
        let keys = [&[KeyCode::Char('R'), KeyCode::Char('l')], &typed("orders-v2")[..], &[ENTER]].concat();
        assert!(!feed(&s, &keys).1.contains(&Command::LeaveBehind));
    }
}
