//! Machines of Amazon EC2 for the stages that ask for them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sprint_cloud::ec2::{Clock, Ec2, Ec2Error, Ec2Options, FleetId, FleetSpec, HostKey, Image, Market};
use sprint_stage_api::{ErrorClass, StageError};
use sprint_stages::{CloudFleet, CloudImage, CloudMachine, CloudRequest};

use crate::failure::chain;

/// The clock on the wall.
#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now_unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// EC2 as the user's settings describe it, or the service at `endpoint`.
pub(crate) fn ec2(endpoint: Option<&str>) -> std::io::Result<Ec2> {
    let mut options = Ec2Options::new(Arc::new(WallClock));
    options.endpoint = endpoint.map(str::to_owned);
    Ec2::new(options)
}

/// Amazon EC2.
pub(crate) struct Amazon;

impl Amazon {
    fn ec2(request: &CloudRequest) -> Result<Ec2, StageError> {
        ec2(request.endpoint.as_deref()).map_err(|e| StageError::transient(format!("no runtime: {e}")))
    }

    fn id(request: &CloudRequest) -> FleetId {
        FleetId { store: request.store.clone(), run: request.run.clone(), slot: request.slot.clone() }
    }
}

impl CloudFleet for Amazon {
    fn up(&self, request: &CloudRequest) -> Result<Vec<CloudMachine>, StageError> {
        let spec = spec(request)?;
        let machines = Self::ec2(request)?.up(&Self::id(request), &spec, &request.note).map_err(|e| failure(&e))?;
        let machine = |m: sprint_cloud::ec2::Machine| CloudMachine {
            role: m.role,
            id: m.id,
            region: m.region,
            public_address: m.public_address,
            private_address: m.private_address,
        };
        Ok(machines.into_iter().map(machine).collect())
    }

    fn down(&self, request: &CloudRequest) -> Result<(), StageError> {
        let regions: Vec<String> = request.roles.values().cloned().collect();
        Self::ec2(request)?.down(&Self::id(request), &regions, &request.note, request.close).map_err(|e| failure(&e))
    }
}

fn spec(request: &CloudRequest) -> Result<FleetSpec, StageError> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|e| StageError::permanent(format!("{}: {e}", path.display())))
    };
    let host_key = match &request.host_key {
        Some((private, public)) => Some(HostKey::new(read(private)?, read(public)?)),
        None => None,
    };
    Ok(FleetSpec {
        roles: request.roles.clone(),
        instance_type: request.instance_type.clone(),
        image: match request.image.clone() {
            CloudImage::Id(id) => Image::Id(id),
            CloudImage::Newest { owner, name } => Image::Newest { owner, name },
        },
        market: if request.spot { Market::Spot } else { Market::OnDemand },
        volume_gib: request.volume_gib as i32,
        close: request.close,
        attempt: request.attempt,
        ttl: Duration::from_secs(request.ttl_s),
        idle: request.idle_s.map(Duration::from_secs),
        usd_per_hour: request.usd_per_hour,
        max_usd: request.max_usd,
        owner: crate::context::host().name,
        public_key: request.public_key.clone(),
        from: request.from.clone(),
        port: request.port,
        host_key,
    })
}

fn failure(error: &Ec2Error) -> StageError {
    let class = match error {
        e if e.is_budget() => ErrorClass::Refused,
        e if e.is_capacity() => ErrorClass::Transient,
        e if e.is_unavailable() => ErrorClass::RemoteUnavailable,
        Ec2Error::NotRunning { .. } | Ec2Error::StillThere { .. } => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    let failure = StageError::new(class, chain(error));
    match error {
        Ec2Error::NoPrice => failure.help(
            "give ec2.usd_per_hour, what one machine of the type costs an hour by AWS's price list; spot machines need none",
        ),
        Ec2Error::NoSpotPrice { .. } => failure.help("another type or region, or spot: false"),
        Ec2Error::Budget { .. } => failure.help("raise lease.max_usd, shorten lease.ttl, or take smaller machines"),
        Ec2Error::StillThere { .. } => failure.help("`sprint-flow cloud ls` shows them, `sprint-flow cloud reap` ends them"),
        _ => failure,
    }
}
