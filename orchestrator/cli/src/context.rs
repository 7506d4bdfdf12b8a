//! What the composition root reads from outside: environment, clock, machine and logging.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sprint_orchestrator::{Host, SlurmSettings};
use tracing_subscriber::EnvFilter;

/// The variables stages may see. Tokens pass to the worker on its standard input, never in its arguments.
const DECLARED: [&str; 8] =
    ["HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

/// The declared part of the environment.
pub(crate) fn declared_env() -> BTreeMap<String, String> {
    DECLARED.iter().filter_map(|name| std::env::var(name).ok().map(|v| ((*name).to_owned(), v))).collect()
}

/// This machine and process, as the scheduler needs to know them.
pub(crate) fn host() -> Host {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Host {
        now_unix_ms: Arc::new(now_unix_ms),
        random: random(),
        name: if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() },
        pid: std::process::id(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        env: Arc::new(declared_env()),
    }
}

fn now_unix_ms() -> u64 {
    // A clock before 1970 is no reason to stop.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Tells apart runs that begin in the same millisecond; nothing secret hangs on it.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}

/// This program, as children start it. The link names the very file that is running, even after it was replaced on the disk: a
/// result must not be made by another version than its key says.
pub(crate) fn this_program() -> std::io::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { Ok(link) } else { std::env::current_exe() }
}

/// Variables without secrets that a job of a cluster has as this process has them.
const PLAIN: [&str; 6] = ["HOME", "LANG", "PATH", "SPRINT_FLOW_LOG", "USER", "XDG_CACHE_HOME"];

/// How jobs of a Slurm cluster run this program. It is named by its file, which the nodes must see too.
pub(crate) fn slurm() -> std::io::Result<SlurmSettings> {
    let env = PLAIN.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
    Ok(SlurmSettings {
        program: vec![std::env::current_exe()?.into(), "stage-job".into()],
        env: env.collect(),
        commands: None,
        poll: SLURM_POLL,
    })
}

/// How often Slurm's controller is asked. Every user's questions are one lock there, so sites ask for seconds.
const SLURM_POLL: Duration = Duration::from_secs(5);

/// Whether the user has not asked for plain text (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Logs go to standard error; `-v` adds information, `-vv` details, and `SPRINT_FLOW_LOG` overrides both.
pub(crate) fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("SPRINT_FLOW_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // A second call, as in tests, leaves the first in place.
    let ansi = colour() && std::io::stderr().is_terminal();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(ansi)
        .try_init();
}
