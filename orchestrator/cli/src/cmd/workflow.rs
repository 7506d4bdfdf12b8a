//! `validate` and `schema`.

use serde_json::json;
use sprint_orchestrator::{LoadError, Workflow, workflow_schema};
use sprint_stage_api::Registry;

use crate::args::WorkflowArgs;
use crate::failure::{Code, Failure};
use crate::registry::registry;
use crate::ui::out;

/// Reads and checks a workflow.
pub(crate) fn load(args: &WorkflowArgs, registry: &Registry) -> Result<Workflow, Failure> {
    Workflow::load(&args.file, &args.set, registry).map_err(|e| match e {
        LoadError::Invalid(diagnostics) => Failure::Workflow(diagnostics),
        other => Failure::from_error(Code::USAGE, &other),
    })
}

pub(super) fn validate(args: &WorkflowArgs) -> Result<Code, Failure> {
    match load(args, &registry()) {
        Ok(workflow) => {
            if args.json {
                let (stages, instances) = (workflow.stages().len(), workflow.instances().len());
                out::line(json!({"valid": true, "stages": stages, "instances": instances, "problems": []}))?;
            } else {
                out::line(format_args!(
                    "{}: {} stages, {} instances, no mistakes",
                    args.file.display(),
                    workflow.stages().len(),
                    workflow.instances().len()
                ))?;
            }
            Ok(Code::DONE)
        }
        Err(Failure::Workflow(diagnostics)) if args.json => {
            let problems: Vec<_> = diagnostics.iter().collect();
            out::line(json!({"valid": false, "problems": problems}))?;
            Ok(Code::USAGE)
        }
        Err(failure) => Err(failure),
    }
}

pub(super) fn schema() -> Result<Code, Failure> {
    out::line(format_args!("{:#}", workflow_schema(&registry())))?;
    Ok(Code::DONE)
}
