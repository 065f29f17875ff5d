//! Personal data inside an event: readable only while the person's data key exists.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Base64url of a nonce and a ciphertext. What it says is nobody's business here. JSON holds the text; where bytes may
/// stand, it is kept as the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(String);

impl Sealed {
    /// Wraps text that was sealed elsewhere.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The sealed text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match URL_SAFE_NO_PAD.decode(&self.0) {
            // only what the bytes give back letter for letter
            Ok(bytes) if !serializer.is_human_readable() => serializer.serialize_bytes(&bytes),
            Ok(_) | Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrBytes;

        impl Visitor<'_> for TextOrBytes {
            type Value = Sealed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sealed value")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sealed, E> {
                Ok(Sealed(text.to_owned()))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Sealed, E> {
                Ok(Sealed(URL_SAFE_NO_PAD.encode(bytes)))
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_str(TextOrBytes)
        } else {
            deserializer.deserialize_any(TextOrBytes)
        }
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_reads_back_letter_for_letter_from_text_and_from_bytes() {
        for text in ["c2VhbGVk", "not base64", "", "c2VhbGVkZ", "_-8"] {
            let sealed = Sealed::new(text.into());
            let json = serde_json::to_string(&sealed).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), sealed);
            let packed = rmp_serde::to_vec_named(&sealed).unwrap();
            assert_eq!(rmp_serde::from_slice::<Sealed>(&packed).unwrap(), sealed, "{text}");
        }
        assert_eq!(rmp_serde::to_vec_named(&Sealed::new("c2VhbGVk".into())).unwrap().len(), 2 + 6);
    }
}
