//! TLS 1.3 with one pinned certificate per role at both ends, and one cipher suite: AES-128-GCM, whose strength the gates' own AES-128 shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
#[cfg(target_arch = "x86_64")]
use rustls::crypto::ring;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme, SupportedCipherSuite, version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{pin_of, server_name};
use super::{Identity, IdentityError};
use crate::{CertPin, Role};

/// Bytes that are sealed before they are sent: 64 records, as many as go into one system call.
const SEALED: usize = 1 << 20;

/// One role's end of every TLS connection: who it is and whom it accepts.
pub(crate) struct Endpoint {
    identity: Identity,
    pins: BTreeMap<Role, CertPin>,
    provider: Arc<CryptoProvider>,
}

/// An encrypted stream and the role that its other end proved to be.
pub(super) struct Secured {
    pub(super) stream: Box<dyn Stream>,
    pub(super) peer: Role,
}

/// A byte stream of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why a TLS connection was not made.
#[derive(Debug)]
pub(super) enum TlsError {
    Setup(Error),
    Handshake(std::io::Error),
}

impl From<Error> for TlsError {
    fn from(e: Error) -> Self {
        Self::Setup(e)
    }
}

impl From<IdentityError> for TlsError {
    fn from(e: IdentityError) -> Self {
        Self::Setup(Error::General(e.to_string()))
    }
}

impl Endpoint {
    pub(crate) fn new(identity: Identity, pins: BTreeMap<Role, CertPin>) -> Self {
        Self::with_suite(identity, pins, suite())
    }

    /// With the suite's code from a library of the caller's choice.
    pub(super) fn with_suite(identity: Identity, pins: BTreeMap<Role, CertPin>, suite: SupportedCipherSuite) -> Self {
        let provider = CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
        Self { identity, pins, provider: Arc::new(provider) }
    }

    /// Dials: the other end must present exactly the certificate pinned for `peer`.
    pub(super) async fn connect(&self, peer: Role, stream: Box<dyn Stream>) -> Result<Secured, TlsError> {
        let pin = self.pins.get(&peer).copied().into_iter().collect();
        let verifier = Arc::new(Pinned { allowed: pin, provider: self.provider.clone() });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![self.identity.certificate()], self.identity.private_key()?)?;
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from(server_name(peer)).map_err(|e| Error::General(e.to_string()))?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(TlsError::Handshake)?;
        stream.get_mut().1.set_buffer_limit(Some(SEALED));
        Ok(Secured { stream: Box::new(stream), peer })
    }

    /// Answers: the other end must present exactly the certificate pinned for one of `due`.
    pub(super) async fn accept(&self, due: &[Role], stream: Box<dyn Stream>) -> Result<Secured, TlsError> {
        let allowed: Vec<CertPin> = due.iter().filter_map(|role| self.pins.get(role)).copied().collect();
        let verifier = Arc::new(Pinned { allowed, provider: self.provider.clone() });
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.identity.certificate()], self.identity.private_key()?)?;
        config.send_tls13_tickets = 0;
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.map_err(TlsError::Handshake)?;
        stream.get_mut().1.set_buffer_limit(Some(SEALED));
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(pin_of);
        let peer = due.iter().copied().find(|role| shown.is_some() && self.pins.get(role).copied() == shown);
        let peer = peer.ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        Ok(Secured { stream: Box::new(stream), peer })
    }
}

/// The suite as the library has it that is faster on this CPU: of AES-GCM on several blocks at once, aws-lc has code for AVX-512 alone, ring for AVX2 too.
/// Keys are exchanged and signatures made by aws-lc in either case.
fn suite() -> SupportedCipherSuite {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq") && !is_x86_feature_detected!("avx512bw") {
        return ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    }
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
}

/// Accepts a certificate if and only if its digest is on the list; no chain, no name, no date.
#[derive(Debug)]
struct Pinned {
    allowed: Vec<CertPin>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        if intermediates.is_empty() && self.allowed.contains(&pin_of(end_entity)) {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

/// What a verifier of either side's certificate says of signatures: TLS 1.3 ones are verified, older ones do not occur.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerIncompatible::Tls12NotOffered.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    tls13_signatures!();
}
