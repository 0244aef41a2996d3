//! Machines without a TEE: everything is derived from a key that somebody put on them.

use std::fmt;

use ring::hkdf;
use zeroize::Zeroizing;

use super::{Info, LocalBoxFuture, Quote, Tee, TeeError, check_key_name};

/// Separates these keys from everything else that is ever derived from the same bytes.
const SALT: &[u8] = b"holdfast/1 plain tee";

/// A machine without a TEE. Whoever has the key file has every secret of the deployment.
pub struct Plain {
    key: Zeroizing<[u8; 32]>,
    app_id: String,
}

impl Plain {
    /// A machine with this key, which is the same on all machines of the deployment, and the
    /// name of what it runs. [`crate::real::read_key_file`] reads a key.
    #[must_use]
    pub fn new(key: Zeroizing<[u8; 32]>, app_id: String) -> Plain {
        Plain { key, app_id }
    }

    fn derive(&self, path: &str, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
            .extract(self.key.as_ref())
            .expand(
                &[path.as_bytes(), &[0], purpose.as_bytes()],
                hkdf::HKDF_SHA256,
            )
            .and_then(|okm| okm.fill(key.as_mut()))
            .expect("one hash block is always available");
        key
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain")
            .field("app_id", &self.app_id)
            .finish_non_exhaustive()
    }
}

impl Tee for Plain {
    fn info(&self) -> LocalBoxFuture<'_, Result<Info, TeeError>> {
        let info = Info {
            instance_id: None,
            app_id: self.app_id.clone(),
            compose_hash: None,
        };
        Box::pin(async { Ok(info) })
    }

    fn key<'a>(
        &'a self,
        path: &'a str,
        purpose: &'a str,
    ) -> LocalBoxFuture<'a, Result<Zeroizing<[u8; 32]>, TeeError>> {
        Box::pin(async move {
            check_key_name(path)?;
            check_key_name(purpose)?;
            Ok(self.derive(path, purpose))
        })
    }

    fn quote<'a>(&'a self, _: &'a [u8; 64]) -> LocalBoxFuture<'a, Result<Quote, TeeError>> {
        Box::pin(async { Err(TeeError::Unsupported { what: "a quote" }) })
    }
}
