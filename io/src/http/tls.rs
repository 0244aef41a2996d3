//! TLS for the client: the authorities to trust come from a file, never from the system.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Most authorities in one file: more is no list of one's own authorities.
const AUTHORITIES_MAX: usize = 256;

/// Whom to trust. TLS 1.3 only.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

/// A list of authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is no PEM, or holds something that is no certificate.
    #[error("not a list of certificates in PEM: {0}")]
    Pem(String),
    /// There is no certificate in it, or too many.
    #[error("{found} certificates: expected 1 to {AUTHORITIES_MAX}")]
    Count {
        /// How many.
        found: usize,
    },
    /// rustls refuses one.
    #[error("certificate {position}: {source}")]
    Certificate {
        /// Which one, counted from 1.
        position: usize,
        /// Why.
        source: rustls::Error,
    },
}

impl Tls {
    /// Trust what these authorities signed, and nothing else.
    ///
    /// # Errors
    /// When `pem` is not a list of 1 to 256 certificates in PEM.
    pub fn trusting(pem: &[u8]) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            found += 1;
            if found > AUTHORITIES_MAX {
                return Err(TlsError::Count { found });
            }
            let certificate = certificate.map_err(|error| TlsError::Pem(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|source| TlsError::Certificate {
                    position: found,
                    source,
                })?;
        }
        if found == 0 {
            return Err(TlsError::Count { found });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Tls(Arc::new(config)))
    }

    /// Shake hands over `stream` with the server that can prove to be `host`.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.0.clone())
            .connect(name, stream)
            .await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}
