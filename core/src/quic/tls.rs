//! TLS 1.3 with Ed25519 raw public keys (RFC 7250), pinned, and with entropy as an argument.
//!
//! `rustls` wants its random source and its key exchange as `'static` parts, so these draw
//! from a thread-local that [`EntropyScope`] sets for the length of one call. Outside of such
//! a call they fail, which is how a forgotten scope shows at once.

use std::cell::RefCell;
use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, PeerMisbehaved,
    SignatureScheme,
};
use x25519_dalek::{PublicKey as X25519Key, StaticSecret};

use crate::entropy::Entropy;
use crate::identity::{Identity, PublicKey};

/// The application protocol (RFC 7301) of every link.
pub const ALPN: &[u8] = b"holdfast/1";
/// Raw public keys need no server name; rustls wants one.
pub const SERVER_NAME: &str = "holdfast";

thread_local! {
    static ENTROPY: RefCell<Option<Box<Entropy>>> = const { RefCell::new(None) };
}

/// Lends a generator to TLS for the length of a call.
pub struct EntropyScope<'a> {
    owner: &'a mut Option<Box<Entropy>>,
}

impl<'a> EntropyScope<'a> {
    /// Move the owner's generator to the thread-local. Scopes do not nest.
    pub fn enter(owner: &'a mut Option<Box<Entropy>>) -> EntropyScope<'a> {
        let lent = owner.take();
        assert!(lent.is_some(), "the generator is lent once at a time");
        ENTROPY.with_borrow_mut(|slot| {
            assert!(slot.is_none(), "scopes do not nest");
            *slot = lent;
        });
        EntropyScope { owner }
    }
}

impl Drop for EntropyScope<'_> {
    fn drop(&mut self) {
        *self.owner = ENTROPY.with_borrow_mut(Option::take);
    }
}

#[derive(Debug)]
struct LentRandom;

impl SecureRandom for LentRandom {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        ENTROPY.with_borrow_mut(|slot| match slot {
            Some(entropy) => {
                entropy.fill(buf);
                Ok(())
            }
            None => Err(GetRandomFailed),
        })
    }
}

/// X25519 (RFC 7748) whose private keys come from the lent generator.
#[derive(Debug)]
struct X25519;

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        LentRandom.fill(&mut secret)?;
        let secret = StaticSecret::from(secret);
        let public = X25519Key::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: X25519Key,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer
            .try_into()
            .map_err(|_| Error::from(PeerMisbehaved::InvalidKeyShare))?;
        let shared = self.secret.diffie_hellman(&X25519Key::from(peer));
        if !shared.was_contributory() {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![&X25519];
    provider.secure_random = &LentRandom;
    Arc::new(provider)
}

/// Certificates have validity periods, raw public keys have none: the time is never used.
#[derive(Debug)]
struct NoTime;

impl rustls::time_provider::TimeProvider for NoTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
    }
}

/// The fixed head of an Ed25519 SubjectPublicKeyInfo (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// Accepts one key and no other.
#[derive(Debug)]
struct Pinned {
    key: PublicKey,
    spki: Vec<u8>,
}

impl Pinned {
    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), Error> {
        if presented.as_ref() == self.spki {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(presented)?;
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        UnparsedPublicKey::new(&ED25519, self.key.as_bytes())
            .verify(message, signed.signature())
            .map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not offered".into()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn certified(us: &Identity) -> Arc<CertifiedKey> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(us.to_pkcs8().to_vec()));
    let key = rustls::crypto::ring::sign::any_eddsa_type(match &der {
        PrivateKeyDer::Pkcs8(der) => der,
        _ => unreachable!("made as PKCS#8 above"),
    })
    .expect("our own encoding of an Ed25519 key");
    let public = SubjectPublicKeyInfoDer::from(spki(&us.public()));
    Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(public.as_ref().to_vec())],
        key,
    ))
}

fn pinned(peer: PublicKey) -> Arc<Pinned> {
    Arc::new(Pinned {
        key: peer,
        spki: spki(&peer),
    })
}

/// The client end: shows our key, accepts only the peer's. No resumption, no early data.
pub fn client(us: &Identity, peer: PublicKey) -> QuicClientConfig {
    let mut config = rustls::ClientConfig::builder_with_details(provider(), Arc::new(NoTime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(pinned(peer))
        .with_client_cert_resolver(Arc::new(
            rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified(us)),
        ));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    QuicClientConfig::try_from(config).expect("the provider has the initial suite")
}

/// The server end: demands the peer's key. No tickets.
pub fn server(us: &Identity, peer: PublicKey) -> QuicServerConfig {
    let mut config = rustls::ServerConfig::builder_with_details(provider(), Arc::new(NoTime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(pinned(peer))
        .with_cert_resolver(Arc::new(
            rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified(us)),
        ));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    QuicServerConfig::try_from(config).expect("the provider has the initial suite")
}
