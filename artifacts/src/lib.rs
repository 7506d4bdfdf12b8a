//! sprint-artifacts.
