//! The simulator finds deliberate mistakes in the protocol.

use tidegate::drill::Scenario;
use tidegate::engine::planted::{Bug, Planted};
use tidegate::plan::Plan;

use super::case::{Case, Leaning};
use super::faults::Kind;
use super::many::{in_parallel, run};
use super::scenario;
use super::shrink::{Small, shrink};

/// Runs seeds until one finds the mistake. The leanings only make the mishaps frequent that the mistake needs: the same seeds
/// and leanings without the mistake hold (`the_leanings_alone_hold`).
fn is_found(bug: Bug, within: u64) {
    for start in (0..within).step_by(4) {
        let found = in_parallel(start..start + 4, |seed| run(Case::of(seed, Planted::one(bug), leaning(bug))));
        if let Some((seed, Err(e))) = found.into_iter().find(|(_, o)| o.is_err()) {
            println!("{bug:?} found by seed {seed}: {e}");
            return;
        }
    }
    panic!("{bug:?} was not found within {within} seeds");
}

/// What makes a mistake likely to matter; it goes to the end unless that is said otherwise.
pub fn leaning(bug: Bug) -> Leaning {
    use Kind::*;
    let (weights, slow_copy): (&'static [(Kind, u64)], _) = match bug {
        Bug::ReadOnlyFence => (&[(Kill, 4), (TakeOver, 4), (StepDown, 1), (Slow, 1), (Unknown, 4)], None),
        Bug::ReadBackWithoutBump => (&[(Unknown, 6), (Calm, 1)], Some(true)),
        Bug::ChunkReadNotAfterTail => (&[(StepDown, 6), (Lag, 1), (Calm, 1)], Some(true)),
        Bug::FlipWithBatchInFlight | Bug::DrainSkipped => {
            (&[(StepDown, 1), (Slow, 3), (Lag, 3), (Unknown, 3), (Errors, 1)], Some(false))
        }
        Bug::ReadsLeftBehind => (&[(StepDown, 1), (Slow, 6), (Lag, 2)], Some(false)),
        Bug::EffectBeforeRecord => (&[(Kill, 2), (CrashAt, 4), (TakeOver, 1), (StepDown, 1), (Slow, 1)], Some(false)),
        Bug::EchoFilterOff => (&[(Slow, 1), (Calm, 1)], Some(false)),
        Bug::GatePassesOnMissingData => (&[(Kill, 4), (Slow, 2), (Calm, 1)], Some(false)),
        Bug::StaleEpochOnLegacy | Bug::TakeOverWithoutBump => {
            (&[(TakeOver, 3), (Stall, 4), (CutRunner, 2), (Slow, 2), (Unknown, 2)], Some(false))
        }
        Bug::DeleteIgnored | Bug::ChunkNotRegistered => (&[(Slow, 2), (Lag, 2), (StepDown, 1), (Calm, 1)], Some(true)),
        Bug::PositionBeforeWork => (&[(Kill, 4), (CrashAt, 4), (Slow, 2)], None),
        Bug::FlipWithoutAcks => (&[(Deaf, 3), (CutApplication, 2), (Slow, 2)], Some(false)),
        Bug::RouteWithoutCompare => {
            (&[(Stall, 4), (TakeOver, 3), (CutRunner, 2), (Slow, 2), (Unknown, 3)], Some(false))
        }
        Bug::KeyAcrossWorkers => (&[(Slow, 4), (Unknown, 1), (Calm, 1)], Some(true)),
        Bug::PreImageOverwrittenOnResume
        | Bug::SalvageSkipped
        | Bug::TombstoneIgnored
        | Bug::TtlNotSuspended
        | Bug::SwitchNotConfirmed
        | Bug::PreImageNotKept => {
            unreachable!("found by the simulations of `in_place`, `strand`, `constraints` and `switch`")
        }
        Bug::JournalAckBeforeSync => (&[(Kill, 4), (CrashAt, 2)], Some(false)),
    };
    let back = bug == Bug::ReadsLeftBehind;
    Leaning {
        weights: Some(weights),
        slow_copy,
        churn: Some(!back),
        busy: back,
        goes_back: Some(back),
        ..Leaning::default()
    }
}

/// Every mistake, and a test for each that it is found.
macro_rules! found {
    ($($bug:ident: $test:ident,)*) => {
        const ALL: &[Bug] = &[$(Bug::$bug),*];
        $(
            #[test]
            fn $test() {
                is_found(Bug::$bug, 2_000);
            }
        )*
    };
}

found! {
    ReadOnlyFence: a_fence_that_only_reads_is_found,
    ReadBackWithoutBump: a_read_back_without_a_bump_is_found,
    ChunkReadNotAfterTail: a_chunk_read_not_after_the_tails_time_is_found,
    FlipWithBatchInFlight: a_flip_with_a_batch_in_flight_is_found,
    DrainSkipped: a_skipped_drain_is_found,
    ReadsLeftBehind: writes_let_go_before_reads_have_left_next_are_found,
    EffectBeforeRecord: an_effect_before_its_record_is_found,
    EchoFilterOff: own_transactions_taken_for_foreign_ones_are_found,
    GatePassesOnMissingData: a_gate_that_passes_on_missing_data_is_found,
    StaleEpochOnLegacy: a_stale_epoch_accepted_on_legacys_side_is_found,
    DeleteIgnored: a_delete_that_is_not_carried_is_found,
    PositionBeforeWork: a_position_stored_before_its_work_is_found,
    FlipWithoutAcks: a_flip_without_acknowledgements_is_found,
    RouteWithoutCompare: a_route_replaced_without_comparing_is_found,
    TakeOverWithoutBump: a_take_over_that_bumps_no_slot_is_found,
    ChunkNotRegistered: a_chunk_that_registers_no_keys_is_found,
    KeyAcrossWorkers: a_key_with_several_writers_is_found,
    JournalAckBeforeSync: a_record_acknowledged_before_it_is_synced_is_found,
}

#[test]
fn the_leanings_alone_hold() {
    for bug in ALL {
        for (seed, outcome) in in_parallel(0..6, |seed| run(Case::of(seed, Planted::default(), leaning(*bug)))) {
            assert!(outcome.is_ok(), "leaning of {bug:?}, seed {seed}: {outcome:?}");
        }
    }
}

/// A seed that fails is made small, the small one fails in the same way, and what is written of it is a scenario.
#[test]
fn a_failing_seed_is_made_small_and_written_as_a_scenario() {
    let bug = Bug::FlipWithoutAcks;
    let case = Case::of(0, Planted::one(bug), leaning(bug));
    let small = shrink(&case).expect("it fails");
    assert!(case.mishaps.len() > 10 && small.kept.len() <= 4, "{} of {}", small.kept.len(), case.mishaps.len());
    assert_eq!(run(case.keeping(&small.kept)).err().as_ref(), Some(&small.failure));
    assert_eq!(run(Case::of(0, Planted::default(), leaning(bug)).keeping(&small.kept)).err(), None);
    // Each mishap is an inject of the scenario, or stands in a comment where there is none.
    let text = scenario::text(&small);
    let parsed = Scenario::parse(&text, "scenario.toml").unwrap_or_else(|e| panic!("{e}\n{text}"));
    let commented = text.matches("for which there is no inject").count();
    assert_eq!(parsed.world.injects.len() + commented, small.kept.len(), "{text}");
    // With every mishap that the seeds draw it still is one.
    for seed in 0..40 {
        let case = Case::plain(seed);
        let kept: Vec<usize> = (0..case.mishaps.len()).collect();
        let whole = Small { drawn: kept.len(), kept, failure: "none".into(), case };
        let text = scenario::text(&whole);
        let parsed = Scenario::parse(&text, "scenario.toml").unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(Plan::parse(&scenario::plan(&whole.case), &parsed.world.plan).is_ok());
    }
}
