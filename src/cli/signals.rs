//! Signals: noted on a thread of their own, acted on by whoever looks. A second one to end ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Failure, NEEDS_OPERATOR};

/// What has been received.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// SIGINT or SIGTERM: end.
    pub end: Arc<AtomicBool>,
    /// SIGHUP: the terminal is gone.
    pub hangup: Arc<AtomicBool>,
    /// Any of them; ends a dashboard.
    pub any: Arc<AtomicBool>,
}

impl Signals {
    /// Starts listening.
    pub(super) fn listen() -> Result<Signals, Failure> {
        let signals = Signals::default();
        let heard = signals.clone();
        let failed = |e: std::io::Error| Failure::new(format!("signals cannot be received: {e}"));
        let rt = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let streams = {
            let _inside = rt.enter();
            Streams::open().map_err(failed)?
        };
        let thread = std::thread::Builder::new().name("signals".into());
        // The thread lives as long as the process.
        thread.spawn(move || rt.block_on(streams.follow(&heard))).map_err(failed)?;
        Ok(signals)
    }

    #[cfg(feature = "mongo")]
    pub(super) fn is_end(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }

    #[cfg(feature = "mongo")]
    pub(super) fn is_hangup(&self) -> bool {
        self.hangup.load(Ordering::SeqCst)
    }

    fn note_end(&self) {
        if self.end.swap(true, Ordering::SeqCst) {
            // Whatever is under way is left to whoever resumes: the fences hold.
            super::dashboard::give_back();
            std::process::exit(NEEDS_OPERATOR.into());
        }
        self.any.store(true, Ordering::SeqCst);
    }

    pub(super) fn note_hangup(&self) {
        self.hangup.store(true, Ordering::SeqCst);
        self.any.store(true, Ordering::SeqCst);
    }
}

#[cfg(unix)]
struct Streams {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Streams {
    fn open() -> std::io::Result<Streams> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Streams {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn follow(mut self, heard: &Signals) {
        use crate::runtime::{Either, race};
        loop {
            match race(race(self.int.recv(), self.term.recv()), self.hup.recv()).await {
                Either::Left(_) => heard.note_end(),
                Either::Right(_) => heard.note_hangup(),
            }
        }
    }
}

#[cfg(not(unix))]
struct Streams;

#[cfg(not(unix))]
impl Streams {
    fn open() -> std::io::Result<Streams> {
        Ok(Streams)
    }

    async fn follow(self, heard: &Signals) {
        while tokio::signal::ctrl_c().await.is_ok() {
            heard.note_end();
        }
    }
}
