//! What a repair found and did, for people and machines.

use super::Repair;
use crate::plan::RepairKind;
use crate::route::Side;

/// What became of one thing that a repair is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairFate {
    /// It would be mended: a dry run.
    Would,
    /// It is mended.
    Done,
    /// It needed no mending any more.
    Nothing,
    /// A person has to look at it.
    Person,
}

impl RepairFate {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RepairFate::Would => "would mend",
            RepairFate::Done => "mended",
            RepairFate::Nothing => "nothing to do",
            RepairFate::Person => "for a person",
        }
    }
}

/// One thing that a repair is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairItem {
    /// The key (or the index), as the journal shows keys.
    pub key: String,
    /// The side that it is mended on; `None` where it cannot be said.
    pub side: Option<Side>,
    /// What is wrong, or was done, in a few words.
    pub what: String,
    /// What became of it.
    pub fate: RepairFate,
}

/// What became of one action of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairPart {
    /// The action's name.
    pub action: &'static str,
    /// Everything that it is about.
    pub items: Vec<RepairItem>,
    /// Why it did nothing at all: over its limit.
    pub refused: Option<String>,
    /// The keys compared again afterwards: equal, different, and the wall-clock time in milliseconds that this is true of.
    pub verified: Option<(u64, u64, i64)>,
    /// Differences of its kind that it knows of and had no room to name: it is for the next time.
    pub beyond: u64,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl RepairPart {
    pub(super) fn new(kind: RepairKind) -> RepairPart {
        RepairPart { action: kind.name(), ..RepairPart::default() }
    }

    /// How many items came to this.
    #[must_use]
    pub fn count(&self, fate: RepairFate) -> u64 {
        self.items.iter().filter(|i| i.fate == fate).count() as u64
    }
}

/// How a repair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairEnd {
    /// Nothing is left to mend.
    Mended,
    /// Differences are left.
    Differences,
    /// Something is left that only a person can decide.
    Person,
}

/// What a repair found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// The template's id.
    pub template: String,
    /// Nothing was changed.
    pub dry: bool,
    /// One entry an action, in their order.
    pub parts: Vec<RepairPart>,
    /// Why it ended before its end, if it did.
    pub stopped: Option<String>,
}

impl RepairReport {
    pub(super) fn new(template: &str, dry: bool) -> RepairReport {
        RepairReport { template: template.to_owned(), dry, parts: Vec::new(), stopped: None }
    }

    /// What is said when it could not go on.
    pub(in crate::engine) fn cut_off(repair: &Repair, why: &str) -> RepairReport {
        let mut report = RepairReport::new(&repair.template.id, false);
        report.stopped = Some(crate::scrub::short(why, 300));
        report
    }

    /// How many items came to this, over all actions.
    #[must_use]
    pub fn count(&self, fate: RepairFate) -> u64 {
        self.parts.iter().map(|p| p.count(fate)).sum()
    }

    /// How it ended: a person before differences, differences before nothing.
    #[must_use]
    pub fn end(&self) -> RepairEnd {
        let differing: u64 = self.parts.iter().filter_map(|p| p.verified).map(|(_, differing, _)| differing).sum();
        let refused = self.parts.iter().any(|p| p.refused.is_some());
        if self.count(RepairFate::Person) > 0 || refused || self.stopped.is_some() {
            RepairEnd::Person
        } else if differing > 0 || self.count(RepairFate::Would) > 0 || self.parts.iter().any(|p| p.beyond > 0) {
            RepairEnd::Differences
        } else {
            RepairEnd::Mended
        }
    }
}
