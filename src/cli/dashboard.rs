//! The dashboard on this process's terminal.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::tui::UiState;
use crate::tui::run::{Exit, Options, Source, run};
use crate::tui::terminal::{Screen, restore};

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Shows the dashboard until it ends; the terminal is given back before this returns.
pub(super) fn show(source: &mut dyn Source, ui: &mut UiState, options: &Options) -> io::Result<Exit> {
    let mut screen = Screen::take_over()?;
    SHOWN.store(true, Ordering::SeqCst);
    let exit = run(&mut screen, source, ui, options);
    drop(screen);
    SHOWN.store(false, Ordering::SeqCst);
    exit
}

/// Gives the terminal back from another thread, if a dashboard has it: right before the process ends.
pub(super) fn give_back() {
    if SHOWN.load(Ordering::SeqCst) {
        restore();
    }
}
