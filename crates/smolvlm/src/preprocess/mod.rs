//! PLACEHOLDER preprocess.
