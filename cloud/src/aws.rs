//! What both clients share: time limits, retries, and a runtime of their own for callers that are not asynchronous.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::Credentials;
use tokio::runtime::Runtime;

/// Tries of one call.
pub(crate) const TRIES: u32 = 5;

/// How long calls may take. The SDK's own default is no limit at all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    pub(crate) attempt: Duration,
    pub(crate) operation: Duration,
    pub(crate) tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), attempt: seconds(120), operation: seconds(600), tries: TRIES }
    }
}

/// Keys given by hand, for services that know no others; usually the SDK finds them by itself.
#[derive(Clone)]
pub struct AccessKeys {
    id: String,
    secret: zeroize::Zeroizing<String>,
}

impl AccessKeys {
    /// The key's id and its secret.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { id: id.into(), secret: zeroize::Zeroizing::new(secret.into()) }
    }

    fn provider(&self) -> Credentials {
        Credentials::new(&self.id, self.secret.as_str(), None, None, "given by hand")
    }
}

impl std::fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKeys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A runtime that is dropped without waiting, so that it may be dropped anywhere.
#[derive(Debug)]
pub(crate) struct Background(Option<Runtime>);

impl Background {
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("cloud").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("taken by drop only").block_on(future)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The user's settings, with limits.
pub(crate) async fn settings(
    endpoint: Option<&str>,
    region: Option<&str>,
    keys: Option<&AccessKeys>,
    patience: Patience,
) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(patience.connect)
        .operation_attempt_timeout(patience.attempt)
        .operation_timeout(patience.operation)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(patience.tries));
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(keys) = keys {
        loader = loader.credentials_provider(keys.provider());
    }
    loader.load().await
}
