//! authenticate: the relying party. Signs people in at their provider and knows who is calling.

pub mod back_channel;
mod caller;
pub mod cookie;
pub mod identify;
pub mod keepsake;
pub mod provider;
pub mod sign_in;
pub mod start;

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
