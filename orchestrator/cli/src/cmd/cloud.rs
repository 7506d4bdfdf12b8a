//! `cloud ls`, `cloud reap` and `doctor`.

use sprint_artifacts::remote::RemoteUrl;
use sprint_cloud::ec2::{Ec2, Ec2Error, Machine, policy_document};

use crate::args::{CloudArgs, CloudCommand, DoctorArgs};
use crate::failure::{Code, Failure, chain};
use crate::ui::out;

pub(super) fn run(command: &CloudCommand) -> Result<Code, Failure> {
    match command {
        CloudCommand::Ls(args) => list(args),
        CloudCommand::Reap { cloud, all, apply } => reap(cloud, *all, *apply),
    }
}

fn open(args: &CloudArgs) -> Result<(Ec2, Vec<String>), Failure> {
    let ec2 = crate::cloud::ec2(args.endpoint.as_deref()).map_err(|e| Failure::new(Code::FAILED, format!("no runtime: {e}")))?;
    let mut regions = args.region.clone();
    if regions.is_empty() {
        regions.extend(ec2.default_region());
    }
    if regions.is_empty() {
        return Err(Failure::usage("no region to look at").help("give --region, once for each, or set AWS_REGION"));
    }
    Ok((ec2, regions))
}

fn live(ec2: &Ec2, regions: &[String]) -> Result<Vec<Machine>, Failure> {
    let machines = ec2.machines(regions, None).map_err(|e| failure(&e))?;
    Ok(machines.into_iter().filter(Machine::is_live).collect())
}

/// Exit 8 while there is a machine: a script that cleans up can ask by this.
fn list(args: &CloudArgs) -> Result<Code, Failure> {
    let (ec2, regions) = open(args)?;
    let machines = live(&ec2, &regions)?;
    show(&machines, args.json)?;
    Ok(if machines.is_empty() { Code::DONE } else { Code::CLOUD_RESOURCES })
}

fn reap(args: &CloudArgs, all: bool, apply: bool) -> Result<Code, Failure> {
    let (ec2, regions) = open(args)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let expired = |m: &Machine| m.expires_unix_s.is_none_or(|at| at <= now);
    let machines = live(&ec2, &regions)?;
    let chosen: Vec<Machine> = machines.iter().filter(|m| all || expired(m)).cloned().collect();
    show(&chosen, args.json)?;
    if !apply {
        if !chosen.is_empty() {
            out::note(format_args!("{} would be ended; --apply ends them", chosen.len()));
        }
        return Ok(if machines.is_empty() { Code::DONE } else { Code::CLOUD_RESOURCES });
    }
    ec2.reap(&chosen).map_err(|e| failure(&e))?;
    let left = live(&ec2, &regions)?;
    if !left.is_empty() {
        out::note(format_args!("{} machines are still there; --all ends those that have not expired, too", left.len()));
        return Ok(Code::CLOUD_RESOURCES);
    }
    Ok(Code::DONE)
}

fn show(machines: &[Machine], json: bool) -> Result<(), Failure> {
    if json {
        let line = serde_json::json!({"machines": machines});
        return out::line(format_args!("{line}"));
    }
    for m in machines {
        let address = m.public_address.as_deref().unwrap_or("-");
        let state = format!("{:?}", m.state).to_lowercase();
        out::line(format_args!(
            "{}  {}  {}  {state}  {}  {address}  run {} {}  expires {}",
            m.id,
            m.region,
            m.instance_type,
            m.role,
            m.run,
            m.slot,
            m.expires_unix_s.map_or_else(|| "unknown".to_owned(), |at| format!("@{at}"))
        ))?;
    }
    Ok(())
}

fn failure(error: &Ec2Error) -> Failure {
    let code = match error {
        Ec2Error::StillThere { .. } => Code::CLOUD_RESOURCES,
        e if e.is_unavailable() => Code::REMOTE_UNAVAILABLE,
        _ => Code::FAILED,
    };
    Failure::new(code, chain(error))
}

/// What this machine has, and what an AWS account must allow.
pub(super) fn doctor(args: &DoctorArgs) -> Result<Code, Failure> {
    let remote = args.remote.as_ref().map(|url: &RemoteUrl| (url.bucket(), url.prefix()));
    let policy = policy_document(remote);
    if args.policy {
        out::line(format_args!("{policy:#}"))?;
        return Ok(Code::DONE);
    }
    for (program, what) in [
        ("ssh", "reaches machines of `fleet: ssh` and `fleet: ec2`"),
        ("ssh-keygen", "makes the keys of a lease"),
        ("ip", "makes the namespaces of `fleet: netns`"),
        ("sbatch", "submits stages to Slurm"),
    ] {
        let found = find(program);
        let mark = if found.is_some() { "yes" } else { "no " };
        out::line(format_args!("{mark}  {program:<10}  {what}"))?;
    }
    let region = crate::cloud::ec2(None).ok().and_then(|ec2| ec2.default_region());
    let (mark, region) = region.map_or(("no ", "none is set".to_owned()), |r| ("yes", r));
    out::line(format_args!("{mark}  {:<10}  {region}", "region"))?;
    out::line("")?;
    out::line("The least that an AWS account must allow (`doctor --policy` prints this alone, with --remote for a bucket):")?;
    out::line(format_args!("{policy:#}"))?;
    Ok(Code::DONE)
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file())
}
