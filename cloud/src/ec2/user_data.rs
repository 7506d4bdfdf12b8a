//! What a machine does by itself from its first moment on: it ends at its expiry, and when it has had no work for a while.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// The key by which machines of one lease prove who they are, made for that lease and worthless after it.
///
/// It travels in the machine's user data, which whoever may describe the instance can read: it keeps strangers on the network out, not
/// the account's own administrators.
#[derive(Clone)]
pub struct HostKey {
    private: Zeroizing<String>,
    public: String,
}

impl HostKey {
    /// A key pair in OpenSSH's own formats.
    pub fn new(private: String, public: String) -> Self {
        Self { private: Zeroizing::new(private), public }
    }

    /// `ssh-ed25519 AAAA…`.
    pub fn public(&self) -> &str {
        &self.public
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl PartialEq for HostKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

/// The script that cloud-init runs as root at the first boot. The first line that does anything is the dead-man timer.
pub(super) fn script(ttl: Duration, idle: Option<Duration>, host_key: Option<&HostKey>) -> Zeroizing<String> {
    let minutes = |d: Duration| d.as_secs().div_ceil(60).max(1);
    let mut text = Zeroizing::new(String::with_capacity(8192));
    text.push_str("#!/bin/sh\n");
    text.push_str(&format!("shutdown -P +{} 'sprint-flow: the lease has expired'\n", minutes(ttl)));
    if let Some(key) = host_key {
        text.push_str("rm -f /etc/ssh/ssh_host_*\numask 077\ncat > /etc/ssh/ssh_host_ed25519_key <<'KEY'\n");
        text.push_str(key.private.trim_end());
        text.push_str("\nKEY\n");
        text.push_str(&format!("echo '{}' > /etc/ssh/ssh_host_ed25519_key.pub\n", key.public.trim()));
        text.push_str("systemctl restart ssh 2>/dev/null || systemctl restart sshd\n");
    }
    if let Some(idle) = idle {
        text.push_str(&format!(
            "(quiet=0\nwhile sleep 60; do\n  if pgrep -x sprint-flow >/dev/null || ss -Htn state established '( sport = :22 )' | grep -q .; \
             then quiet=0; else quiet=$((quiet + 1)); fi\n  [ \"$quiet\" -ge {} ] && poweroff\ndone) >/dev/null 2>&1 &\n",
            minutes(idle)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_man_timer_comes_before_anything_that_could_fail() {
        let key = HostKey::new("PRIVATE".to_owned(), "ssh-ed25519 AAAA x".to_owned());
        let text = script(Duration::from_secs(3 * 3600 + 1), Some(Duration::from_secs(900)), Some(&key));
        let second = text.lines().nth(1).expect("two lines");
        assert_eq!(second, "shutdown -P +181 'sprint-flow: the lease has expired'");
        assert!(text.contains("-ge 15 ] && poweroff"));
        let shown = format!("{key:?}");
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
