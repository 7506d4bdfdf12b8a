//! sprint-train.
