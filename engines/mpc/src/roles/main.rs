//! The main function of a role's process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sprint_mpc_core::{PartyId, Server};
use zeroize::Zeroizing;

use super::config::{RoleConfig, Settings};
use super::event::Event;
use crate::dealer;
use crate::error::RoleError;
use crate::hello::{Binding, shake};
use crate::ledger::Ledger;
use crate::material::{Shelf, StockLimits};
use crate::meter::{RoleMeter, peak_rss, process_cpu_s};
use crate::net::{Counters, Dial, Endpoint, Identity, Link, Listener, Net, connect, probe};
use crate::party::{Material, Party, PartyAccount, PartyLinks, PartyOptions, PartySetup};
use crate::role::Role;
use crate::three::{self, ThreeLinks, ThreeServer, ThreeSetup};
use crate::workload::Workload;

/// The longest configuration line.
const MAX_LINE: u64 = 16 << 20;
/// Exit code of a role whose spawner is gone.
const ORPHANED: i32 = 75;

/// Makes a role's workload from its part of the configuration.
pub type WorkloadFactory = fn(Role, &serde_json::Value) -> Result<Arc<dyn Workload>, RoleError>;

/// Runs one role to its end: reads one line of configuration from `stdin`, then watches `stdin`; at its end the process exits at once, so a
/// role never outlives its spawner. Tells what happens as lines of JSON on `stdout`.
pub fn role_main(
    role: Role,
    stdin: impl Read + Send + 'static,
    stdout: impl Write + Send + 'static,
    factory: WorkloadFactory,
) -> ExitCode {
    let voice = Voice(Arc::new(Mutex::new(stdout)));
    let mut stdin = BufReader::new(stdin);
    let outcome = read_config(&mut stdin, role).and_then(|config| {
        watch(stdin)?;
        run(config, factory, &voice)
    });
    match outcome {
        Ok(meter) => {
            voice.say(&Event::Finished { role, meter });
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let (class, secondary) = (failure.class().to_string(), failure.is_secondary());
            voice.say(&Event::Failed { role, class, message: failure.to_string(), secondary });
            ExitCode::FAILURE
        }
    }
}

/// Where events go.
struct Voice<W>(Arc<Mutex<W>>);

impl<W: Write> Voice<W> {
    fn say(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("events hold strings and numbers");
        line.push(b'\n');
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener that is gone is noticed on standard input.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

fn read_config(stdin: &mut impl BufRead, role: Role) -> Result<RoleConfig, RoleError> {
    let mut line = Zeroizing::new(Vec::new());
    stdin.take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| RoleError::System(format!("standard input: {e}")))?;
    RoleConfig::parse(&line, role)
}

/// Ends the process when standard input does.
fn watch(mut stdin: impl Read + Send + 'static) -> Result<(), RoleError> {
    let watching = move || {
        let mut byte = [0; 64];
        while !matches!(stdin.read(&mut byte), Ok(0) | Err(_)) {}
        std::process::exit(ORPHANED)
    };
    thread::Builder::new().name("watch".into()).spawn(watching).map(drop).map_err(|e| RoleError::System(e.to_string()))
}

fn run<W: Write>(config: RoleConfig, factory: WorkloadFactory, voice: &Voice<W>) -> Result<RoleMeter, RoleError> {
    let RoleConfig { settings, identity } = config;
    let identity = Identity::from_pem(&identity)?;
    // This thread computes as one of the pool's: with one thread there is no hand-over at all.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(settings.threads.get()).use_current_thread();
    pool.build_global().map_err(|e| RoleError::System(e.to_string()))?;
    let net = Arc::new(Net::new().map_err(|e| RoleError::System(e.to_string()))?);
    let place = Place { endpoint: Endpoint::new(identity, settings.pins()), net, settings };
    if place.settings.three {
        let role = place.settings.role;
        let me = role.server().ok_or_else(|| RoleError::Config(format!("there is no {role} where three servers are")))?;
        return place.three(me, voice);
    }
    match place.settings.role {
        Role::Party0 => place.party(PartyId::P0, factory, voice),
        Role::Party1 => place.party(PartyId::P1, factory, voice),
        Role::Dealer => place.dealer(factory, voice),
        Role::Party2 => Err(RoleError::Config("party 2 is there only where three servers are".into())),
        Role::Client => Err(RoleError::Config("the client is no process of its own".into())),
    }
}

/// A role before its links are up.
struct Place {
    net: Arc<Net>,
    endpoint: Endpoint,
    settings: Settings,
}

impl Place {
    fn dial(&self, peer: Role) -> Result<Dial, RoleError> {
        let Settings { limits, .. } = &self.settings;
        Ok(Dial { connect: limits.connect(), stall: limits.stall(), shape: self.settings.peer(peer)?.shape })
    }

    fn binding(&self, workload: &dyn Workload) -> Binding {
        let Settings { session, batch, .. } = self.settings;
        Binding { session, model: workload.model(), program: workload.program(), batch }
    }

    fn connect(&self, peer: Role) -> Result<Link, RoleError> {
        let dial = self.dial(peer)?;
        Ok(self.net.block_on(connect(&self.endpoint, self.settings.role, peer, self.settings.addr(peer)?, dial))?)
    }

    /// Shakes hands on every link; with several wrong ones the first is told.
    fn shake(&self, links: &mut [&mut Link], binding: &Binding) -> Result<(), RoleError> {
        let mut failure = None;
        for link in links {
            let shaken = self.net.block_on(shake(link, self.settings.role, binding));
            failure = failure.or(shaken.err());
        }
        failure.map_or(Ok(()), Err)
    }

    fn party<W: Write>(self, me: PartyId, factory: WorkloadFactory, voice: &Voice<W>) -> Result<RoleMeter, RoleError> {
        let role = Role::from(me);
        let listener = self.net.block_on(Listener::bind(&self.settings.bind))?;
        voice.say(&Event::Listening { role, addr: listener.addr().to_string() });
        let path = self.settings.ledger.as_deref().ok_or_else(|| RoleError::Config(format!("{role} has no ledger")))?;
        let ledger = Ledger::open(path)?;
        let workload = factory(role, &self.settings.workload)?;
        voice.say(&Event::Loaded { role });
        let binding = self.binding(&*workload);
        let mut links = self.party_links(me, &listener, &binding, &*workload)?;
        let PartyLinks { peer, client, material } = &mut links;
        match material {
            Material::Dealer(dealer) => self.shake(&mut [peer, dealer, client], &binding)?,
            Material::Files(_) => self.shake(&mut [peer, client], &binding)?,
        }
        let wanted = self.settings.limits.measure_link;
        let measured = wanted.then(|| self.net.block_on(probe(&mut links.peer, me == PartyId::P0))).transpose()?;
        voice.say(&Event::Ready { role });

        let setup = process_cpu_s();
        let mut counters = count([&links.peer, &links.client]);
        if let Material::Dealer(dealer) = &links.material {
            counters.extend(count([dealer]));
        }
        let limits = self.settings.limits;
        let options = PartyOptions {
            stall: limits.stall(),
            stock: StockLimits { memory: usize::try_from(limits.stock_bytes).unwrap_or(usize::MAX), disk: limits.spool_bytes },
            spool: path.parent().map(Path::to_owned).unwrap_or_default(),
            plan: self.settings.plan.clone(),
            standing: self.settings.standing,
            lookahead: limits.lookahead,
            offline_limit: limits.offline(),
        };
        let mut party = Party::open(PartySetup { net: self.net.clone(), me, binding, workload, options, ledger }, links)?;
        party.serve(&mut |meter| voice.say(&Event::Inference { role, meter: meter.clone() }))?;
        Ok(RoleMeter { link: measured, ..account(party.into_account(), Vec::new(), &counters, setup) })
    }

    /// Party 1 dials party 0; both wait for the others.
    fn party_links(
        &self,
        me: PartyId,
        listener: &Listener,
        binding: &Binding,
        workload: &dyn Workload,
    ) -> Result<PartyLinks, RoleError> {
        let shelf = self.settings.material.as_deref();
        let shelf = shelf.map(|folder| Shelf::open(folder, me, binding, workload.material())).transpose()?;
        let mut due = vec![Role::Client];
        due.extend(shelf.is_none().then_some(Role::Dealer));
        due.extend((me == PartyId::P0).then_some(Role::Party1));
        let shapes = due.iter().map(|r| Ok((*r, self.settings.peer(*r)?.shape))).collect::<Result<Vec<_>, RoleError>>()?;
        let dialled = if me == PartyId::P1 { Some(self.connect(Role::Party0)?) } else { None };
        let dial = self.dial(due[0])?;
        let mut links = self.net.block_on(listener.accept(&self.endpoint, me.into(), &shapes, dial))?;
        links.extend(dialled);
        let mut take = |role: Role| {
            let at = links.iter().position(|l| l.peer() == role).expect("accept returns every role that is due");
            links.swap_remove(at)
        };
        let (peer, client) = (take(me.peer().into()), take(Role::Client));
        Ok(PartyLinks {
            peer,
            client,
            material: shelf.map_or_else(|| Material::Dealer(Box::new(take(Role::Dealer))), Material::Files),
        })
    }

    /// One of three servers: dials those before it in number, waits for those after it and for the client.
    fn three<W: Write>(self, me: Server, voice: &Voice<W>) -> Result<RoleMeter, RoleError> {
        let role = Role::from(me);
        let listener = self.net.block_on(Listener::bind(&self.settings.bind))?;
        voice.say(&Event::Listening { role, addr: listener.addr().to_string() });
        let loaded = three::load(me, &self.settings.workload)?;
        voice.say(&Event::Loaded { role });
        let Settings { session, batch, .. } = self.settings;
        let binding = Binding { session, model: loaded.model, program: loaded.program, batch };
        let mut links = Vec::new();
        for before in Server::ALL.into_iter().filter(|s| *s < me) {
            links.push(self.connect(before.into())?);
        }
        let due = Server::ALL.into_iter().filter(|s| *s > me).map(Role::from).chain([Role::Client]);
        let due = due.map(|r| Ok((r, self.settings.peer(r)?.shape))).collect::<Result<Vec<_>, RoleError>>()?;
        let dial = self.dial(Role::Client)?;
        links.extend(self.net.block_on(listener.accept(&self.endpoint, role, &due, dial))?);
        // Everybody shakes hands in the same order, so nobody waits for one who waits.
        links.sort_by_key(|l| (l.peer() == Role::Client, l.peer()));
        self.shake(&mut links.iter_mut().collect::<Vec<_>>(), &binding)?;
        let mut take = |role: Role| {
            let at = links.iter().position(|l| l.peer() == role).expect("every role that is due has a link");
            links.swap_remove(at)
        };
        let (mut previous, mut next, client) = (take(me.previous().into()), take(me.next().into()), take(Role::Client));
        let wanted = self.settings.limits.measure_link;
        let measured = match me {
            _ if !wanted => None,
            Server::S0 => Some(self.net.block_on(probe(&mut next, true))?),
            Server::S1 => Some(self.net.block_on(probe(&mut previous, false))?),
            Server::S2 => None,
        };
        voice.say(&Event::Ready { role });
        let setup = process_cpu_s();
        let counters = count([&previous, &next, &client]);
        let links = ThreeLinks { previous, next, client };
        let mut server = ThreeServer::open(ThreeSetup { net: self.net.clone(), me, binding, loaded }, links)?;
        server.serve(&mut |meter| voice.say(&Event::Inference { role, meter: meter.clone() }))?;
        Ok(RoleMeter { link: measured, ..account(server.into_account(), Vec::new(), &counters, setup) })
    }

    fn dealer<W: Write>(self, factory: WorkloadFactory, voice: &Voice<W>) -> Result<RoleMeter, RoleError> {
        let role = Role::Dealer;
        let workload = factory(role, &self.settings.workload)?;
        voice.say(&Event::Loaded { role });
        let [mut link0, mut link1] = [self.connect(Role::Party0)?, self.connect(Role::Party1)?];
        let binding = self.binding(&*workload);
        self.shake(&mut [&mut link0, &mut link1], &binding)?;
        voice.say(&Event::Ready { role });
        let setup = process_cpu_s();
        let counters = count([&link0, &link1]);
        let seconds = dealer::serve(&self.net, self.settings.session, &*workload, [link0, link1])?;
        Ok(account(PartyAccount::default(), seconds, &counters, setup))
    }
}

fn count<const N: usize>(links: [&Link; N]) -> Vec<(Role, Arc<Counters>)> {
    links.map(|l| (l.peer(), l.counters())).into()
}

fn account(party: PartyAccount, offline_s: Vec<f64>, counters: &[(Role, Arc<Counters>)], setup_cpu_s: f64) -> RoleMeter {
    let links: BTreeMap<_, _> = counters.iter().map(|(role, c)| (role.name().to_owned(), c.traffic())).collect();
    RoleMeter {
        session_bytes_sent: party.session_bytes_sent,
        inferences: party.inferences,
        by_part: party.by_part.into_rows(),
        by_gate: party.by_gate.into_rows(),
        link: None,
        links,
        cpu_s: process_cpu_s(),
        setup_cpu_s,
        peak_rss: peak_rss(),
        offline_s,
    }
}
