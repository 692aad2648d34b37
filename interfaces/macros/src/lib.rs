//! Macros of `interfaces`.
