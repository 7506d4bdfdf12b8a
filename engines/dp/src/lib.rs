//! sprint-dp.
