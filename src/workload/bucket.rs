//! The application's own bucket code, written from docs/routing.md and not from tidegate's: a mistake in one shows as a difference.

use md5::{Digest, Md5};

use super::orders::OrderId;

/// The bucket of an order's `_id`.
pub(super) fn bucket(id: &OrderId) -> u16 {
    let mut input = 0u32.to_le_bytes().to_vec();
    match id {
        OrderId::Object(bytes) => {
            input.extend(35u32.to_le_bytes());
            input.extend(bytes);
        }
        OrderId::Text(text) => {
            input.extend(15u32.to_le_bytes());
            input.extend((text.len() as u32 + 1).to_le_bytes());
            input.extend(text.as_bytes());
            input.push(0);
        }
        OrderId::Int(n) | OrderId::Long(n) => {
            input.extend(10u32.to_le_bytes());
            input.extend(n.to_le_bytes());
        }
        OrderId::Double(x) => {
            input.extend(10u32.to_le_bytes());
            input.extend((*x as i64).to_le_bytes());
        }
    }
    let digest = Md5::digest(&input);
    // The top ten bits of the little-endian value, counted from the smallest signed number: flip the sign bit first.
    let top = u16::from_be_bytes([digest[7], digest[6]]) ^ 0x8000;
    top >> 6
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::orders::Order;
    use super::*;
    use crate::cluster::Key;
    use crate::route::bucket_of;

    #[test]
    fn two_independent_bucket_functions_agree() {
        for n in 0..5_000 {
            let order = Order::initial(n);
            assert_eq!(bucket(&order.id()), bucket_of(&order.key()).unwrap(), "{n}");
        }
        assert_eq!(bucket(&OrderId::Double(5.0)), bucket_of(&Key::from(5)).unwrap());
    }
}
