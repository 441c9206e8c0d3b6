//! Equality that forgives the order of fields, but only in the parents where a step cannot keep it.

use super::tree::{self, DOCUMENT, Field, Value};

/// Where the order of fields may differ.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    any: bool,
    below: Vec<(Vec<u8>, Order)>,
}

impl Order {
    /// True when no order may differ.
    pub(super) fn is_strict(&self) -> bool {
        !self.any
    }

    /// Loosens the top level only.
    pub(super) fn top() -> Order {
        Order { any: true, below: Vec::new() }
    }

    /// Loosens the top level.
    pub(super) fn loosen_top(&mut self) {
        self.any = true;
    }

    /// Loosens every parent on the way to `parts`.
    pub(super) fn loosen(&mut self, parts: &[Vec<u8>]) {
        self.any = true;
        let Some((name, rest)) = parts.split_first() else { return };
        if rest.is_empty() {
            return;
        }
        let i = self.below.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
            self.below.push((name.clone(), Order::default()));
            self.below.len() - 1
        });
        self.below[i].1.loosen(rest);
    }
}

/// True when two documents are equal up to the order allowed. Malformed bytes are never equal.
pub(super) fn equal(order: &Order, a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (Ok(x), Ok(y)) = (tree::parse(a, ""), tree::parse(b, "")) else { return false };
    if x.len() != y.len() {
        return false;
    }
    let partner = |i: usize, f: &Field<'_>| {
        if order.any { y.iter().find(|g| g.name == f.name) } else { y.get(i).filter(|g| g.name == f.name) }
    };
    x.iter().enumerate().all(|(i, f)| partner(i, f).is_some_and(|g| equal_value(order, f, g)))
}

fn equal_value(order: &Order, f: &Field<'_>, g: &Field<'_>) -> bool {
    let (Value::Raw(k, a), Value::Raw(l, b)) = (&f.value, &g.value) else { return false };
    if k != l {
        return false;
    }
    match order.below.iter().find(|(n, _)| **n == *f.name) {
        Some((_, below)) if *k == DOCUMENT => equal(below, a, b),
        _ => a == b,
    }
}
