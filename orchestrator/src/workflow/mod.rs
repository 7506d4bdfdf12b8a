//! The workflow file: read with places, checked as a whole, expanded over its matrix.

pub(crate) mod fields;
mod instance;
mod load;
mod matrix;
mod placement;
mod reader;
mod schema;
mod template;
mod units;
mod validate;
pub(crate) mod yaml;

pub use instance::{InstanceId, ParseIdError, Selector};
pub use load::{Edge, Instance, LoadError, StageDef, Workflow, WorkflowInputs, workflow_schema};
pub use matrix::Axis;
pub use placement::{Placement, SlurmOptions};
pub use schema::{Checkpoint, Lease, Limits, Resources, Retry};
