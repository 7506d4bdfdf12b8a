//! Why machines cannot be had, or not given back.

use std::io;
use std::path::PathBuf;

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

/// Why machines cannot be had, or not given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ec2Error {
    /// A call failed.
    #[error("{operation} in {region}: {code}: {message}")]
    Call {
        /// The call.
        operation: &'static str,
        /// The region.
        region: String,
        /// EC2's own word for the failure, or `unreachable`.
        code: String,
        /// Its explanation.
        message: String,
    },
    /// It could cost more than is allowed.
    #[error(
        "{machines} machines at {usd_per_hour} USD an hour could cost {needed:.2} USD until they expire; the lease allows {allowed:.2}"
    )]
    Budget {
        /// How many.
        machines: usize,
        /// Each, an hour.
        usd_per_hour: f64,
        /// All, until they expire.
        needed: f64,
        /// The lease's cap.
        allowed: f64,
    },
    /// There is a cap, but no price to hold against it.
    #[error("the lease has max_usd, but nothing says what a machine costs")]
    NoPrice,
    /// The market has no price.
    #[error("there is no spot price of {instance_type} in {region}")]
    NoSpotPrice {
        /// The type of machine.
        instance_type: String,
        /// Where.
        region: String,
    },
    /// No image fits.
    #[error("no image of {owner} in {region} has a name like {name}")]
    NoImage {
        /// Who publishes it.
        owner: String,
        /// Where.
        region: String,
        /// The pattern.
        name: String,
    },
    /// Machines were launched but do not come up.
    #[error("after {after_s} s these are not running: {}", roles.join(", "))]
    NotRunning {
        /// Which roles.
        roles: Vec<String>,
        /// How long was waited.
        after_s: u64,
    },
    /// Machines were told to end but may still be there.
    #[error("these may still be running and cost money: {}", machines.join(", "))]
    StillThere {
        /// Id and region of each.
        machines: Vec<String>,
    },
    /// The note of what was launched cannot be written or read.
    #[error("the note {} cannot be used", path.display())]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Ec2Error {
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Call { code, .. } if code == wanted)
    }

    /// Whether EC2 has no room now: another attempt, later or elsewhere, may have it.
    pub fn is_capacity(&self) -> bool {
        ["InsufficientInstanceCapacity", "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded", "InsufficientHostCapacity"]
            .iter()
            .any(|code| self.is(code))
    }

    /// Whether EC2 could not be reached or was busy.
    pub fn is_unavailable(&self) -> bool {
        ["unreachable", "RequestLimitExceeded", "Unavailable", "ServiceUnavailable", "InternalError", "InternalFailure"]
            .iter()
            .any(|code| self.is(code))
    }

    /// Whether money is the reason.
    pub const fn is_budget(&self) -> bool {
        matches!(self, Self::Budget { .. } | Self::NoPrice)
    }
}

/// Names the call and the region of a failure.
pub(super) fn call<E>(operation: &'static str, region: &str) -> impl Fn(SdkError<E, HttpResponse>) -> Ec2Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let region = region.to_owned();
    move |error| {
        let code = error.code().map_or_else(
            || match error.raw_response().map(|r| r.status().as_u16()) {
                Some(status) if status >= 500 => "ServiceUnavailable".to_owned(),
                Some(status) => format!("HTTP {status}"),
                None => "unreachable".to_owned(),
            },
            str::to_owned,
        );
        let message = error.message().map_or_else(|| sprint_stage_api::with_causes(&error), str::to_owned);
        Ec2Error::Call { operation, region: region.clone(), code, message }
    }
}
