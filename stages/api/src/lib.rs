//! What a stage is: the contract between the scheduler, which runs stages without knowing them, and the stages, which never see
//! the scheduler.
//!
//! A [`Stage`] declares its ports, parameters and effect in a [`StageSpec`]; a run hands it a [`StageContext`] and gets
//! [`StageOutputs`] or a [`StageError`] with a class that decides whether it is retried.

mod context;
mod effect;
mod error;
mod event;
mod registry;
mod stage;

pub use context::{
    Ancestor, CheckpointAccess, ContextParts, InputArtifact, Inputs, LeaseTerms, LedgerMirror, PRIVATE, StageContext,
    StageOutputs,
};
pub use effect::{CachePolicy, Effect};
pub use error::{ErrorClass, ParamProblem, StageError, with_causes};
pub use event::{EventSink, StageEvent};
pub use registry::{Registry, RegistryError};
pub use stage::{Forecast, Foreseen, ForeseenInputs, InputPort, OutputPort, Stage, StageSpec};
