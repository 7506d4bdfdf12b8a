//! sprint-flow.
