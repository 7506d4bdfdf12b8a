//! From the `hosts` artifact to running roles: files where each party finds them, and the command that starts it there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sprint_mpc::{ModelFiles, Role, RolePlace};
use sprint_stage_api::{StageContext, StageError};

use super::{PUBLIC_FILE, SHARE_FILE};
use crate::fleet::{Hosts, Place, SshHost};

/// The program's name on a host.
const PROGRAM: &str = "sprint-flow";

/// Where roles run. Dropping it removes what was copied to other machines.
pub(super) struct Placement {
    pub(super) places: BTreeMap<Role, RolePlace>,
    pub(super) files: [ModelFiles; 2],
    hosts: Vec<SshHost>,
}

impl Placement {
    /// Prepares every role's place: `binary args… role` is the program, `files` are the parties' files on this machine.
    pub(super) fn prepare(
        ctx: &StageContext<'_>,
        hosts: &Hosts,
        binary: &Path,
        args: &[String],
        files: [ModelFiles; 2],
    ) -> Result<Self, StageError> {
        let mut placement = Self { places: BTreeMap::new(), files, hosts: Vec::new() };
        for (n, role) in [Role::Party0, Role::Party1, Role::Dealer].into_iter().enumerate() {
            let host = hosts.host(role.name())?;
            match &host.place {
                Place::Child => {}
                Place::Netns { name } => {
                    let mut command = ["netns", "exec", name].map(str::to_owned).to_vec();
                    command.push(own_file(binary).to_string_lossy().into_owned());
                    command.extend(args.iter().cloned());
                    let bind = format!("{}:0", host.address);
                    let place = RolePlace { program: "ip".into(), args: command, bind, reached_at: None, ledgers: None };
                    placement.places.insert(role, place);
                }
                Place::Ssh { listen, .. } => {
                    let ssh = SshHost::new(&host.place, role.name(), ctx.run(), ctx.scratch())?;
                    let ssh = ssh.ok_or_else(|| StageError::permanent(format!("{role} is not reached by SSH")))?;
                    placement.copy(ctx, &ssh, n, binary)?;
                    placement.places.insert(
                        role,
                        RolePlace {
                            program: "ssh".into(),
                            args: ssh.command(PROGRAM, args),
                            bind: format!("0.0.0.0:{}", listen.unwrap_or(0)),
                            reached_at: Some(host.address.clone()),
                            ledgers: Some(ssh.path("")),
                        },
                    );
                    placement.hosts.push(ssh);
                }
            }
        }
        Ok(placement)
    }

    /// Copies the program, and a party's own two files, by their digests.
    fn copy(&mut self, ctx: &StageContext<'_>, ssh: &SshHost, party: usize, binary: &Path) -> Result<(), StageError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map(zeroize::Zeroizing::new)
                .map_err(|e| StageError::permanent(format!("{}: {e}", path.display())))
        };
        ssh.open()?;
        ctx.log(format!("copying to {}", ssh.name()));
        ssh.put(PROGRAM, &read(binary)?, "700")?;
        if let Some(files) = self.files.get_mut(party) {
            ssh.put(PUBLIC_FILE, &read(&files.public)?, "600")?;
            ssh.put(SHARE_FILE, &read(&files.share)?, "600")?;
            *files = ModelFiles { public: ssh.path(PUBLIC_FILE), share: ssh.path(SHARE_FILE) };
        }
        Ok(())
    }
}

/// The program's file by a name that also means it to other processes: `/proc/self/exe` would be `ip` to `ip`.
fn own_file(binary: &Path) -> PathBuf {
    match binary.strip_prefix("/proc/self") {
        Ok(rest) => Path::new("/proc").join(std::process::id().to_string()).join(rest),
        Err(_) => binary.to_owned(),
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        for host in &self.hosts {
            if let Err(error) = host.clean() {
                tracing::error!(%error, "files may be left on a host");
            }
        }
    }
}
