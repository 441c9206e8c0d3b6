//! Imports run downwards only.
