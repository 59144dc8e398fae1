//! Passwords as SCRAM wants them, and the verifiers that take their place.

use std::borrow::Cow;
use std::sync::Arc;

use lockgate_bridge::SessionsMax;
use lockgate_lane::{Identity, SaltRequest, SaltedKey, Verifier};
use rustls::crypto::aws_lc_rs;
use zeroize::{Zeroize as _, Zeroizing};

use crate::UserSetup;

/// Iterations of local verifiers: PostgreSQL's own default, which every client accepts.
const ITERATIONS: u32 = 4096;

/// One local identity without its password.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub identity: Arc<Identity>,
    pub verifier: Arc<Verifier>,
    pub certificate_name: Arc<str>,
    pub sessions_max: SessionsMax,
}

/// Derives every user's verifier. Costs a PBKDF2 each.
pub(crate) fn derive(users: Vec<UserSetup>) -> Result<Vec<User>, rustls::crypto::GetRandomFailed> {
    users
        .into_iter()
        .map(|user| {
            let verifier = match &user.password {
                Some(password) => {
                    let salt = random::<16>()?.to_vec();
                    Verifier::derive(&prepared(password.expose()), salt, ITERATIONS)
                }
                // No password is this one's, and nobody can tell.
                None => Verifier::decoy(&random::<32>()?, &user.identity.name),
            };
            Ok(User {
                identity: user.identity,
                verifier: Arc::new(verifier),
                certificate_name: user.certificate_name,
                sessions_max: user.sessions_max,
            })
        })
        .collect()
}

/// Answers a worker's question.
pub(crate) fn salted(request: &SaltRequest) -> SaltedKey {
    let password = prepared(request.password.expose());
    SaltedKey(Verifier::salt_password(&password, &request.salt, request.iterations))
}

/// Bytes of the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], rustls::crypto::GetRandomFailed> {
    let mut bytes = [0; N];
    aws_lc_rs::default_provider().secure_random.fill(&mut bytes)?;
    Ok(bytes)
}

/// A password as both sides of SCRAM prepare it (RFC 5802 section 2.2): SASLprep, or as it is where that fails, which is
/// what PostgreSQL and libpq do.
pub(crate) fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(password) else { return Zeroizing::new(password.to_vec()) };
    match stringprep::saslprep(text) {
        Ok(Cow::Owned(mut prepared)) => {
            let bytes = Zeroizing::new(prepared.as_bytes().to_vec());
            prepared.zeroize();
            bytes
        }
        Ok(Cow::Borrowed(_)) | Err(_) => Zeroizing::new(password.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        // RFC 4013 section 3, and src/interfaces/libpq: what cannot be prepared stays as it is.
        for (password, expected) in [
            (&b"pencil"[..], &b"pencil"[..]),
            (b"", b""),
            ("I\u{ad}X".as_bytes(), b"IX"),
            ("\u{aa}".as_bytes(), b"a"),
            ("\u{2168}".as_bytes(), b"IX"),
            ("a\u{a0}b".as_bytes(), b"a b"),
            ("\u{7}".as_bytes(), b"\x07"),
            ("\u{627}1".as_bytes(), "\u{627}1".as_bytes()),
            (b"\xff\xfe", b"\xff\xfe"),
        ] {
            assert_eq!(&**prepared(password), expected, "{password:?}");
        }
    }
}
