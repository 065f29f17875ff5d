//! The authorization request: what is read from it, and what is refused (RFC 6749 §4.1.1, RFC 7636, OpenID Core §3.1.2).

use serde::{Deserialize, Serialize};

use super::parameters::Parameters;
use super::{Client, SCOPES};

/// A request that can be answered. Its redirect URI is the client's only one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// `state`.
    pub state: Option<String>,
    /// `nonce`.
    pub nonce: Option<String>,
    /// The scopes asked for that we know.
    pub scopes: Vec<String>,
    /// `code_challenge`, made with S256.
    pub challenge: String,
    /// `prompt`.
    pub prompt: Prompt,
    /// `max_age` in seconds.
    pub max_age: Option<u64>,
}

/// Whether a person may be asked, or must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// If there is no login.
    IfNeeded,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client or where to return to cannot be believed: said to the person, never redirected.
    Shown(&'static str),
    /// The client is told.
    Returned {
        /// `state`.
        state: Option<String>,
        /// `error`.
        error: &'static str,
        /// `error_description`.
        description: &'static str,
    },
}

/// Reads a request.
///
/// # Errors
/// [`Refusal`].
pub fn read(parameters: &Parameters, client: &Client) -> Result<Authorization, Refusal> {
    if parameters.get("client_id") != Some(client.id.as_str()) {
        return Err(Refusal::Shown("This provider does not know the application that sent you."));
    }
    // compared as text, character by character (RFC 9700 §2.1)
    if parameters.get("redirect_uri") != Some(client.redirect_uri.as_str()) {
        return Err(Refusal::Shown("The application wants you back at an address that is not registered for it."));
    }
    let state = parameters.get("state").map(str::to_owned);
    details(parameters, state.clone()).map_err(|(error, description)| Refusal::Returned { state, error, description })
}

fn details(parameters: &Parameters, state: Option<String>) -> Result<Authorization, (&'static str, &'static str)> {
    if parameters.get("request").is_some() {
        return Err(("request_not_supported", "request objects are not supported"));
    }
    if parameters.get("request_uri").is_some() {
        return Err(("request_uri_not_supported", "request objects are not supported"));
    }
    match parameters.get("response_type") {
        Some("code") => {}
        Some(_) => return Err(("unsupported_response_type", "only the code response type is supported")),
        None => return Err(("invalid_request", "response_type is missing")),
    }
    if parameters.get("response_mode").is_some_and(|mode| mode != "query") {
        return Err(("invalid_request", "only the query response mode is supported"));
    }
    let asked: Vec<&str> = parameters.get("scope").unwrap_or_default().split(' ').collect();
    if !asked.contains(&"openid") {
        return Err(("invalid_scope", "the openid scope is missing"));
    }
    let challenge = match (parameters.get("code_challenge"), parameters.get("code_challenge_method")) {
        (Some(challenge), Some("S256")) if is_challenge(challenge) => challenge.to_owned(),
        (Some(_), Some("S256")) => return Err(("invalid_request", "code_challenge is no SHA-256 in base64url")),
        _ => return Err(("invalid_request", "a code challenge with S256 is required")),
    };
    let prompt = match parameters.get("prompt") {
        Some("none") => Prompt::Never,
        Some(prompt) if prompt.split(' ').any(|word| word == "none") => {
            return Err(("invalid_request", "prompt none goes with nothing else"));
        }
        Some(prompt) if prompt.split(' ').any(|word| matches!(word, "login" | "select_account")) => Prompt::Always,
        Some(_) | None => Prompt::IfNeeded,
    };
    let max_age = parameters.get("max_age").map(str::parse).transpose();
    let max_age = max_age.map_err(|_| ("invalid_request", "max_age is no number of seconds"))?;
    let scopes = SCOPES.iter().filter(|scope| asked.contains(scope)).map(|scope| (*scope).to_owned()).collect();
    Ok(Authorization { state, nonce: parameters.get("nonce").map(str::to_owned), scopes, challenge, prompt, max_age })
}

/// 32 bytes in base64url without padding (RFC 7636 §4.2).
fn is_challenge(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
