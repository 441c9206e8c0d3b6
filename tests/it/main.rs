//! Integration tests that need no server.

#[path = "../conformance/mod.rs"]
mod conformance;
mod embedded;
mod fixture;
mod tui;
mod plan;
