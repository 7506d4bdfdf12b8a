//! Machines of one lease on Amazon EC2: at most one live machine for each role at every moment, none after teardown.
//!
//! **Architecture invariants.** What is about to be launched is on the disk before the call, with the token of the call: a call whose answer
//! was lost is repeated with the same token, and EC2 gives the same machine again. Everything carries tags from the launching call on,
//! so that a machine is found without any file. Every machine ends itself at its expiry, whatever becomes of the machine that
//! launched it. Teardown is over when EC2 says *terminated*, not when it was asked to terminate.

mod error;
mod launch;
mod network;
mod observe;
mod policy;
mod state;
mod teardown;
mod user_data;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::Client;
use sprint_artifacts::{Digest, Value};

use crate::aws::{AccessKeys, Background, Patience, settings};
pub use error::Ec2Error;
pub use observe::{Machine, MachineState};
pub use policy::policy_document;
pub use user_data::HostKey;

/// Which lease a machine belongs to; the tags that it is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FleetId {
    /// The store, by a name that no other store has.
    pub store: String,
    /// The run.
    pub run: String,
    /// The stage instance.
    pub slot: String,
}

impl FleetId {
    /// The name of the lease's key pair, security groups and placement group.
    fn name(&self) -> String {
        let value = Value::Array([&self.store, &self.run, &self.slot].into_iter().map(|s| s.as_str().into()).collect());
        let hex = Digest::derived("sprint-flow ec2 fleet v1", &value.to_bytes()).to_hex();
        format!("sprint-flow-{}", &hex[..16])
    }
}

/// Which image machines start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// This one, in the one region that has it.
    Id(String),
    /// In each region the newest that this account published under a name of this pattern (`*` for anything).
    Newest {
        /// The account, or an alias such as `amazon`.
        owner: String,
        /// The pattern.
        name: String,
    },
}

/// How machines are paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Market {
    /// Until they are given back.
    OnDemand,
    /// As long as nobody pays more.
    Spot,
}

/// What a lease asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetSpec {
    /// Each role's region.
    pub roles: BTreeMap<String, String>,
    /// Such as `c7i.4xlarge`.
    pub instance_type: String,
    /// The image.
    pub image: Image,
    /// How they are paid for.
    pub market: Market,
    /// GiB of each machine's encrypted root volume.
    pub volume_gib: i32,
    /// Whether machines of one region stand close together.
    pub close: bool,
    /// Which attempt of the stage this is, from 1.
    pub attempt: u32,
    /// Longest life of a machine.
    pub ttl: Duration,
    /// Longest time without work.
    pub idle: Option<Duration>,
    /// What one machine costs an hour, as the user knows it; the most that is bid for a spot machine, whose market is asked without it.
    pub usd_per_hour: Option<f64>,
    /// The most that all machines may cost together until their expiry.
    pub max_usd: Option<f64>,
    /// Whose they are, for people who look at the account.
    pub owner: String,
    /// The OpenSSH public key that may log in.
    pub public_key: String,
    /// The addresses that may reach the machines, such as `203.0.113.7/32`.
    pub from: String,
    /// The one port besides 22 that they may reach, and the parties each other.
    pub port: u16,
    /// The host key of every machine of the lease, made for it alone.
    pub host_key: Option<HostKey>,
}

/// Time, as the fleet needs it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970.
    fn now_unix_ms(&self) -> u64;
    /// Waits.
    fn sleep(&self, duration: Duration);
}

/// What the token of a launching call is made from.
#[derive(Debug, Clone, Copy)]
pub struct TokenScope<'a> {
    /// The lease.
    pub fleet: &'a FleetId,
    /// The role.
    pub role: &'a str,
    /// The attempt of the stage.
    pub attempt: u32,
    /// How often the role's machine had to be replaced within the attempt.
    pub generation: u32,
    /// When the machine expires.
    pub expires_unix_s: u64,
}

/// Makes the token of a launching call; `None` sends none, which a test does to see that it is needed.
pub type TokenSource = fn(&TokenScope<'_>) -> Option<String>;

/// The token that makes a repeated call launch nothing: a digest of everything that names the machine, 64 ASCII characters.
pub fn client_token(scope: &TokenScope<'_>) -> Option<String> {
    let TokenScope { fleet, role, attempt, generation, expires_unix_s } = *scope;
    let value = Value::map([
        ("store", fleet.store.as_str().into()),
        ("run", fleet.run.as_str().into()),
        ("slot", fleet.slot.as_str().into()),
        ("role", role.into()),
        ("attempt", attempt.into()),
        ("generation", generation.into()),
        ("expires", expires_unix_s.into()),
    ]);
    Some(Digest::derived("sprint-flow ec2 client token v1", &value.to_bytes()).to_hex())
}

/// How EC2 is reached and how long things may take.
#[derive(Debug, Clone)]
pub struct Ec2Options {
    /// The service's address, where it is not AWS.
    pub endpoint: Option<String>,
    /// Keys, where the SDK should not look for them.
    pub keys: Option<AccessKeys>,
    /// The tokens of launching calls.
    pub tokens: TokenSource,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How often one call is tried before its failure counts.
    pub tries: u32,
    /// Wait between two looks.
    pub poll: Duration,
    /// How long EC2 may hide a machine that it has launched.
    pub visible_after: Duration,
    /// How long machines may take to run.
    pub boot: Duration,
    /// How long machines may take to end.
    pub end: Duration,
}

impl Ec2Options {
    /// AWS as the SDK finds it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            endpoint: None,
            keys: None,
            tokens: client_token,
            clock,
            tries: crate::aws::TRIES,
            poll: seconds(3),
            visible_after: seconds(90),
            boot: seconds(600),
            end: seconds(600),
        }
    }
}

/// EC2, in every region that is asked about.
pub struct Ec2 {
    options: Ec2Options,
    runtime: Background,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Ec2 {
    /// Nothing is called yet.
    pub fn new(options: Ec2Options) -> std::io::Result<Self> {
        Ok(Self { options, runtime: Background::new()?, clients: Mutex::default() })
    }

    /// The region that the user's settings name.
    pub fn default_region(&self) -> Option<String> {
        let config = self.runtime.block_on(settings(self.options.endpoint.as_deref(), None, None, Patience::default()));
        config.region().map(ToString::to_string)
    }

    fn client(&self, region: &str) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(region) {
            return client.clone();
        }
        let Ec2Options { endpoint, keys, .. } = &self.options;
        let (attempt, operation) = (Duration::from_secs(30), Duration::from_secs(120));
        let patience = Patience { attempt, operation, tries: self.options.tries, ..Patience::default() };
        let config = self.runtime.block_on(settings(endpoint.as_deref(), Some(region), keys.as_ref(), patience));
        clients.entry(region.to_owned()).or_insert(Client::new(&config)).clone()
    }

    fn now_unix_ms(&self) -> u64 {
        self.options.clock.now_unix_ms()
    }

    /// Looks again and again until there is an answer, or `limit` is over.
    fn wait<T>(&self, limit: Duration, mut look: impl FnMut() -> Result<Option<T>, Ec2Error>) -> Result<Option<T>, Ec2Error> {
        let deadline = self.now_unix_ms() + limit.as_millis() as u64;
        loop {
            if let Some(answer) = look()? {
                return Ok(Some(answer));
            }
            if self.now_unix_ms() >= deadline {
                return Ok(None);
            }
            self.options.clock.sleep(self.options.poll);
        }
    }
}

impl fmt::Debug for Ec2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What all machines of a lease cost until their expiry at most, dollars.
pub fn cost_until_expiry(machines: usize, usd_per_hour: f64, ttl: Duration) -> f64 {
    machines as f64 * usd_per_hour * ttl.as_secs_f64() / 3600.0
}
