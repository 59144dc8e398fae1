//! TLS with clients: the certificate that they see, read from files or self-signed on first start, and whose they may show.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockgate_bridge::ServerTls;
use lockgate_lane::CertificateName;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::secrets;

/// What is wrong with a certificate or with its key.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// It is the key's doing, not the certificate's.
    pub of_key: bool,
    /// What is wrong and what to do.
    pub text: String,
}

/// Whose certificates clients may show, and where those name their holders.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Believes those of the configured authorities.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// Where the name is.
    pub name: CertificateName,
}

/// Believes clients' certificates of these authorities, but for those that are revoked (PEM files). Whether a client must
/// show one is the lane's affair: it can say so in words.
pub fn clients(ca: &Path, crl: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, ClientsFault> {
    let of_ca = |text: String| ClientsFault { of_crl: false, text };
    let of_crl = |text: String| ClientsFault { of_crl: true, text };
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca).map_err(of_ca)? {
        roots.add(certificate).map_err(|error| of_ca(format!("{} cannot be used: {error}", ca.display())))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(crl) = crl {
        // As OpenSSL: the whole chain counts, what no list speaks of is not believed, and neither is a list that is old.
        builder = builder.with_crls(revocations(crl).map_err(of_crl)?).enforce_revocation_expiration();
    }
    builder.allow_unauthenticated().build().map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(_) => {
            of_crl(String::from("it is no certificate revocation list that can be read"))
        }
        error => of_ca(format!("{} cannot be used: {error}", ca.display())),
    })
}

/// What is wrong with the authorities of clients, or with their revocations.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientsFault {
    /// It is the list of revocations.
    pub of_crl: bool,
    /// What is wrong and what to do.
    pub text: String,
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let shown = path.display();
    let pem = fs::read(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown} is not PEM: {error}"))?;
    match lists.is_empty() {
        true => Err(format!("{shown} has no list in it; it must begin with -----BEGIN X509 CRL-----")),
        false => Ok(lists),
    }
}

/// The server's side of TLS with this certificate chain and key (PEM files).
pub fn server(certificate: &Path, key: &Path, clients: Option<&Clients>) -> Result<ServerTls, Fault> {
    let chain = chain(certificate).map_err(|text| Fault { of_key: false, text })?;
    let private = private_key(key).map_err(|text| Fault { of_key: true, text })?;
    let Some(own) = chain.first().cloned() else {
        return Err(Fault { of_key: false, text: format!("{} is empty", certificate.display()) });
    };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            match clients {
                Some(clients) => builder.with_client_cert_verifier(Arc::clone(&clients.verifier)),
                None => builder.with_no_client_auth(),
            }
            .with_single_cert(chain, private)
        });
    let mut config = config.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Fault {
            of_key: true,
            text: format!("{} is not the key of the certificate in {}", key.display(), certificate.display()),
        },
        error => Fault { of_key: false, text: format!("{} cannot be used: {error}", certificate.display()) },
    })?;
    // Direct TLS (PostgreSQL 17) needs the name; a client that offers another one is refused.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    // A store of sessions is a lock that workers would share; libpq resumes none anyway.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let client_name = clients.map_or(CertificateName::CommonName, |clients| clients.name);
    Ok(ServerTls { config: Arc::new(config), certificate: own, client_name })
}

/// The certificates of a PEM file, at least one.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let pem = fs::read(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown} is not PEM: {error}"))?;
    match chain.is_empty() {
        true => {
            Err(format!("{shown} has no certificate in it; it must begin with -----BEGIN CERTIFICATE-----"))
        }
        false => Ok(chain),
    }
}

/// The private key of a PEM file that nobody else can read.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = secrets::private_file(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        format!(
            "{} has no private key in it that can be read; a PEM file without a pass phrase is needed",
            path.display()
        )
    })
}

/// Where the certificate made on first start is.
pub fn own_paths(data_dir: &Path) -> (PathBuf, PathBuf) {
    let folder = data_dir.join("tls");
    (folder.join("certificate.pem"), folder.join("key.pem"))
}

/// The gateway's own certificate, made if it is not there. True: it was made now.
pub fn own_certificate(data_dir: &Path, clients: Option<&Clients>) -> Result<(ServerTls, bool), String> {
    let (certificate, key) = own_paths(data_dir);
    // The certificate is written last: where it stands, the key stands too.
    let made = !certificate.exists();
    if made {
        make(&certificate, &key).map_err(|error| {
            format!("the self-signed certificate {} cannot be made: {error}", certificate.display())
        })?;
    }
    let tls = server(&certificate, &key, clients).map_err(|fault| {
        format!("{}; to have another one made, remove {}", fault.text, certificate.display())
    })?;
    Ok((tls, made))
}

fn make(certificate: &Path, key: &Path) -> io::Result<()> {
    let folder = certificate.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let names = vec![String::from("localhost"), String::from("127.0.0.1"), String::from("::1")];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    write_new(key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    write_new(certificate, made.cert.pem().as_bytes(), 0o644)?;
    fs::File::open(folder)?.sync_all()
}

/// Whole or not at all: a crash leaves the old file or the new one.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}
