//! Where a key's documents are, and which key a text stands for.

use super::Looking;
use super::read;
use crate::cluster::{CollKind, Key, Ns};
use crate::engine::{back, tasks};
use crate::rollout::Status;
use crate::route::Side;

/// Where each side's documents are, and which side alone counts once the rollout is over.
pub(super) struct Places {
    pub ns: [Ns; 2],
    kept: [bool; 2],
    pub alone: Option<Side>,
}

impl Places {
    pub(super) fn of(&self, side: Side) -> &Ns {
        &self.ns[side as usize]
    }

    pub(super) fn is_kept(&self, side: Side) -> bool {
        self.kept[side as usize]
    }
}

impl Looking<'_> {
    /// Where the documents are: a finished rollout has put a side away.
    pub(super) async fn places(&self) -> Places {
        let mut places = Places { ns: self.ctx.ns.clone(), kept: [false; 2], alone: None };
        if !self.begun || self.ctx.in_place.is_some() || self.ctx.observing.is_some() {
            return places;
        }
        let id = &self.ctx.plan.id;
        let away = [
            (Side::Legacy, tasks::quarantine_ns(self.ctx.ns(Side::Legacy), id)),
            (Side::Next, back::isolated_ns(self.ctx.ns(Side::Next), id)),
        ];
        for (side, kept) in away {
            let there = read::kind(self.ctx, side, &kept).await == Some(CollKind::Collection);
            // Under its own name again, it is another one: the plan has been begun anew.
            if there && read::kind(self.ctx, side, places.of(side)).await != Some(CollKind::Collection) {
                places.ns[side as usize] = kept;
                places.kept[side as usize] = true;
                places.alone = Some(side.other());
            }
        }
        if self.state.status == Status::RolledBack {
            places.alone = Some(Side::Legacy);
        }
        places
    }

    /// Of the keys that a text may stand for, the first that is there, or of which something is known.
    pub(super) async fn choose(&self, mut keys: Vec<Key>, places: &Places, notes: &mut Vec<String>) -> Key {
        let mut there = vec![false; keys.len()];
        for side in Side::BOTH {
            // What cannot be read is told where the documents are judged.
            let found = match keys.len() {
                0 | 1 => Vec::new(),
                _ => read::read(self.ctx, side, places.of(side), &keys).await.unwrap_or_default(),
            };
            found.iter().zip(&mut there).for_each(|(doc, there)| *there |= doc.is_some());
        }
        let known = |k: &Key| !self.history.kept(&k.to_string()).is_empty();
        let chosen = there.iter().position(|t| *t).or_else(|| keys.iter().position(known)).unwrap_or(0);
        let others = keys.iter().zip(&there).enumerate().filter(|(i, (_, there))| *i != chosen && **there);
        notes
            .extend(others.map(|(_, (key, _))| {
                crate::scrub::short(&format!("there is a document with the key {key}, too"), 300)
            }));
        keys.swap_remove(chosen)
    }
}
