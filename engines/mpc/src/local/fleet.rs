//! Launching, wiring, watching.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::child::{Heard, Process};
use crate::client::Client;
use crate::error::RoleError;
use crate::hello::{Binding, shake};
use crate::meter::RoleMeter;
use crate::net::{Dial, Endpoint, Identity, LinkShape, Net, Traffic, connect};
use crate::request::SharedInput;
use crate::roles::{CONFIG_VERSION, Event, Limits, PeerConfig, Settings};
use crate::workload::ProgramShape;
use crate::{BatchId, CertPin, Digest, MaterialBatch, Role, SessionId};

/// How long after a failure the other roles are listened to for the cause.
const POST_MORTEM: Duration = Duration::from_millis(1500);
/// How long a process may take to say that it listens.
const LAUNCH: Duration = Duration::from_secs(60);

/// What to launch and how.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// The program; it must call [`crate::role_main`] with the role named by its last argument.
    pub binary: PathBuf,
    /// Arguments before the role's name.
    pub args: Vec<String>,
    /// Each server's part of the workload; what it holds is the workload's affair, secrets only as paths to files.
    pub workload: BTreeMap<Role, serde_json::Value>,
    /// The supply of dealer material; fresh for each fleet whose dealer streams, else that of `material`.
    pub batch: BatchId,
    /// A folder of material made ahead; with one, there is no dealer.
    pub material: Option<PathBuf>,
    /// Three servers and no dealer, ledger or material.
    pub three: bool,
    /// Folder of the parties' ledgers.
    pub ledgers: PathBuf,
    /// The link between the parties, and of the client to both.
    pub link: LinkShape,
    /// The dealer's links.
    pub dealer_link: LinkShape,
    /// Limits of all roles.
    pub limits: Limits,
    /// Program numbers of the requests to come, as far as known: their material is made ahead.
    pub plan: Vec<u32>,
    /// The program of all requests after those, however many, if that is known: its material is made ahead as long as the session lasts,
    /// and what is left at the end is thrown away.
    pub standing: Option<u32>,
}

/// How a role is started where it is not a plain child of this process: a command whose standard input and output are the role's.
///
/// The command must hand the end of its input on (`ssh`, `ip netns exec` do), so that a role never outlives its spawner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePlace {
    /// The command.
    pub program: PathBuf,
    /// Its arguments before the role's name.
    pub args: Vec<String>,
    /// Where the role listens, such as `10.0.0.2:0`.
    pub bind: String,
    /// The address by which others reach it, if it is not the one it listens on.
    pub reached_at: Option<String>,
    /// The folder of the role's ledger, if that is not on this machine.
    pub ledgers: Option<PathBuf>,
}

/// What the client knows of the workload.
#[derive(Debug, Clone)]
pub struct ClientSide {
    /// Digest of the model.
    pub model: Digest,
    /// Digest of the programs.
    pub program: Digest,
    /// The programs' interfaces.
    pub shapes: Vec<ProgramShape>,
}

/// A failed launch, inference or ending, with the role that is its cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// A process could not be started.
    #[error("starting {role}: {source}")]
    Spawn {
        /// Which.
        role: Role,
        /// As reported.
        source: std::io::Error,
    },
    /// A process ended without a word.
    #[error("{role} died ({})", fate(*.status))]
    Died {
        /// Which.
        role: Role,
        /// How, if the system told.
        status: Option<ExitStatus>,
    },
    /// A process gave up and said why.
    #[error("{role} failed: {message}")]
    Failed {
        /// Which.
        role: Role,
        /// The failure's class.
        class: String,
        /// Its own words.
        message: String,
    },
    /// A process does not do what is due.
    #[error("{role} has not said that it {what} for {after:?}")]
    Silent {
        /// Which.
        role: Role,
        /// What is due.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The client's own side.
    #[error(transparent)]
    Client(#[from] RoleError),
}

fn fate(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "still running, output closed".into(), |s| s.to_string())
}

/// Everything a session cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetMeter {
    /// Party 0 and party 1.
    pub parties: [RoleMeter; 2],
    /// The dealer; all zero if material was made ahead.
    pub dealer: RoleMeter,
    /// The third of three servers.
    #[serde(default)]
    pub third: Option<RoleMeter>,
    /// The client's links to the parties.
    pub client: Vec<Traffic>,
}

impl FleetMeter {
    /// Two parties or three.
    pub fn servers(&self) -> impl Iterator<Item = &RoleMeter> {
        self.parties.iter().chain(&self.third)
    }
}

/// Three processes and a client in session. Dropping it kills them.
pub struct LocalFleet {
    client: Option<Client>,
    servers: Vec<Role>,
    processes: Vec<Process>,
    heard: Receiver<(Role, Heard)>,
    loaded: BTreeSet<Role>,
    finished: BTreeMap<Role, RoleMeter>,
}

impl LocalFleet {
    /// Starts the processes, connects everything, shakes hands. Must not be called from inside an asynchronous runtime.
    pub fn launch(options: &FleetOptions, side: ClientSide) -> Result<Self, FleetError> {
        Self::launch_at(options, side, &BTreeMap::new())
    }

    /// As [`LocalFleet::launch`], with some roles in other places.
    pub fn launch_at(options: &FleetOptions, side: ClientSide, places: &BTreeMap<Role, RolePlace>) -> Result<Self, FleetError> {
        let (sender, heard) = channel();
        let mut servers = vec![Role::Party0, Role::Party1];
        if options.three {
            servers.push(Role::Party2);
        } else {
            servers.extend(options.material.is_none().then_some(Role::Dealer));
        }
        let mut processes = Vec::new();
        for role in servers.iter().copied() {
            let started = match places.get(&role) {
                Some(place) => Process::spawn(&place.program, &place.args, role, sender.clone()),
                None => Process::spawn(&options.binary, &options.args, role, sender.clone()),
            };
            processes.push(started.map_err(|source| FleetError::Spawn { role, source })?);
        }
        let mut fleet = Self { client: None, servers, processes, heard, loaded: BTreeSet::new(), finished: BTreeMap::new() };
        fleet.wire(options, side, places)?;
        Ok(fleet)
    }

    fn wire(&mut self, options: &FleetOptions, side: ClientSide, places: &BTreeMap<Role, RolePlace>) -> Result<(), FleetError> {
        let random = |e: getrandom::Error| RoleError::System(e.to_string());
        let session = SessionId::random().map_err(random)?;
        let mut identities = BTreeMap::new();
        for role in Role::ALL {
            identities.insert(role, Identity::generate(role).map_err(RoleError::from)?);
        }
        let pins: BTreeMap<Role, CertPin> = identities.iter().map(|(role, id)| (*role, id.pin())).collect();
        let mut addrs = BTreeMap::new();
        for (i, role) in self.servers.clone().into_iter().enumerate() {
            let settings = settings(options, session, role, &pins, &addrs, places.get(&role));
            let sent = self.processes[i].configure(&settings, &identities[&role]);
            // A child that is gone already has told why, or its end tells.
            sent.map_err(|source| self.post_mortem(RoleError::System(format!("configuring {role}: {source}"))))?;
            if role.server().is_some() {
                let addr = self.await_listening(role)?;
                addrs.insert(role, reached(addr, places.get(&role)));
            }
        }
        // Dialling can only fail slowly; a role that cannot even load says so at once.
        let deadline = Instant::now() + options.limits.connect();
        while let Some(missing) = self.servers.iter().copied().find(|r| !self.loaded.contains(r)) {
            self.hear(deadline, missing, "is loaded")?;
        }
        let own = identities.remove(&Role::Client).expect("made for every role above");
        let binding = Binding { session, model: side.model, program: side.program, batch: options.batch };
        let dialled = dial(options, Endpoint::new(own, pins), &addrs, &binding, side.shapes);
        self.client = Some(dialled.map_err(|e| self.post_mortem(e))?);
        Ok(())
    }

    /// One inference: a shared input in, the output words over Z_2^64 back.
    pub fn infer(&mut self, program: u32, input: SharedInput) -> Result<Vec<u64>, FleetError> {
        self.with_client(|client| client.infer(program, input))
    }

    /// Has the material of the next inference fetched, as far as the stocks hold it, so that [`LocalFleet::infer`] is online work only.
    pub fn prepare(&mut self, program: u32) -> Result<(), FleetError> {
        self.with_client(|client| client.prepare(program))
    }

    /// The process ids of party 0, party 1 and, if there is one, the dealer.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::id).collect()
    }

    /// Ends the session in good order and collects every role's account.
    pub fn finish(mut self) -> Result<FleetMeter, FleetError> {
        let client = self.client.take().ok_or_else(broken)?;
        let traffic = client.traffic();
        client.finish().map_err(|e| self.post_mortem(e))?;
        let deadline = Instant::now() + LAUNCH;
        while self.finished.len() < self.servers.len() {
            let missing = self.servers.iter().copied().find(|r| !self.finished.contains_key(r)).expect("the loop's condition");
            self.hear(deadline, missing, "is finished")?;
        }
        let mut take = |role| self.finished.remove(&role).unwrap_or_default();
        let third = self.servers.contains(&Role::Party2).then(|| take(Role::Party2));
        Ok(FleetMeter { parties: [take(Role::Party0), take(Role::Party1)], dealer: take(Role::Dealer), third, client: traffic })
    }

    fn with_client<T>(&mut self, ask: impl FnOnce(&mut Client) -> Result<T, RoleError>) -> Result<T, FleetError> {
        let mut client = self.client.take().ok_or_else(broken)?;
        match ask(&mut client) {
            Ok(answer) => {
                self.client = Some(client);
                Ok(answer)
            }
            // A refused request has moved nothing; the session goes on.
            Err(refused @ RoleError::Request { .. }) => {
                self.client = Some(client);
                Err(refused.into())
            }
            Err(failure) => Err(self.post_mortem(failure)),
        }
    }

    fn await_listening(&mut self, role: Role) -> Result<String, FleetError> {
        let deadline = Instant::now() + LAUNCH;
        loop {
            if let Some(Event::Listening { role: heard, addr }) = self.hear(deadline, role, "listens")?
                && heard == role
            {
                return Ok(addr);
            }
        }
    }

    /// The next event of any role; a death or failure of any role is an error at once.
    fn hear(&mut self, deadline: Instant, missing: Role, what: &'static str) -> Result<Option<Event>, FleetError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok((role, Heard::Event(Event::Finished { meter, .. }))) => {
                self.finished.insert(role, meter);
                Ok(None)
            }
            Ok((role, Heard::Event(Event::Failed { class, message, secondary, .. }))) => {
                let said = FleetError::Failed { role, class, message };
                Err(if secondary { self.better(said) } else { said })
            }
            Ok((_, Heard::Event(event))) => {
                if let Event::Loaded { role } = event {
                    self.loaded.insert(role);
                }
                Ok(Some(event))
            }
            Ok((role, Heard::Closed)) if !self.finished.contains_key(&role) => Err(self.died(role)),
            Ok((role, Heard::Noise(line))) => {
                tracing::debug!(%role, line, "not an event");
                Ok(None)
            }
            Ok((_, Heard::Closed)) => Ok(None),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(FleetError::Silent { role: missing, what, after: LAUNCH })
            }
        }
    }

    fn died(&mut self, role: Role) -> FleetError {
        let process = self.processes.iter_mut().find(|p| p.role() == role);
        FleetError::Died { role, status: process.and_then(|p| p.wait(POST_MORTEM)) }
    }

    fn post_mortem(&mut self, failure: RoleError) -> FleetError {
        self.client = None;
        self.better(FleetError::Client(failure))
    }

    /// Looks for the cause: the first role that died without a word, else the first that failed by itself, else what is known.
    fn better(&mut self, known: FleetError) -> FleetError {
        let deadline = Instant::now() + POST_MORTEM;
        // A role whose words are known already closes its output without more.
        let mut spoken: BTreeSet<Role> = match &known {
            FleetError::Failed { role, .. } => [*role].into(),
            _ => BTreeSet::new(),
        };
        let mut cause = None;
        while let Ok((role, heard)) = self.heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match heard {
                Heard::Closed if !spoken.contains(&role) && !self.finished.contains_key(&role) => return self.died(role),
                Heard::Event(Event::Failed { class, message, secondary, .. }) => {
                    spoken.insert(role);
                    if !secondary {
                        cause = cause.or(Some(FleetError::Failed { role, class, message }));
                    }
                }
                Heard::Event(Event::Finished { meter, .. }) => drop(self.finished.insert(role, meter)),
                Heard::Event(_) | Heard::Noise(_) | Heard::Closed => {}
            }
            if spoken.len() == self.servers.len() || cause.is_some() && spoken.len() > 1 {
                break;
            }
        }
        cause.unwrap_or(known)
    }
}

fn broken() -> FleetError {
    RoleError::Config("the session is over".into()).into()
}

/// The address by which others reach what listens on `addr`.
fn reached(addr: String, place: Option<&RolePlace>) -> String {
    match (place.and_then(|p| p.reached_at.as_ref()), addr.rsplit_once(':')) {
        (Some(host), Some((_, port))) => format!("{host}:{port}"),
        _ => addr,
    }
}

fn settings(
    options: &FleetOptions,
    session: SessionId,
    role: Role,
    pins: &BTreeMap<Role, CertPin>,
    addrs: &BTreeMap<Role, String>,
    place: Option<&RolePlace>,
) -> Settings {
    let peer = |peer: Role| PeerConfig {
        role: peer,
        pin: pins[&peer],
        addr: addrs.get(&peer).cloned(),
        shape: if role == Role::Dealer || peer == Role::Dealer { options.dealer_link } else { options.link },
    };
    Settings {
        version: CONFIG_VERSION,
        role,
        session,
        batch: options.batch,
        bind: place.map_or_else(|| "127.0.0.1:0".into(), |p| p.bind.clone()),
        peers: Role::ALL.into_iter().filter(|r| *r != role).map(peer).collect(),
        limits: options.limits,
        plan: options.plan.clone(),
        standing: options.standing,
        material: role.party().and_then(|me| Some(MaterialBatch::folder_of(options.material.as_deref()?, me))),
        threads: threads(options.three),
        three: options.three,
        ledger: role
            .party()
            .filter(|_| !options.three)
            .map(|_| place.and_then(|p| p.ledgers.as_ref()).unwrap_or(&options.ledgers).join(format!("{}.ledger", role.name()))),
        workload: options.workload.get(&role).cloned().unwrap_or_default(),
    }
}

/// The parties compute at the same time, and on the same machine: each gets half the cores, or a third. So does the dealer, whose other half
/// seals and sends.
fn threads(three: bool) -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores / if three { 3 } else { 2 }).unwrap_or(NonZeroUsize::MIN)
}

fn dial(
    options: &FleetOptions,
    endpoint: Endpoint,
    addrs: &BTreeMap<Role, String>,
    binding: &Binding,
    shapes: Vec<ProgramShape>,
) -> Result<Client, RoleError> {
    let net = Arc::new(Net::new().map_err(|e| RoleError::System(e.to_string()))?);
    let dial = Dial { connect: options.limits.connect(), stall: options.limits.stall(), shape: options.link };
    let mut links = Vec::new();
    for role in [Role::Party0, Role::Party1].into_iter().chain(options.three.then_some(Role::Party2)) {
        links.push(net.block_on(connect(&endpoint, Role::Client, role, &addrs[&role], dial))?);
    }
    for link in &mut links {
        net.block_on(shake(link, Role::Client, binding))?;
    }
    Ok(Client::new(net, links, shapes, options.limits.inference()))
}
