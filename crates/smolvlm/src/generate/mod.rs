//! PLACEHOLDER generate.
