//! `provision@1`: the machines that a private inference runs on.
//!
//! **A lease.** What it holds is given back when its last consumer has ended, by the next run if this one dies, and by the machines
//! themselves when the lease expires.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sprint_artifacts::{Digest, Secrecy};
use sprint_stage_api::{CachePolicy, Effect, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs, StageSpec};

use crate::fleet::{CloudFleet, CloudImage, CloudMachine, CloudRequest, Host, Hosts, Namespaces, Place, ROLES};
use crate::params::{self, Params};

/// Seconds that machines of a cloud may live where the workflow does not say.
const TTL_S: u64 = 3 * 3600;
/// Seconds without work after which they end where the workflow does not say.
const IDLE_S: u64 = 15 * 60;
/// The port on which parties listen on machines of a cloud, where every open port is a rule.
const PARTY_PORT: u16 = 7466;

/// Parameters of `provision@1`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProvisionParams {
    /// Where dealer, party 0 and party 1 run.
    #[serde(default)]
    fleet: FleetKind,
    /// `fleet: ssh`: the host of each role, `party-0`, `party-1` and `dealer`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    hosts: BTreeMap<String, SshParams>,
    /// `fleet: ec2`: what to launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ec2: Option<Ec2Params>,
}

/// Where the roles run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FleetKind {
    /// Three processes of this machine, over TLS on the loopback interface. A test of the system, not a deployment: whoever
    /// owns the machine sees both shares.
    #[default]
    Local,
    /// Network namespaces with shaped links.
    Netns,
    /// Machines reached by SSH.
    Ssh,
    /// Amazon EC2.
    Ec2,
}

/// A host reached by OpenSSH.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SshParams {
    /// Its address for logging in.
    host: String,
    /// Its port.
    #[serde(default = "default_port")]
    port: u16,
    /// The user there.
    user: String,
    /// Its own public key, as `ssh-keyscan` shows it and somebody has checked it: `ssh-ed25519 AAAA…`. No other is accepted.
    host_key: String,
    /// The file with the key that logs in, relative to the workflow; your own keys and agent if there is none.
    #[serde(default)]
    identity: Option<String>,
    /// The address by which the other roles reach it, if it is not `host`.
    #[serde(default)]
    address: Option<String>,
    /// The folder for a run's files there; removed afterwards.
    #[serde(default = "default_folder")]
    folder: String,
    /// The port on which a party listens there, for a firewall's sake; any free one if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listen: Option<u16>,
}

const fn default_port() -> u16 {
    22
}

fn default_folder() -> String {
    "/tmp/sprint-flow".to_owned()
}

/// Machines of Amazon EC2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ec2Params {
    /// The region of all roles.
    region: String,
    /// Other regions of single roles, for a wide-area network: `{party-1: eu-central-1}`.
    #[serde(default)]
    regions: BTreeMap<String, String>,
    /// The type of machine.
    #[serde(rename = "type")]
    instance_type: String,
    /// The image's id; the newest Amazon Linux 2023 if neither this nor `image_name` is given.
    #[serde(default)]
    image: Option<String>,
    /// The newest image of `image_owner` with a name of this pattern.
    #[serde(default = "default_image_name")]
    image_name: String,
    /// Who publishes it.
    #[serde(default = "default_image_owner")]
    image_owner: String,
    /// Whether to take machines that can be taken away, for less.
    #[serde(default)]
    spot: bool,
    /// What one machine costs an hour by AWS's price list; `lease.max_usd` is held against it. For spot machines it is the bid; without
    /// it the market is asked and a fifth more is bid.
    #[serde(default)]
    usd_per_hour: Option<f64>,
    /// GiB of each root volume.
    #[serde(default = "default_volume")]
    #[schemars(range(min = 8, max = 16384))]
    volume_gib: u32,
    /// Whether machines of a region stand close together, as for a local network.
    #[serde(default)]
    close: bool,
    /// From where machines may be reached: your address, such as `203.0.113.7/32`.
    from: String,
    /// The user to log in as.
    #[serde(default = "default_user")]
    user: String,
    /// The service's address, where it is not AWS.
    #[serde(default)]
    endpoint: Option<String>,
}

fn default_image_name() -> String {
    "al2023-ami-2023*-x86_64".to_owned()
}

fn default_image_owner() -> String {
    "amazon".to_owned()
}

const fn default_volume() -> u32 {
    30
}

fn default_user() -> String {
    "ec2-user".to_owned()
}

impl Params for ProvisionParams {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        match (self.fleet, &self.ec2) {
            (FleetKind::Ec2, None) => {
                let message = "fleet: ec2 needs `ec2: {region, type, from}`";
                problems.push(ParamProblem::new(&["ec2"], message));
            }
            (FleetKind::Ec2, Some(ec2)) => ec2.check(problems),
            (_, Some(_)) => {
                problems
                    .push(ParamProblem::new(&["ec2"], "only fleet: ec2 has these").help("write fleet: ec2, or leave them out"));
            }
            (FleetKind::Local | FleetKind::Netns | FleetKind::Ssh, None) => {}
        }
        self.check_hosts(problems);
    }
}

impl SshParams {
    fn host(&self, role: &str, base: &Path) -> Host {
        Host {
            role: role.to_owned(),
            address: self.address.clone().unwrap_or_else(|| self.host.clone()),
            place: Place::Ssh {
                host: self.host.clone(),
                port: self.port,
                user: self.user.clone(),
                host_key: self.host_key.trim().to_owned(),
                identity: self.identity.as_ref().map(|path| base.join(path)),
                folder: self.folder.clone(),
                listen: self.listen,
            },
        }
    }
}

impl ProvisionParams {
    fn check_hosts(&self, problems: &mut Vec<ParamProblem>) {
        if self.fleet != FleetKind::Ssh {
            if !self.hosts.is_empty() {
                problems
                    .push(ParamProblem::new(&["hosts"], "only fleet: ssh has these").help("write fleet: ssh, or leave them out"));
            }
            return;
        }
        for role in ROLES.iter().filter(|r| !self.hosts.contains_key(**r)) {
            problems.push(ParamProblem::new(&["hosts"], format!("no host is given for {role}")));
        }
        for (role, host) in &self.hosts {
            if !ROLES.contains(&role.as_str()) {
                let help = format!("the roles are {}", ROLES.join(", "));
                problems.push(ParamProblem::new(&["hosts", role], "there is no such role").help(help));
            }
            let mut words = host.host_key.split_whitespace();
            let is_key = words.next().is_some_and(|kind| kind.starts_with("ssh-") || kind.starts_with("ecdsa-"))
                && words.next().is_some_and(|key| key.starts_with("AAAA"));
            if !is_key {
                let message = "a host key is of the form `ssh-ed25519 AAAA…`";
                problems.push(
                    ParamProblem::new(&["hosts", role, "host_key"], message)
                        .help("`ssh-keyscan HOST` shows it; check it before you trust it"),
                );
            }
        }
    }
}

impl Ec2Params {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        if let Some(role) = self.regions.keys().find(|r| !ROLES.contains(&r.as_str())) {
            let message = format!("there is no role {role}");
            problems.push(ParamProblem::new(&["ec2", "regions"], message).help(format!("the roles are {}", ROLES.join(", "))));
        }
        if self.usd_per_hour.is_some_and(|usd| !(usd > 0.0 && usd.is_finite())) {
            problems.push(ParamProblem::new(&["ec2", "usd_per_hour"], "a price is a positive number of dollars"));
        }
        let (address, bits) = self.from.split_once('/').unwrap_or((&self.from, ""));
        let is_network = address.parse::<std::net::Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| b <= 32);
        if !is_network {
            let message = format!("{:?} is not a network such as 203.0.113.7/32", self.from);
            problems.push(ParamProblem::new(&["ec2", "from"], message));
        } else if bits.parse::<u8>().is_ok_and(|b| b < 8) {
            let message = format!("{} lets a large part of the world in", self.from);
            problems.push(ParamProblem::new(&["ec2", "from"], message).help("give your own address, with /32"));
        }
        if self.close && self.regions.values().any(|r| *r != self.region) {
            let message = "machines of different regions cannot stand close together";
            problems.push(ParamProblem::new(&["ec2", "close"], message).help("leave out `close` or `regions`"));
        }
    }

    fn region(&self, role: &str) -> String {
        self.regions.get(role).unwrap_or(&self.region).clone()
    }
}

/// The stage.
pub(crate) struct Provision {
    spec: StageSpec,
    cloud: Option<Arc<dyn CloudFleet>>,
}

impl Provision {
    pub(crate) fn new(cloud: Option<Arc<dyn CloudFleet>>) -> Self {
        let spec = StageSpec {
            kind: "provision",
            version: 1,
            about: "Provides the machines for the dealer and the two parties.",
            inputs: Vec::new(),
            outputs: vec![OutputPort { name: "hosts", artifact: "hosts", secrecy: Secrecy::Public }],
            effect: Effect::Lease,
            cache: CachePolicy::Never,
            code_digest: crate::code::PROVISION,
            params_schema: params::schema::<ProvisionParams>(),
        };
        Self { spec, cloud }
    }

    fn cloud(&self) -> Result<&dyn CloudFleet, StageError> {
        let missing =
            || StageError::permanent("this program was built without the feature `aws`").help("build it with default features");
        self.cloud.as_deref().ok_or_else(missing)
    }
}

impl Stage for Provision {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<ProvisionParams>(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: ProvisionParams = ctx.params_as()?;
        let hosts = match (params.fleet, params.ec2) {
            (FleetKind::Netns, _) => Hosts::new("netns", Namespaces::of(ctx.run(), ctx.stage()).up()?),
            (FleetKind::Ssh, _) => {
                Hosts::new("ssh", params.hosts.iter().map(|(role, host)| host.host(role, ctx.base())).collect())
            }
            (_, None) => {
                let host = |role: &str| Host { role: role.to_owned(), address: "127.0.0.1".to_owned(), place: Place::Child };
                Hosts::new("local", ROLES.map(host).into())
            }
            (_, Some(ec2)) => {
                let lease = Lease::of(ctx)?;
                lease.make_keys()?;
                let machines = self.cloud()?.up(&lease.request(ctx, &ec2)?)?;
                for CloudMachine { role, id, region, .. } in &machines {
                    ctx.log(format!("{role} is {id} in {region}"));
                }
                Hosts::new("ec2", lease.hosts(&ec2, &machines)?)
            }
        };
        Ok(StageOutputs::new().with("hosts", hosts.store(ctx.store())?))
    }

    fn release(&self, ctx: &StageContext<'_>, _: &StageOutputs) -> Result<(), StageError> {
        let params: ProvisionParams = ctx.params_as()?;
        if params.fleet == FleetKind::Netns {
            return Namespaces::of(ctx.run(), ctx.stage()).down();
        }
        // Processes live inside the inference stage and end with it: there is nothing left to release.
        let Some(ec2) = params.ec2 else { return Ok(()) };
        let lease = Lease::of(ctx)?;
        self.cloud()?.down(&lease.request(ctx, &ec2)?)?;
        lease.forget();
        Ok(())
    }
}

/// The files of one lease: its note, the key that logs in, and the machines' own key.
struct Lease {
    folder: PathBuf,
}

impl Lease {
    fn of(ctx: &StageContext<'_>) -> Result<Self, StageError> {
        // The action's folder is the same for every run; a lease is of one.
        let folder = ctx.checkpoints().ledger_dir().join(format!("lease-{}", ctx.run()));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| StageError::permanent(format!("{}: {e}", folder.display())))?;
        Ok(Self { folder })
    }

    fn login_key(&self) -> PathBuf {
        self.folder.join("login")
    }

    fn host_key(&self) -> PathBuf {
        self.folder.join("host")
    }

    /// Makes both key pairs unless an earlier attempt did.
    fn make_keys(&self) -> Result<(), StageError> {
        for path in [self.login_key(), self.host_key()] {
            if public_half(&path).exists() {
                continue;
            }
            let _ = fs::remove_file(&path);
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "sprint-flow", "-f"]).arg(&path).output();
            let made = made.map_err(|e| StageError::permanent(format!("ssh-keygen: {e}")).help("install OpenSSH's client"))?;
            if !made.status.success() {
                let words = String::from_utf8_lossy(&made.stderr).trim().to_owned();
                return Err(StageError::permanent(format!("ssh-keygen: {words}")));
            }
        }
        Ok(())
    }

    fn request(&self, ctx: &StageContext<'_>, ec2: &Ec2Params) -> Result<CloudRequest, StageError> {
        let terms = ctx.lease();
        let public_key = fs::read_to_string(public_half(&self.login_key())).unwrap_or_default();
        let host = self.host_key();
        Ok(CloudRequest {
            store: store_name(ctx.store().root())?,
            run: ctx.run().to_owned(),
            slot: ctx.stage().to_owned(),
            attempt: ctx.attempt(),
            note: self.folder.join("fleet.json"),
            endpoint: ec2.endpoint.clone(),
            roles: ROLES.iter().map(|role| ((*role).to_owned(), ec2.region(role))).collect(),
            instance_type: ec2.instance_type.clone(),
            image: match &ec2.image {
                Some(id) => CloudImage::Id(id.clone()),
                None => CloudImage::Newest { owner: ec2.image_owner.clone(), name: ec2.image_name.clone() },
            },
            spot: ec2.spot,
            volume_gib: ec2.volume_gib,
            close: ec2.close,
            ttl_s: terms.ttl_s.unwrap_or(TTL_S),
            idle_s: Some(terms.idle_s.unwrap_or(IDLE_S)),
            usd_per_hour: ec2.usd_per_hour,
            max_usd: terms.max_usd,
            public_key,
            from: ec2.from.clone(),
            port: PARTY_PORT,
            host_key: host.exists().then(|| (host.clone(), public_half(&host))),
        })
    }

    fn hosts(&self, ec2: &Ec2Params, machines: &[CloudMachine]) -> Result<Vec<Host>, StageError> {
        let host_key = fs::read_to_string(public_half(&self.host_key()))
            .map_err(|e| StageError::permanent(format!("the machines' host key: {e}")))?;
        let several_regions = ROLES.iter().any(|role| ec2.region(role) != ec2.region);
        let host = |machine: &CloudMachine| {
            let outside = machine.public_address.clone().or_else(|| machine.private_address.clone());
            let outside = outside.ok_or_else(|| StageError::transient(format!("{} has no address", machine.id)))?;
            let inside = machine.private_address.clone().filter(|_| !several_regions);
            Ok(Host {
                role: machine.role.clone(),
                address: inside.unwrap_or_else(|| outside.clone()),
                place: Place::Ssh {
                    host: outside,
                    port: 22,
                    user: ec2.user.clone(),
                    host_key: host_key.trim().to_owned(),
                    identity: Some(self.login_key()),
                    folder: default_folder(),
                    listen: Some(PARTY_PORT),
                },
            })
        };
        machines.iter().map(host).collect()
    }

    /// The keys are worth nothing once the machines are gone.
    fn forget(&self) {
        // What cannot be removed now is in nobody's way.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn public_half(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// A name for a store that no other store has, as long as it stays where it is.
fn store_name(root: &Path) -> Result<String, StageError> {
    let failed = |e: std::io::Error| StageError::permanent(format!("{}: {e}", root.display()));
    let path = fs::canonicalize(root).map_err(failed)?;
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hex = Digest::of(format!("{}\n{}", machine.trim(), path.display()).as_bytes()).to_hex();
    Ok(hex[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Bench;

    #[test]
    fn the_local_fleet_has_three_roles() {
        let bench = Bench::new();
        let outputs = bench.run(&Provision::new(None), &json!({})).expect("runs");
        let hosts = Hosts::load(bench.store(), outputs.get("hosts").expect("there")).expect("readable");
        assert!(ROLES.iter().all(|role| hosts.host(role).is_ok_and(|h| h.place == Place::Child)));
    }

    #[test]
    fn mistakes_that_would_cost_money_are_found_before_the_run() {
        let refused = |params: Value| {
            let problems = Provision::new(None).normalise(&params).expect_err("refused");
            problems.into_iter().map(|p| p.path.join(".")).collect::<Vec<_>>()
        };
        let ec2 = |more: Value| {
            let mut ec2 = json!({"region": "us-east-1", "type": "c7i.large", "from": "203.0.113.7/32"});
            for (key, value) in more.as_object().expect("a map") {
                ec2[key] = value.clone();
            }
            json!({"fleet": "ec2", "ec2": ec2})
        };
        assert_eq!(refused(json!({"fleet": "ec2"})), ["ec2"]);
        assert_eq!(refused(json!({"fleet": "ssh"})), ["hosts", "hosts", "hosts"]);
        let host = json!({"host": "a", "user": "u", "host_key": "AAAA"});
        let hosts = json!({"party-0": host, "party-1": host, "referee": host});
        assert_eq!(
            refused(json!({"fleet": "ssh", "hosts": hosts})),
            ["hosts", "hosts.party-0.host_key", "hosts.party-1.host_key", "hosts.referee", "hosts.referee.host_key"]
        );
        assert_eq!(refused(ec2(json!({"from": "0.0.0.0/0"}))), ["ec2.from"]);
        assert_eq!(refused(ec2(json!({"from": "home"}))), ["ec2.from"]);
        assert_eq!(refused(ec2(json!({"usd_per_hour": -1}))), ["ec2.usd_per_hour"]);
        assert_eq!(refused(ec2(json!({"regions": {"referee": "eu-west-1"}}))), ["ec2.regions"]);
        assert_eq!(refused(ec2(json!({"close": true, "regions": {"party-1": "eu-west-1"}}))), ["ec2.close"]);
        assert!(Provision::new(None).normalise(&ec2(json!({}))).is_ok());
    }

    #[test]
    fn without_the_cloud_feature_its_fleet_is_refused_by_name() {
        let params = json!({"fleet": "ec2", "ec2": {"region": "r", "type": "t", "from": "203.0.113.7/32"}});
        let error = Bench::new().run(&Provision::new(None), &params).expect_err("nobody to ask");
        assert!(error.message.contains("aws"), "{error}");
    }
}
