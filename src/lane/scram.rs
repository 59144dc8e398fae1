//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both ends of it, as steps that own no socket.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::num::NonZeroU32;
use zeroize::Zeroizing;

use crate::Verifier;

/// The mechanism without channel binding.
pub const SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism bound to the TLS channel.
pub const SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Bytes of entropy in a nonce, as PostgreSQL takes.
pub const NONCE_BYTES: usize = 18;

/// Why an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramError {
    /// A message is not what RFC 5802 section 7 says.
    Malformed,
    /// The proof does not fit the password.
    WrongProof,
    /// The other side wants what we do not do.
    Unsupported,
    /// It asks for more iterations than the limit allows.
    TooManyIterations,
    /// The client was made to believe that no channel binding was offered: somebody stands between.
    Downgraded,
    /// The client is bound to another TLS channel than this one.
    OtherChannel,
}

impl Verifier {
    /// The verifier of a password (RFC 5802 section 3). Costs the whole PBKDF2.
    pub fn derive(password: &[u8], salt: Vec<u8>, iterations: u32) -> Verifier {
        let salted = Zeroizing::new(Verifier::salt_password(password, &salt, iterations));
        let stored_key = sha256(&hmac_sha256(salted.as_ref(), b"Client Key"));
        let server_key = hmac_sha256(salted.as_ref(), b"Server Key");
        Verifier { salt, iterations, stored_key, server_key }
    }

    /// A verifier that no password satisfies, the same for one key and name every time, of the look of others.
    pub fn decoy(key: &[u8; 32], name: &str) -> Verifier {
        let salt = hmac_sha256(key, name.as_bytes());
        let salt = salt.get(..SALT_BYTES).unwrap_or_default().to_vec();
        let unreachable = |label: &[u8]| hmac_sha256(key, &[label, name.as_bytes()].concat());
        Verifier {
            salt,
            iterations: ITERATIONS,
            stored_key: unreachable(b"stored\0"),
            server_key: unreachable(b"server\0"),
        }
    }

    /// Whether a salted password is the one this verifier was derived from.
    pub fn accepts(&self, salted: &[u8; 32]) -> bool {
        let stored_key = sha256(&hmac_sha256(salted, b"Client Key"));
        constant_time::verify_slices_are_equal(&stored_key, &self.stored_key).is_ok()
    }

    /// PBKDF2-HMAC-SHA-256, 32 bytes (`Hi` of RFC 5802 section 2.2).
    pub fn salt_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
        let mut out = [0; 32];
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut out);
        out
    }
}

/// Bytes of a salt, as PostgreSQL takes.
pub const SALT_BYTES: usize = 16;
/// Iterations of local verifiers, as PostgreSQL takes.
pub const ITERATIONS: u32 = 4096;

/// Our end when a client proves itself: made from its first message.
#[derive(Debug)]
pub struct Server {
    verifier: std::sync::Arc<Verifier>,
    first_bare: String,
    server_first: String,
    nonce: String,
    /// What the client must say that it is bound to: its own header, and the channel's hash with -PLUS.
    channel: Vec<u8>,
    bound: bool,
}

/// What a client that proves itself was offered, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer<'a> {
    /// There is nothing to bind to: -PLUS was not offered.
    Unbound,
    /// -PLUS was offered, and the client takes the plain mechanism.
    Declined,
    /// The client takes -PLUS, for this tls-server-end-point (RFC 5929).
    EndPoint(&'a [u8]),
}

/// The only type of channel binding that PostgreSQL knows.
const END_POINT_HEADER: &str = "p=tls-server-end-point";

impl Server {
    /// Reads client-first-message; the second result is server-first-message.
    pub fn begin(
        verifier: std::sync::Arc<Verifier>,
        offer: Offer<'_>,
        client_first: &[u8],
        entropy: &[u8],
    ) -> Result<(Server, String), ScramError> {
        let text = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed)?;
        let (binding, rest) = text.split_once(',').ok_or(ScramError::Malformed)?;
        let (identity, first_bare) = rest.split_once(',').ok_or(ScramError::Malformed)?;
        let hash = match (binding, offer) {
            ("n", Offer::Unbound | Offer::Declined) | ("y", Offer::Unbound) => &[][..],
            // RFC 5802 section 6: a client that could bind and saw no -PLUS, where there was one.
            ("y", Offer::Declined | Offer::EndPoint(_)) => return Err(ScramError::Downgraded),
            (END_POINT_HEADER, Offer::EndPoint(hash)) => hash,
            (other, _) if other.starts_with("p=") => return Err(ScramError::Unsupported),
            _ => return Err(ScramError::Malformed),
        };
        if !identity.is_empty() {
            return Err(ScramError::Unsupported);
        }
        let client_nonce = attribute(first_bare.split(',').nth(1), 'r')?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{client_nonce}{}", BASE64.encode(entropy));
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let first_bare = first_bare.to_owned();
        let channel = [binding.as_bytes(), b",,", hash].concat();
        let bound = matches!(offer, Offer::EndPoint(_));
        let server =
            Server { verifier, first_bare, server_first: server_first.clone(), nonce, channel, bound };
        Ok((server, server_first))
    }

    /// Reads client-final-message; the result is server-final-message.
    pub fn finish(self, client_final: &[u8]) -> Result<String, ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attribute(attributes.next(), 'c')?;
        let nonce = attribute(attributes.next(), 'r')?;
        if nonce != self.nonce {
            return Err(ScramError::Malformed);
        }
        if decode(binding)? != self.channel {
            return Err(if self.bound { ScramError::OtherChannel } else { ScramError::Malformed });
        }
        let proof: [u8; 32] = decode(proof)?.try_into().map_err(|_| ScramError::Malformed)?;
        let auth_message = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let signature = hmac_sha256(&self.verifier.stored_key, auth_message.as_bytes());
        let client_key = xor(&proof, &signature);
        constant_time::verify_slices_are_equal(&sha256(&client_key), &self.verifier.stored_key)
            .map_err(|_| ScramError::WrongProof)?;
        let signature = hmac_sha256(&self.verifier.server_key, auth_message.as_bytes());
        Ok(format!("v={}", BASE64.encode(signature)))
    }
}

/// How our end is bound to the TLS channel when we prove ourselves to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// No TLS, or nothing to bind to.
    None,
    /// We could, the server does not offer it.
    NotOffered,
    /// tls-server-end-point (RFC 5929): the hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Binding::None => "n,,",
            Binding::NotOffered => "y,,",
            Binding::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn encoded(&self) -> String {
        let mut bytes = self.header().as_bytes().to_vec();
        if let Binding::EndPoint(hash) = self {
            bytes.extend_from_slice(hash);
        }
        BASE64.encode(bytes)
    }
}

/// Our end when we prove ourselves to a server, after client-first-message.
#[derive(Debug)]
pub struct Client {
    binding: Binding,
    nonce: String,
}

/// What server-first-message asks of us.
#[derive(Debug)]
pub struct Challenge {
    binding: Binding,
    nonce: String,
    auth_start: String,
    /// To salt the password with.
    pub salt: Vec<u8>,
    /// How often.
    pub iterations: u32,
}

/// What the server has yet to prove.
#[derive(Debug)]
pub struct Expected {
    signature: [u8; 32],
}

impl Client {
    /// The second result is client-first-message.
    pub fn begin(binding: Binding, entropy: &[u8]) -> (Client, String) {
        let nonce = BASE64.encode(entropy);
        let message = format!("{}n=,r={nonce}", binding.header());
        (Client { binding, nonce }, message)
    }

    /// Reads server-first-message.
    pub fn challenge(self, server_first: &[u8], iterations_max: u32) -> Result<Challenge, ScramError> {
        let text = std::str::from_utf8(server_first).map_err(|_| ScramError::Malformed)?;
        let mut attributes = text.split(',');
        let nonce = attribute(attributes.next(), 'r')?;
        let salt = decode(attribute(attributes.next(), 's')?)?;
        let iterations: u32 =
            attribute(attributes.next(), 'i')?.parse().map_err(|_| ScramError::Malformed)?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) || iterations == 0 {
            return Err(ScramError::Malformed);
        }
        if iterations > iterations_max {
            return Err(ScramError::TooManyIterations);
        }
        let auth_start = format!("n=,r={},{text}", self.nonce);
        Ok(Challenge { binding: self.binding, nonce: nonce.to_owned(), auth_start, salt, iterations })
    }
}

impl Challenge {
    /// Given the salted password, the first result is client-final-message.
    pub fn respond(self, salted: &[u8; 32]) -> (String, Expected) {
        let without_proof = format!("c={},r={}", self.binding.encoded(), self.nonce);
        let auth_message = format!("{},{without_proof}", self.auth_start);
        let client_key = hmac_sha256(salted, b"Client Key");
        let signature = hmac_sha256(&sha256(&client_key), auth_message.as_bytes());
        let proof = BASE64.encode(xor(&client_key, &signature));
        let server_key = hmac_sha256(salted, b"Server Key");
        let signature = hmac_sha256(&server_key, auth_message.as_bytes());
        (format!("{without_proof},p={proof}"), Expected { signature })
    }
}

impl Expected {
    /// Reads server-final-message: does the server know the password too?
    pub fn check(self, server_final: &[u8]) -> Result<(), ScramError> {
        let text = std::str::from_utf8(server_final).map_err(|_| ScramError::Malformed)?;
        let signature = decode(attribute(text.split(',').next(), 'v')?)?;
        constant_time::verify_slices_are_equal(&signature, &self.signature)
            .map_err(|_| ScramError::WrongProof)
    }
}

fn attribute(part: Option<&str>, name: char) -> Result<&str, ScramError> {
    part.and_then(|part| part.strip_prefix(name))
        .and_then(|part| part.strip_prefix('='))
        .ok_or(ScramError::Malformed)
}

fn decode(text: &str) -> Result<Vec<u8>, ScramError> {
    BASE64.decode(text).map_err(|_| ScramError::Malformed)
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    let mut out = *a;
    for (byte, other) in out.iter_mut().zip(b) {
        *byte ^= other;
    }
    out
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn hmac_sha256(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn exchange(password: &[u8], typed: &[u8], binding: Binding, offer: Offer<'_>) -> Result<(), ScramError> {
        let verifier = Arc::new(Verifier::derive(password, vec![7; 16], 16));
        let (client, first) = Client::begin(binding, &[1; NONCE_BYTES]);
        let (server, challenge) = Server::begin(verifier, offer, first.as_bytes(), &[2; NONCE_BYTES])?;
        let challenge = client.challenge(challenge.as_bytes(), 4096)?;
        let salted = Verifier::salt_password(typed, &challenge.salt, challenge.iterations);
        let (response, expected) = challenge.respond(&salted);
        expected.check(server.finish(response.as_bytes())?.as_bytes())
    }

    #[test]
    fn both_ends_agree_on_the_right_password_only() {
        for (binding, offer) in
            [(Binding::None, Offer::Unbound), (Binding::EndPoint(vec![1; 32]), Offer::EndPoint(&[1; 32]))]
        {
            assert_eq!(exchange(b"secret", b"secret", binding.clone(), offer), Ok(()));
            assert_eq!(exchange(b"secret", b"Secret", binding, offer), Err(ScramError::WrongProof));
        }
    }

    /// Every claim of a client's about the channel, against everything it may have been offered.
    #[test]
    fn a_claim_about_the_channel_must_fit_what_was_offered() {
        let bound = || Binding::EndPoint(vec![1; 32]);
        let (here, elsewhere) = (Offer::EndPoint(&[1; 32]), Offer::EndPoint(&[2; 32]));
        for (binding, offer, expected) in [
            (Binding::None, Offer::Unbound, Ok(())),
            (Binding::None, Offer::Declined, Ok(())),
            (Binding::None, here, Err(ScramError::Malformed)),
            (Binding::NotOffered, Offer::Unbound, Ok(())),
            (Binding::NotOffered, Offer::Declined, Err(ScramError::Downgraded)),
            (Binding::NotOffered, here, Err(ScramError::Downgraded)),
            (bound(), Offer::Unbound, Err(ScramError::Unsupported)),
            (bound(), Offer::Declined, Err(ScramError::Unsupported)),
            (bound(), here, Ok(())),
            (bound(), elsewhere, Err(ScramError::OtherChannel)),
            (Binding::EndPoint(Vec::new()), here, Err(ScramError::OtherChannel)),
        ] {
            let found = exchange(b"secret", b"secret", binding.clone(), offer);
            assert_eq!(found, expected, "{binding:?} {offer:?}");
        }
    }

    #[test]
    fn other_kinds_of_channel_binding_are_not_accepted() {
        let verifier = Arc::new(Verifier::derive(b"secret", vec![7; 16], 16));
        for (first, expected) in [
            ("p=tls-unique,,n=,r=abc", ScramError::Unsupported),
            ("p=tls-server-end-point", ScramError::Malformed),
            ("p=tls-server-end-point,,", ScramError::Malformed),
            ("p=tls-server-end-point,a=other,n=,r=abc", ScramError::Unsupported),
            ("q,,n=,r=abc", ScramError::Malformed),
            ("p=tls-server-end-point,,m=ext,n=,r=abc", ScramError::Malformed),
        ] {
            let begun =
                Server::begin(Arc::clone(&verifier), Offer::EndPoint(&[1; 32]), first.as_bytes(), &[2; 18]);
            assert_eq!(begun.err(), Some(expected), "{first}");
        }
    }

    /// The example of RFC 7677 section 3.
    #[test]
    fn the_rfcs_own_exchange() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive(b"pencil", salt, 4096);
        let auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac_sha256(&verifier.server_key, auth.as_bytes());
        assert_eq!(BASE64.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let proof: [u8; 32] =
            BASE64.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap().try_into().unwrap();
        let client_key = xor(&proof, &hmac_sha256(&verifier.stored_key, auth.as_bytes()));
        assert_eq!(sha256(&client_key), verifier.stored_key);
    }

    #[test]
    fn a_server_must_prove_itself_and_ask_no_more_than_the_limit() {
        let ask = |message: &str| {
            let (client, _) = Client::begin(Binding::None, &[1; NONCE_BYTES]);
            client.challenge(message.as_bytes(), 4096).map(|_| ()).err()
        };
        let nonce = BASE64.encode([1; NONCE_BYTES]);
        assert_eq!(ask(&format!("r={nonce}x,s=AAAA,i=4096")), None);
        assert_eq!(ask(&format!("r={nonce}x,s=AAAA,i=4097")), Some(ScramError::TooManyIterations));
        assert_eq!(ask(&format!("r={nonce}x,s=AAAA,i=0")), Some(ScramError::Malformed));
        assert_eq!(ask(&format!("r={nonce},s=AAAA,i=1")), Some(ScramError::Malformed));
        assert_eq!(ask("r=other,s=AAAA,i=1"), Some(ScramError::Malformed));
        assert_eq!(ask("e=other-error"), Some(ScramError::Malformed));
        let expected = Expected { signature: [3; 32] };
        assert_eq!(expected.check(b"v=AAAA"), Err(ScramError::WrongProof));
    }

    #[test]
    fn a_client_that_says_something_else_in_the_end_is_refused() {
        let verifier = Arc::new(Verifier::derive(b"secret", vec![7; 16], 16));
        for change in [("c=biws", "c=eSws"), (",r=", ",r=x"), (",p=", ",x="), ("c=", "d=")] {
            let (client, first) = Client::begin(Binding::None, &[1; NONCE_BYTES]);
            let (server, challenge) =
                Server::begin(Arc::clone(&verifier), Offer::Unbound, first.as_bytes(), &[2; 18]).unwrap();
            let challenge = client.challenge(challenge.as_bytes(), 4096).unwrap();
            let salted = Verifier::salt_password(b"secret", &challenge.salt, challenge.iterations);
            let (response, _) = challenge.respond(&salted);
            let response = response.replacen(change.0, change.1, 1);
            assert!(server.finish(response.as_bytes()).is_err(), "{change:?}");
        }
    }

    #[test]
    fn a_decoy_looks_like_a_verifier_and_accepts_nobody() {
        let decoy = Verifier::decoy(&[9; 32], "nobody");
        assert_eq!((decoy.salt.len(), decoy.iterations), (SALT_BYTES, ITERATIONS));
        assert_eq!(decoy.salt, Verifier::decoy(&[9; 32], "nobody").salt);
        assert_ne!(decoy.salt, Verifier::decoy(&[9; 32], "somebody").salt);
        assert!(!decoy.accepts(&Verifier::salt_password(b"", &decoy.salt, 1)));
    }
}
