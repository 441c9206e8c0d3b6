//! The terminal: taken over, written to one frame at a time, and given back however the program ends.
//!
//! A frame is collected in memory and written in one go between the marks of synchronized output (mode 2026), so that no
//! terminal shows half of it. Nothing here knows what is drawn.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute, queue};
use ratatui::{Frame, Terminal};

/// Holds what is written until the whole frame is there.
#[derive(Clone, Default)]
struct FrameBuffer(Arc<Mutex<Vec<u8>>>);

impl FrameBuffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for FrameBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // the frame is written by `Screen::draw`, once
    }
}

/// The terminal, taken over; dropping it gives the terminal back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<FrameBuffer>>,
    frame: FrameBuffer,
    out: Out,
}

/// Standard output without the line buffer of [`io::Stdout`].
struct Out(#[cfg(unix)] std::fs::File);

impl Out {
    #[cfg(unix)]
    fn open() -> io::Result<Out> {
        use std::os::fd::AsFd;
        Ok(Out(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }

    #[cfg(not(unix))]
    fn open() -> io::Result<Out> {
        Ok(Out())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(unix)]
        return self.0.write_all(bytes);
        #[cfg(not(unix))]
        {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
    }
}

impl Screen {
    /// Takes the terminal over: alternate screen, raw mode, bracketed paste. Install color-eyre (or any panic hook of your own)
    /// before this: the hook set here gives the terminal back first and then calls that one.
    ///
    /// # Errors
    /// When there is no terminal.
    pub fn take_over() -> io::Result<Screen> {
        restore_on_panic();
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let entered = (|| {
            execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)?;
            let frame = FrameBuffer::default();
            let terminal = Terminal::new(CrosstermBackend::new(frame.clone()))?;
            Ok(Screen { terminal, frame, out: Out::open()? })
        })();
        if entered.is_err() {
            restore();
        }
        entered
    }

    /// Draws one frame with a single write. Returns the bytes written.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<usize> {
        queue!(self.frame, BeginSynchronizedUpdate)?;
        self.terminal.draw(draw)?;
        queue!(self.frame, EndSynchronizedUpdate)?;
        let bytes = self.frame.take();
        self.out.write(&bytes)?;
        Ok(bytes.len())
    }

    /// Makes the next frame repaint everything, for example after a resize.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn repaint(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is taken over.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back: safe to call at any time and more than once, for example from a signal's task.
pub fn restore() {
    // Leaving the alternate screen twice would put the cursor back to where it was and overwrite a panic's message.
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // Errors are ignored: either the terminal is gone, or there is nobody left to tell.
    let _ = execute!(io::stdout(), EndSynchronizedUpdate, DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}
