//! authenticate: the relying party. Signs people in at their provider and knows who is calling.

pub mod back_channel;
mod caller;
pub mod cookie;
pub mod identify;
pub mod keepsake;
pub mod program;
pub mod provider;
pub mod sign_in;
pub mod start;
mod steps;

pub use caller::Caller;

use aws_lc_rs::digest;
use portcullis_config::IdentityProvider;

/// The id of a provider: from its issuer and our client id alone, so that a new client secret signs nobody out.
#[must_use]
pub fn provider_id(provider: &IdentityProvider) -> String {
    let text = format!("{}\n{}", provider.issuer, provider.client_id);
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;

    use super::*;

    #[test]
    fn a_new_client_secret_makes_no_new_provider() {
        let issuer = "https://id.example.com";
        let provider = |client_id: &str, secret: &str| IdentityProvider {
            url: issuer.parse().unwrap(),
            issuer: issuer.into(),
            client_id: client_id.into(),
            client_secret: Some(Secret::new(secret)),
            scopes: Vec::new(),
            request_params: Vec::new(),
        };
        assert_eq!(provider_id(&provider("a", "old")), provider_id(&provider("a", "new")));
        assert_ne!(provider_id(&provider("a", "old")), provider_id(&provider("b", "old")));
    }
}
