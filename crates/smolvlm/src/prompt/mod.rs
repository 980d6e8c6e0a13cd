//! PLACEHOLDER prompt.
