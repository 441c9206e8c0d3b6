//! Good and failed operations against the plan's objective: burn rates and what is left of the error budget.
//!
//! Unlike other metrics these may reach back before the stage began: the budget is the users', whatever stage spends it.

use super::Sample;
use super::ring::Ring;
use crate::plan::Slo;
use crate::route::Side;
use crate::runtime::Micros;

/// Burn rates are computed from slices of 5 s over up to six hours.
const FINE: (Micros, usize) = (Micros::from_secs(5), 4_321);
/// The budget is computed from hours over up to 30 days.
const COARSE: (Micros, usize) = (Micros::from_secs(3_600), 721);

/// The longest window of a burn rate.
pub const MAX_BURN_WINDOW: Micros = Micros::from_secs(6 * 3_600);

/// Good and bad operations of a slice, legacy and next.
#[derive(Clone, Copy, Debug, Default)]
struct Counts([(u64, u64); 2]);

impl Counts {
    fn add(&mut self, side: Side, good: u64, bad: u64) {
        let (g, b) = &mut self.0[side as usize];
        *g = g.saturating_add(good);
        *b = b.saturating_add(bad);
    }

    /// Good and bad of one side, or of both.
    fn of(&self, side: Option<Side>) -> (u64, u64) {
        let [legacy, next] = self.0;
        match side {
            Some(side) => self.0[side as usize],
            None => (legacy.0.saturating_add(next.0), legacy.1.saturating_add(next.1)),
        }
    }
}

/// One kind of operation. At most about 0.4 MB.
#[derive(Clone, Debug)]
pub(super) struct SloSeries {
    fine: Ring<Counts>,
    coarse: Ring<Counts>,
    first: Option<Micros>,
    newest: [Option<Micros>; 2],
}

impl SloSeries {
    pub(super) fn new() -> Self {
        SloSeries {
            fine: Ring::new(FINE.0, FINE.1),
            coarse: Ring::new(COARSE.0, COARSE.1),
            first: None,
            newest: [None; 2],
        }
    }

    pub(super) fn cut(&mut self, now: Micros) {
        self.fine.cut(now);
    }

    pub(super) fn record(&mut self, side: Side, at: Micros, good: u64, bad: u64) {
        if good == 0 && bad == 0 {
            return;
        }
        for ring in [&mut self.fine, &mut self.coarse] {
            if let Some((c, _)) = ring.slice(at, Counts::default) {
                c.add(side, good, bad);
            }
        }
        self.first = Some(self.first.map_or(at, |f| f.min(at)));
        let newest = &mut self.newest[side as usize];
        *newest = (*newest).max(Some(at));
    }

    fn age(&self, side: Option<Side>, since: Micros, now: Micros) -> Option<Micros> {
        let newest = match side {
            Some(side) => self.newest[side as usize],
            None => self.newest[0].max(self.newest[1]),
        };
        Some(now.since(newest.filter(|at| *at >= since)?))
    }

    /// The share of bad operations over the window as a multiple of the share that the objective allows: 1 uses the budget up in
    /// just the period (Google SRE workbook, chapter 5). `None` when the newest operation is older than `stage`.
    pub(super) fn burn_rate(
        &self,
        slo: &Slo,
        side: Option<Side>,
        window: Micros,
        since: Micros,
        stage: Micros,
        now: Micros,
    ) -> Option<Sample> {
        let age = self.age(side, stage, now)?;
        let (good, bad) = sum(self.fine.window(now, window.min(MAX_BURN_WINDOW), since), side);
        let all = good.saturating_add(bad);
        Some(Sample { value: bad as f64 / all as f64 / (1.0 - slo.objective), samples: all, age })
    }

    /// What is left of the period's error budget, 1 at first, negative when overspent: 1 − burn rate × measured time ÷ period (same
    /// source). What was spent before tidegate measured is not known and not counted.
    pub(super) fn budget_left(&self, slo: &Slo, stage: Micros, now: Micros) -> Option<Sample> {
        let age = self.age(None, stage, now)?;
        let (good, bad) = sum(self.coarse.window(now, slo.period, Micros::ZERO), None);
        let all = good.saturating_add(bad);
        let covered = now.since(self.first?).min(slo.period);
        let burnt = bad as f64 / all as f64 / (1.0 - slo.objective);
        let value = 1.0 - burnt * (covered.as_secs_f64() / slo.period.as_secs_f64());
        Some(Sample { value, samples: all, age })
    }
}

fn sum<'a>(slices: impl Iterator<Item = (Micros, &'a Counts)>, side: Option<Side>) -> (u64, u64) {
    slices.fold((0_u64, 0_u64), |(g, b), (_, c)| {
        let (good, bad) = c.of(side);
        (g.saturating_add(good), b.saturating_add(bad))
    })
}
