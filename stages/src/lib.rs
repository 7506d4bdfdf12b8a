//! sprint-stages.
