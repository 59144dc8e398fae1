//! The tls-server-end-point channel binding (RFC 5929 section 4): a hash of the server's certificate.

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

/// RSASSA-PSS, whose hash stands in its parameters (RFC 4055 section 3.1).
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// Signature and hash algorithms by what the binding is hashed with: MD5 and SHA-1 are raised to SHA-256.
const HASHES: &[(&str, &Algorithm)] = &[
    ("1.2.840.113549.1.1.4", &SHA256),   // md5WithRSAEncryption
    ("1.2.840.113549.1.1.5", &SHA256),   // sha1WithRSAEncryption
    ("1.2.840.10045.4.1", &SHA256),      // ecdsa-with-SHA1
    ("1.2.840.10040.4.3", &SHA256),      // dsa-with-sha1
    ("1.2.840.113549.1.1.11", &SHA256),  // sha256WithRSAEncryption
    ("1.2.840.113549.1.1.12", &SHA384),  // sha384WithRSAEncryption
    ("1.2.840.113549.1.1.13", &SHA512),  // sha512WithRSAEncryption
    ("1.2.840.10045.4.3.2", &SHA256),    // ecdsa-with-SHA256
    ("1.2.840.10045.4.3.3", &SHA384),    // ecdsa-with-SHA384
    ("1.2.840.10045.4.3.4", &SHA512),    // ecdsa-with-SHA512
    ("2.16.840.1.101.3.4.3.2", &SHA256), // dsa-with-sha256
    ("1.3.14.3.2.26", &SHA256),          // sha1, as a parameter of RSASSA-PSS
    ("2.16.840.1.101.3.4.2.1", &SHA256), // sha256
    ("2.16.840.1.101.3.4.2.2", &SHA384), // sha384
    ("2.16.840.1.101.3.4.2.3", &SHA512), // sha512
];

/// The binding for a certificate in DER. `None`: it is not a certificate, or its signature has no single hash
/// (Ed25519, for instance), so that RFC 5929 defines none.
pub(crate) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let hash = hash_of(&parsed.signature_algorithm)?;
    Some(digest(hash, certificate).as_ref().to_vec())
}

fn hash_of(signature: &AlgorithmIdentifierOwned) -> Option<&'static Algorithm> {
    if signature.oid == RSASSA_PSS {
        return pss_hash(&signature.parameters.as_ref()?.to_der().ok()?);
    }
    by_oid(&signature.oid)
}

fn by_oid(oid: &ObjectIdentifier) -> Option<&'static Algorithm> {
    let oid = oid.to_string();
    HASHES.iter().find(|(known, _)| *known == oid).map(|(_, hash)| *hash)
}

/// The hash in RSASSA-PSS parameters: the first field, tagged 0, and SHA-1 when it is absent.
fn pss_hash(parameters: &[u8]) -> Option<&'static Algorithm> {
    let mut reader = SliceReader::new(parameters).ok()?;
    reader
        .sequence(|fields| {
            let hash = ContextSpecific::<AlgorithmIdentifierRef<'_>>::decode_explicit(
                fields,
                x509_cert::der::TagNumber::N0,
            )?;
            // What follows (mask generation, salt length) does not concern the binding.
            fields.read_slice(fields.remaining_len())?;
            Ok(hash.map(|hash| hash.value.oid))
        })
        .ok()
        .and_then(|oid| oid.map_or(Some(&SHA256), |oid| by_oid(&oid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let parameters = CertificateParams::new(vec![String::from("localhost")]).unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_signatures_hash_is_used() {
        let check = |algorithm, hash: &'static Algorithm| {
            let certificate = certificate(algorithm);
            let expected = digest(hash, &certificate).as_ref().to_vec();
            assert_eq!(end_point(&certificate), Some(expected));
        };
        check(&rcgen::PKCS_ECDSA_P256_SHA256, &SHA256);
        check(&rcgen::PKCS_ECDSA_P384_SHA384, &SHA384);
        check(&rcgen::PKCS_RSA_SHA256, &SHA256);
        check(&rcgen::PKCS_RSA_SHA512, &SHA512);
    }

    #[test]
    fn a_signature_without_a_single_hash_has_no_binding() {
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519)), None);
    }

    #[test]
    fn what_is_not_a_certificate_has_none() {
        let whole = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for len in 0..whole.len() {
            assert_eq!(end_point(&whole[..len]), None, "cut at {len}");
        }
        assert!(end_point(&whole).is_some_and(|hash| hash.len() == SHA256_OUTPUT_LEN));
    }

    #[test]
    fn pss_names_its_hash_in_its_parameters() {
        let sha512 = [
            0x30, 0x0f, 0xa0, 0x0d, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x03,
        ];
        let check = |parameters: &[u8], expected: Option<&'static Algorithm>| {
            assert_eq!(pss_hash(parameters), expected);
        };
        check(&sha512, Some(&SHA512));
        check(&[0x30, 0x00], Some(&SHA256));
        // Salt length only: the hash is SHA-1, which is raised.
        check(&[0x30, 0x05, 0xa2, 0x03, 0x02, 0x01, 0x40], Some(&SHA256));
        // An unknown hash (MD2), and what is not DER.
        check(
            &[0x30, 0x0e, 0xa0, 0x0c, 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x02],
            None,
        );
        check(&[0x30, 0x0f, 0xa0], None);
        check(&[], None);
    }
}
