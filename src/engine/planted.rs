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
    /// tidegate's own transactions are not recognised on the way back through a change stream.
    EchoFilterOff,
    /// A gate without enough fresh data counts as one that passes.
    GatePassesOnMissingData,
    /// On legacy's side nobody looks at the epoch of a transaction. Switched on in the embedded cluster.
    StaleEpochOnLegacy,
    /// A re-sync that finds no document at the owner leaves the copy.
    DeleteIgnored,
    /// A tail stores its position before the work that it stands for.
    PositionBeforeWork,
    /// The route flips although a process has not acknowledged the freeze.
    FlipWithoutAcks,
    /// The route is replaced whatever its epoch is.
    RouteWithoutCompare,
    /// Whoever takes over does not bump the slots of the older runner.
    TakeOverWithoutBump,
    /// A chunk does not register the keys that it is about to write.
    ChunkNotRegistered,
    /// One key is written by several workers of a tail.
    KeyAcrossWorkers,
    /// What lossy steps lose is not taken from what legacy holds, nor kept.
    PreImageNotKept,
    /// TTL indexes go on while writes are on next.
    TtlNotSuspended,
    /// Applications are told which side is theirs, and nobody asks whether they follow.
    SwitchNotConfirmed,
    /// The journal acknowledges a record before it is synced. Switched on in the journal in memory.
    JournalAckBeforeSync,
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
