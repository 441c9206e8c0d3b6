//! The dashboard, screen by screen.
#![allow(clippy::unwrap_used)] // helpers of tests

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tidegate::snapshot::{Phase, Snapshot, Verdict};
use tidegate::tui::keymap::BINDINGS;
use tidegate::tui::theme::Theme;
use tidegate::tui::{self, Input, UiState, render_text, update};

use crate::fixture::{canary, copying, early};
use crate::tui_rollback::{going_back, rolled_back};

fn key(c: char) -> Input {
    Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))
}

fn after(s: &Snapshot, inputs: &[Input]) -> UiState {
    let mut ui = UiState::default();
    for input in inputs {
        update(&mut ui, s, input.clone());
    }
    ui
}

/// Through ratatui's own test terminal, as a real one would get it.
fn screen(s: &Snapshot, ui: &UiState, w: u16, h: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(w, h)).unwrap();
    terminal.draw(|frame| tui::draw(frame, s, ui)).unwrap();
    let text = tui::buffer_text(terminal.backend().buffer());
    assert_eq!(text, render_text(s, ui, w, h));
    text
}

fn code(c: KeyCode) -> Input {
    Input::Key(KeyEvent::new(c, KeyModifiers::NONE))
}

#[test]
fn screens_of_a_canary_with_a_failing_gate() {
    for (w, h) in [(200, 60), (120, 36), (80, 24), (60, 16), (40, 6), (20, 3)] {
        insta::assert_snapshot!(format!("canary_{w}x{h}"), screen(&canary(), &UiState::default(), w, h));
    }
}

#[test]
fn screens_of_a_rollout_of_which_nothing_is_known() {
    for (w, h) in [(120, 36), (80, 24), (40, 6)] {
        insta::assert_snapshot!(format!("early_{w}x{h}"), screen(&early(), &UiState::default(), w, h));
    }
}

#[test]
fn screen_of_a_copy_in_a_drill() {
    insta::assert_snapshot!(screen(&copying(), &UiState::default(), 120, 36));
}

#[test]
fn screen_of_the_help() {
    insta::assert_snapshot!(screen(&canary(), &after(&canary(), &[key('?')]), 120, 36));
}

#[test]
fn screen_of_the_reasons() {
    insta::assert_snapshot!(screen(&canary(), &after(&canary(), &[key('w')]), 120, 36));
}

#[test]
fn screen_of_the_advance_dialog() {
    insta::assert_snapshot!(screen(&canary(), &after(&canary(), &[key('A')]), 80, 24));
}

#[test]
fn screen_in_ascii_after_a_pause() {
    let mut ui = after(&canary(), &[key('P'), key('f'), key('b')]);
    ui.ascii = true;
    insta::assert_snapshot!(screen(&canary(), &ui, 120, 36));
}

#[test]
fn what_is_not_known_is_never_shown_as_zero() {
    let text = screen(&early(), &UiState::default(), 120, 36);
    for wrong in ["0 writes at risk", "0 differing", "0.0ms", "0ms", "0/s", "lost writes 0"] {
        assert!(!text.contains(wrong), "{wrong:?} in\n{text}");
    }
}

#[test]
fn ascii_means_ascii() {
    let mut ui = UiState::default();
    ui.ascii = true;
    for (s, overlay) in [
        (canary(), None),
        (early(), Some('?')),
        (copying(), Some('w')),
        (going_back(false), Some('R')),
        (rolled_back(), None),
    ] {
        if let Some(c) = overlay {
            update(&mut ui, &s, key(c));
        }
        let text = screen(&s, &ui, 160, 50);
        assert!(text.is_ascii(), "{text}");
        assert!(!text.contains("??"), "a glyph without a stand-in:\n{text}");
    }
}

#[test]
fn no_size_panics_and_pause_survives_to_40x6() {
    let mut screens = vec![(going_back(true), UiState::default()), (rolled_back(), UiState::default())];
    for s in [canary(), early(), copying()] {
        let uis = [UiState::default(), after(&s, &[key('A'), Input::Drawn]), after(&s, &[key('w')])];
        screens.extend(uis.map(|ui| (s.clone(), ui)));
    }
    for (s, ui) in screens {
        for w in (0..=200).step_by(7).chain([1, 2, 39, 40, 41, 66, 67, 109, 110, 120]) {
            for h in (0..=60).step_by(3).chain([1, 2, 5, 7, 31, 32]) {
                let text = render_text(&s, &ui, w, h);
                // At the end there is nothing to pause.
                if w >= 40 && h >= 6 && !s.phase.is_final() {
                    assert!(text.contains("P pause"), "{w}x{h}\n{text}");
                }
            }
        }
    }
}

#[test]
fn every_pane_can_be_zoomed_at_any_size() {
    let s = canary();
    let mut ui = UiState::default();
    update(&mut ui, &s, key('z'));
    for _ in 0..7 {
        for (w, h) in [(200, 60), (120, 36), (80, 24), (45, 9), (40, 6)] {
            let _ = render_text(&s, &ui, w, h);
        }
        assert!(ui.zoomed);
        update(&mut ui, &s, code(KeyCode::Tab));
    }
}

#[test]
fn a_failing_gate_and_a_passing_one_differ_without_colour() {
    let mut ui = UiState::new(Theme::mono(), vec![], false);
    ui.ascii = true;
    let mut s = canary();
    let failing = screen(&s, &ui, 120, 36);
    let line = failing.lines().find(|l| l.contains("| x next read p99")).expect("marked as failing");
    assert!(line.contains("31.2ms") && failing.contains("x HURT"));
    s.gates[0].verdict = Verdict::Pass;
    s.gates[0].actual = Some(18.0);
    s.gates[0].room = Some(0.28);
    let passing = screen(&s, &ui, 120, 36);
    assert!(passing.contains("| + next read p99") && passing.contains("+ NOT HURT"), "{passing}");
}

#[test]
fn the_monochrome_theme_sends_no_colour() {
    use ratatui::style::Color;
    let ui = UiState::new(Theme::mono(), vec![], false);
    let mut terminal = Terminal::new(TestBackend::new(120, 36)).unwrap();
    terminal.draw(|frame| tui::draw(frame, &canary(), &ui)).unwrap();
    let cells = &terminal.backend().buffer().content;
    assert!(cells.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
}

#[test]
fn every_glyph_is_one_column_wide() {
    let mut terminal = Terminal::new(TestBackend::new(160, 50)).unwrap();
    for (s, ui) in [
        (canary(), UiState::default()),
        (copying(), after(&copying(), &[key('?')])),
        (going_back(false), UiState::default()),
    ] {
        terminal.draw(|frame| tui::draw(frame, &s, &ui)).unwrap();
        for cell in &terminal.backend().buffer().content {
            assert_eq!(tui::format::width(cell.symbol()), 1, "{:?}", cell.symbol());
            assert_eq!(cell.symbol().chars().count(), 1, "{:?}", cell.symbol());
        }
    }
}

#[test]
fn hostile_text_reaches_no_cell() {
    let mut s = canary();
    let hostile = "x\u{1b}]52;c;eA==\u{7}\u{1b}[2Jy\u{202E}z\r\n\t\u{9b}31m";
    for e in &mut s.events {
        e.text = hostile.into();
        e.by = hostile.into();
    }
    s.why = hostile.into();
    s.plan.id = hostile.into();
    s.holder = hostile.into();
    s.gates[0].name = hostile.into();
    s.reconcile[0].collection = hostile.into();
    s.lag.members[0].0 = hostile.into();
    s.stages[0].id = hostile.into();
    s.way_back.until_stage = Some(hostile.into());
    s.plan.collections[0].1 = hostile.into();
    for overlay in ['l', '?', 'w', 'A', 'R'] {
        let ui = after(&s, &[key(overlay)]);
        for (w, h) in [(200, 60), (120, 36), (80, 24), (40, 6)] {
            let text = screen(&s, &ui, w, h);
            let bad = text.chars().find(|c| *c != '\n' && (c.is_control() || *c == '\u{202E}'));
            assert_eq!(bad, None, "{w}x{h}");
        }
    }
}

#[test]
fn the_help_lists_every_key() {
    let text = screen(&canary(), &after(&canary(), &[key('?')]), 120, 36);
    for b in BINDINGS {
        let keys: Vec<String> = b.keys.iter().map(|k| k.label()).collect();
        assert!(text.contains(&keys.join(" ")) && text.contains(b.help), "{:?} is not in\n{text}", b.action);
    }
}

#[test]
fn freezing_stops_the_panels_and_neither_the_verdict_nor_the_event_count() {
    let mut s = canary();
    let ui = after(&s, &[key('f')]);
    s.reads[1].p50 = Some(tidegate::runtime::Micros::from_ms(77));
    s.phase = Phase::Paused;
    let mut newer = s.events.last().unwrap().clone();
    newer.seq += 1;
    s.events.push(newer);
    let text = screen(&s, &ui, 120, 36);
    assert!(!text.contains("77.0ms"));
    assert!(text.contains("PAUSED") && text.contains("FROZEN, +1 events"), "{text}");
}

/// Collects what a terminal would be sent.
#[derive(Clone, Default)]
struct Wire(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl std::io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_tick_sends_little_and_a_repaint_is_bounded() {
    use ratatui::{TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
    let wire = Wire::default();
    let viewport = Viewport::Fixed(Rect::new(0, 0, 200, 60));
    let mut terminal =
        Terminal::with_options(CrosstermBackend::new(wire.clone()), TerminalOptions { viewport }).unwrap();
    let ui = UiState::default();
    let mut s = canary();
    terminal.draw(|frame| tui::draw(frame, &s, &ui)).unwrap();
    let repaint = wire.0.take().len();
    // Five seconds later: a new column, new figures, an event.
    s.wall_ms += 5_000;
    for view in s.reads.iter_mut().chain(&mut s.writes) {
        let mut column = *view.heat.last().unwrap();
        column.start += tidegate::snapshot::HEAT_COLUMN;
        view.heat.push(column);
        view.count += 1_517;
        view.p99 = view.p99.map(|p| p + tidegate::runtime::Micros(800));
        view.p99_history.rotate_left(1);
    }
    s.lag.apply_history.rotate_left(1);
    s.events.push(tidegate::snapshot::EventLine { seq: 43, text: "a new record".into(), ..s.events[0].clone() });
    terminal.draw(|frame| tui::draw(frame, &s, &ui)).unwrap();
    let tick = wire.0.take().len();
    assert!(repaint <= 24_000, "a repaint of 200x60 sends {repaint} bytes");
    assert!(tick <= 6_000, "a tick at 200x60 sends {tick} bytes");
    println!("repaint {repaint} bytes, tick {tick} bytes");
}
