//! Sealing with age: X25519 recipients, ChaCha20-Poly1305 in chunks; what is cut off or altered does not open.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use age::x25519::{Identity, Recipient};
use sprint_artifacts::remote::{SealError, Sealer};

/// The owner's key, in files of the age tool.
pub struct AgeSealer {
    recipients: Vec<Recipient>,
    identities: Vec<Identity>,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a public key.
    #[error("{text:?} is not an age recipient; it begins with age1, and `age-keygen -y` prints it")]
    Recipient {
        /// What was given; a public key at most.
        text: String,
    },
    /// The identity file cannot be read.
    #[error("the identity file {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds no usable key.
    #[error("the identity file {} holds no line AGE-SECRET-KEY-1…", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("the identity file {} can be read by others (mode {mode:o}); chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl AgeSealer {
    /// Seals to these public keys (`age1…`), opens with the secret key in `identity`, if there is one. An identity alone is its own
    /// recipient; `None` without any key.
    pub fn new(recipients: &[String], identity: Option<&Path>) -> Result<Option<Self>, KeyError> {
        let identities = identity.map(read_identities).transpose()?.unwrap_or_default();
        let parse = |text: &String| text.parse::<Recipient>().map_err(|_| KeyError::Recipient { text: text.clone() });
        let mut recipients = recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if recipients.is_empty() {
            recipients.extend(identities.iter().map(Identity::to_public));
        }
        Ok((!recipients.is_empty()).then_some(Self { recipients, identities }))
    }
}

/// Makes a key: the secret half goes to a new file at `path` that only its owner can read, the public half is returned.
pub fn generate_identity(path: &Path) -> Result<String, KeyError> {
    use std::os::unix::fs::OpenOptionsExt;

    use age::secrecy::ExposeSecret;

    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let identity = Identity::generate();
    let public = identity.to_public().to_string();
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let text = zeroize::Zeroizing::new(format!("# public key: {public}\n{}\n", identity.to_string().expose_secret()));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(public)
}

fn read_identities(path: &Path) -> Result<Vec<Identity>, KeyError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let identities: Option<Vec<Identity>> = lines.map(|line| line.parse().ok()).collect();
    identities.filter(|i| !i.is_empty()).ok_or_else(|| KeyError::Identity { path: path.to_owned() })
}

impl fmt::Debug for AgeSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgeSealer")
            .field("recipients", &self.recipients.len())
            .field("opens", &self.can_open())
            .finish_non_exhaustive()
    }
}

impl Sealer for AgeSealer {
    fn can_open(&self) -> bool {
        !self.identities.is_empty()
    }

    fn seal(&self, plain: &mut dyn Read, sealed: &mut dyn Write) -> Result<(), SealError> {
        let recipients = self.recipients.iter().map(|r| r as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(|e| SealError::Damaged(e.to_string()))?;
        let mut writer = encryptor.wrap_output(sealed)?;
        io::copy(plain, &mut writer)?;
        writer.finish()?;
        Ok(())
    }

    fn open(&self, sealed: &mut dyn Read, plain: &mut dyn Write) -> Result<(), SealError> {
        if self.identities.is_empty() {
            return Err(SealError::NoIdentity);
        }
        let damaged = |e: &dyn fmt::Display| SealError::Damaged(e.to_string());
        let decryptor = age::Decryptor::new(sealed).map_err(|e| damaged(&e))?;
        let identities = self.identities.iter().map(|i| i as &dyn age::Identity);
        let mut reader = decryptor.decrypt(identities).map_err(|e| damaged(&e))?;
        io::copy(&mut reader, plain).map_err(|e| damaged(&e))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity_file(dir: &Path, name: &str) -> (PathBuf, String) {
        let path = dir.join(name);
        let public = generate_identity(&path).expect("made");
        assert!(generate_identity(&path).is_err(), "a key is never overwritten");
        (path, public)
    }

    fn seal(sealer: &AgeSealer, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        sealer.seal(&mut &plain[..], &mut sealed).expect("sealed");
        sealed
    }

    fn open(sealer: &AgeSealer, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut plain = Vec::new();
        sealer.open(&mut &sealed[..], &mut plain).map(|()| plain)
    }

    #[test]
    fn anyone_with_the_public_key_seals_and_only_the_identity_opens() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, public) = identity_file(dir.path(), "mine");
        let (other, _) = identity_file(dir.path(), "other");
        let machine = AgeSealer::new(&[public], None).expect("valid").expect("a key");
        let owner = AgeSealer::new(&[], Some(&path)).expect("valid").expect("a key");
        let stranger = AgeSealer::new(&[], Some(&other)).expect("valid").expect("a key");
        let sealed = seal(&machine, b"weights");
        assert_eq!(open(&owner, &sealed).expect("opened"), b"weights");
        assert!(matches!(open(&machine, &sealed), Err(SealError::NoIdentity)));
        assert!(matches!(open(&stranger, &sealed), Err(SealError::Damaged(_))));
    }

    #[test]
    fn a_change_or_a_cut_anywhere_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, _) = identity_file(dir.path(), "mine");
        let owner = AgeSealer::new(&[], Some(&path)).expect("valid").expect("a key");
        let plain = vec![7; 200_000];
        let sealed = seal(&owner, &plain);
        for at in (0..sealed.len()).step_by(sealed.len() / 50).chain([sealed.len() - 1]) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&owner, &changed).is_err(), "byte {at}");
            assert!(open(&owner, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_identity_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, _) = identity_file(dir.path(), "mine");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(AgeSealer::new(&[], Some(&path)), Err(KeyError::Exposed { mode: 0o644, .. })));
        assert!(matches!(AgeSealer::new(&["age1nonsense".into()], None), Err(KeyError::Recipient { .. })));
        assert!(AgeSealer::new(&[], None).expect("no key is fine").is_none());
    }
}
