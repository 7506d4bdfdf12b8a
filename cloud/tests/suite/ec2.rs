//! Machines of a lease against moto, with what moto lacks put in front of it: client tokens, placement groups, hidden machines.
//!
//! A *crash* is an engine that hears nothing more from some call on, before or after that call's effect, and is then gone; another one
//! begins with what is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::moto::Moto;
use crate::support::proxy::{Delivery, Proxy, Request, Response, Rule};
use sprint_cloud::AccessKeys;
use sprint_cloud::ec2::{
    Clock, Ec2, Ec2Error, Ec2Options, FleetId, FleetSpec, Image, Machine, Market, TokenSource, client_token,
};

const REGION: &str = "us-east-1";

/// A clock that jumps when it is slept on.
#[derive(Debug, Clone, Default)]
struct Jumping(Arc<Mutex<u64>>);

impl Clock for Jumping {
    fn now_unix_ms(&self) -> u64 {
        *self.0.lock().expect("no panic")
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().expect("no panic") += duration.as_millis() as u64;
    }
}

/// What the shim knows and what it is told to do.
#[derive(Default)]
struct Shim {
    /// Body and answer of each launching call, by its token.
    launches: BTreeMap<String, (String, Response)>,
    /// Instances by the token that launched them.
    by_token: BTreeMap<String, String>,
    live: BTreeSet<String>,
    /// When each was launched.
    born: BTreeMap<String, u64>,
    most_live: usize,
    placements: BTreeSet<String>,
    calls: usize,
    /// The bodies of all calls.
    bodies: Vec<String>,
    /// What spot machines cost by zone.
    spot_prices: Vec<&'static str>,
    /// Calls from this one on are not answered; `after` lets the first of them have its effect.
    crash_at: Option<(usize, bool)>,
    /// The first call of this action has its effect, and nothing is answered from then on.
    crash_on: Option<&'static str>,
    /// How long a machine is not shown, milliseconds.
    hidden_ms: u64,
    /// Failures of the next calls of an action: how many, and which.
    failures: BTreeMap<String, (usize, u16, &'static str)>,
    clock: Jumping,
}

impl Shim {
    fn answer(&mut self, request: &Request, forward: &dyn Fn(&Request) -> Response) -> Response {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let field = |name: &str| body.split('&').find_map(|f| f.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        let action = field("Action").unwrap_or_default();
        let call = self.calls;
        self.calls += 1;
        self.bodies.push(body.clone());
        if self.crash_on.is_some_and(|wanted| wanted == action) && self.crash_at.is_none() {
            self.crash_at = Some((call, true));
        }
        match self.crash_at {
            Some((at, after)) if call >= at => {
                if after && call == at {
                    let _ = self.perform(&action, &body, &field, request, forward);
                }
                return failure(400, "Crashed");
            }
            _ => {}
        }
        if let Some((left, status, code)) = self.failures.get_mut(&action)
            && *left > 0
        {
            *left -= 1;
            return failure(*status, code);
        }
        self.perform(&action, &body, &field, request, forward)
    }

    fn perform(
        &mut self,
        action: &str,
        body: &str,
        field: &dyn Fn(&str) -> Option<String>,
        request: &Request,
        forward: &dyn Fn(&Request) -> Response,
    ) -> Response {
        match action {
            "RunInstances" => self.launch(body, field("ClientToken"), request, forward),
            "TerminateInstances" => {
                let response = forward(request);
                self.live.retain(|id| !body.contains(id.as_str()));
                response
            }
            "CreatePlacementGroup" => {
                let fresh = self.placements.insert(field("GroupName").unwrap_or_default());
                if fresh { done("CreatePlacementGroup") } else { failure(400, "InvalidPlacementGroup.Duplicate") }
            }
            "DeletePlacementGroup" => {
                let known = self.placements.remove(&field("GroupName").unwrap_or_default());
                if known { done("DeletePlacementGroup") } else { failure(400, "InvalidPlacementGroup.Unknown") }
            }
            "DescribeSpotPriceHistory" => {
                let item =
                    |price: &&str| format!("<item><instanceType>c5.4xlarge</instanceType><spotPrice>{price}</spotPrice></item>");
                let items: String = self.spot_prices.iter().map(item).collect();
                let body = format!(
                    "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><spotPriceHistorySet>{items}</spotPriceHistorySet></{action}Response>"
                );
                xml(200, body)
            }
            "DescribeInstances" => {
                let now = self.clock.now_unix_ms();
                let hidden = self.born.values().any(|born| now < born + self.hidden_ms);
                if hidden { done("DescribeInstances") } else { forward(request) }
            }
            _ => forward(request),
        }
    }

    fn launch(
        &mut self,
        body: &str,
        token: Option<String>,
        request: &Request,
        forward: &dyn Fn(&Request) -> Response,
    ) -> Response {
        let token = token.expect("the SDK fills in a random one where there is none");
        if let Some((before, response)) = self.launches.get(&token) {
            let gone = self.by_token.get(&token).is_some_and(|id| !self.live.contains(id));
            return match (before == body, gone) {
                (false, _) => failure(400, "IdempotentParameterMismatch"),
                (true, true) => failure(400, "IdempotentInstanceTerminated"),
                (true, false) => response.clone(),
            };
        }
        let response = forward(request);
        let text = String::from_utf8_lossy(&response.body).into_owned();
        if let Some(id) = text.split("<instanceId>").nth(1).and_then(|rest| rest.split('<').next()) {
            self.live.insert(id.to_owned());
            self.born.insert(id.to_owned(), self.clock.now_unix_ms());
            self.by_token.insert(token.clone(), id.to_owned());
            self.most_live = self.most_live.max(self.live.len());
            self.launches.insert(token, (body.to_owned(), response.clone()));
        }
        response
    }
}

fn xml(status: u16, body: String) -> Response {
    Response { status, headers: vec![("content-type".into(), "text/xml".into())], body: body.into_bytes() }
}

fn failure(status: u16, code: &str) -> Response {
    xml(
        status,
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>injected</Message></Error></Errors><RequestID>r</RequestID></Response>"
        ),
    )
}

fn done(action: &str) -> Response {
    xml(
        200,
        format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><return>true</return></{action}Response>"
        ),
    )
}

/// moto behind a shim, for several tests one after the other.
struct World {
    _moto: Moto,
    proxy: Proxy,
    shim: Arc<Mutex<Shim>>,
    clock: Jumping,
}

impl World {
    fn new() -> Option<Self> {
        let moto = Moto::start()?;
        let clock = Jumping(Arc::new(Mutex::new(1_800_000_000_000)));
        let shim = Arc::new(Mutex::new(Shim { clock: clock.clone(), ..Shim::default() }));
        let known = shim.clone();
        let rule: Arc<Rule> =
            Arc::new(move |request, forward| (known.lock().expect("no panic").answer(request, forward), Delivery::Whole));
        let proxy = Proxy::start(moto.addr, rule);
        Some(Self { _moto: moto, proxy, shim, clock })
    }

    /// Forgets what was counted; machines of earlier rounds must be gone.
    fn begin(&self, change: impl FnOnce(&mut Shim)) {
        let mut shim = self.shim.lock().expect("no panic");
        assert!(shim.live.is_empty(), "an earlier round left machines");
        *shim = Shim { clock: self.clock.clone(), ..Shim::default() };
        change(&mut shim);
    }

    fn set(&self, change: impl FnOnce(&mut Shim)) {
        change(&mut self.shim.lock().expect("no panic"));
    }

    fn most_live(&self) -> usize {
        self.shim.lock().expect("no panic").most_live
    }

    fn ec2(&self, tokens: TokenSource) -> Ec2 {
        let mut options = Ec2Options::new(Arc::new(self.clock.clone()));
        options.endpoint = Some(self.proxy.url());
        options.keys = Some(AccessKeys::new("test", "test"));
        options.tokens = tokens;
        options.tries = 3;
        options.poll = Duration::from_secs(30);
        Ec2::new(options).expect("a client")
    }

    fn live(&self, fleet: &FleetId) -> Vec<String> {
        let behind = self.shim.lock().expect("no panic").live.clone();
        assert!(behind.is_empty(), "EC2 runs {behind:?}, whatever it shows");
        let machines = self.ec2(client_token).machines_of(fleet, &regions()).expect("described");
        machines.into_iter().filter(Machine::is_live).map(|m| m.role).collect()
    }
}

fn regions() -> Vec<String> {
    vec![REGION.to_owned(), "eu-west-1".to_owned()]
}

fn fleet(run: &str) -> FleetId {
    FleetId { store: "5f2a".into(), run: run.into(), slot: "parties[net=lan]".into() }
}

fn spec() -> FleetSpec {
    FleetSpec {
        roles: ["dealer", "party-0", "party-1"].map(|r| (r.to_owned(), REGION.to_owned())).into(),
        instance_type: "c5.4xlarge".into(),
        image: Image::Newest { owner: "amazon".into(), name: "amzn*".into() },
        market: Market::OnDemand,
        volume_gib: 30,
        close: true,
        attempt: 1,
        ttl: Duration::from_secs(3 * 3600),
        idle: Some(Duration::from_secs(900)),
        usd_per_hour: Some(0.68),
        max_usd: Some(20.0),
        owner: "test".into(),
        public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxhKJ2vlc1K4WZ9yT0LQxkG0Cq5p6l0r4q4m2bZ5b1J test".into(),
        from: "203.0.113.7/32".into(),
        port: 7466,
        host_key: None,
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn note(dir: &Path) -> std::path::PathBuf {
    dir.join("fleet.json")
}

#[test]
fn a_lease_brings_up_every_role_once_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let (dir, fleet) = (folder(), fleet("r1"));
    let ec2 = world.ec2(client_token);
    let machines = ec2.up(&fleet, &spec(), &note(dir.path())).expect("up");
    let roles: Vec<&str> = machines.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["dealer", "party-0", "party-1"]);
    assert!(machines.iter().all(|m| m.expires_unix_s == Some(1_800_000_000 + 3 * 3600) && m.owner == "test"));
    let again = ec2.up(&fleet, &spec(), &note(dir.path())).expect("up");
    assert_eq!(again.iter().map(|m| &m.id).collect::<Vec<_>>(), machines.iter().map(|m| &m.id).collect::<Vec<_>>());
    assert_eq!(world.most_live(), 3);
    ec2.down(&fleet, &[], &note(dir.path()), true).expect("down");
    assert!(world.live(&fleet).is_empty() && !note(dir.path()).exists());
    ec2.down(&fleet, &regions(), &note(dir.path()), true).expect("giving back twice is giving back");
    assert!(world.shim.lock().expect("no panic").placements.is_empty());
}

#[test]
fn a_crash_at_any_call_never_doubles_a_machine_and_leaves_none() {
    let Some(world) = World::new() else { return };
    let ends: [fn(&World, &FleetId, &Path); 2] = [
        // Another engine goes on, then gives back.
        |world, fleet, dir| {
            let ec2 = world.ec2(client_token);
            let machines = ec2.up(fleet, &spec(), &note(dir)).expect("goes on");
            assert_eq!(machines.len(), 3);
            ec2.down(fleet, &[], &note(dir), true).expect("given back");
        },
        // Another engine only gives back.
        |world, fleet, dir| world.ec2(client_token).down(fleet, &[REGION.to_owned()], &note(dir), true).expect("given back"),
    ];
    let mut points = 0;
    for after in [false, true] {
        for at in 0.. {
            let (dir, fleet) = (folder(), fleet(&format!("crash-{after}-{at}")));
            world.begin(|shim| (shim.crash_at, shim.hidden_ms) = (Some((at, after)), 60_000));
            let crashed = world.ec2(client_token).up(&fleet, &spec(), &note(dir.path())).is_err();
            world.set(|shim| shim.crash_at = None);
            // A crash before a call and one after the call before leave the same behind, so both ends meet every state.
            ends[(at + usize::from(after)) % 2](&world, &fleet, dir.path());
            assert!(world.most_live() <= 3, "{} machines at once after a crash at call {at}", world.most_live());
            assert_eq!(world.live(&fleet), Vec::<String>::new(), "after a crash at call {at}");
            points += 1;
            if !crashed {
                break;
            }
        }
    }
    assert!(points > 20, "{points} crash points");
}

#[test]
fn a_crash_during_teardown_leaves_nothing_for_the_next_one() {
    let Some(world) = World::new() else { return };
    for at in 0.. {
        let (dir, fleet) = (folder(), fleet(&format!("down-{at}")));
        world.begin(|_| {});
        world.ec2(client_token).up(&fleet, &spec(), &note(dir.path())).expect("up");
        world.set(|shim| (shim.calls, shim.crash_at) = (0, Some((at, true))));
        let crashed = world.ec2(client_token).down(&fleet, &[], &note(dir.path()), true).is_err();
        world.set(|shim| shim.crash_at = None);
        world.ec2(client_token).down(&fleet, &[REGION.to_owned()], &note(dir.path()), true).expect("given back");
        assert!(world.live(&fleet).is_empty());
        if !crashed {
            break;
        }
    }
}

/// A launch whose answer is lost while EC2 does not show the machine: only the token tells the second call from a new wish.
fn most_live_after_a_lost_launch(world: &World, tokens: TokenSource, run: &str) -> usize {
    let (dir, fleet) = (folder(), fleet(run));
    world.begin(|shim| (shim.hidden_ms, shim.crash_on) = (60_000, Some("RunInstances")));
    world.ec2(tokens).up(&fleet, &spec(), &note(dir.path())).expect_err("crashed");
    assert_eq!(world.most_live(), 1, "the crash is meant to follow the first launch");
    world.set(|shim| (shim.crash_at, shim.crash_on) = (None, None));
    world.ec2(tokens).up(&fleet, &spec(), &note(dir.path())).expect("goes on");
    let most = world.most_live();
    world.ec2(tokens).down(&fleet, &[], &note(dir.path()), true).expect("given back");
    assert!(world.live(&fleet).is_empty(), "even doubled machines carry tags and are given back");
    most
}

#[test]
fn without_the_token_the_same_crash_doubles_a_machine() {
    let Some(world) = World::new() else { return };
    assert_eq!(most_live_after_a_lost_launch(&world, client_token, "with"), 3);
    assert_eq!(most_live_after_a_lost_launch(&world, |_| None, "without"), 4, "the shim would not notice a missing token");
}

#[test]
fn a_machine_that_ended_is_replaced_under_a_new_token() {
    let Some(world) = World::new() else { return };
    let (dir, fleet) = (folder(), fleet("ended"));
    let ec2 = world.ec2(client_token);
    let first = ec2.up(&fleet, &spec(), &note(dir.path())).expect("up");
    ec2.reap(&first[..1]).expect("ended from outside");
    let second = ec2.up(&fleet, &spec(), &note(dir.path())).expect("up again");
    assert_eq!(second.len(), 3);
    assert!(first.iter().all(|old| second.iter().all(|new| new.id != old.id)), "reaping ends the whole lease");
    assert_eq!(world.most_live(), 3);
    ec2.down(&fleet, &[], &note(dir.path()), true).expect("given back");
}

#[test]
fn what_could_cost_more_than_the_cap_is_never_launched() {
    let Some(world) = World::new() else { return };
    let dir = folder();
    let ec2 = world.ec2(client_token);
    let dear = FleetSpec { max_usd: Some(6.11), ..spec() };
    let error = ec2.up(&fleet("dear"), &dear, &note(dir.path())).expect_err("3 machines for 3 hours at 0.68 are 6.12");
    assert!(matches!(error, Ec2Error::Budget { machines: 3, .. }), "{error}");
    let error = ec2.up(&fleet("dear"), &FleetSpec { usd_per_hour: None, ..spec() }, &note(dir.path())).expect_err("no price");
    assert!(error.is_budget());
    assert_eq!(world.shim.lock().expect("no panic").calls, 0, "nothing was even asked");
}

/// The calls of an action, their fields decoded.
fn calls(world: &World, action: &str) -> Vec<BTreeMap<String, String>> {
    let shim = world.shim.lock().expect("no panic");
    let fields = |body: &String| {
        let pairs = body.split('&').filter_map(|f| f.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.replace("%2F", "/").replace("%3A", ":"))).collect::<BTreeMap<_, _>>()
    };
    shim.bodies.iter().map(fields).filter(|f| f.get("Action").is_some_and(|a| a == action)).collect()
}

#[test]
fn the_encrypted_volume_is_the_root_volume_of_the_image_that_was_found() {
    let Some(world) = World::new() else { return };
    for (n, (image, root)) in [("amzn-ami-hvm-2017.09.1*", "/dev/xvda"), ("ubuntu/images/*", "/dev/sda1")].into_iter().enumerate()
    {
        let (dir, run) = (folder(), fleet(&format!("root-{n}")));
        world.begin(|_| {});
        let owner = if n == 0 { "amazon" } else { "099720109477" };
        let wanted = FleetSpec { image: Image::Newest { owner: owner.into(), name: image.into() }, ..spec() };
        let ec2 = world.ec2(client_token);
        ec2.up(&run, &wanted, &note(dir.path())).expect("up");
        for call in calls(&world, "RunInstances") {
            assert_eq!(call["BlockDeviceMapping.1.DeviceName"], root);
            assert_eq!(call["BlockDeviceMapping.1.Ebs.Encrypted"], "true");
        }
        ec2.down(&run, &[], &note(dir.path()), true).expect("given back");
    }
}

#[test]
fn only_the_user_and_the_parties_reach_a_machine_and_only_on_two_ports() {
    let Some(world) = World::new() else { return };
    let (dir, run) = (folder(), fleet("rules"));
    world.begin(|_| {});
    let mut wan = FleetSpec { close: false, ..spec() };
    wan.roles.insert("party-1".into(), "eu-west-1".into());
    let ec2 = world.ec2(client_token);
    let machines = ec2.up(&run, &wan, &note(dir.path())).expect("up");
    let rules = calls(&world, "AuthorizeSecurityGroupIngress");
    let addresses: Vec<String> = machines.iter().filter_map(|m| m.public_address.clone()).map(|a| format!("{a}/32")).collect();
    let mut user_ports = BTreeSet::new();
    for rule in &rules {
        let (from, to) = (&rule["IpPermissions.1.FromPort"], &rule["IpPermissions.1.ToPort"]);
        assert!(from == to && ["22", "7466"].contains(&from.as_str()), "{rule:?}");
        match rule.get("IpPermissions.1.IpRanges.1.CidrIp") {
            Some(range) if *range == wan.from => drop(user_ports.insert(from.clone())),
            Some(range) => assert!(addresses.contains(range) && from == "7466", "{rule:?}"),
            None => assert!(rule.contains_key("IpPermissions.1.Groups.1.GroupId") && from == "7466", "{rule:?}"),
        }
    }
    assert_eq!(user_ports, ["22".to_owned(), "7466".to_owned()].into(), "the user's inputs go to the parties themselves");
    ec2.down(&run, &[], &note(dir.path()), false).expect("given back");
}

#[test]
fn a_spot_machine_without_a_price_is_bid_for_by_the_market_and_held_against_the_cap() {
    let Some(world) = World::new() else { return };
    world.begin(|shim| shim.spot_prices = vec!["0.25", "0.31"]);
    let dir = folder();
    let spot = |cap| FleetSpec { market: Market::Spot, usd_per_hour: None, max_usd: Some(cap), ..spec() };
    let ec2 = world.ec2(client_token);
    // 3 machines for 3 hours at 1.2 times the dearer zone: 9 * 0.372 = 3.348.
    let error = ec2.up(&fleet("dear-spot"), &spot(3.34), &note(dir.path())).expect_err("above the cap");
    assert!(matches!(error, Ec2Error::Budget { machines: 3, .. }), "{error}");
    assert!(calls(&world, "RunInstances").is_empty());
    ec2.up(&fleet("spot"), &spot(3.35), &note(dir.path())).expect("within the cap");
    for call in calls(&world, "RunInstances") {
        assert_eq!(call["InstanceMarketOptions.SpotOptions.MaxPrice"], "0.372");
    }
    world.set(|shim| shim.spot_prices = vec!["0.90"]);
    let again = ec2.up(&fleet("spot"), &spot(3.35), &note(dir.path())).expect("what was noted holds");
    assert_eq!((again.len(), world.most_live()), (3, 3));
    ec2.down(&fleet("spot"), &[], &note(dir.path()), true).expect("given back");
}

#[test]
fn throttling_is_waited_out_and_a_lack_of_capacity_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let (dir, run) = (folder(), fleet("busy"));
    world.begin(|shim| {
        shim.failures.insert("RunInstances".into(), (2, 503, "RequestLimitExceeded"));
    });
    let ec2 = world.ec2(client_token);
    ec2.up(&run, &spec(), &note(dir.path())).expect("up in the end");
    ec2.down(&run, &[], &note(dir.path()), true).expect("given back");

    let (dir, run) = (folder(), fleet("full"));
    world.begin(|_| {});
    let mut first_two = spec();
    first_two.roles.remove("party-1");
    ec2.up(&run, &first_two, &note(dir.path())).expect("two come up");
    std::fs::remove_file(note(dir.path())).expect("as if the note was of another engine");
    world.set(|shim| {
        shim.failures.insert("RunInstances".into(), (9, 400, "InsufficientInstanceCapacity"));
    });
    let error = ec2.up(&run, &spec(), &note(dir.path())).expect_err("no room for the third");
    assert!(error.is_capacity(), "{error}");
    ec2.down(&run, &[REGION.to_owned()], &note(dir.path()), true).expect("given back");
    assert!(world.live(&run).is_empty());
}

#[test]
fn machines_that_cannot_be_ended_are_named() {
    let Some(world) = World::new() else { return };
    let (dir, run) = (folder(), fleet("stuck"));
    let ec2 = world.ec2(client_token);
    ec2.up(&run, &spec(), &note(dir.path())).expect("up");
    world.set(|shim| {
        shim.failures.insert("TerminateInstances".into(), (usize::MAX, 403, "UnauthorizedOperation"));
    });
    let error = ec2.down(&run, &[], &note(dir.path()), true).expect_err("may not");
    assert!(matches!(&error, Ec2Error::StillThere { machines } if machines.len() == 3), "{error}");
    assert!(note(dir.path()).exists(), "the next run tries again");
    world.set(|shim| shim.failures.clear());
    ec2.down(&run, &[], &note(dir.path()), true).expect("given back");
}

#[test]
fn parties_of_several_regions_are_found_and_given_back_in_all_of_them() {
    let Some(world) = World::new() else { return };
    let (dir, run) = (folder(), fleet("wan"));
    let mut wan = FleetSpec {
        close: false,
        market: Market::Spot,
        image: Image::Newest { owner: "amazon".into(), name: "amzn*".into() },
        ..spec()
    };
    wan.roles.insert("party-1".into(), "eu-west-1".into());
    let ec2 = world.ec2(client_token);
    let machines = ec2.up(&run, &wan, &note(dir.path())).expect("up");
    let there: BTreeSet<&str> = machines.iter().map(|m| m.region.as_str()).collect();
    assert_eq!(there, ["eu-west-1", REGION].into());
    assert_eq!(ec2.machines(&regions(), Some("5f2a")).expect("listed").iter().filter(|m| m.is_live()).count(), 3);
    assert!(ec2.machines(&regions(), Some("other")).expect("listed").is_empty());
    ec2.down(&run, &[], &note(dir.path()), true).expect("given back");
    assert!(world.live(&run).is_empty());
}
