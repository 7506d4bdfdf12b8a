//! Bringing a lease up: note, look, adopt, launch what is missing, wait.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, HttpTokensState, InstanceInterruptionBehavior, InstanceMarketOptionsRequest,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceType, MarketType, Placement, ResourceType,
    ShutdownBehavior, SpotInstanceType, SpotMarketOptions, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::call;
use super::observe::{ATTEMPT, ROLE, tagged, tags};
use super::state::{ImageNote, Note};
use super::user_data::script;
use super::{Ec2, Ec2Error, FleetId, FleetSpec, Image, Machine, MachineState, Market, TokenScope, cost_until_expiry};

/// How often a role's machine is replaced within one attempt.
const GENERATIONS: u32 = 3;
/// The bid for a spot machine, as a multiple of the highest price now.
const ABOVE_MARKET: f64 = 1.2;

impl Ec2 {
    /// Brings up one machine for each role, adopting those that an earlier call launched; `note` is the lease's own file. Called again
    /// after a crash at whatever moment, it ends in the same machines.
    pub fn up(&self, fleet: &FleetId, spec: &FleetSpec, note: &Path) -> Result<Vec<Machine>, Ec2Error> {
        let mut noted = match Note::read(note)?.filter(|n| n.attempt == spec.attempt) {
            Some(noted) => noted,
            None => self.begin(fleet, spec, note)?,
        };
        check_budget(spec, noted.usd_per_hour)?;
        let (mut there, ended) = self.adopt(fleet, &noted)?;
        // What EC2 shows as ended is replaced under a new token; what it does not show at all may only be hidden.
        for role in noted.roles.values_mut().filter(|r| r.instance.as_ref().is_some_and(|id| ended.contains(id))) {
            role.instance = None;
            role.generation += 1;
        }
        let name = fleet.name();
        let common = tags(fleet, &spec.owner, noted.expires_unix_s, &[]);
        let regions: BTreeSet<String> = spec.roles.values().cloned().collect();
        let mut groups = BTreeMap::new();
        for region in &regions {
            self.ensure_key(region, &name, &spec.public_key, &common)?;
            groups.insert(region.clone(), self.ensure_group(region, &name, spec, &common)?);
            if spec.close {
                self.ensure_placement(region, &name, &common)?;
            }
        }
        for role in spec.roles.keys() {
            if !there.contains_key(role) {
                let id = self.launch(fleet, spec, role, &groups, &mut noted, note)?;
                there.insert(role.clone(), id);
            }
        }
        let machines = self.await_running(fleet, &there, &regions)?;
        self.open_between(&machines, &groups, spec.port)?;
        Ok(machines)
    }

    /// Decides everything that repeated calls must say alike, and notes it.
    fn begin(&self, fleet: &FleetId, spec: &FleetSpec, path: &Path) -> Result<Note, Ec2Error> {
        let regions: BTreeSet<&String> = spec.roles.values().collect();
        let usd_per_hour = match (spec.usd_per_hour, spec.market) {
            (None, Market::Spot) => Some(self.bid(&regions, &spec.instance_type)?),
            (given, _) => given,
        };
        check_budget(spec, usd_per_hour)?;
        let images = regions.iter().map(|region| Ok(((*region).clone(), self.image(region, &spec.image)?)));
        let images = images.collect::<Result<BTreeMap<_, _>, Ec2Error>>()?;
        let expires = self.now_unix_ms() / 1000 + spec.ttl.as_secs();
        let noted = Note::new(spec.attempt, expires, images, usd_per_hour, &spec.roles);
        tracing::info!(slot = fleet.slot, expires, "a lease begins");
        noted.write(path)?;
        Ok(noted)
    }

    /// The image, and where its root volume is: another device of that name would be a second disk, and the root one not encrypted.
    fn image(&self, region: &str, image: &Image) -> Result<ImageNote, Ec2Error> {
        let request = self.client(region).describe_images();
        let (request, owner, name) = match image {
            Image::Id(id) => (request.image_ids(id), "anybody", id),
            Image::Newest { owner, name } => {
                let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
                (request.owners(owner).filters(filter("name", name)).filters(filter("state", "available")), owner.as_str(), name)
            }
        };
        let found = self.runtime.block_on(request.send()).map_err(call("DescribeImages", region))?;
        let newest = found.images().iter().max_by_key(|i| (i.creation_date().unwrap_or_default(), i.image_id()));
        let note = newest.and_then(|i| Some(ImageNote { id: i.image_id()?.to_owned(), root: i.root_device_name()?.to_owned() }));
        note.ok_or_else(|| Ec2Error::NoImage { owner: owner.to_owned(), region: region.to_owned(), name: name.clone() })
    }

    /// What is bid for a spot machine: a little above the highest price of any zone now, so that a small rise does not end it.
    fn bid(&self, regions: &BTreeSet<&String>, instance_type: &str) -> Result<f64, Ec2Error> {
        let now = aws_sdk_ec2::primitives::DateTime::from_millis(self.now_unix_ms() as i64);
        let mut highest: f64 = 0.0;
        for region in regions {
            let request = self.client(region).describe_spot_price_history().start_time(now).product_descriptions("Linux/UNIX");
            let request = request.instance_types(InstanceType::from(instance_type));
            let found = self.runtime.block_on(request.send()).map_err(call("DescribeSpotPriceHistory", region))?;
            let prices = found.spot_price_history().iter().filter_map(|p| p.spot_price()?.parse::<f64>().ok());
            let here = prices.fold(0.0, f64::max);
            if here <= 0.0 {
                return Err(Ec2Error::NoSpotPrice { instance_type: instance_type.to_owned(), region: (*region).clone() });
            }
            highest = highest.max(here);
        }
        // In hundredths of a cent, upwards.
        Ok((highest * ABOVE_MARKET * 1e4 - 1e-6).ceil() / 1e4)
    }

    /// The machines that are there already, one for each role, and those that have ended. A second one of a role, which only a launch
    /// without a token could have made, is given back at once; those on their way out are waited for.
    fn adopt(&self, fleet: &FleetId, noted: &Note) -> Result<(BTreeMap<String, String>, BTreeSet<String>), Ec2Error> {
        let regions: BTreeSet<String> = noted.roles.values().map(|r| r.region.clone()).collect();
        let regions: Vec<String> = regions.into_iter().collect();
        let settled = self.wait(self.options.end, || {
            let machines = self.machines_of(fleet, &regions)?;
            let leaving = machines.iter().any(|m| m.state == MachineState::Ending);
            Ok((!leaving).then_some(machines))
        })?;
        let machines =
            settled.ok_or_else(|| Ec2Error::StillThere { machines: vec!["machines that were told to end".to_owned()] })?;
        let mut there = BTreeMap::new();
        let (up, ended): (Vec<Machine>, Vec<Machine>) = machines.into_iter().partition(Machine::is_up);
        for machine in up {
            match there.entry(machine.role) {
                Entry::Vacant(place) => drop(place.insert(machine.id)),
                Entry::Occupied(place) => {
                    tracing::error!(id = machine.id, role = place.key(), "a second machine of one role is given back");
                    self.terminate(&machine.region, std::slice::from_ref(&machine.id))?;
                }
            }
        }
        Ok((there, ended.into_iter().map(|m| m.id).collect()))
    }

    /// Launches the machine of a role. The note says so first; the token makes a repetition harmless.
    fn launch(
        &self,
        fleet: &FleetId,
        spec: &FleetSpec,
        role: &str,
        groups: &BTreeMap<String, String>,
        noted: &mut Note,
        path: &Path,
    ) -> Result<String, Ec2Error> {
        loop {
            let now = self.now_unix_ms();
            let entry = noted.roles.get_mut(role).expect("the note has every role of the lease");
            entry.called_unix_ms = Some(now);
            let (region, generation) = (entry.region.clone(), entry.generation);
            noted.write(path)?;
            let scope = TokenScope { fleet, role, attempt: spec.attempt, generation, expires_unix_s: noted.expires_unix_s };
            let token = (self.options.tokens)(&scope);
            match self.run_instance(fleet, spec, role, &region, &groups[&region], noted, token) {
                Ok(id) => {
                    noted.roles.get_mut(role).expect("as above").instance = Some(id.clone());
                    noted.write(path)?;
                    return Ok(id);
                }
                // The machine that this token launched is gone, so a new one does not come on top of it.
                Err(error) if error.is("IdempotentInstanceTerminated") && generation < GENERATIONS => {
                    noted.roles.get_mut(role).expect("as above").generation += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call of EC2, which takes all of them")]
    fn run_instance(
        &self,
        fleet: &FleetId,
        spec: &FleetSpec,
        role: &str,
        region: &str,
        group: &str,
        noted: &Note,
        token: Option<String>,
    ) -> Result<String, Ec2Error> {
        let (name, attempt, image) = (fleet.name(), spec.attempt.to_string(), &noted.images[region]);
        let title = format!("{name} {role}");
        let tags = tags(fleet, &spec.owner, noted.expires_unix_s, &[(ROLE, role), (ATTEMPT, &attempt), ("Name", &title)]);
        let disk = EbsBlockDevice::builder().encrypted(true).delete_on_termination(true).volume_size(spec.volume_gib);
        let disk = disk.volume_type(VolumeType::Gp3).build();
        let metadata = InstanceMetadataOptionsRequest::builder()
            .http_tokens(HttpTokensState::Required)
            .http_put_response_hop_limit(1)
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .build();
        let data = script(spec.ttl, spec.idle, spec.host_key.as_ref());
        let mut request = self
            .client(region)
            .run_instances()
            .set_client_token(token)
            .min_count(1)
            .max_count(1)
            .image_id(&image.id)
            .instance_type(InstanceType::from(spec.instance_type.as_str()))
            .key_name(&name)
            .security_group_ids(group)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .metadata_options(metadata)
            .block_device_mappings(BlockDeviceMapping::builder().device_name(&image.root).ebs(disk).build())
            .user_data(STANDARD.encode(data.as_bytes()));
        if spec.close {
            request = request.placement(Placement::builder().group_name(&name).build());
        }
        if spec.market == Market::Spot {
            request = request.instance_market_options(spot(noted.usd_per_hour));
        }
        for kind in tagged_kinds(spec.market) {
            request = request.tag_specifications(tagged(kind, &tags));
        }
        let launched = self.runtime.block_on(request.send()).map_err(call("RunInstances", region))?;
        Ok(launched.instances().iter().find_map(|i| i.instance_id()).unwrap_or_default().to_owned())
    }

    /// Waits until every role's machine runs and has an address. A machine that EC2 does not show yet is waited for.
    fn await_running(
        &self,
        fleet: &FleetId,
        there: &BTreeMap<String, String>,
        regions: &BTreeSet<String>,
    ) -> Result<Vec<Machine>, Ec2Error> {
        let regions: Vec<String> = regions.iter().cloned().collect();
        let mut missing = Vec::new();
        let running = self.wait(self.options.boot, || {
            let machines = self.machines_of(fleet, &regions)?;
            let of = |(role, id): (&String, &String)| {
                let found = machines.iter().find(|m| m.id == *id && m.state == MachineState::Running);
                found.cloned().ok_or_else(|| role.clone())
            };
            let (up, down): (Vec<_>, Vec<_>) = there.iter().map(of).partition(Result::is_ok);
            missing = down.into_iter().filter_map(Result::err).collect();
            Ok(missing.is_empty().then(|| up.into_iter().flatten().collect()))
        })?;
        running.ok_or_else(|| Ec2Error::NotRunning { roles: missing.clone(), after_s: self.options.boot.as_secs() })
    }

    /// Parties in different regions reach each other by their own addresses only.
    fn open_between(&self, machines: &[Machine], groups: &BTreeMap<String, String>, port: u16) -> Result<(), Ec2Error> {
        for (region, group) in groups {
            for machine in machines.iter().filter(|m| m.region != *region) {
                if let Some(address) = &machine.public_address {
                    self.admit(region, group, address, port)?;
                }
            }
        }
        Ok(())
    }
}

fn check_budget(spec: &FleetSpec, usd_per_hour: Option<f64>) -> Result<(), Ec2Error> {
    let Some(allowed) = spec.max_usd else { return Ok(()) };
    let usd_per_hour = usd_per_hour.ok_or(Ec2Error::NoPrice)?;
    let machines = spec.roles.len();
    let needed = cost_until_expiry(machines, usd_per_hour, spec.ttl);
    if needed > allowed { Err(Ec2Error::Budget { machines, usd_per_hour, needed, allowed }) } else { Ok(()) }
}

fn spot(usd_per_hour: Option<f64>) -> InstanceMarketOptionsRequest {
    let options = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .set_max_price(usd_per_hour.map(|usd| usd.to_string()))
        .build();
    InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(options).build()
}

/// Whatever the launching call makes carries the tags from its first moment.
fn tagged_kinds(market: Market) -> Vec<ResourceType> {
    let mut kinds = vec![ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface];
    if market == Market::Spot {
        kinds.push(ResourceType::SpotInstancesRequest);
    }
    kinds
}
