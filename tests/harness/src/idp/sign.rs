//! The scripted provider's keys, and the ID tokens it makes with them.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{CLIENT_ID, CLIENT_SECRET, Mischief, Person};

/// The keys of every scripted provider of this process: making RSA keys is slow.
struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ec_asn1: EcdsaKeyPair,
    random: SystemRandom,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        let pkcs8 = ec.to_pkcs8v1().expect("a key that can be written");
        Keys {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key"),
            ec_asn1: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).expect("the same key"),
            ec,
            random: SystemRandom::new(),
        }
    })
}

fn modulus() -> Vec<u8> {
    keys().rsa.public_key().modulus().big_endian_without_leading_zero().to_vec()
}

fn rsa_jwk() -> Value {
    let exponent = keys().rsa.public_key().exponent();
    let exponent = encoded(exponent.big_endian_without_leading_zero());
    json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rsa", "n": encoded(modulus()), "e": exponent})
}

fn ec_jwk() -> Value {
    let point = keys().ec.public_key().as_ref().get(1..).unwrap_or_default();
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "ec", "x": encoded(x), "y": encoded(y)})
}

fn changed(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().into_iter().flatten() {
        if let Some(object) = object.as_object_mut() {
            object.insert(name.clone(), value.clone());
        }
    }
    object
}

/// The key set.
pub(super) fn key_set(mischief: Mischief) -> Value {
    let keys = match mischief {
        Mischief::KeysOct => json!([{"kty": "oct", "kid": "rsa", "alg": "HS256", "k": encoded(CLIENT_SECRET)}]),
        Mischief::KeysWeak => {
            let weak = modulus().into_iter().take(128).collect::<Vec<_>>();
            json!([changed(rsa_jwk(), &json!({"n": encoded(weak)}))])
        }
        Mischief::KeysForEncryption => json!([changed(rsa_jwk(), &json!({"use": "enc"}))]),
        Mischief::KeysEmpty => json!([]),
        Mischief::KeysMany => {
            let many = (0..1000).map(|kid| changed(rsa_jwk(), &json!({"kid": kid.to_string()})));
            Value::Array(many.chain([rsa_jwk()]).collect())
        }
        Mischief::KeysTwice => json!([rsa_jwk(), rsa_jwk()]),
        Mischief::KeysAmongOthers => json!([
            {"kty": "oct", "k": "AA"}, {"kty": "EC", "crv": "secp256k1", "kid": "rsa"}, {"kty": "new"}, 7,
            changed(rsa_jwk(), &json!({"use": "enc", "alg": "RSA-OAEP"})), rsa_jwk()
        ]),
        _ => json!([rsa_jwk(), ec_jwk()]),
    };
    json!({"keys": keys})
}

/// The claims of user info.
pub(super) fn user_info(person: &Person) -> Value {
    let mut claims = json!({"sub": person.sub, "email": person.email, "name": person.name, "groups": person.groups});
    if let Some(verified) = person.email_verified {
        claims = changed(claims, &json!({"email_verified": verified}));
    }
    claims
}

/// An ID token, correct but for the mischief.
pub(super) fn id_token(issuer: &str, person: &Person, nonce: Option<&str>, access: &str, mischief: Mischief) -> String {
    let (header, by) = header(issuer, mischief);
    let payload = payload(issuer, person, nonce, access, mischief);
    let signed = format!("{}.{}", encoded(header.to_string()), encoded(payload));
    let signature = match mischief {
        Mischief::SignatureMissing => String::new(),
        Mischief::SignatureBroken => encoded(broken(by.sign(signed.as_bytes()))),
        Mischief::SignatureOfAnotherToken => encoded(by.sign(b"another.token")),
        _ => encoded(by.sign(signed.as_bytes())),
    };
    format!("{signed}.{signature}")
}

/// A logout token, correct but for the changes; `null` takes a claim away. `alg` chooses what it is signed with: `HS256`
/// takes the public key for a secret, as who confuses the two does.
pub(super) fn logout_token(issuer: &str, person: &Person, header: &Value, claims: &Value) -> String {
    let now = now();
    let header = changed(json!({"alg": "RS256", "typ": "logout+jwt", "kid": "rsa"}), header);
    let mut payload = json!({
        "iss": issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": uuid::Uuid::new_v4().to_string(),
        "sub": person.sub, "sid": person.sid,
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    });
    payload = changed(payload, claims);
    if let Some(payload) = payload.as_object_mut() {
        payload.retain(|_, value| !value.is_null());
    }
    let by = match header.get("alg").and_then(Value::as_str) {
        Some("HS256") => By::Hmac(public_key_pem().into_bytes()),
        Some("ES256") => By::Ec,
        Some("none") => By::Nothing,
        _ => By::Rsa,
    };
    let signed = format!("{}.{}", encoded(header.to_string()), encoded(payload.to_string()));
    format!("{signed}.{}", encoded(by.sign(signed.as_bytes())))
}

enum By {
    Nothing,
    Rsa,
    Ec,
    EcAsn1,
    Zeroes,
    Hmac(Vec<u8>),
}

impl By {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let keys = keys();
        match self {
            Self::Nothing => Vec::new(),
            Self::Rsa => {
                let mut signature = vec![0; keys.rsa.public_modulus_len()];
                keys.rsa.sign(&RSA_PKCS1_SHA256, &keys.random, message, &mut signature).expect("a signature");
                signature
            }
            Self::Ec => keys.ec.sign(&keys.random, message).expect("a signature").as_ref().to_vec(),
            Self::EcAsn1 => keys.ec_asn1.sign(&keys.random, message).expect("a signature").as_ref().to_vec(),
            Self::Zeroes => vec![0; 64],
            Self::Hmac(key) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec(),
        }
    }
}

fn header(issuer: &str, mischief: Mischief) -> (Value, By) {
    let rs256 = json!({"alg": "RS256", "typ": "JWT", "kid": "rsa"});
    let es256 = json!({"alg": "ES256", "typ": "JWT", "kid": "ec"});
    let hs256 = |key: Vec<u8>| (json!({"alg": "HS256", "typ": "JWT", "kid": "rsa"}), By::Hmac(key));
    let with = |changes: Value| (changed(rs256.clone(), &changes), By::Rsa);
    match mischief {
        Mischief::SignsWithEs256 => (es256, By::Ec),
        Mischief::Es256Zero => (es256, By::Zeroes),
        Mischief::Es256Der => (es256, By::EcAsn1),
        Mischief::SignsWithoutKid => (json!({"alg": "RS256"}), By::Rsa),
        Mischief::AlgNone => (json!({"alg": "none"}), By::Nothing),
        Mischief::AlgNoneInOtherCase => (json!({"alg": "nOnE", "kid": "rsa"}), By::Nothing),
        Mischief::AlgMissing => (json!({"typ": "JWT", "kid": "rsa"}), By::Rsa),
        Mischief::AlgHs256WithPublicKeyPem => hs256(public_key_pem().into_bytes()),
        Mischief::AlgHs256WithPublicKeyDer => hs256(public_key_der()),
        Mischief::AlgHs256WithModulus => hs256(modulus()),
        Mischief::AlgHs256WithClientSecret | Mischief::KeysOct => hs256(CLIENT_SECRET.as_bytes().to_vec()),
        Mischief::AlgHs256Empty => hs256(Vec::new()),
        Mischief::AlgOfAnotherKey => (json!({"alg": "ES256", "kid": "rsa"}), By::Ec),
        // not of the key set: only who believes the header can verify it
        Mischief::HeaderJwk => (json!({"alg": "ES256", "kid": "evil", "jwk": ec_jwk()}), By::Ec),
        Mischief::HeaderJku => with(json!({"kid": "evil", "jku": format!("{issuer}/evil-jwks")})),
        Mischief::HeaderX5u => with(json!({"kid": "evil", "x5u": format!("{issuer}/evil-x5u")})),
        Mischief::HeaderCrit => with(json!({"crit": ["exp"]})),
        Mischief::HeaderTyp => with(json!({"typ": "logout+jwt"})),
        Mischief::KidUnknown => with(json!({"kid": "made-up"})),
        Mischief::KidOfAPath => with(json!({"kid": "../../../../dev/null"})),
        Mischief::KidOfANumber => with(json!({"kid": 1})),
        _ => (rs256, By::Rsa),
    }
}

fn payload(issuer: &str, person: &Person, nonce: Option<&str>, access: &str, mischief: Mischief) -> String {
    let now = now();
    let mut claims = changed(
        user_info(person),
        &json!({
            "iss": issuer, "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": nonce.unwrap_or(REMOVE),
            "at_hash": at_hash(access),
            "sid": if person.sid.is_empty() { REMOVE } else { person.sid.as_str() },
        }),
    );
    let change = match mischief {
        Mischief::AudienceOfOneInAList => json!({"aud": [CLIENT_ID]}),
        Mischief::AudienceOfManyWithAzp => json!({"aud": ["other", CLIENT_ID], "azp": CLIENT_ID}),
        Mischief::IssOther => json!({"iss": "https://evil.example"}),
        Mischief::IssWithSlash => json!({"iss": format!("{issuer}/")}),
        Mischief::IssMissing => json!({"iss": REMOVE}),
        Mischief::IssInAList => json!({"iss": [issuer]}),
        Mischief::AudOther => json!({"aud": "other"}),
        Mischief::AudMissing => json!({"aud": REMOVE}),
        Mischief::AudMany => json!({"aud": [CLIENT_ID, "other"]}),
        Mischief::AudPrefix => json!({"aud": format!("{CLIENT_ID}-admin")}),
        Mischief::AzpOther => json!({"azp": "other"}),
        Mischief::NonceOther => json!({"nonce": "of-another-sign-in"}),
        Mischief::NonceMissing => json!({"nonce": REMOVE}),
        Mischief::ExpPast => json!({"exp": now - 120, "iat": now - 300}),
        Mischief::ExpMissing => json!({"exp": REMOVE}),
        Mischief::ExpString => json!({"exp": (now + 300).to_string()}),
        Mischief::ExpHuge => json!({"exp": 1e300}),
        Mischief::IatFuture => json!({"iat": now + 3600, "exp": now + 7200}),
        Mischief::IatMissing => json!({"iat": REMOVE}),
        Mischief::IatString => json!({"iat": now.to_string()}),
        Mischief::IatOld => json!({"iat": now - 86_400}),
        Mischief::NbfFuture => json!({"nbf": now + 3600}),
        Mischief::NbfString => json!({"nbf": now.to_string()}),
        Mischief::SubMissing => json!({"sub": REMOVE}),
        Mischief::SubEmpty => json!({"sub": ""}),
        Mischief::SubNumber => json!({"sub": 7}),
        Mischief::SubLong => json!({"sub": "x".repeat(256)}),
        Mischief::AtHashOther => json!({"at_hash": at_hash("another token")}),
        Mischief::AtHashNumber => json!({"at_hash": 7}),
        _ => json!({}),
    };
    claims = changed(claims, &change);
    if let Some(claims) = claims.as_object_mut() {
        claims.retain(|_, value| value != REMOVE);
    }
    match mischief {
        Mischief::PayloadArray => json!([claims]).to_string(),
        Mischief::PayloadString => json!(claims.to_string()).to_string(),
        Mischief::PayloadTwice => claims.to_string().replacen('{', "{\"sub\":\"admin\",", 1),
        _ => claims.to_string(),
    }
}

/// Stands for a claim that is taken away.
const REMOVE: &str = "\u{0}";

fn at_hash(access: &str) -> String {
    let hash = digest::digest(&digest::SHA256, access.as_bytes());
    encoded(hash.as_ref().get(..16).unwrap_or_default())
}

fn broken(mut signature: Vec<u8>) -> Vec<u8> {
    if let Some(last) = signature.last_mut() {
        *last ^= 1;
    }
    signature
}

fn public_key_der() -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = keys().rsa.public_key().as_der().expect("a key that can be written");
    der.as_ref().to_vec()
}

fn public_key_pem() -> String {
    let text = STANDARD.encode(public_key_der());
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    pem
}

pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[expect(clippy::disallowed_methods, reason = "a peer has a clock of its own")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}
