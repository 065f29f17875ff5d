//! What was granted: codes that work once, refresh tokens that rotate, logins that end and take both with them.

use std::collections::HashMap;
use std::hash::Hash;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::limits::{DEMO_CODE_LIFE, DEMO_LOGIN_LIFE, DEMO_REMEMBERED};
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A person who gave their password here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Its id, `sid` in ID tokens.
    pub id: Uuid,
    /// Who.
    pub username: String,
    /// When.
    pub at: Time,
}

/// What a client may know of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id: every token that comes from one code has it.
    pub id: Uuid,
    /// Whose.
    pub login: Login,
    /// The scopes.
    pub scopes: Vec<String>,
    /// The nonce of the authorization request.
    pub nonce: Option<String>,
}

/// A refresh token, before it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshToken {
    /// What it renews.
    pub grant: Grant,
    /// Counts up with every rotation.
    pub generation: u64,
}

/// Why there are no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such code, or too late.
    #[error("the code is unknown or too old")]
    Unknown,
    /// A code came again: whatever came from it has ended (RFC 6749 §4.1.2).
    #[error("the code was used before")]
    CodeReused,
    /// The verifier is not the one of the challenge (RFC 7636 §4.6).
    #[error("the code verifier does not fit")]
    Verifier,
    /// A refresh token came again: its grant has ended (RFC 9700 §4.14.2).
    #[error("the refresh token was used before")]
    TokenReused,
    /// The grant, or its login, has ended.
    #[error("the login has ended")]
    Ended,
}

struct Code {
    grant: Grant,
    challenge: String,
    expires: Time,
    redeemed: bool,
}

/// Everything that must be remembered. Kept in memory: after a restart a refresh token is taken at its word.
#[derive(Default)]
pub struct Grants {
    codes: HashMap<String, Code>,
    /// The newest generation of each grant's refresh token, and when it was made.
    generations: HashMap<Uuid, (u64, Time)>,
    /// Logins and grants that have ended, and when.
    ended: HashMap<Uuid, Time>,
}

impl Grants {
    /// Keeps a grant for whoever redeems `code` with the verifier of this challenge.
    pub fn issue(&mut self, code: String, grant: Grant, challenge: String, now: Time) {
        let expires = now.plus(DEMO_CODE_LIFE);
        // a used code is remembered longer than it lives, so that its second use is noticed
        let old = now.minus(DEMO_CODE_LIFE * 10);
        bounded(&mut self.codes, |code| code.expires, old);
        self.codes.insert(code, Code { grant, challenge, expires, redeemed: false });
    }

    /// The grant of a code. A code works once, whatever the outcome.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn redeem(&mut self, code: &str, verifier: &str, now: Time) -> Result<Grant, Refused> {
        let code = self.codes.get_mut(code).ok_or(Refused::Unknown)?;
        let grant = code.grant.clone();
        if std::mem::replace(&mut code.redeemed, true) {
            self.end(grant.id, now);
            return Err(Refused::CodeReused);
        }
        if now >= code.expires {
            return Err(Refused::Unknown);
        }
        if challenge(verifier) != code.challenge {
            return Err(Refused::Verifier);
        }
        self.alive(&grant, now)?;
        Ok(grant)
    }

    /// The first refresh token of a grant.
    pub fn first(&mut self, grant: Grant, now: Time) -> RefreshToken {
        self.remember(grant.id, 1, now);
        RefreshToken { grant, generation: 1 }
    }

    /// The next refresh token in the place of this one.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn rotate(&mut self, token: RefreshToken, now: Time) -> Result<RefreshToken, Refused> {
        let RefreshToken { grant, generation } = token;
        self.alive(&grant, now)?;
        let newest = self.generations.get(&grant.id).map_or(generation, |(newest, _)| *newest);
        if generation != newest {
            self.end(grant.id, now);
            return Err(Refused::TokenReused);
        }
        let generation = generation.saturating_add(1);
        self.remember(grant.id, generation, now);
        Ok(RefreshToken { grant, generation })
    }

    /// Ends a login or a grant.
    pub fn end(&mut self, id: Uuid, now: Time) {
        bounded(&mut self.ended, |at| *at, now.minus(DEMO_LOGIN_LIFE));
        self.ended.insert(id, now);
    }

    /// Whether a login is still good.
    pub fn is_login(&self, login: &Login, now: Time) -> bool {
        !self.ended.contains_key(&login.id) && now < login.at.plus(DEMO_LOGIN_LIFE)
    }

    /// Whether tokens of this grant are still good.
    ///
    /// # Errors
    /// [`Refused::Ended`].
    pub fn alive(&self, grant: &Grant, now: Time) -> Result<(), Refused> {
        let alive = self.is_login(&grant.login, now) && !self.ended.contains_key(&grant.id);
        alive.then_some(()).ok_or(Refused::Ended)
    }

    fn remember(&mut self, grant: Uuid, generation: u64, now: Time) {
        bounded(&mut self.generations, |(_, at)| *at, now.minus(DEMO_LOGIN_LIFE));
        self.generations.insert(grant, (generation, now));
    }
}

/// The S256 challenge of a verifier (RFC 7636 §4.2).
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

/// Makes room for one more: what is old goes, and if that is not enough, the oldest.
fn bounded<K: Clone + Eq + Hash, V>(kept: &mut HashMap<K, V>, at: impl Fn(&V) -> Time, old: Time) {
    if kept.len() < DEMO_REMEMBERED {
        return;
    }
    kept.retain(|_, value| at(value) > old);
    while kept.len() >= DEMO_REMEMBERED {
        let oldest = kept.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| key.clone());
        let Some(oldest) = oldest else { return };
        kept.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Time = Time::from_secs(1_764_000_000);
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    fn grant() -> Grant {
        let login = Login { id: Uuid::from_u128(1), username: "alice".to_owned(), at: NOW };
        Grant { id: Uuid::from_u128(2), login, scopes: vec!["openid".to_owned()], nonce: None }
    }

    fn issued() -> Grants {
        let mut grants = Grants::default();
        grants.issue("code".to_owned(), grant(), challenge(VERIFIER), NOW);
        grants
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636_appendix_b() {
        assert_eq!(challenge(VERIFIER), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn a_code_works_once_and_its_reuse_ends_what_came_from_it() {
        let mut grants = issued();
        let granted = grants.redeem("code", VERIFIER, NOW).unwrap();
        let token = grants.first(granted, NOW);
        assert_eq!(grants.redeem("code", VERIFIER, NOW), Err(Refused::CodeReused));
        assert_eq!(grants.rotate(token, NOW), Err(Refused::Ended));
    }

    #[test]
    fn a_code_ends_after_a_minute() {
        let almost = NOW.plus(Duration::from_millis(59_999));
        assert!(issued().redeem("code", VERIFIER, almost).is_ok());
        assert_eq!(issued().redeem("code", VERIFIER, NOW.plus(Duration::from_secs(60))), Err(Refused::Unknown));
    }

    #[test]
    fn a_wrong_verifier_spends_the_code() {
        let mut grants = issued();
        assert_eq!(grants.redeem("code", "wrong", NOW), Err(Refused::Verifier));
        assert_eq!(grants.redeem("code", VERIFIER, NOW), Err(Refused::CodeReused));
    }

    #[test]
    fn a_refresh_token_works_once_and_its_reuse_ends_the_grant() {
        let mut grants = issued();
        let first = grants.first(grant(), NOW);
        let second = grants.rotate(first.clone(), NOW).unwrap();
        let third = grants.rotate(second, NOW).unwrap();
        assert_eq!(third.generation, 3);
        assert_eq!(grants.rotate(first, NOW), Err(Refused::TokenReused));
        assert_eq!(grants.rotate(third, NOW), Err(Refused::Ended));
    }

    #[test]
    fn a_refresh_token_outlives_a_restart() {
        let token = issued().first(grant(), NOW);
        let mut restarted = Grants::default();
        let second = restarted.rotate(token.clone(), NOW).unwrap();
        assert_eq!(second.generation, 2);
        assert_eq!(restarted.rotate(token, NOW), Err(Refused::TokenReused));
    }

    #[test]
    fn a_login_that_ended_takes_codes_and_tokens_with_it() {
        let mut grants = issued();
        let token = grants.first(grant(), NOW);
        grants.end(grant().login.id, NOW);
        assert_eq!(grants.redeem("code", VERIFIER, NOW), Err(Refused::Ended));
        assert_eq!(grants.rotate(token, NOW), Err(Refused::Ended));
        assert!(!grants.is_login(&grant().login, NOW));
    }

    #[test]
    fn a_login_ends_by_itself() {
        let end = NOW.plus(DEMO_LOGIN_LIFE);
        assert!(issued().is_login(&grant().login, end.minus(Duration::from_secs(1))));
        assert!(!issued().is_login(&grant().login, end));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut grants = Grants::default();
        for id in 0..DEMO_REMEMBERED + 10 {
            grants.end(Uuid::from_u128(u128::try_from(id).unwrap()), NOW.plus(Duration::from_millis(1)));
        }
        assert_eq!(grants.ended.len(), DEMO_REMEMBERED);
    }
}
