//! Digests and the algorithms that make them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// Bytes of the longest digest.
const MAX_LEN: usize = 64;

/// A hash algorithm that blobs can be named by (image-spec, "Registered algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the usual one.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Its name in a digest and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a digest.
    const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => MAX_LEN,
        }
    }

    /// A hasher.
    #[must_use]
    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Self::Sha256 => State::Sha256(Sha256::new()),
            Self::Sha512 => State::Sha512(Sha512::new()),
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The digest of some bytes, written `sha256:<64 hex digits>` or `sha512:<128 hex digits>`.
///
/// ```
/// use magik_cas::Digest;
/// let empty = Digest::sha256(b"");
/// assert!(empty.to_string().starts_with("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b93"));
/// assert_eq!(empty.to_string().parse(), Ok(empty));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    /// As many as the algorithm has, and zeros.
    bytes: [u8; MAX_LEN],
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDigest {
    /// It has no `:`.
    #[error("digest {0:?} is not of the form sha256:<hex>")]
    NoAlgorithm(String),
    /// The algorithm is not one of this crate's.
    #[error("digest {0:?}: the algorithm is neither sha256 nor sha512")]
    Algorithm(String),
    /// What follows is not the right number of lower-case hexadecimal digits.
    #[error("digest {0:?}: {1} lower-case hexadecimal digits must follow the colon")]
    Hex(String, usize),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = algorithm.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its bytes: 32 or 64.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        self.bytes.split_at(self.algorithm.digest_len()).0
    }

    /// Its bytes in lower-case hexadecimal, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// Reads a digest from its algorithm and its hexadecimal digits.
    ///
    /// # Errors
    /// [`InvalidDigest::Hex`] if they are not the right number of lower-case digits.
    pub fn from_hex(algorithm: Algorithm, digits: &str) -> Result<Self, InvalidDigest> {
        let len = algorithm.digest_len();
        let invalid = || InvalidDigest::Hex(shorten(&format!("{algorithm}:{digits}")), 2 * len);
        // Upper case is refused: two spellings of one digest would be two names of one blob.
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; MAX_LEN];
        hex::decode_to_slice(digits, &mut bytes[..len]).map_err(|_| invalid())?;
        Ok(Self { algorithm, bytes })
    }
}

/// An invalid digest comes from outside and can be of any length; a message quotes its beginning.
fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, digits) = text
            .split_once(':')
            .ok_or_else(|| InvalidDigest::NoAlgorithm(shorten(text)))?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|a| a.as_str() == algorithm)
            .ok_or_else(|| InvalidDigest::Algorithm(shorten(text)))?;
        Self::from_hex(algorithm, digits)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Hashes bytes as they pass.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let mut bytes = [0; MAX_LEN];
        match self.0 {
            State::Sha256(state) => bytes[..algorithm.digest_len()].copy_from_slice(&state.finalize()),
            State::Sha512(state) => bytes.copy_from_slice(&state.finalize()),
        }
        Digest { algorithm, bytes }
    }

    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hasher").field(&self.algorithm()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            Digest::sha256(b"abc").hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(
            Digest::of(Algorithm::Sha512, b"abc")
                .to_string()
                .starts_with("sha512:ddaf35a193617aba")
        );
    }

    #[test]
    fn text_and_json_round_trip() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            assert_eq!(digest.to_string().parse(), Ok(digest));
            let json = serde_json::to_string(&digest).unwrap();
            assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }
    }

    #[test]
    fn rejects_what_is_no_digest() {
        let hex = "a".repeat(64);
        for text in [
            String::new(),
            hex.clone(),
            format!("md5:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}a"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}g", &hex[1..]),
            format!("sha256:../../{}", &hex[6..]),
            format!("sha256:{}é", &hex[2..]),
            format!("sha512:{hex}"),
            "sha256:".into(),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
