//! Giving back: over when EC2 says that every machine is terminated, and what stood around them is gone.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::call;
use super::state::Note;
use super::{Ec2, Ec2Error, FleetId, Machine};

/// What launching calls have left behind.
#[derive(Debug, Default)]
struct Launched {
    /// Machines that EC2 has named.
    known: BTreeSet<String>,
    /// Whether a call was made whose answer nobody heard.
    unheard: bool,
    /// From when on EC2 shows everything that was launched.
    shown_at: u64,
}

impl Ec2 {
    /// Ends every machine of a lease and waits until each is terminated. Idempotent; `regions` are looked at besides the noted ones;
    /// `placed` says whether machines stood close together.
    pub fn down(&self, fleet: &FleetId, regions: &[String], note: &Path, placed: bool) -> Result<(), Ec2Error> {
        let noted = Note::read(note)?;
        let mut all: BTreeSet<String> = regions.iter().cloned().collect();
        all.extend(noted.iter().flat_map(|n| n.roles.values().map(|r| r.region.clone())));
        let regions: Vec<String> = all.into_iter().collect();
        self.end(fleet, &regions, &noted.as_ref().map(|n| self.launched(n)).unwrap_or_default())?;
        let name = fleet.name();
        for region in &regions {
            // A machine's network interface may outlive it by seconds, and with it the group's last user.
            let removed = self.wait(self.options.end, || match self.remove_surroundings(region, &name, placed) {
                Ok(()) => Ok(Some(())),
                Err(error) if error.is("DependencyViolation") || error.is("InvalidPlacementGroup.InUse") => Ok(None),
                Err(error) => Err(error),
            })?;
            if removed.is_none() {
                return Err(Ec2Error::StillThere { machines: vec![format!("{name} ({region})")] });
            }
        }
        Note::remove(note)
    }

    /// What launching calls have left behind, as far as the note knows.
    fn launched(&self, noted: &Note) -> Launched {
        let calls = noted.roles.values().filter_map(|r| r.called_unix_ms);
        Launched {
            known: noted.roles.values().filter_map(|r| r.instance.clone()).collect(),
            unheard: noted.roles.values().any(|r| r.instance.is_none() && r.called_unix_ms.is_some()),
            shown_at: calls.max().map_or(0, |called| called + self.options.visible_after.as_millis() as u64),
        }
    }

    fn end(&self, fleet: &FleetId, regions: &[String], launched: &Launched) -> Result<(), Ec2Error> {
        let mut live = Vec::new();
        let mut failure = None;
        let mut seen = BTreeSet::new();
        let limit = self.options.end + self.options.visible_after;
        let over = self.wait(limit, || {
            let machines = self.machines_of(fleet, regions)?;
            seen.extend(machines.iter().map(|m| m.id.clone()));
            live = machines.into_iter().filter(Machine::is_live).collect();
            failure = None;
            for machine in live.iter().filter(|m| m.is_up()) {
                // A failure is tried again at the next look; what counts is what EC2 shows.
                if let Err(error) = self.terminate(&machine.region, std::slice::from_ref(&machine.id)) {
                    failure = Some(error);
                }
            }
            // An answer without a machine proves nothing while a launching call may not show yet.
            let all_shown = !launched.unheard && launched.known.iter().all(|id| seen.contains(id));
            Ok((live.is_empty() && (all_shown || self.now_unix_ms() >= launched.shown_at)).then_some(()))
        })?;
        match (over, failure) {
            (Some(()), _) => Ok(()),
            (None, Some(error)) => {
                tracing::error!(%error, "machines cannot be ended");
                Err(still_there(&live))
            }
            (None, None) => Err(still_there(&live)),
        }
    }

    /// Asks EC2 to end machines.
    pub(super) fn terminate(&self, region: &str, ids: &[String]) -> Result<(), Ec2Error> {
        let request = self.client(region).terminate_instances().set_instance_ids(Some(ids.to_vec()));
        match self.runtime.block_on(request.send()).map_err(call("TerminateInstances", region)) {
            Err(error) if !error.is("InvalidInstanceID.NotFound") => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends these machines, whichever lease they belong to, waits, and removes what stood around their leases.
    pub fn reap(&self, machines: &[Machine]) -> Result<(), Ec2Error> {
        let leases: BTreeSet<FleetId> =
            machines.iter().map(|m| FleetId { store: m.store.clone(), run: m.run.clone(), slot: m.slot.clone() }).collect();
        for fleet in leases {
            let of_lease = machines.iter().filter(|m| (&m.store, &m.run, &m.slot) == (&fleet.store, &fleet.run, &fleet.slot));
            let regions: BTreeSet<String> = of_lease.map(|m| m.region.clone()).collect();
            let regions: Vec<String> = regions.into_iter().collect();
            self.end(&fleet, &regions, &Launched::default())?;
            for region in &regions {
                self.remove_surroundings(region, &fleet.name(), true)?;
            }
        }
        Ok(())
    }
}

fn still_there(live: &[Machine]) -> Ec2Error {
    let mut machines: Vec<String> = live.iter().map(|m| format!("{} ({}, {})", m.id, m.role, m.region)).collect();
    if machines.is_empty() {
        machines.push("a machine that was launched but that EC2 does not show yet".to_owned());
    }
    Ec2Error::StillThere { machines }
}
