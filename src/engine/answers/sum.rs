//! Adding up numbers of every BSON type without losing a digit: whole numbers and decimals exactly, doubles apart.

use bson::RawBson;

/// A sum.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sum {
    /// So many units of ten to that power; `None` once it has too many digits.
    exact: Option<(i128, i32)>,
    double: Option<f64>,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum { exact: Some((0, 0)), double: None }
    }
}

impl Sum {
    /// Adds a number; anything else adds nothing, as in a server's `$sum`.
    pub(super) fn add(&mut self, v: &RawBson) {
        match v {
            RawBson::Int32(n) => self.add_exact(Some((i128::from(*n), 0))),
            RawBson::Int64(n) => self.add_exact(Some((i128::from(*n), 0))),
            RawBson::Decimal128(d) => self.add_exact(parse(&d.to_string())),
            RawBson::Double(x) => *self.double.get_or_insert(0.0) += x,
            _ => {}
        }
    }

    fn add_exact(&mut self, v: Option<(i128, i32)>) {
        self.exact = self.exact.zip(v).and_then(|((a, ea), (b, eb))| {
            let e = ea.min(eb);
            let scaled = |n: i128, from: i32| n.checked_mul(10i128.checked_pow(from.abs_diff(e))?);
            Some((scaled(a, ea)?.checked_add(scaled(b, eb)?)?, e))
        });
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let exact = self
            .exact
            .map_or_else(|| "no number, or one of more digits than are added up here".to_owned(), |(n, e)| plain(n, e));
        match self.double {
            None => exact,
            Some(x) if self.exact == Some((0, 0)) => format!("about {x}"),
            Some(x) => format!("{exact} and about {x}"),
        }
    }
}

/// `-12.50E+3` as units of a power of ten. NaN and infinities are no number to add.
fn parse(text: &str) -> Option<(i128, i32)> {
    let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let exponent = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    // Zero has an exponent too, which would only make the others long.
    Some(if digits == 0 && !(-34..=0).contains(&exponent) { (0, 0) } else { (digits, exponent) })
}

fn plain(n: i128, e: i32) -> String {
    if e >= 0 {
        return if e == 0 { n.to_string() } else { format!("{n}E+{e}") };
    }
    let places = e.unsigned_abs() as usize;
    if places > 40 {
        return format!("{n}E{e}");
    }
    let digits = format!("{:0>width$}", n.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    format!("{}{whole}.{fraction}", if n < 0 { "-" } else { "" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{Decimal128, rawbson};
    use proptest::prelude::*;

    fn decimal(text: &str) -> RawBson {
        RawBson::Decimal128(text.parse::<Decimal128>().unwrap())
    }

    fn sum(all: &[RawBson]) -> String {
        let mut s = Sum::default();
        all.iter().for_each(|v| s.add(v));
        s.text()
    }

    #[test]
    fn not_a_digit_is_lost() {
        assert_eq!(sum(&[]), "0");
        assert_eq!(sum(&[decimal("0.10"), decimal("0.20"), rawbson!(3)]), "3.30");
        assert_eq!(sum(&[decimal("-0.05"), rawbson!(-1i64)]), "-1.05");
        assert_eq!(sum(&[decimal("1E+3"), decimal("1E-3")]), "1000.001");
        assert_eq!(sum(&[rawbson!("x"), rawbson!(null), rawbson!(7)]), "7");
        assert_eq!(sum(&[rawbson!(0.5), rawbson!(0.25)]), "about 0.75");
        assert_eq!(sum(&[rawbson!(2), rawbson!(0.5)]), "2 and about 0.5");
        assert_eq!(sum(&[decimal("1E+3")]), "1000");
        assert_eq!(sum(&[decimal("1E+6000"), rawbson!(1)]), "no number, or one of more digits than are added up here");
        assert_eq!(sum(&[decimal("0E-6176"), rawbson!(1)]), "1");
        assert_eq!(sum(&[decimal("NaN")]), "no number, or one of more digits than are added up here");
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(mut all in proptest::collection::vec((-1_000_000i64..1_000_000, 0u32..6), 0..30)) {
            let text = |all: &[(i64, u32)]| {
                let of = |(n, places): &(i64, u32)| decimal(&format!("{n}E-{places}"));
                sum(&all.iter().map(of).collect::<Vec<_>>())
            };
            let first = text(&all);
            all.reverse();
            prop_assert_eq!(first, text(&all));
        }
    }
}
