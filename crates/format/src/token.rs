//! The token: what an admin hands to a person who is to join. It holds the charter, the invitation and the invitation's secret key.
//!
//! Text: `backmesh-join-1-` and the URL-safe base64, without padding, of the token's bytes and the first four bytes of their hash.

use crate::charter::{Charter, check_charter};
use crate::keys::KeyPair;
use crate::membership::{Invitation, check_invitation};
use crate::record::{Record, Signed, from_envelope, to_envelope};
use crate::wire::DecodeError;
use crate::{id::WorkgroupId, wire_struct};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

wire_struct! {
    /// What the token's text holds.
    #[derive(Clone, PartialEq, Eq)]
    pub struct Token {
        /// The newest charter that the admin knows.
        pub charter: Signed<Charter>,
        /// The invitation.
        pub invitation: Signed<Invitation>,
        /// The secret half of the invitation's key.
        pub secret: [u8; 32],
    }
}

impl Record for Token {
    const MAGIC: [u8; 4] = *b"BMtk";
    const NAME: &'static str = "token";
}

impl Drop for Token {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("charter", &self.charter).field("invitation", &self.invitation).finish_non_exhaustive()
    }
}

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("this is not a Backmesh token: it should begin with \"{PREFIX}\"")]
    Prefix,
    /// It was cut off or mistyped.
    #[error("the token is damaged: copy all of it, without spaces or line breaks in it")]
    Damaged,
    /// Its parts are not what they should be.
    #[error("the token is not valid: {0}")]
    Decode(#[from] DecodeError),
    /// The secret key is not that of the invitation.
    #[error("the token is not valid: its key is another invitation's")]
    Key,
}

/// How every token begins.
pub const PREFIX: &str = "backmesh-join-1-";

/// The longest text read as a token, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

impl Token {
    /// The token as text, on one line.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(to_envelope(self));
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }

    /// Reads a token and checks everything that can be checked without knowing the time or the members.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        let coded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if coded.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(coded).map_err(|_| TokenError::Damaged)?);
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if *sum != checksum(body) {
            return Err(TokenError::Damaged);
        }
        let token: Self = from_envelope(body)?;
        let workgroup = check_charter(&token.charter)?;
        check_invitation(&token.invitation, &workgroup, &token.charter.admins)?;
        if token.key().public() != token.invitation.key {
            return Err(TokenError::Key);
        }
        Ok(token)
    }

    /// The invitation's key pair.
    pub fn key(&self) -> KeyPair {
        KeyPair::from_secret(&self.secret)
    }

    /// The workgroup.
    pub fn workgroup(&self) -> WorkgroupId {
        self.charter.workgroup_id()
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(bytes);
    [hash.as_bytes()[0], hash.as_bytes()[1], hash.as_bytes()[2], hash.as_bytes()[3]]
}
