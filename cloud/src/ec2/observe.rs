//! Which machines there are, by their tags alone.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, ResourceType, Tag, TagSpecification};
use serde::Serialize;

use super::error::call;
use super::{Ec2, Ec2Error, FleetId};

pub(super) const STORE: &str = "sprint-flow:store";
pub(super) const RUN: &str = "sprint-flow:run";
pub(super) const SLOT: &str = "sprint-flow:slot";
pub(super) const ROLE: &str = "sprint-flow:role";
pub(super) const ATTEMPT: &str = "sprint-flow:attempt";
pub(super) const OWNER: &str = "sprint-flow:owner";
pub(super) const EXPIRES: &str = "sprint-flow:expires-at";

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Starting.
    Pending,
    /// Running.
    Running,
    /// On its way out, or stopped and waiting to be.
    Ending,
    /// Gone; it costs nothing any more.
    Terminated,
}

/// A machine that carries this program's tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// EC2's name for it.
    pub id: String,
    /// Where it is.
    pub region: String,
    /// How far it is.
    pub state: MachineState,
    /// Its type.
    pub instance_type: String,
    /// The store whose run launched it.
    pub store: String,
    /// That run.
    pub run: String,
    /// The stage instance.
    pub slot: String,
    /// Its role.
    pub role: String,
    /// Whose it is.
    pub owner: String,
    /// When it ends by itself, seconds since 1970; unknown if its tag cannot be read.
    pub expires_unix_s: Option<u64>,
    /// When it was launched, seconds since 1970.
    pub launched_unix_s: Option<i64>,
    /// Its address from outside.
    pub public_address: Option<String>,
    /// Its address for machines of the same region.
    pub private_address: Option<String>,
}

impl Machine {
    /// Whether it may still cost money.
    pub fn is_live(&self) -> bool {
        self.state != MachineState::Terminated
    }

    /// Whether it is there to be used.
    pub fn is_up(&self) -> bool {
        matches!(self.state, MachineState::Pending | MachineState::Running)
    }

    fn of(instance: &Instance, region: &str) -> Self {
        let tags: BTreeMap<&str, &str> =
            instance.tags().iter().filter_map(|t| Some((t.key()?, t.value().unwrap_or_default()))).collect();
        let tag = |name: &str| tags.get(name).copied().unwrap_or_default().to_owned();
        let state = match instance.state().and_then(|s| s.name()) {
            Some(InstanceStateName::Pending) => MachineState::Pending,
            Some(InstanceStateName::Running) => MachineState::Running,
            Some(InstanceStateName::Terminated) => MachineState::Terminated,
            _ => MachineState::Ending,
        };
        let address = |a: Option<&str>| a.filter(|a| !a.is_empty()).map(str::to_owned);
        Self {
            id: instance.instance_id().unwrap_or_default().to_owned(),
            region: region.to_owned(),
            state,
            instance_type: instance.instance_type().map(|t| t.as_str().to_owned()).unwrap_or_default(),
            store: tag(STORE),
            run: tag(RUN),
            slot: tag(SLOT),
            role: tag(ROLE),
            owner: tag(OWNER),
            expires_unix_s: tag(EXPIRES).parse().ok(),
            launched_unix_s: instance.launch_time().map(aws_sdk_ec2::primitives::DateTime::secs),
            public_address: address(instance.public_ip_address()),
            private_address: address(instance.private_ip_address()),
        }
    }
}

impl Ec2 {
    /// The machines of a lease in these regions, gone ones included.
    pub fn machines_of(&self, fleet: &FleetId, regions: &[String]) -> Result<Vec<Machine>, Ec2Error> {
        self.describe(regions, &lease_filters(fleet))
    }

    /// The machines of every lease in these regions, of one store or of all.
    pub fn machines(&self, regions: &[String], store: Option<&str>) -> Result<Vec<Machine>, Ec2Error> {
        let filters = match store {
            Some(store) => vec![filter(STORE, store)],
            None => vec![Filter::builder().name("tag-key").values(STORE).build()],
        };
        self.describe(regions, &filters)
    }

    fn describe(&self, regions: &[String], filters: &[Filter]) -> Result<Vec<Machine>, Ec2Error> {
        let mut machines = Vec::new();
        for region in regions {
            let client = self.client(region);
            self.runtime.block_on(async {
                let request = client.describe_instances().set_filters(Some(filters.to_vec()));
                let mut pages = request.into_paginator().send();
                while let Some(page) = pages.next().await {
                    let page = page.map_err(call("DescribeInstances", region))?;
                    let instances = page.reservations().iter().flat_map(aws_sdk_ec2::types::Reservation::instances);
                    machines.extend(instances.map(|i| Machine::of(i, region)));
                }
                Ok(())
            })?;
        }
        machines.sort_by(|a, b| (&a.region, &a.role, &a.id).cmp(&(&b.region, &b.role, &b.id)));
        Ok(machines)
    }
}

pub(super) fn lease_filters(fleet: &FleetId) -> Vec<Filter> {
    vec![filter(STORE, &fleet.store), filter(RUN, &fleet.run), filter(SLOT, &fleet.slot)]
}

fn filter(tag: &str, value: &str) -> Filter {
    Filter::builder().name(format!("tag:{tag}")).values(value).build()
}

/// The tags of everything that belongs to a lease, with these besides.
pub(super) fn tags(fleet: &FleetId, owner: &str, expires_unix_s: u64, more: &[(&str, &str)]) -> Vec<Tag> {
    let expires = expires_unix_s.to_string();
    let own = [(STORE, fleet.store.as_str()), (RUN, &fleet.run), (SLOT, &fleet.slot), (OWNER, owner), (EXPIRES, &expires)];
    own.iter().chain(more).map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect()
}

pub(super) fn tagged(kind: ResourceType, tags: &[Tag]) -> TagSpecification {
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.to_vec())).build()
}
