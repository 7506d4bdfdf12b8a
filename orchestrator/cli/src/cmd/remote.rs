//! Which remote a run uses, and how it is opened.

use std::path::absolute;
use std::sync::Arc;

use sprint_artifacts::Remote;
use sprint_artifacts::remote::RemoteSpec;
use sprint_orchestrator::RunRemote;

use crate::args::RemoteArgs;
use crate::failure::{Code, Failure};

/// The remote of the command line, else of the workflow; the command line's keys go before the workflow's.
pub(super) fn open(workflow: Option<&RemoteSpec>, args: &RemoteArgs) -> Result<Option<RunRemote>, Failure> {
    let given = args.remote.clone().map(RemoteSpec::new);
    let Some(mut spec) = given.or_else(|| workflow.cloned()) else { return Ok(None) };
    if args.remote_endpoint.is_some() {
        spec.endpoint.clone_from(&args.remote_endpoint);
    }
    if !args.recipient.is_empty() {
        spec.recipients.clone_from(&args.recipient);
    }
    if let Some(path) = &args.identity {
        let path = absolute(path).map_err(|e| Failure::usage(format!("--identity {}: {e}", path.display())))?;
        spec.identity = Some(path);
    }
    let failed = |message: String| Failure::new(Code::USAGE, format!("remote {}: {message}", spec.url));
    let remote = connect(&spec).map_err(failed)?;
    Ok(Some(RunRemote { remote: Arc::new(remote), spec: Arc::new(spec) }))
}

/// Makes a key.
#[cfg(feature = "aws")]
pub(super) fn keygen(out: &std::path::Path) -> Result<Code, Failure> {
    let public = sprint_cloud::generate_identity(out).map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    crate::ui::out::line(public)?;
    Ok(Code::DONE)
}

/// Opens a remote.
#[cfg(feature = "aws")]
pub(super) fn connect(spec: &RemoteSpec) -> Result<Remote, String> {
    sprint_cloud::connect(spec)
}

/// Opens a remote.
#[cfg(not(feature = "aws"))]
pub(super) fn connect(_: &RemoteSpec) -> Result<Remote, String> {
    Err("this program was built without the feature `aws`".to_owned())
}
