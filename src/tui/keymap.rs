//! Every key, defined once. The help, the footer and the tests derive from [`BINDINGS`]; nothing else decides what a key does.
//!
//! Lowercase looks, uppercase acts.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Pause at once.
    Pause,
    /// Ask whether to go on.
    Continue,
    /// Ask whether to leave the stage.
    Advance,
    /// Ask whether to go back, and how.
    Rollback,
    /// Leave the dashboard.
    Quit,
    /// Why it waits, what blocks it.
    Why,
    /// Freeze the panels.
    Freeze,
    /// Reads or writes in the latency panels.
    Operation,
    /// Next or legacy in the heat map.
    Baseline,
    /// Fill the screen with the focused panel.
    Zoom,
    /// Focus the next panel.
    NextPane,
    /// Focus the panel before.
    PreviousPane,
    /// Older events.
    Older,
    /// Newer events.
    Newer,
    /// Only events that contain a text.
    Filter,
    /// Everything about one document.
    Trace,
    /// Masked values of the document that is traced.
    Reveal,
    /// Another theme.
    Theme,
    /// Show the keys.
    Help,
    /// Yes, in a dialog.
    Confirm,
    /// Close what is open.
    Close,
}

/// Where the help lists a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Changes the rollout.
    Act,
    /// Changes the view only.
    Look,
    /// Around the dashboard itself.
    General,
}

impl Group {
    /// The heading in the help.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Group::Act => "Act on the rollout",
            Group::Look => "Look",
            Group::General => "General",
        }
    }
}

/// A key as it is bound: the character already says whether Shift was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// A character with Ctrl.
    Ctrl(char),
    /// Any other key.
    Code(KeyCode),
}

impl Key {
    /// The bound form of a key event; `None` for releases, repeats and combinations nobody binds.
    #[must_use]
    pub fn of(event: &KeyEvent) -> Option<Key> {
        if event.kind != KeyEventKind::Press {
            return None;
        }
        let held = event.modifiers - KeyModifiers::SHIFT;
        match event.code {
            KeyCode::Char(c) if held == KeyModifiers::CONTROL => Some(Key::Ctrl(c.to_ascii_lowercase())),
            _ if !held.is_empty() => None,
            // Some terminals report Shift with the lowercase letter.
            KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::SHIFT) => {
                Some(Key::Char(c.to_ascii_uppercase()))
            }
            KeyCode::Char(c) => Some(Key::Char(c)),
            code => Some(Key::Code(code)),
        }
    }

    /// How the key is written on screen.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Key::Char(c) => c.to_string(),
            Key::Ctrl(c) => format!("Ctrl-{c}"),
            Key::Code(KeyCode::BackTab) => "Shift-Tab".into(),
            Key::Code(KeyCode::PageUp) => "PgUp".into(),
            Key::Code(KeyCode::PageDown) => "PgDn".into(),
            Key::Code(code) => code.to_string(),
        }
    }
}

/// One action and its keys.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The keys; the first is the one shown in the footer.
    pub keys: &'static [Key],
    /// What they do.
    pub action: Action,
    /// One or two words for the footer; empty keeps it out.
    pub short: &'static str,
    /// The line in the help.
    pub help: &'static str,
    /// Where the help lists it.
    pub group: Group,
}

const fn bind(keys: &'static [Key], action: Action, short: &'static str, help: &'static str, group: Group) -> Binding {
    Binding { keys, action, short, help, group }
}

/// Every key, in the order of the footer and the help.
pub const BINDINGS: &[Binding] = &[
    bind(&[Key::Char('P')], Action::Pause, "pause", "pause at once, no questions; twice changes nothing", Group::Act),
    // Stopping and going back before going on: a narrow footer shows the first ones only.
    bind(
        &[Key::Char('R')],
        Action::Rollback,
        "rollback",
        "go back to legacy: how, how far, at what cost (asks)",
        Group::Act,
    ),
    bind(&[Key::Char('C')], Action::Continue, "continue", "go on after a pause (asks)", Group::Act),
    bind(&[Key::Char('A')], Action::Advance, "advance", "leave this stage for the next one (asks)", Group::Act),
    bind(&[Key::Char('V')], Action::Reveal, "", "in a trace: show masked values too; it is journalled", Group::Act),
    bind(&[Key::Char('?')], Action::Help, "help", "these keys", Group::General),
    bind(&[Key::Char('q'), Key::Ctrl('c')], Action::Quit, "quit", "leave (asks first)", Group::General),
    bind(&[Key::Char('w')], Action::Why, "why", "why it waits, what blocks it, how to go back", Group::Look),
    bind(
        &[Key::Char('f')],
        Action::Freeze,
        "freeze",
        "freeze the panels; the verdict and the age stay live",
        Group::Look,
    ),
    bind(&[Key::Char('l')], Action::Operation, "reads/writes", "reads or writes in the latency panels", Group::Look),
    bind(&[Key::Char('b')], Action::Baseline, "baseline", "next or legacy in the heat map", Group::Look),
    bind(&[Key::Char('z')], Action::Zoom, "zoom", "fill the screen with the focused panel, and back", Group::Look),
    bind(
        &[Key::Code(KeyCode::Tab), Key::Code(KeyCode::Right)],
        Action::NextPane,
        "pane",
        "focus the next panel",
        Group::Look,
    ),
    bind(
        &[Key::Code(KeyCode::BackTab), Key::Code(KeyCode::Left)],
        Action::PreviousPane,
        "",
        "focus the panel before",
        Group::Look,
    ),
    bind(
        &[Key::Code(KeyCode::Down), Key::Code(KeyCode::PageDown), Key::Char('j')],
        Action::Older,
        "",
        "older events",
        Group::Look,
    ),
    bind(
        &[Key::Code(KeyCode::Up), Key::Code(KeyCode::PageUp), Key::Char('k')],
        Action::Newer,
        "",
        "newer events",
        Group::Look,
    ),
    bind(&[Key::Char('/')], Action::Filter, "filter", "only events that contain a text", Group::Look),
    bind(&[Key::Char('d')], Action::Trace, "trace", "trace a document: versions, owner, changes, records", Group::Look),
    bind(&[Key::Char('t')], Action::Theme, "theme", "another theme", Group::Look),
    bind(&[Key::Code(KeyCode::Enter)], Action::Confirm, "", "yes, in a dialog", Group::General),
    bind(&[Key::Code(KeyCode::Esc)], Action::Close, "", "no, in a dialog; close what is open", Group::General),
];

/// What a key does, if anything.
#[must_use]
pub fn action(key: Key) -> Option<Action> {
    BINDINGS.iter().find(|b| b.keys.contains(&key)).map(|b| b.action)
}

/// The first key of an action, as it is written on screen.
#[must_use]
pub fn label(action: Action) -> String {
    BINDINGS.iter().find(|b| b.action == action).and_then(|b| b.keys.first()).map_or_else(String::new, |k| k.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_bound_twice_and_no_action_either() {
        let mut seen: Vec<Key> = Vec::new();
        let mut actions = std::collections::BTreeSet::new();
        for binding in BINDINGS {
            assert!(actions.insert(binding.action), "{:?} is listed twice", binding.action);
            assert!(!binding.keys.is_empty() && !binding.help.is_empty(), "{:?}", binding.action);
            for key in binding.keys {
                assert!(!seen.contains(key), "{} is bound twice", key.label());
                seen.push(*key);
            }
        }
    }

    #[test]
    fn uppercase_acts_and_lowercase_looks() {
        for binding in BINDINGS {
            for key in binding.keys {
                if let Key::Char(c) = key {
                    assert_eq!(c.is_ascii_uppercase(), binding.group == Group::Act, "{c}");
                }
            }
        }
    }

    #[test]
    fn shift_may_or_may_not_be_reported() {
        for (c, m) in [('P', KeyModifiers::NONE), ('P', KeyModifiers::SHIFT), ('p', KeyModifiers::SHIFT)] {
            let key = Key::of(&KeyEvent::new(KeyCode::Char(c), m));
            assert_eq!(key.and_then(action), Some(Action::Pause), "{c} {m:?}");
        }
        assert_eq!(Key::of(&KeyEvent::new(KeyCode::Char('p'), KeyModifiers::NONE)).and_then(action), None);
        assert_eq!(Key::of(&KeyEvent::new(KeyCode::Char('P'), KeyModifiers::ALT)), None);
        let ctrl_c = Key::of(&KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(ctrl_c.and_then(action), Some(Action::Quit));
    }

    #[test]
    fn only_a_press_counts() {
        for kind in [KeyEventKind::Release, KeyEventKind::Repeat] {
            let event = KeyEvent::new_with_kind(KeyCode::Char('P'), KeyModifiers::NONE, kind);
            assert_eq!(Key::of(&event), None);
        }
    }
}
