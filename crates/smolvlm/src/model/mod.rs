//! PLACEHOLDER model.
