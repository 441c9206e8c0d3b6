//! Integration tests that need no server.
