//! Whether one set of latencies is slower than another, from the classes of two histograms.
//!
//! Two tests of ranks, both one-sided and both asking whether next is the slower one:
//!
//! - the **Mann–Whitney test** for the body of the distribution: Mann and Whitney, "On a test of whether one of two random variables is
//!   stochastically larger than the other", Annals of Mathematical Statistics 18 (1947); with the correction for ties and the normal
//!   approximation;
//! - the **quantile test** for the tail, which Mann–Whitney hardly sees: Johnson, Verrill and Moore, "Two-sample rank tests for
//!   detecting changes that occur in a small proportion of the treated population", Biometrics 43 (1987) 641–655. Of the slowest
//!   operations of both sides together, how many are next's? If both are alike that number is hypergeometric, exactly, whatever
//!   the distribution and its ties. It is asked for several sizes of the tail.
//!
//! The smallest of their chances, times the number of tests (Bonferroni), is the answer: at most `a` with a chance of at most `a`
//! when both are alike. That holds for operations that are independent of each other.
//!
//! The arithmetic is + − × ÷ and square roots of doubles in a fixed order, so that every build and platform gets the same bits.

/// What the journal calls it.
pub const NAME: &str = "Mann-Whitney and quantile test (Johnson, Verrill, Moore 1987), Bonferroni";

/// The tails that are looked at, one in so many of all operations.
pub const TAILS: [u64; 5] = [20, 50, 100, 200, 400];

/// Tests made, for the correction.
const TESTS: f64 = TAILS.len() as f64 + 1.0;

/// How wide the histogram's classes may be: two latencies in one class differ by less than this factor.
const CLASS: f64 = 1.01;

/// The slowest operations of both sides together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// Slower than this, µs.
    pub above: u64,
    /// How many of them are next's.
    pub next: u64,
    /// How many are legacy's.
    pub legacy: u64,
    /// The chance that so many or more are next's when both are alike.
    pub p: f64,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The chance of something at least as bad for next when both are alike, corrected for the number of tests; 1 when nothing could be
    /// compared.
    pub p: f64,
    /// The Mann–Whitney U of next: pairs of one operation of each side in which next's is slower, a tie as a half.
    pub u: f64,
    /// The chance of the Mann–Whitney test alone.
    pub body: f64,
    /// The quantile tests.
    pub tails: Vec<Tail>,
}

/// Compares next with a legacy that is `max_ratio` times slower than it is (1 for legacy itself). Both are classes as (upper end in
/// µs, operations), rising.
#[must_use]
pub fn slower(next: &[(u64, u64)], legacy: &[(u64, u64)], max_ratio: f64) -> Comparison {
    // Other classes than next's: what rounding could make of a tie goes in next's favour.
    let scale = |us: u64| if max_ratio > 1.0 { (us as f64 * max_ratio * CLASS) as u64 } else { us };
    let joined = join(next, legacy, scale);
    let (n, l) = joined.iter().fold((0.0, 0.0), |(n, l), c| (n + c.next as f64, l + c.legacy as f64));
    if n == 0.0 || l == 0.0 {
        return Comparison { p: 1.0, u: 0.0, body: 1.0, tails: Vec::new() };
    }
    let (u, body) = mann_whitney(&joined, n, l);
    let tails: Vec<Tail> = TAILS.iter().filter_map(|share| tail(&joined, *share)).collect();
    let least = tails.iter().fold(body, |p, t| p.min(t.p));
    Comparison { p: (least * TESTS).min(1.0), u, body, tails }
}

/// The operations of a class.
#[derive(Clone, Copy, Debug)]
struct Class {
    us: u64,
    next: u64,
    legacy: u64,
}

fn join(next: &[(u64, u64)], legacy: &[(u64, u64)], scale: impl Fn(u64) -> u64) -> Vec<Class> {
    let mut all: Vec<Class> = next.iter().map(|(us, n)| Class { us: *us, next: *n, legacy: 0 }).collect();
    all.extend(legacy.iter().map(|(us, n)| Class { us: scale(*us), next: 0, legacy: *n }));
    all.sort_by_key(|c| c.us);
    all.dedup_by(|b, a| {
        let same = a.us == b.us;
        if same {
            a.next = a.next.saturating_add(b.next);
            a.legacy = a.legacy.saturating_add(b.legacy);
        }
        same
    });
    all
}

/// U of next, and the chance of one as large.
fn mann_whitney(classes: &[Class], n: f64, l: f64) -> (f64, f64) {
    let (mut u, mut below, mut ties) = (0.0, 0.0, 0.0);
    for c in classes {
        let (next, legacy) = (c.next as f64, c.legacy as f64);
        let t = next + legacy;
        u += next * (below + legacy / 2.0);
        below += legacy;
        ties += t * (t * t - 1.0);
    }
    let all = n + l;
    let variance = n * l / 12.0 * ((all + 1.0) - ties / (all * (all - 1.0)));
    if variance.is_nan() || variance <= 0.0 {
        return (u, 1.0);
    }
    // Half a step towards the mean: U is a whole number or a half.
    let z = (u - n * l / 2.0 - 0.5) / variance.sqrt();
    (u, normal_tail(z))
}

/// The chance that a standard normal variable is above `z`, never too small: Abramowitz and Stegun, Handbook of Mathematical Functions
/// (1964) 26.2.19, whose error is below 1.5e-7.
fn normal_tail(z: f64) -> f64 {
    const D: [f64; 6] =
        [0.049_867_347_0, 0.021_141_006_1, 0.003_277_626_3, 0.000_038_003_6, 0.000_048_890_6, 0.000_005_383_0];
    if z < 0.0 {
        return (1.0 - normal_tail(-z) + 3e-7).min(1.0);
    }
    let x = z.min(100.0);
    let poly = 1.0 + x * (D[0] + x * (D[1] + x * (D[2] + x * (D[3] + x * (D[4] + x * D[5])))));
    let mut power = poly;
    for _ in 0..4 {
        power *= power;
    }
    0.5 / power + 1.5e-7
}

/// The slowest operations, at least one in `share` of all: as many whole classes from above as that takes. The choice looks at both
/// sides together only, so that the test stays exact.
fn tail(classes: &[Class], share: u64) -> Option<Tail> {
    let (n, l) = classes.iter().fold((0_u64, 0_u64), |(n, l), c| (n + c.next, l + c.legacy));
    let wanted = (n + l).div_ceil(share);
    let (mut next, mut legacy) = (0_u64, 0_u64);
    for (i, c) in classes.iter().enumerate().rev() {
        next += c.next;
        legacy += c.legacy;
        if next + legacy >= wanted {
            let above = classes[..i].last().map_or(0, |c| c.us);
            return Some(Tail { above, next, legacy, p: hypergeometric_tail(next, next + legacy, n, l) });
        }
    }
    None
}

/// The chance that of `drawn` balls out of `n` black and `l` white ones at least `black` are black.
fn hypergeometric_tail(black: u64, drawn: u64, n: u64, l: u64) -> f64 {
    // Below this share of the likeliest count nothing is added up any more.
    const DUST: f64 = 1e-30;
    let (least, most) = (drawn.saturating_sub(l), drawn.min(n));
    let (d, nf, lf) = (drawn as f64, n as f64, l as f64);
    let mode = ((d + 1.0) * (nf + 1.0) / (nf + lf + 2.0)) as u64;
    let mode = mode.clamp(least, most);
    // Each count relative to the likeliest, from ratios of neighbours: no factorial is ever formed.
    let up = |k: f64| (d - k) * (nf - k) / ((k + 1.0) * (lf - d + k + 1.0));
    let (mut all, mut tail) = (0.0, 0.0);
    let mut take = |k: u64, weight: f64| {
        all += weight;
        if k >= black {
            tail += weight;
        }
    };
    take(mode, 1.0);
    let (mut k, mut weight) = (mode, 1.0);
    while k < most && weight > DUST {
        weight *= up(k as f64);
        k += 1;
        take(k, weight);
    }
    (k, weight) = (mode, 1.0);
    while k > least && weight > DUST {
        k -= 1;
        weight /= up(k as f64);
        take(k, weight);
    }
    (tail / all + DUST).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the definition, in whole numbers.
    fn choose(n: u64, k: u64) -> u128 {
        if k > n {
            return 0;
        }
        (0..k).fold(1_u128, |c, i| c * u128::from(n - i) / u128::from(i + 1))
    }

    #[test]
    fn the_hypergeometric_tail_agrees_with_counting() {
        for (n, l) in [(1, 1), (5, 3), (10, 10), (30, 8), (8, 30), (40, 40)] {
            for drawn in 0..=n + l {
                for black in 0..=drawn.min(n) + 1 {
                    let ways: u128 = (black..=drawn.min(n)).map(|k| choose(n, k) * choose(l, drawn - k)).sum();
                    let wanted = ways as f64 / choose(n + l, drawn) as f64;
                    let got = hypergeometric_tail(black, drawn, n, l);
                    assert!((got - wanted).abs() < 1e-12, "{n} {l} {drawn} {black}: {got} {wanted}");
                }
            }
        }
        let p = hypergeometric_tail(300_000, 300_000, 1_500_000, 1_500_000);
        assert!(p > 0.0 && p < 1e-29, "{p}");
    }

    #[test]
    fn the_normal_tail_is_close_and_never_too_small() {
        // Abramowitz and Stegun, table 26.1.
        for (z, q) in [
            (0.0, 0.5),
            (1.0, 0.158_655_254),
            (1.959_963_985, 0.025),
            (2.326_347_874, 0.01),
            (3.0, 0.001_349_898),
            (4.0, 0.000_031_671),
            (-1.0, 0.841_344_746),
        ] {
            let got = normal_tail(z);
            assert!(got >= q - 1e-9 && got <= q + 6e-7, "{z}: {got} {q}");
        }
        assert!(normal_tail(1e9) < 2e-7 && normal_tail(-1e9) > 0.999_999);
    }

    #[test]
    fn mann_whitney_agrees_with_counting_pairs() {
        let (next, legacy) = ([(10, 3), (20, 1), (30, 2)], [(10, 2), (15, 4), (30, 1)]);
        let mut u = 0.0;
        for (a, n) in next {
            for (b, l) in legacy {
                u += (n * l) as f64
                    * if a > b {
                        1.0
                    } else if a == b {
                        0.5
                    } else {
                        0.0
                    };
            }
        }
        assert_eq!(slower(&next, &legacy, 1.0).u, u);
    }

    #[test]
    fn what_cannot_be_compared_is_not_slower() {
        for (next, legacy) in [(vec![], vec![]), (vec![(5, 9)], vec![]), (vec![], vec![(5, 9)])] {
            assert_eq!(slower(&next, &legacy, 1.0).p, 1.0);
        }
        // All alike: every operation in one class.
        let c = slower(&[(7, 5_000)], &[(7, 900)], 1.0);
        assert_eq!((c.p, c.body), (1.0, 1.0));
        assert!(c.tails.iter().all(|t| t.p == 1.0 && t.above == 0));
    }

    #[test]
    fn the_arithmetic_gives_the_same_bits_everywhere() {
        let next: Vec<(u64, u64)> = (1..400).map(|i| (i * 50, 1 + i * 7919 % 23)).collect();
        let legacy: Vec<(u64, u64)> = (1..400).map(|i| (i * 50, 1 + i * 104_729 % 29)).collect();
        let c = slower(&next, &legacy, 1.0);
        let bits: Vec<u64> = c.tails.iter().map(|t| t.p).chain([c.body, c.p]).map(f64::to_bits).collect();
        let found = [
            4_599_932_411_174_340_589,
            4_603_249_759_573_714_688,
            4_605_604_392_927_720_391,
            4_605_763_679_094_131_837,
            4_605_520_910_013_398_374,
            4_603_878_911_497_181_813,
            4_607_182_418_800_017_408,
        ];
        assert_eq!(bits, found, "what dev and release builds found on x86-64");
    }
}
