//! Integration tests that need no server.
mod plan;
