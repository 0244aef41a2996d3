//! From nothing to a member, and back.

use crate::error::Error;
use crate::options::{Bootstrap, Options};

/// Run the sidecar until it is asked to end.
///
/// # Errors
/// [`Error`], whose exit code the process should end with.
pub async fn run<B: Bootstrap>(_options: Options<B>) -> Result<(), Error> {
    Err(Error::Failure("in the making".to_owned()))
}
