//! sprint-clear.
