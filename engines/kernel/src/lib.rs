//! sprint-kernel.
