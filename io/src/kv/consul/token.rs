//! The ACL token: it is in no log and no error, and its memory is wiped.

use std::fmt;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::http::HeaderValue;

/// Longest token, bytes; Consul's own are 36.
const TOKEN_LEN_MAX: usize = 4096;

/// An ACL token.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// A text that is no [`Token`]. Says nothing of what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no token: expected 1 to {TOKEN_LEN_MAX} visible ASCII characters")]
pub struct TokenError;

impl Token {
    /// A token; white space around it is left away.
    ///
    /// # Errors
    /// When it is empty, too long, or has something else than visible ASCII.
    pub fn new(text: &Zeroizing<String>) -> Result<Token, TokenError> {
        let token = text.trim();
        let visible = token.bytes().all(|b| b.is_ascii_graphic());
        if token.is_empty() || token.len() > TOKEN_LEN_MAX || !visible {
            return Err(TokenError);
        }
        // The header's value shares these bytes, which are wiped with the last that has them.
        let bytes = Bytes::from_owner(Zeroizing::new(token.as_bytes().to_vec()));
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| TokenError)?;
        value.set_sensitive(true);
        Ok(Token(value))
    }

    /// As the value of a header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// `text` without the token, which a server may repeat.
    pub(super) fn mask(&self, text: &str) -> String {
        match self.0.to_str() {
            Ok(token) => text.replace(token, "***"),
            Err(_) => text.to_owned(),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn token(text: &str) -> Result<Token, TokenError> {
        Token::new(&Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn a_token_shows_itself_nowhere() {
        let token = token(" 6f1c-secret\n").unwrap();
        assert_eq!(
            format!("{token:?} {:?}", token.header()),
            "Token(***) Sensitive"
        );
        assert_eq!(token.mask("ACL 6f1c-secret not found"), "ACL *** not found");
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        for bad in [
            "",
            " \n",
            "a b",
            "a\r\nX: y",
            "ü",
            &"x".repeat(TOKEN_LEN_MAX + 1),
        ] {
            assert!(token(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
