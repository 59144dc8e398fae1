//! SCRAM-SHA-256 as a client, with the salted password kept: 4096 rounds of HMAC for each log-in would measure the client,
//! and a million log-ins must not cost a million PBKDF2.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU32;
use std::sync::Mutex;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// A password and what it has been salted to.
#[derive(Debug)]
pub struct Password {
    text: String,
    salted: Mutex<HashMap<(String, u32), [u8; 32]>>,
}

/// An exchange of which the first message has been made.
#[derive(Debug)]
pub struct Exchange {
    bare: String,
}

impl Password {
    /// One password, for as many log-ins as wanted.
    pub fn new(text: String) -> Password {
        Password { text, salted: Mutex::default() }
    }

    fn salted(&self, salt: &str, iterations: u32) -> io::Result<[u8; 32]> {
        let mut known = self.salted.lock().map_err(|_| io::Error::other("a thread died"))?;
        if let Some(key) = known.get(&(salt.to_owned(), iterations)) {
            return Ok(*key);
        }
        let raw = BASE64.decode(salt).map_err(io::Error::other)?;
        let rounds = NonZeroU32::new(iterations).ok_or_else(|| io::Error::other("no iterations"))?;
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &raw, self.text.as_bytes(), &mut key);
        known.insert((salt.to_owned(), iterations), key);
        Ok(key)
    }
}

impl Exchange {
    /// The exchange and its client-first-message.
    pub fn begin() -> io::Result<(Exchange, String)> {
        let mut nonce = [0; 18];
        rand::fill(&mut nonce).map_err(|_| io::Error::other("no random numbers"))?;
        let bare = format!("n=,r={}", BASE64.encode(nonce));
        let first = format!("n,,{bare}");
        Ok((Exchange { bare }, first))
    }

    /// The client-final-message that answers a server-first-message.
    pub fn answer(&self, server_first: &str, password: &Password) -> io::Result<String> {
        let attribute = |key: &str| {
            let found = server_first.split(',').find_map(|part| part.strip_prefix(key));
            found.ok_or_else(|| io::Error::other("not a server-first-message"))
        };
        let iterations = attribute("i=")?.parse().map_err(io::Error::other)?;
        let salted = password.salted(attribute("s=")?, iterations)?;
        let client_key = hmac(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let without_proof = format!("c=biws,r={}", attribute("r=")?);
        let whole = format!("{},{server_first},{without_proof}", self.bare);
        let signature = hmac(stored.as_ref(), whole.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }
}

fn hmac(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// The exchange of RFC 7677, section 3.
    fn example() -> Exchange {
        Exchange { bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into() }
    }

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        let password = Password::new("pencil".into());
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for log_in in ["salted now", "salted before"] {
            assert_eq!(example().answer(SERVER_FIRST, &password).unwrap(), expected, "{log_in}");
        }
    }

    #[test]
    fn a_challenge_that_lacks_something_is_refused() {
        let password = Password::new("pencil".into());
        let salt = "s=W22ZaJ0SNY7soEsUEjb6gQ==";
        for challenge in
            ["r=x,i=1".into(), format!("r=x,{salt}"), format!("{salt},i=1"), format!("r=x,{salt},i=0")]
        {
            example().answer(&challenge, &password).unwrap_err();
        }
    }
}
