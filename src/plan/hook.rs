//! Hooks: what is called when something happens.

use crate::runtime::Micros;

/// A command or a webhook, called when something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Unique in the plan.
    pub id: String,
    /// What it is called for.
    pub on: Vec<Occasion>,
    /// Only in these stages; empty is in every one.
    pub stages: Vec<String>,
    /// What is called.
    pub call: HookCall,
    /// How long one attempt may take.
    pub timeout: Micros,
    /// How often it is attempted altogether.
    pub attempts: u32,
    /// A stage's work begins only once this has succeeded.
    pub required: bool,
}

impl Hook {
    /// True when it is called for `on` while the rollout is in the stage of that id.
    #[must_use]
    pub fn listens(&self, on: Occasion, stage: Option<&str>) -> bool {
        self.on.contains(&on) && (self.stages.is_empty() || stage.is_some_and(|s| self.stages.iter().any(|x| x == s)))
    }
}

/// How applications that follow no route document are told which side is theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Tells them; where there is a flag file, that may be all it takes.
    pub switch: Option<Hook>,
    /// Succeeds once every process goes by what was told last, and none has a write under way that was begun before.
    pub confirm: Hook,
    /// The flag file (flagd) that says it.
    pub flag_file: Option<String>,
}

impl Switch {
    /// What is called, in order.
    pub fn hooks(&self) -> impl Iterator<Item = &Hook> {
        self.switch.iter().chain([&self.confirm])
    }
}

/// What a hook calls. Text with `${VARIABLE}` is kept as written: secrets are put in only when calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookCall {
    /// A program, without a shell.
    Command {
        /// The program and its arguments; never empty.
        argv: Vec<String>,
        /// What it sees in its environment, beside a few harmless names.
        env: Vec<(String, String)>,
    },
    /// An HTTP POST.
    Webhook {
        /// `http://` or `https://`.
        url: String,
        /// Headers beside those that are always sent.
        headers: Vec<(String, String)>,
    },
}

impl HookCall {
    /// What is called, in words that hold no secret: variables are named, not filled in.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            HookCall::Command { argv, .. } => crate::scrub::short(&argv.join(" "), 120),
            // A path is often a secret in itself.
            HookCall::Webhook { url, .. } => match url.split_once("://") {
                Some((scheme, rest)) => {
                    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
                    format!("POST {scheme}://{}", crate::scrub::short(host, 120))
                }
                None => format!("POST {}", crate::scrub::short(url, 120)),
            },
        }
    }

    /// Every text that variables are filled into.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (first, pairs) = match self {
            HookCall::Command { env, .. } => (None, env),
            HookCall::Webhook { url, headers } => (Some(url.as_str()), headers),
        };
        first.into_iter().chain(pairs.iter().map(|(_, v)| v.as_str()))
    }
}

/// What a hook is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// A stage was entered; its work has not begun.
    StageBegin,
    /// A stage has passed.
    StagePassed,
    /// Paused, by whomever.
    Pause,
    /// Goes on.
    Continue,
    /// A trigger acted: it paused or turned back.
    Trigger,
    /// A rollback began, by whomever.
    Rollback,
    /// It cannot go on by itself.
    NeedsOperator,
    /// Every stage passed.
    Completed,
    /// Everything is back on legacy.
    RolledBack,
}

impl Occasion {
    /// Every one with its name in plans and payloads.
    pub const ALL: [(&'static str, Occasion); 9] = [
        ("stage_begin", Occasion::StageBegin),
        ("stage_passed", Occasion::StagePassed),
        ("pause", Occasion::Pause),
        ("continue", Occasion::Continue),
        ("trigger", Occasion::Trigger),
        ("rollback", Occasion::Rollback),
        ("needs_operator", Occasion::NeedsOperator),
        ("completed", Occasion::Completed),
        ("rolled_back", Occasion::RolledBack),
    ];

    /// Its name in plans and payloads.
    #[must_use]
    pub fn name(self) -> &'static str {
        Occasion::ALL.iter().find(|(_, o)| *o == self).map_or("", |(n, _)| n)
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Occasion> {
        Occasion::ALL.iter().find(|(n, _)| *n == name).map(|(_, o)| *o)
    }
}
