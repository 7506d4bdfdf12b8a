//! A role's certificate and private key for one run.

use std::fmt;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{CertPin, Role};

/// A self-signed certificate and its key, made for one run and pinned by content: no authority, no names, no expiry to manage.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
}

/// Why an identity cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Key or certificate generation failed.
    #[error("making a certificate: {0}")]
    Generate(String),
    /// The certificate does not parse.
    #[error("the certificate is not PEM")]
    Certificate,
    /// The key does not parse.
    #[error("the private key is not PKCS#8 PEM")]
    Key,
}

/// PEM texts, as they travel to a role over its standard input. The key's memory is wiped when it goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityPem {
    pub(crate) certificate: String,
    #[serde(deserialize_with = "wiped")]
    pub(crate) key: Zeroizing<String>,
}

fn wiped<'de, D: Deserializer<'de>>(d: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(d).map(Zeroizing::new)
}

impl fmt::Debug for IdentityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityPem(..)")
    }
}

impl Identity {
    /// A fresh P-256 key with a certificate that names the role.
    pub fn generate(role: Role) -> Result<Self, IdentityError> {
        let failed = |e: rcgen::Error| IdentityError::Generate(e.to_string());
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(vec![server_name(role)]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, role.name());
        let certificate = params.self_signed(&pair).map_err(failed)?;
        Ok(Self { certificate: certificate.der().clone(), key: Zeroizing::new(pair.serialize_der()) })
    }

    /// Reads PEM texts.
    pub fn from_pem(pem: &IdentityPem) -> Result<Self, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes()).map_err(|_| IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(|_| IdentityError::Key)?;
        Ok(Self { certificate, key: Zeroizing::new(key.secret_der().to_vec()) })
    }

    /// The certificate in PEM.
    pub(crate) fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate).to_string()
    }

    /// The key in PEM; wiped when dropped.
    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        pem("PRIVATE KEY", &self.key)
    }

    /// What the other roles pin.
    pub fn pin(&self) -> CertPin {
        pin_of(&self.certificate)
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::try_from(self.key.to_vec()).map_err(|_| IdentityError::Key)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin())
    }
}

/// The name a role's certificate carries. Nothing trusts it; the pin decides.
pub(super) fn server_name(role: Role) -> String {
    format!("{}.sprint-flow.internal", role.name())
}

pub(super) fn pin_of(der: &CertificateDer<'_>) -> CertPin {
    CertPin::new(Sha256::digest(der.as_ref()).into())
}

/// RFC 7468 armour.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 3 / 2 + 80));
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let body = Zeroizing::new(base64(der));
    for line in body.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().chain(std::iter::repeat(&0)).take(3).fold(0_u32, |w, b| (w << 8) | u32::from(*b));
        for i in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { char::from(symbol) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_pem_and_keeps_its_pin() {
        let made = Identity::generate(Role::Dealer).unwrap();
        let read = Identity::from_pem(&IdentityPem { certificate: made.certificate_pem(), key: made.key_pem() }).unwrap();
        assert_eq!(read.pin(), made.pin());
        assert_eq!(*read.key, *made.key);
    }

    #[test]
    fn two_identities_of_one_role_have_different_pins() {
        let [a, b] = [0, 1].map(|_| Identity::generate(Role::Party0).unwrap().pin());
        assert_ne!(a, b);
    }

    #[test]
    fn base64_matches_rfc_4648_section_10() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let identity = Identity::generate(Role::Client).unwrap();
        let pem = IdentityPem { certificate: identity.certificate_pem(), key: identity.key_pem() };
        assert_eq!(format!("{pem:?}"), "IdentityPem(..)");
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.pin()));
    }
}
