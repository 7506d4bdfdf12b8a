//! From the SDK's errors to two questions: will it help to come back later, and what did the service say.

use std::error::Error;
use std::io;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::ByteStreamError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use sprint_artifacts::remote::ObjectError;

/// A failed call: what the service answered, if it did, and the error to pass on.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) status: Option<u16>,
    pub(super) missing_bucket: bool,
    pub(super) missing_upload: bool,
    pub(super) error: ObjectError,
}

pub(super) fn failure<E>(operation: &'static str, name: &str, error: SdkError<E, HttpResponse>) -> Failed
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map(|r| r.status().as_u16());
    let code = error.code().map(str::to_owned);
    let request = error.request_id().map(|id| format!(" (request {id})")).unwrap_or_default();
    let reason = match (&code, status) {
        (Some(code), _) => format!("{code}: {}{request}", error.message().unwrap_or("no message")),
        (None, Some(status)) => format!("HTTP status {status}{request}"),
        (None, None) => sprint_stage_api::with_causes(&error),
    };
    // What was never answered, was answered with the service's own trouble, or with "slow down". Missing credentials fail before
    // anything is sent and will not come by waiting.
    let no_credentials =
        matches!(&error, SdkError::DispatchFailure(d) if d.is_other()) || matches!(&error, SdkError::ConstructionFailure(_));
    let busy = status.is_none_or(|s| s >= 500 || s == 429 || s == 408);
    // Altered on the way, or sent by the clock of a machine that has just woken up.
    let garbled = ["BadDigest", "InvalidDigest", "RequestTimeout", "RequestTimeTooSkewed"];
    let later = !no_credentials && (busy || code.as_deref().is_some_and(|c| garbled.contains(&c)));
    let name = name.to_owned();
    let error = if later {
        ObjectError::Unavailable { operation, name, reason }
    } else {
        ObjectError::Refused { operation, name, reason }
    };
    let is = |wanted: &str| code.as_deref() == Some(wanted);
    Failed { status, missing_bucket: is("NoSuchBucket"), missing_upload: is("NoSuchUpload"), error }
}

pub(super) fn interrupted(operation: &'static str, name: &str, error: &ByteStreamError) -> ObjectError {
    ObjectError::Unavailable { operation, name: name.to_owned(), reason: sprint_stage_api::with_causes(error) }
}

pub(super) fn local(name: &str, source: io::Error) -> ObjectError {
    ObjectError::Local { name: name.to_owned(), source }
}
