//! Where T puts a field whose value it does not change.

use super::Transform;
use super::op::{Op, Segment};

/// True when the first path is the second, or lies inside it.
fn within(inner: &[Vec<u8>], outer: &[Vec<u8>]) -> bool {
    inner.starts_with(outer)
}

impl Transform {
    /// Next's path of what stands under `path` on legacy, when T leaves its value as it is: untouched or only moved. `None` when a step
    /// makes something else of it, of a part of it, or of what it is part of; after a pipeline nobody knows.
    #[must_use]
    pub fn carried(&self, path: &str) -> Option<String> {
        let mut now: Vec<Vec<u8>> = path.split('.').map(|p| p.as_bytes().to_vec()).collect();
        for segment in &self.segments {
            let Segment::Ops(ops) = segment else { return None };
            for op in ops {
                match op {
                    Op::Move { from, to, .. } if within(&now, &from.parts) => {
                        now = [&to.parts[..], &now[from.parts.len()..]].concat();
                    }
                    op if op.paths().iter().any(|p| within(&now, &p.parts) || within(&p.parts, &now)) => return None,
                    _ => {}
                }
            }
        }
        let parts: Option<Vec<String>> = now.into_iter().map(|p| String::from_utf8(p).ok()).collect();
        Some(parts?.join("."))
    }
}
