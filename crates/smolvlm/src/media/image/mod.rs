//! Still pictures.
