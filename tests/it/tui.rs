//! The dashboard, screen by screen.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tidegate::snapshot::{Phase, Snapshot, Verdict};
use tidegate::tui::keymap::BINDINGS;
use tidegate::tui::theme::Theme;
use tidegate::tui::{self, Input, UiState, render_text, update};

use crate::fixture::{canary, copying, early};

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

#[test]
fn screens_of_a_canary_with_a_failing_gate() {
    for (w, h) in [(200, 60), (120, 36), (80, 24), (60, 16), (40, 6), (20, 3)] {
        insta::assert_snapshot!(format!("canary_{w}x{h}"), screen(&canary(), &UiState::default(), w, h));
    }
}
