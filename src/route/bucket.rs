//! The bucket of a key: the top ten bits of MongoDB's own hashed-index value, so that any language and the server itself agree.
//!
//! docs/routing.md defines it for other languages; its test vectors are checked here and, in tests/mongo, against a server.

use crate::cluster::Key;
pub use crate::cluster::{BucketError, hash64};

/// How many buckets there are.
pub const BUCKETS: u16 = 1024;

/// A bucket number, 0 … 1023.
pub type Bucket = u16;

/// The bucket of a key.
///
/// # Errors
/// For numbers of magnitude 2^63 or more, decimals that are no whole number, and malformed values.
pub fn bucket_of(key: &Key) -> Result<Bucket, BucketError> {
    Ok(bucket_of_hash(key.hash64(hash64)?))
}

/// The bucket of a hashed-index value.
#[must_use]
pub fn bucket_of_hash(hash: i64) -> Bucket {
    (((hash as u64) ^ (1 << 63)) >> 54) as Bucket
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{Bson, Decimal128, RawBson};
    use proptest::prelude::*;

    /// The rows of the table in docs/routing.md: a value in canonical extended JSON, its hash, its bucket.
    fn vectors() -> Vec<(RawBson, i64, Bucket)> {
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(|c| c.trim().trim_matches('`').to_owned());
            let value: serde_json::Value = serde_json::from_str(&cells.next()?).unwrap();
            let value = RawBson::try_from(Bson::try_from(value).unwrap()).unwrap();
            Some((value, cells.next()?.parse().unwrap(), cells.next()?.parse().unwrap()))
        };
        include_str!("../../docs/routing.md").lines().filter_map(row).collect()
    }

    #[test]
    fn the_documented_vectors_hold() {
        let all = vectors();
        assert!(all.len() >= 30, "{} vectors", all.len());
        for (value, hash, bucket) in all {
            assert_eq!(hash64(value.as_raw_bson_ref()).unwrap(), hash, "{value:?}");
            assert_eq!(bucket_of_hash(hash), bucket, "{value:?}");
        }
    }

    fn of(v: impl Into<RawBson>) -> Result<Bucket, BucketError> {
        bucket_of(&Key::new(v.into().as_raw_bson_ref()).unwrap())
    }
    fn dec(text: &str) -> RawBson {
        RawBson::Decimal128(text.parse::<Decimal128>().unwrap())
    }

    #[test]
    fn numbers_that_would_not_share_a_bucket_are_refused() {
        for v in
            [2f64.powi(63).into(), (-2f64.powi(63)).into(), RawBson::Int64(i64::MIN), f64::INFINITY.into(), dec("1E19")]
        {
            assert!(matches!(of(v.clone()), Err(BucketError::TooLarge(_))), "{v:?}");
        }
        for text in ["1.5", "-0.9", "1E-6176", "12345678901234567.8"] {
            assert!(matches!(of(dec(text)), Err(BucketError::Fraction(_))), "{text}");
        }
        for text in ["1.0", "0.5E1", "0E-10", "-7E+3", "NaN"] {
            assert!(of(dec(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_ends_of_the_hash_range_are_the_ends_of_the_buckets() {
        assert_eq!([i64::MIN, -1, 0, i64::MAX].map(bucket_of_hash), [0, 511, 512, 1023]);
    }

    proptest! {
        #[test]
        fn equal_numbers_share_a_bucket(n in -(1i64 << 53)..(1i64 << 53)) {
            let b = of(n).unwrap();
            prop_assert_eq!(of(n as f64).unwrap(), b);
            prop_assert_eq!(of(dec(&n.to_string())).unwrap(), b);
            prop_assert_eq!(of(dec(&format!("{n}.000"))).unwrap(), b);
            if let Ok(n) = i32::try_from(n) {
                prop_assert_eq!(of(n).unwrap(), b);
            }
        }
    }
}
