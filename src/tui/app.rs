//! The dashboard's own state. Pure data: no I/O, no clock; [`super::input`] is what changes it.

use crate::runtime::Micros;
use crate::snapshot::{Command, Snapshot};

use super::input::Effect;
use super::rollback::Choice;
use super::theme::Theme;
use super::trace::TraceScreen;

/// Without an answer for so long, the outcome of a command is unknown.
pub const ANSWER_WITHIN: Micros = Micros::from_secs(5);
/// A settled command stays on the status line for so long.
pub const SETTLED_SHOWN: Micros = Micros::from_secs(8);

/// A panel that can be focused and zoomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Latency over time.
    Heat,
    /// The current stage's gates.
    Gates,
    /// Latency now, both sides.
    Distribution,
    /// Percentiles, both sides.
    Percentiles,
    /// Replication and apply lag.
    Lag,
    /// Reconciliation counts.
    Reconcile,
    /// The journal's latest records.
    Events,
}

impl Pane {
    /// In the order of the Tab key.
    pub const ALL: [Pane; 7] =
        [Pane::Heat, Pane::Gates, Pane::Distribution, Pane::Percentiles, Pane::Lag, Pane::Reconcile, Pane::Events];
}

/// What lies over the panels.
#[derive(Clone, Debug, PartialEq)]
pub enum Overlay {
    /// The keys.
    Help,
    /// Why it waits.
    Why,
    /// A question.
    Dialog(Dialog),
}

/// What a dialog asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Leave the stage?
    Advance,
    /// Go on after the pause?
    Continue,
    /// Go back, and how?
    Rollback(Choice),
    /// End the drill?
    QuitDrill,
    /// Stop at a safe point, or only leave?
    QuitLive,
}

/// A question, bound to what the operator saw when it opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialog {
    /// What it asks.
    pub question: Question,
    /// Index of the stage that was current when it opened.
    pub stage: Option<usize>,
    /// The lease epoch when it opened.
    pub epoch: i64,
    /// What would happen, worded when it opened; a rollback's is worded anew in every frame.
    pub lines: Vec<String>,
    /// This must be typed before Enter counts: asked only for what cannot be undone. See [`super::dialog::must_type`].
    pub type_this: Option<String>,
    /// What has been typed so far.
    pub typed: String,
    /// It has been on screen; keys before that do not count.
    pub drawn: bool,
}

/// How far a command is, as far as the dashboard has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// Sent; no answer yet.
    Requested,
    /// In the journal, its effect is under way.
    Accepted,
    /// Its effect is done.
    Applied,
    /// Nothing changed, for this reason.
    Refused(String),
    /// No answer within [`ANSWER_WITHIN`]: it may or may not take effect.
    Unknown,
}

/// A command that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its id, as in [`Effect::Send`].
    pub id: u64,
    /// What was asked.
    pub command: Command,
    /// When it was sent, on the dashboard's clock.
    pub sent_at: Micros,
    /// When its state last changed.
    pub changed_at: Micros,
    /// How far it is.
    pub state: RequestState,
}

/// A short message on the status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it says.
    pub text: String,
    /// When it appeared, on the dashboard's clock.
    pub at: Micros,
    /// It answers a key, which is what the operator looks for; other messages wait behind the fate of a command.
    pub answers_key: bool,
}

/// The dashboard's own state.
#[derive(Clone, Debug)]
pub struct UiState {
    /// Time since the dashboard began, from the ticks.
    pub clock: Micros,
    /// How long the snapshot on screen has been the newest one, in whole seconds.
    pub snapshot_age: Micros,
    /// This terminal looks on at another one's rollout.
    pub watching: bool,
    /// Nobody moves what the snapshot shows, and why that is known.
    pub absent: Option<String>,
    /// What lies over the panels.
    pub overlay: Option<Overlay>,
    /// The focused panel; `None` until Tab is pressed.
    pub focus: Option<Pane>,
    /// The focused panel fills the screen.
    pub zoomed: bool,
    /// The panels show this instead of what is live.
    pub frozen: Option<Box<Snapshot>>,
    /// The latency panels show writes instead of reads.
    pub writes: bool,
    /// The heat map shows legacy instead of next.
    pub baseline: bool,
    /// Events skipped from the newest.
    pub scroll: usize,
    /// Only events that contain this.
    pub filter: String,
    /// The filter is being typed.
    pub typing_filter: bool,
    /// The trace screen, while it is open.
    pub trace: Option<TraceScreen>,
    /// The theme in force.
    pub theme: Theme,
    /// The themes that `t` goes through.
    pub themes: Vec<Theme>,
    /// Only ASCII glyphs.
    pub ascii: bool,
    /// The latest commands, oldest first; at most [`UiState::REQUESTS_MAX`].
    pub requests: Vec<Request>,
    /// A short message.
    pub notice: Option<Notice>,
    /// Something visible changed since [`UiState::take_dirty`].
    pub(super) dirty: bool,
    pub(super) last_id: u64,
}

impl UiState {
    /// How many commands are remembered.
    pub const REQUESTS_MAX: usize = 8;

    /// A fresh state; `themes` are those that `t` goes through.
    #[must_use]
    pub fn new(theme: Theme, themes: Vec<Theme>, ascii: bool) -> Self {
        UiState {
            clock: Micros::ZERO,
            snapshot_age: Micros::ZERO,
            watching: false,
            absent: None,
            overlay: None,
            focus: None,
            zoomed: false,
            frozen: None,
            writes: false,
            baseline: false,
            scroll: 0,
            filter: String::new(),
            typing_filter: false,
            trace: None,
            theme,
            themes,
            ascii,
            requests: Vec::new(),
            notice: None,
            dirty: true,
            last_id: 0,
        }
    }

    /// Whether something visible changed since the last call.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// The newest command that is still worth showing.
    #[must_use]
    pub fn request_shown(&self) -> Option<&Request> {
        // A command nobody answered matters more than a newer one that is settled.
        self.requests
            .iter()
            .rev()
            .find(|r| !self.settled(r))
            .or_else(|| self.requests.last().filter(|r| self.clock.since(r.changed_at) < SETTLED_SHOWN))
    }

    fn settled(&self, r: &Request) -> bool {
        match r.state {
            RequestState::Applied | RequestState::Refused(_) => true,
            // Long enough to be read; after that the journal is the place to look.
            RequestState::Unknown => self.clock.since(r.changed_at) >= Micros::from_secs(60),
            RequestState::Requested | RequestState::Accepted => false,
        }
    }

    /// Answers a key.
    pub(super) fn notice(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), at: self.clock, answers_key: true });
    }

    /// Says what happened by itself. It does not take the place of an answer that still stands.
    pub(super) fn remark(&mut self, text: String) {
        if !self.notice.as_ref().is_some_and(|n| n.answers_key) {
            self.notice = Some(Notice { text, at: self.clock, answers_key: false });
        }
    }

    pub(super) fn send(&mut self, command: Command) -> Effect {
        self.last_id += 1;
        let id = self.last_id;
        self.requests.push(Request {
            id,
            command,
            sent_at: self.clock,
            changed_at: self.clock,
            state: RequestState::Requested,
        });
        if self.requests.len() > Self::REQUESTS_MAX {
            self.requests.remove(0);
        }
        self.notice = None;
        Effect::Send(id, command)
    }
}

impl Default for UiState {
    fn default() -> Self {
        let themes = Theme::built_in();
        let first = themes.first().cloned().unwrap_or_else(Theme::mono);
        UiState::new(first, themes, false)
    }
}

/// Index of the current stage.
#[must_use]
pub fn current_stage(snapshot: &Snapshot) -> Option<usize> {
    snapshot.stages.iter().position(|s| s.status == crate::snapshot::StageStatus::Current)
}
