//! Tests against a real mongod.
fn main() {}
