//! TLS towards targets, with libpq's four modes: what a mode promises is verified or the connection fails.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use lockgate_bridge::DestinationTls;
use lockgate_lane::TargetTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::der::Decode as _;

/// Why a target's TLS cannot be as configured.
#[derive(Debug, PartialEq, Eq)]
pub struct TargetTlsError {
    /// Whose doing it is.
    pub of: Part,
    /// What is wrong and what to do.
    pub text: String,
}

/// A part of what was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The target's address.
    Address,
    /// The file of authorities.
    Authorities,
    /// The certificate that is shown, or its key.
    Certificate,
}

/// The client's side of TLS to a target. `host` is the one of its address, without brackets; `ca` the file of
/// authorities to trust instead of the system's; `shown` the certificate for a target that asks for one.
///
/// # Errors
/// When the host cannot stand in a certificate, no authority can be had, or the key is not the certificate's.
pub fn client(
    tls: TargetTls,
    host: &str,
    ca: Option<&Path>,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Option<DestinationTls>, TargetTlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match tls {
        TargetTls::Disable => return Ok(None),
        TargetTls::Require => Verifier::new(&provider, Trust::Anybody, false),
        TargetTls::VerifyCa => Verifier::new(&provider, trust(ca)?, false),
        TargetTls::VerifyFull => Verifier::new(&provider, trust(ca)?, true),
    };
    let name = server_name(host)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TargetTlsError { of: Part::Address, text: format!("TLS cannot be had: {error}") })?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shown {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(unshowable)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    // A store of sessions is a lock that workers would share; PostgreSQL gives no tickets.
    config.resumption = Resumption::disabled();
    // As libpq: an address is not a name that SNI can carry.
    config.enable_sni = host.parse::<IpAddr>().is_err();
    Ok(Some(DestinationTls { config: Arc::new(config), name }))
}

fn unshowable(error: Error) -> TargetTlsError {
    let text = match error {
        Error::InconsistentKeys(_) => String::from("key is not the key of this certificate"),
        error => format!("it cannot be shown to the target: {error}"),
    };
    TargetTlsError { of: Part::Certificate, text }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TargetTlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TargetTlsError {
        of: Part::Address,
        text: format!(
            "\"{host}\" cannot stand in a certificate; use a host name that can, or tls = \"disable\""
        ),
    })
}

fn trust(ca: Option<&Path>) -> Result<Trust, TargetTlsError> {
    let certificates = match ca {
        Some(path) => certificates(path).map_err(|text| TargetTlsError { of: Part::Authorities, text })?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    match ca {
        Some(path) if added < certificates.len() => Err(TargetTlsError {
            of: Part::Authorities,
            text: format!("{} has a certificate in it that cannot be read", path.display()),
        }),
        None if added == 0 => Err(TargetTlsError {
            of: Part::Authorities,
            text: String::from(
                "this system has no authorities to trust; name a file of them with ca = \"…\" (or install ca-certificates)",
            ),
        }),
        Some(_) => Ok(Trust::Roots { roots: Arc::new(roots), pinned: certificates }),
        None => Ok(Trust::Roots { roots: Arc::new(roots), pinned: Vec::new() }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let pem = fs::read(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown} is not PEM: {error}"))?;
    match certificates.is_empty() {
        true => {
            Err(format!("{shown} has no certificate in it; it must begin with -----BEGIN CERTIFICATE-----"))
        }
        false => Ok(certificates),
    }
}

/// Whose certificates are believed.
enum Trust {
    /// Anybody's: `require` promises that nobody listens in, not who answers.
    Anybody,
    /// Of these authorities, and these very certificates: a server's self-signed certificate is commonly handed out as
    /// its own authority.
    Roots { roots: Arc<RootCertStore>, pinned: Vec<CertificateDer<'static>> },
}

/// Verifies as one of the modes says. The handshake's signature is verified in all of them.
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
    name: bool,
}

impl Verifier {
    fn new(provider: &Arc<CryptoProvider>, trust: Trust, name: bool) -> Verifier {
        Verifier { provider: Arc::clone(provider), trust, name }
    }

    fn verify_trust(
        &self,
        end_entity: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match &self.trust {
            Trust::Anybody => Ok(()),
            Trust::Roots { pinned, .. } if pinned.contains(end_entity) => verify_dates(end_entity, now),
            Trust::Roots { roots, .. } => {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(parsed, roots, intermediates, now, algorithms)
            }
        }
    }
}

fn verify_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = x509_cert::Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = parsed.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = match &self.trust {
            Trust::Anybody => "anybody",
            Trust::Roots { .. } => "roots",
        };
        f.debug_struct("Verifier").field("trust", &trust).field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        self.verify_trust(end_entity, &parsed, intermediates, now)?;
        if self.name {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    struct Made {
        ca: CertificateDer<'static>,
        server: CertificateDer<'static>,
        own: CertificateDer<'static>,
        stranger: CertificateDer<'static>,
    }

    /// A server's certificate for db.example.net by an authority, one signed by itself, and one of an unknown authority.
    fn made() -> Made {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let names = || {
            CertificateParams::new(vec![String::from("db.example.net"), String::from("10.0.0.7")]).unwrap()
        };
        let (ca, other) = (authority("ca"), authority("other"));
        let key = KeyPair::generate().unwrap();
        let mut own = names();
        // What `openssl req -x509` makes: an authority that serves.
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Made {
            server: names().signed_by(&key, &ca).unwrap().der().clone(),
            stranger: names().signed_by(&key, &other).unwrap().der().clone(),
            own: own.self_signed(&key).unwrap().der().clone(),
            ca: ca.der().clone(),
        }
    }

    fn roots(certificates: &[&CertificateDer<'static>]) -> Trust {
        let mut roots = RootCertStore::empty();
        let pinned: Vec<_> = certificates.iter().map(|certificate| (*certificate).clone()).collect();
        roots.add_parsable_certificates(pinned.iter().cloned());
        Trust::Roots { roots: Arc::new(roots), pinned }
    }

    fn verifies(
        trust: Trust,
        name: bool,
        certificate: &CertificateDer<'_>,
        host: &str,
        now: UnixTime,
    ) -> bool {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let host = ServerName::try_from(host.to_owned()).unwrap();
        Verifier::new(&provider, trust, name).verify_server_cert(certificate, &[], &host, &[], now).is_ok()
    }

    #[test]
    fn each_mode_verifies_what_it_promises_and_no_less() {
        let made = made();
        let now = UnixTime::now();
        for (certificate, host, require, ca, full) in [
            (&made.server, "db.example.net", true, true, true),
            (&made.server, "10.0.0.7", true, true, true),
            (&made.server, "other.example.net", true, true, false),
            (&made.server, "10.0.0.8", true, true, false),
            (&made.own, "db.example.net", true, true, true),
            (&made.own, "other.example.net", true, true, false),
            (&made.stranger, "db.example.net", true, false, false),
        ] {
            let trust = || roots(&[&made.ca, &made.own]);
            assert_eq!(verifies(Trust::Anybody, false, certificate, host, now), require, "require {host}");
            assert_eq!(verifies(trust(), false, certificate, host, now), ca, "verify-ca {host}");
            assert_eq!(verifies(trust(), true, certificate, host, now), full, "verify-full {host}");
        }
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        assert!(!verifies(Trust::Anybody, false, &garbage, "db.example.net", now), "no certificate at all");
    }

    #[test]
    fn dates_count_for_pinned_certificates_too() {
        let made = made();
        for years in [0, 3000] {
            let then = UnixTime::since_unix_epoch(Duration::from_secs(years * 31_557_600));
            assert!(!verifies(roots(&[&made.own]), true, &made.own, "db.example.net", then), "{years}");
            assert!(!verifies(roots(&[&made.ca]), true, &made.server, "db.example.net", then), "{years}");
        }
    }

    #[test]
    fn modes_that_verify_nothing_need_no_authorities() {
        assert!(client(TargetTls::Disable, "db", None, None).unwrap().is_none());
        assert!(client(TargetTls::Require, "db", None, None).unwrap().is_some());
        let none = client(TargetTls::VerifyFull, "db", Some(Path::new("/nonexistent")), None).unwrap_err();
        assert!(none.of == Part::Authorities && none.text.contains("cannot be read"), "{none:?}");
        let name = client(TargetTls::Require, "-", None, None).unwrap_err();
        assert!(name.of == Part::Address && name.text.contains("cannot stand in a certificate"), "{name:?}");
    }
}
