//! What machines need around them: a key that may log in, a group that only the parties and the user reach, a place close together.

use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::builders::IpPermissionBuilder;
use aws_sdk_ec2::types::{IpPermission, IpRange, PlacementStrategy, ResourceType, Tag, UserIdGroupPair};

use super::error::call;
use super::observe::tagged;
use super::{Ec2, Ec2Error, FleetSpec};

impl Ec2 {
    /// Makes the key known in a region under `name`.
    pub(super) fn ensure_key(&self, region: &str, name: &str, public_key: &str, tags: &[Tag]) -> Result<(), Ec2Error> {
        let request = self.client(region).import_key_pair().key_name(name).public_key_material(Blob::new(public_key.trim()));
        let request = request.tag_specifications(tagged(ResourceType::KeyPair, tags));
        match self.runtime.block_on(request.send()).map_err(call("ImportKeyPair", region)) {
            Err(error) if !error.is("InvalidKeyPair.Duplicate") => Err(error),
            _ => Ok(()),
        }
    }

    /// The security group `name` of a region: port 22 and the parties' own port from the user, who shares its inputs with both parties
    /// itself; that port between its members; nothing else.
    pub(super) fn ensure_group(&self, region: &str, name: &str, spec: &FleetSpec, tags: &[Tag]) -> Result<String, Ec2Error> {
        let group = match self.find_group(region, name)? {
            Some(group) => group,
            None => self.create_group(region, name, tags)?,
        };
        let user = || IpRange::builder().cidr_ip(&spec.from).description("the user").build();
        let ssh = tcp(22).ip_ranges(user()).build();
        let client = tcp(spec.port).ip_ranges(user()).build();
        let members = UserIdGroupPair::builder().group_id(&group).build();
        let inside = tcp(spec.port).user_id_group_pairs(members).build();
        for rule in [ssh, client, inside] {
            self.allow(region, &group, rule)?;
        }
        Ok(group)
    }

    /// Lets the parties of other regions in, each by its own address.
    pub(super) fn admit(&self, region: &str, group: &str, address: &str, port: u16) -> Result<(), Ec2Error> {
        let range = IpRange::builder().cidr_ip(format!("{address}/32")).description("a party").build();
        self.allow(region, group, tcp(port).ip_ranges(range).build())
    }

    fn allow(&self, region: &str, group: &str, rule: IpPermission) -> Result<(), Ec2Error> {
        let request = self.client(region).authorize_security_group_ingress().group_id(group).ip_permissions(rule);
        match self.runtime.block_on(request.send()).map_err(call("AuthorizeSecurityGroupIngress", region)) {
            Err(error) if !error.is("InvalidPermission.Duplicate") => Err(error),
            _ => Ok(()),
        }
    }

    fn create_group(&self, region: &str, name: &str, tags: &[Tag]) -> Result<String, Ec2Error> {
        let request =
            self.client(region).create_security_group().group_name(name).description("machines of one sprint-flow lease");
        let request = request.tag_specifications(tagged(ResourceType::SecurityGroup, tags));
        match self.runtime.block_on(request.send()).map_err(call("CreateSecurityGroup", region)) {
            Ok(made) => Ok(made.group_id().unwrap_or_default().to_owned()),
            // Made by a call whose answer was lost.
            Err(error) if error.is("InvalidGroup.Duplicate") => self.find_group(region, name)?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    pub(super) fn find_group(&self, region: &str, name: &str) -> Result<Option<String>, Ec2Error> {
        let by_name = aws_sdk_ec2::types::Filter::builder().name("group-name").values(name).build();
        let request = self.client(region).describe_security_groups().filters(by_name);
        let found = self.runtime.block_on(request.send()).map_err(call("DescribeSecurityGroups", region))?;
        Ok(found.security_groups().iter().find_map(|g| g.group_id().map(str::to_owned)))
    }

    /// A cluster placement group: machines on one high-bisection part of the network.
    pub(super) fn ensure_placement(&self, region: &str, name: &str, tags: &[Tag]) -> Result<(), Ec2Error> {
        let request = self.client(region).create_placement_group().group_name(name).strategy(PlacementStrategy::Cluster);
        let request = request.tag_specifications(tagged(ResourceType::PlacementGroup, tags));
        match self.runtime.block_on(request.send()).map_err(call("CreatePlacementGroup", region)) {
            Err(error) if !error.is("InvalidPlacementGroup.Duplicate") => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes key and group of a lease whose machines are gone, and their placement group if they had one.
    pub(super) fn remove_surroundings(&self, region: &str, name: &str, placed: bool) -> Result<(), Ec2Error> {
        let client = self.client(region);
        if let Some(group) = self.find_group(region, name)? {
            let request = client.delete_security_group().group_id(group);
            gone(
                self.runtime.block_on(request.send()).map(drop).map_err(call("DeleteSecurityGroup", region)),
                "InvalidGroup.NotFound",
            )?;
        }
        if placed {
            let placement = self.runtime.block_on(client.delete_placement_group().group_name(name).send());
            gone(placement.map(drop).map_err(call("DeletePlacementGroup", region)), "InvalidPlacementGroup.Unknown")?;
        }
        let key = self.runtime.block_on(client.delete_key_pair().key_name(name).send());
        gone(key.map(drop).map_err(call("DeleteKeyPair", region)), "InvalidKeyPair.NotFound")
    }
}

fn tcp(port: u16) -> IpPermissionBuilder {
    IpPermission::builder().ip_protocol("tcp").from_port(port.into()).to_port(port.into())
}

/// What is not there need not be removed.
fn gone(outcome: Result<(), Ec2Error>, code: &str) -> Result<(), Ec2Error> {
    match outcome {
        Err(error) if error.is(code) => Ok(()),
        other => other,
    }
}
