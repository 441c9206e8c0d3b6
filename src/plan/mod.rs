//! The plan: what to migrate, how to verify it, and when it may go on.
//!
//! Types, parsing with positions, and every check that can be made without a cluster. A plan that passes is runnable; an unknown
//! key is an error.

mod types;

pub use types::*;
