//! PLACEHOLDER checkpoint.
