//! Machines and storage elsewhere: the one crate that names the AWS SDKs and the sealing of secrets.
//!
//! ```text
//! connect(RemoteSpec) ─► Remote            S3 objects (or any service that speaks S3), age as the sealer
//! Ec2Fleet            ─► FleetState         machines of one lease, found by tag, given back until they are terminated
//! ```
//!
//! Credentials are found by the SDK where it usually finds them (environment, profile, instance role); they are never stored, logged or
//! passed on.

mod aws;
pub mod ec2;
mod s3;
mod seal;

pub use aws::AccessKeys;
pub use s3::{S3Objects, S3Options, connect};
pub use seal::{AgeSealer, KeyError, generate_identity};

/// An error with its causes, leaving out one that the text before already ends with.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}
