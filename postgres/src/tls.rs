//! The cluster's own certificate authority, and the certificates of its servers.
//!
//! Everything is derived from one secret, the same on all workers, byte for byte: nothing has to be
//! handed out, renewed or kept. Signatures are deterministic (RFC 6979).
//!
//! The keys are on P-256 and not Ed25519: libpq and PostgreSQL bind SCRAM to the TLS channel by a
//! hash of the certificate, with the hash function of its signature (RFC 5929, section 4.1).
//! Ed25519 names none, and psql gives up.

use std::net::IpAddr;

use holdfast_core::types::PeerId;
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm,
};
use ring::hmac;
use zeroize::Zeroizing;

use crate::place::Credentials;

/// Certificates are good between the beginnings of these years. They do not end before the secret
/// that they are derived from: whoever changes that changes them.
const YEARS: (i32, i32) = (2020, 2100);
/// Longest common name (RFC 5280, ub-common-name).
const NAME_LEN_MAX: usize = 64;

/// The certificate authority of a cluster.
pub struct Authority {
    issuer: Issuer<'static, Key>,
    pem: String,
    secret: hmac::Key,
}

/// A server's certificate and its key, in PEM.
pub struct Server {
    /// The certificate.
    pub certificate: String,
    /// Its key (PKCS #8).
    pub key: Zeroizing<String>,
}

impl Authority {
    /// The authority of a cluster, the same wherever it is derived.
    #[must_use]
    pub fn derive(cluster: &str, credentials: &Credentials) -> Authority {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, credentials.ca.as_ref());
        let label = format!("authority\0{cluster}");
        let key = Key::derive(&secret, &label);
        let mut params = params(&secret, &label, &format!("Holdfast {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .expect("every name and date in it is valid");
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            secret,
        }
    }

    /// Its certificate, in PEM: what clients verify servers with.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for the server of a peer, reached by its name and by these addresses.
    #[must_use]
    pub fn server(&self, peer: &PeerId, addresses: &[IpAddr]) -> Server {
        let label = format!("server\0{peer}");
        let key = Key::derive(&self.secret, &label);
        let mut params = params(
            &self.secret,
            &format!("{label}\0{addresses:?}"),
            peer.as_str(),
        );
        let name = peer.as_str().try_into().expect("a peer id is ASCII");
        params.subject_alt_names = vec![SanType::DnsName(name)];
        let addresses = addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.issuer);
        Server {
            certificate: signed.expect("every name and date in it is valid").pem(),
            key: key.pem(),
        }
    }
}

fn params(secret: &hmac::Key, label: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(YEARS.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(YEARS.1, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name: String = name.chars().take(NAME_LEN_MAX).collect();
    params.distinguished_name.push(DnType::CommonName, name);
    let mut serial = derived(secret, &format!("serial\0{label}"))[..16].to_vec();
    // Positive, as RFC 5280 wants it, and not 0.
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from(serial));
    let id = derived(secret, &format!("id\0{label}"))[..20].to_vec();
    params.key_identifier_method = KeyIdMethod::PreSpecified(id);
    params
}

fn derived(secret: &hmac::Key, label: &str) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(secret, format!("holdfast postgres tls\0{label}").as_bytes());
    let mut bytes = Zeroizing::new([0; 32]);
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// A key on P-256 with deterministic signatures.
struct Key {
    secret: SecretKey,
    public: Box<[u8]>,
}

impl Key {
    fn derive(secret: &hmac::Key, label: &str) -> Key {
        // One of 2^32 is no scalar of the curve; the next one is.
        let scalars = (0_u8..=u8::MAX).map(|n| derived(secret, &format!("key\0{label}\0{n}")));
        let key = scalars
            .into_iter()
            .find_map(|bytes| SecretKey::from_slice(&bytes[..]).ok());
        let key = key.expect("256 in a row are none with a chance of 2^-8192");
        let public = key.public_key().to_sec1_bytes();
        Key {
            secret: key,
            public,
        }
    }

    fn pem(&self) -> Zeroizing<String> {
        let pem = self.secret.to_pkcs8_pem(LineEnding::LF);
        pem.expect("a key of this curve has a PKCS #8 form")
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = SigningKey::from(&self.secret).sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::credentials;

    #[test]
    fn every_worker_derives_the_same_authority_and_another_cluster_another() {
        let pem = |cluster: &str| Authority::derive(cluster, &credentials()).pem().to_owned();
        assert_eq!(pem("demo"), pem("demo"));
        assert_ne!(pem("demo"), pem("other"));
        let mut other = credentials();
        other.ca = Zeroizing::new([8; 32]);
        assert_ne!(Authority::derive("demo", &other).pem(), pem("demo"));
    }

    #[test]
    fn servers_have_keys_of_their_own() {
        let authority = Authority::derive("demo", &credentials());
        let of =
            |id: &str| authority.server(&id.parse().expect("a name"), &[[127, 0, 0, 1].into()]);
        let (one, two) = (of("worker-1"), of("worker-2"));
        assert_eq!(*one.key, *of("worker-1").key);
        assert_ne!(*one.key, *two.key);
        assert_ne!(one.certificate, two.certificate);
    }
}
