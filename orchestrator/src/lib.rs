//! From a workflow file to finished artifacts: reading and checking, planning by content, running durably.

mod config;
mod diagnostic;
mod exec;
mod workflow;

pub use diagnostic::{Diagnostic, Diagnostics, Source};
pub use exec::{Failure, RetryOn};
pub use workflow::{
    Axis, Checkpoint, Edge, Instance, InstanceId, Lease, Limits, LoadError, ParseIdError, Resources, Retry, Selector, StageDef,
    Workflow, WorkflowInputs, workflow_schema,
};
