//! The keys of the assertion: ECDSA on P-256 with SHA-256 (`ES256`, RFC 7518 §3.4), published as a JWK set (RFC 7517).

use aws_lc_rs::agreement::{self, ECDH_P256};
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::Secret;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Keyring, Purpose, derive};

/// Keys that no assertion can be signed with, or an assertion that cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionKeyError {
    /// What was given is not PEM.
    #[error("the signing key is not PEM")]
    Pem,
    /// The PEM holds no private key.
    #[error("there is no private key in the PEM of the signing key")]
    Empty,
    /// A private key of another kind.
    #[error("private key {number} of the signing key is not on P-256")]
    NotP256 {
        /// Which one, from 1.
        number: usize,
    },
    /// The cryptographic library refused.
    #[error("the signing key cannot be derived")]
    Derive,
    /// The cryptographic library refused.
    #[error("the assertion cannot be signed")]
    Sign,
}

/// The keys of an installation: the first signs, all are published, so that a key can be replaced without an upstream
/// refusing anything.
pub struct AssertionKeys {
    signer: EcdsaKeyPair,
    key_id: String,
    /// The encoded header of every assertion, with the dot behind it.
    header: String,
    jwks: String,
}

impl std::fmt::Debug for AssertionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AssertionKeys").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl AssertionKeys {
    /// Reads private keys on P-256 (PKCS #8 or SEC 1), the one that signs first. Anything else in the PEM is passed over.
    ///
    /// # Errors
    /// [`AssertionKeyError`]; it quotes nothing of the key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AssertionKeyError> {
        let mut keys = Vec::new();
        for (number, der) in (1..).zip(PrivateKeyDer::pem_slice_iter(pem)) {
            let der = der.map_err(|_| AssertionKeyError::Pem)?;
            let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der())
                .map_err(|_| AssertionKeyError::NotP256 { number })?;
            keys.push(key);
        }
        Self::new(keys)
    }

    /// Derives a key from each secret of the ring: the same on every node that has the secrets.
    ///
    /// # Errors
    /// [`AssertionKeyError::Derive`].
    pub fn derived(keyring: &Keyring) -> Result<Self, AssertionKeyError> {
        Self::new(keyring.secrets.iter().map(derived).collect::<Result<_, _>>()?)
    }

    fn new(keys: Vec<EcdsaKeyPair>) -> Result<Self, AssertionKeyError> {
        let points = keys.iter().map(Point::of).collect::<Result<Vec<_>, _>>()?;
        let key_id = points.first().ok_or(AssertionKeyError::Empty)?.thumbprint();
        let published: Vec<Value> = points.iter().map(Point::jwk).collect();
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": key_id }).to_string();
        Ok(Self {
            signer: keys.into_iter().next().ok_or(AssertionKeyError::Empty)?,
            key_id,
            header: format!("{}.", URL_SAFE_NO_PAD.encode(header)),
            jwks: json!({ "keys": published }).to_string(),
        })
    }

    /// The public keys as a JWK set, ready to be served.
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// The id of the key that signs: its thumbprint (RFC 7638).
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs claims: a JWT in its compact form (RFC 7519, RFC 7515 §7.1).
    ///
    /// # Errors
    /// [`AssertionKeyError::Sign`].
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, AssertionKeyError> {
        let claims = serde_json::to_vec(claims).map_err(|_| AssertionKeyError::Sign)?;
        let mut text = self.header.clone();
        URL_SAFE_NO_PAD.encode_string(claims, &mut text);
        let signature = self.signer.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| AssertionKeyError::Sign)?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Ok(text)
    }
}

/// The key of one secret. Not every 32 bytes are a key (they must lie between 0 and the order of the group), so the
/// derivation is repeated with the next number until they are; all but one in four billion are at once.
fn derived(secret: &Secret) -> Result<EcdsaKeyPair, AssertionKeyError> {
    for number in 0..=u8::MAX {
        let info = [Purpose::Assertion.info(), &[number]].concat();
        let bytes = Zeroizing::new(derive(secret, &info).map_err(|_| AssertionKeyError::Derive)?);
        let Ok(private) = agreement::PrivateKey::from_private_key(&ECDH_P256, bytes.as_slice()) else { continue };
        let public = private.compute_public_key().map_err(|_| AssertionKeyError::Derive)?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        return EcdsaKeyPair::from_private_key_and_public_key(algorithm, bytes.as_slice(), public.as_ref())
            .map_err(|_| AssertionKeyError::Derive);
    }
    Err(AssertionKeyError::Derive)
}

/// A public key: the two coordinates, encoded.
struct Point {
    x: String,
    y: String,
}

impl Point {
    /// From the uncompressed form (SEC 1 §2.3.3): `04 ‖ x ‖ y`.
    fn of(key: &EcdsaKeyPair) -> Result<Self, AssertionKeyError> {
        let coordinates = key.public_key().as_ref().strip_prefix(&[4]).ok_or(AssertionKeyError::Derive)?;
        let (x, y) = coordinates.split_first_chunk::<32>().ok_or(AssertionKeyError::Derive)?;
        Ok(Self { x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) })
    }

    /// RFC 7638 §3: the hash of the required members, in this order and without a space.
    fn thumbprint(&self) -> String {
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, self.x, self.y);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()))
    }

    fn jwk(&self) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y,
            "use": "sig", "alg": "ES256", "kid": self.thumbprint(),
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaSigningAlgorithm};
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::jwk::{JwkSet, ThumbprintHash};
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    use super::*;

    fn ring(secrets: &[u8]) -> Keyring {
        Keyring::new(secrets.iter().map(|byte| Secret::new(vec![*byte; 32])).collect()).unwrap()
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn key(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::generate(algorithm).unwrap()
    }

    fn pkcs8(algorithm: &'static EcdsaSigningAlgorithm) -> String {
        pem("PRIVATE KEY", key(algorithm).to_pkcs8v1().unwrap().as_ref())
    }

    fn published(keys: &AssertionKeys) -> JwkSet {
        serde_json::from_str(keys.jwks()).unwrap()
    }

    #[test]
    fn what_is_signed_verifies_against_the_published_keys_and_no_others() {
        let keys = AssertionKeys::derived(&ring(&[1])).unwrap();
        let token = keys.sign(&json!({ "sub": "alice", "exp": 4_000_000_000_u64 })).unwrap();
        let header = decode_header(&token).unwrap();
        assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::ES256, Some("JWT")));
        assert_eq!(header.kid.as_deref(), Some(keys.key_id()));
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_required_spec_claims(&["sub", "exp"]);
        let verify = |keys: &AssertionKeys| {
            let key = DecodingKey::from_jwk(&published(keys).keys[0]).unwrap();
            decode::<Value>(&token, &key, &validation)
        };
        assert_eq!(verify(&keys).unwrap().claims["sub"], "alice");
        assert!(verify(&AssertionKeys::derived(&ring(&[2])).unwrap()).is_err());
    }

    #[test]
    fn the_derived_key_is_the_same_for_the_same_secret_and_another_for_another() {
        let id = |secrets: &[u8]| AssertionKeys::derived(&ring(secrets)).unwrap().key_id().to_owned();
        assert_eq!(id(&[1]), id(&[1]));
        assert_eq!(id(&[1]), id(&[1, 2]));
        assert_ne!(id(&[1]), id(&[2]));
        // what nodes of other versions derive: it never changes
        assert_eq!(id(&[1]), "oEFimdFCNR6eVNPBi_N5P8wOxcW0KN4lY2nFz_CTsdo");
    }

    #[test]
    fn every_key_is_published_with_its_thumbprint_and_the_first_signs() {
        for keys in [
            AssertionKeys::derived(&ring(&[1, 2, 3])).unwrap(),
            AssertionKeys::from_pem([(); 3].map(|()| pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING)).concat().as_bytes())
                .unwrap(),
        ] {
            let set = published(&keys);
            assert_eq!(set.keys.len(), 3);
            assert_eq!(set.keys[0].common.key_id.as_deref(), Some(keys.key_id()));
            for key in &set.keys {
                assert_eq!(key.common.key_id, Some(key.thumbprint(ThumbprintHash::SHA256).unwrap()));
            }
            let json: Value = serde_json::from_str(keys.jwks()).unwrap();
            let members: Vec<_> = json["keys"][0].as_object().unwrap().keys().cloned().collect();
            assert!(members.iter().all(|member| ["kty", "crv", "x", "y", "use", "alg", "kid"].contains(&&**member)));
            assert_eq!(members.len(), 7);
        }
    }

    #[test]
    fn both_forms_of_a_private_key_are_read() {
        let key = key(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let sec1 = pem("EC PRIVATE KEY", key.private_key().as_der().unwrap().as_ref());
        let pkcs8 = pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref());
        let beside = pem("EC PARAMETERS", b"passed over") + &sec1;
        let id = |pem: &str| AssertionKeys::from_pem(pem.as_bytes()).unwrap().key_id().to_owned();
        assert_eq!(id(&sec1), id(&pkcs8));
        assert_eq!(id(&sec1), id(&beside));
    }

    #[test]
    fn what_is_no_private_key_on_p256_is_refused_by_what_is_wrong_with_it() {
        let refused = |pem: &str| AssertionKeys::from_pem(pem.as_bytes()).unwrap_err();
        assert_eq!(refused(""), AssertionKeyError::Empty);
        assert_eq!(refused("hello"), AssertionKeyError::Empty);
        assert_eq!(refused(&pem("CERTIFICATE", b"x")), AssertionKeyError::Empty);
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\nAA"), AssertionKeyError::Pem);
        assert_eq!(refused(&pem("PRIVATE KEY", b"x")), AssertionKeyError::NotP256 { number: 1 });
        let second = pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING) + &pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING);
        assert_eq!(refused(&second), AssertionKeyError::NotP256 { number: 2 });
    }
}
