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
