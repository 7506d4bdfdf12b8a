//! sprint-orchestrator.
