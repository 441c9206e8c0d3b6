//! Deliberate mistakes, so that the simulator can show that it would find them. Without the feature `planted-bugs` none exists.

/// A mistake in the data protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The fence only reads the slot (a write skew lets a stale runner commit). Switched on in the embedded cluster too.
    ReadOnlyFence,
    /// After an unknown outcome the slot is read but not bumped, and a fresh slot goes on.
    ReadBackWithoutBump,
    /// A chunk is read at whatever time the node is at, not after what the tail has seen.
    ChunkReadNotAfterTail,
    /// The route flips while a forward batch may be under way.
    FlipWithBatchInFlight,
    /// The route flips without draining legacy's stream.
    DrainSkipped,
    /// On the way back writes are let go before every process has stopped reading next as the owner.
    ReadsLeftBehind,
    /// What was left behind on next is not salvaged.
    SalvageSkipped,
    /// A deletion on next counts as no change when what was left behind is salvaged.
    TombstoneIgnored,
    /// The effect is carried out before its journal record is durable.
    EffectBeforeRecord,
    /// In place, a runner that took up again takes the document it finds for the one that was there before.
    PreImageOverwrittenOnResume,
}

/// The mistakes switched on in this run: none, or one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<Bug>,
}

impl Planted {
    /// One mistake.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn one(bug: Bug) -> Planted {
        Planted { bug: Some(bug) }
    }

    /// True when this mistake is switched on.
    #[must_use]
    pub fn has(self, bug: Bug) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self.bug == Some(bug);
        #[cfg(not(feature = "planted-bugs"))]
        {
            let _ = bug;
            false
        }
    }
}
