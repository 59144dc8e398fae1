//! Whom a client's certificate names: its subject for the record, and the names that a log-in is held against.

use lockgate_lane::{CertificateName, HolderNames};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// `id-at-commonName` (RFC 5280 appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Longest subject that the record keeps, in characters.
const SUBJECT_CHARS_MAX: usize = 256;

/// Reads a certificate in DER. What cannot be read names nobody.
pub(crate) fn holder(certificate: &[u8], by: CertificateName) -> HolderNames {
    let Ok(parsed) = Certificate::from_der(certificate) else { return HolderNames::default() };
    let names = match by {
        CertificateName::CommonName => common_name(&parsed).into_iter().collect(),
        other => alternative_names(&parsed, other),
    };
    let subject = parsed.tbs_certificate.subject.to_string();
    HolderNames { subject: subject.chars().take(SUBJECT_CHARS_MAX).collect(), names }
}

/// The one common name of the subject. Of several, which one is meant is anybody's guess.
fn common_name(certificate: &Certificate) -> Option<String> {
    let attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|set| set.0.iter());
    let mut named = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    let (Some(one), None) = (named.next(), named.next()) else { return None };
    let value = &one.value;
    match value.tag() {
        Tag::Utf8String => Some(value.decode_as::<Utf8StringRef<'_>>().ok()?.as_str().to_owned()),
        Tag::PrintableString => Some(value.decode_as::<PrintableStringRef<'_>>().ok()?.as_str().to_owned()),
        Tag::Ia5String => Some(value.decode_as::<Ia5StringRef<'_>>().ok()?.as_str().to_owned()),
        _ => None,
    }
}

fn alternative_names(certificate: &Certificate, by: CertificateName) -> Vec<String> {
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate.get::<SubjectAltName>() else {
        return Vec::new();
    };
    let name = |name: &GeneralName| match (name, by) {
        (GeneralName::DnsName(text), CertificateName::Dns)
        | (GeneralName::Rfc822Name(text), CertificateName::Email)
        | (GeneralName::UniformResourceIdentifier(text), CertificateName::Uri) => Some(text.to_string()),
        _ => None,
    };
    names.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common_names: &[&str], alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = alternatives;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_names_that_count_are_those_of_the_setting() {
        let made = certificate(
            &["agent-7"],
            vec![
                SanType::DnsName("agent-7.example.net".try_into().unwrap()),
                SanType::DnsName("other.example.net".try_into().unwrap()),
                SanType::Rfc822Name("agent-7@example.net".try_into().unwrap()),
                SanType::URI("spiffe://example.net/agent-7".try_into().unwrap()),
            ],
        );
        for (by, expected) in [
            (CertificateName::CommonName, &["agent-7"][..]),
            (CertificateName::Dns, &["agent-7.example.net", "other.example.net"]),
            (CertificateName::Email, &["agent-7@example.net"]),
            (CertificateName::Uri, &["spiffe://example.net/agent-7"]),
        ] {
            assert_eq!(holder(&made, by).names, expected, "{by:?}");
        }
        let subject = holder(&made, CertificateName::CommonName).subject;
        assert!(subject.contains("CN=agent-7") && subject.contains("O=Example"), "{subject}");
    }

    #[test]
    fn what_names_nobody_names_nobody() {
        for by in
            [CertificateName::CommonName, CertificateName::Dns, CertificateName::Email, CertificateName::Uri]
        {
            assert!(holder(&certificate(&[], Vec::new()), by).names.is_empty(), "{by:?}");
            assert_eq!(holder(b"no certificate", by), HolderNames::default(), "{by:?}");
        }
        let whole = certificate(&["agent-7"], Vec::new());
        for len in 0..whole.len() {
            assert_eq!(holder(&whole[..len], CertificateName::CommonName), HolderNames::default(), "{len}");
        }
    }
}
