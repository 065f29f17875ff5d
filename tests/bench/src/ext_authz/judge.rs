//! Who is asking, whether they may, and what the upstream learns of them: the same work as the gateway's, from the same
//! cookie, with the same library for the seal and the signature.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::Result;
use aws_lc_rs::digest;
use portcullis_actors::keyring::assertion::AssertionKeys;
use portcullis_actors::keyring::handle::Handle;
use portcullis_actors::keyring::{Keyring, Purpose, Sealer};
use portcullis_config::limits::{ASSERTION_LIFE, ASSERTION_REUSE};
use portcullis_events::{SessionId, Time};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::messages::{Check, Verdict};

/// The group that may enter.
pub const ADMITTED: &str = "admins";

/// A session that the service knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    /// Its id.
    pub session: SessionId,
    /// The person's `sub`.
    pub user: String,
    /// Their address.
    pub email: String,
    /// Their name.
    pub name: String,
    /// Their groups.
    pub groups: Vec<String>,
    /// Its end, in milliseconds since 1970.
    pub expires_at: i64,
}

/// Decides.
pub struct Judge {
    handles: Sealer,
    keys: AssertionKeys,
    cookie: String,
    sessions: HashMap<SessionId, Known>,
    /// What was made for a session and a host, and until when it is given out.
    made: RefCell<HashMap<(SessionId, String), Made>>,
}

struct Made {
    good_until: Time,
    headers: std::rc::Rc<[(&'static str, String)]>,
}

/// A decision, with what the log says of it.
pub struct Decision<'a> {
    /// Whom it is about.
    pub who: Option<&'a Known>,
    /// 0 where it passes, else the status.
    pub refused: u16,
    headers: std::rc::Rc<[(&'static str, String)]>,
    without: &'static [&'static str],
}

impl Decision<'_> {
    /// As the proxy is told.
    pub fn verdict(&self) -> Verdict<'_> {
        match self.refused {
            0 => Verdict::Pass { headers: &self.headers, without: self.without },
            401 => Verdict::Refuse { status: 401, body: "Sign in first." },
            status => Verdict::Refuse { status, body: "You may not see this." },
        }
    }
}

impl Judge {
    /// One that knows these sessions.
    ///
    /// # Errors
    /// No key can be derived.
    pub fn new(keyring: &Keyring, cookie: String, sessions: Vec<Known>) -> Result<Self> {
        Ok(Self {
            handles: keyring.sealer(Purpose::Handle)?,
            keys: AssertionKeys::derived(keyring)?,
            cookie,
            sessions: sessions.into_iter().map(|known| (known.session, known)).collect(),
            made: RefCell::default(),
        })
    }

    /// Decides on a request.
    ///
    /// # Errors
    /// The assertion cannot be signed.
    pub fn decide(&self, check: &Check<'_>, now: Time) -> Result<Decision<'_>> {
        let refuse = |who, refused| Decision { who, refused, headers: std::rc::Rc::new([]), without: &[] };
        let mut presented = None;
        let mut others = Vec::new();
        for pair in check.cookie.unwrap_or_default().split(';').map(str::trim) {
            match pair.split_once('=') {
                Some((name, value)) if name == self.cookie => presented = Some(value),
                _ if pair.is_empty() => {}
                _ => others.push(pair),
            }
        }
        let host = check.host.split(':').next().unwrap_or_default();
        let handle = presented.and_then(|text| Handle::open(&self.handles, host, text, now));
        let known = handle.and_then(|handle| self.sessions.get(&handle.session));
        let Some(known) = known.filter(|known| now < Time::from_millis(known.expires_at)) else {
            return Ok(refuse(None, 401));
        };
        if !known.groups.iter().any(|group| group == ADMITTED) {
            return Ok(refuse(Some(known), 403));
        }
        let made = self.headers(known, host, now)?;
        if others.is_empty() {
            return Ok(Decision { who: Some(known), refused: 0, headers: made, without: &["cookie"] });
        }
        let headers = made.iter().cloned().chain([("cookie", others.join("; "))]).collect();
        Ok(Decision { who: Some(known), refused: 0, headers, without: &[] })
    }

    fn headers(&self, known: &Known, host: &str, now: Time) -> Result<std::rc::Rc<[(&'static str, String)]>> {
        let key = (known.session, host.to_owned());
        if let Some(made) = self.made.borrow().get(&key).filter(|made| now < made.good_until) {
            return Ok(made.headers.clone());
        }
        let expiry = now.plus(ASSERTION_LIFE).min(Time::from_millis(known.expires_at));
        let claims = json!({
            "iss": host, "aud": host, "sub": known.user, "user": known.user, "email": known.email,
            "name": known.name, "groups": known.groups, "sid": known.session.to_string(),
            "jti": Uuid::new_v4().to_string(), "iat": now.secs(), "exp": expiry.secs(),
        });
        let hash = digest::digest(&digest::SHA256, known.session.to_string().as_bytes());
        let headers: std::rc::Rc<[_]> = [
            ("x-pomerium-claim-email", known.email.clone()),
            ("x-pomerium-claim-groups", known.groups.join(",")),
            ("x-pomerium-claim-name", known.name.clone()),
            ("x-pomerium-jwt-assertion", self.keys.sign(&claims)?),
            ("x-pomerium-routing-key", hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
        ]
        .into();
        let made = Made { good_until: expiry.minus(ASSERTION_REUSE), headers: headers.clone() };
        self.made.borrow_mut().insert(key, made);
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;
    use portcullis_events::Epoch;

    use super::*;

    const NOW: Time = Time::from_secs(1_790_000_000);

    fn known(number: u128, groups: &[&str]) -> Known {
        Known {
            session: SessionId::new(Uuid::from_u128(number)),
            user: "alice-0001".into(),
            email: "alice@example.com".into(),
            name: "Alice".into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            expires_at: 1_790_000_600_000,
        }
    }

    #[test]
    fn a_sealed_cookie_of_an_admitted_session_passes_and_nothing_else_does() {
        let keyring = Keyring::new(vec![Secret::new(vec![7; 32])]).unwrap();
        let sessions = vec![known(1, &["staff", ADMITTED]), known(2, &["staff"])];
        let judge = Judge::new(&keyring, "_pomerium".into(), sessions).unwrap();
        let sealer = keyring.sealer(Purpose::Handle).unwrap();
        let cookie = |number| {
            let handle = Handle {
                session: SessionId::new(Uuid::from_u128(number)),
                epoch: Epoch::new(Uuid::from_u128(9)),
                position: 1,
                issued_at: NOW,
                expires_at: NOW.plus(std::time::Duration::from_secs(600)),
            };
            format!("a=b; _pomerium={}", handle.seal(&sealer, "app.localhost").unwrap())
        };
        let decide = |cookie: Option<&str>, host: &str, now| {
            let check = Check { cookie, host, ..Check::default() };
            judge.decide(&check, now).unwrap()
        };
        let alice = decide(Some(&cookie(1)), "app.localhost", NOW);
        assert_eq!(alice.refused, 0);
        let named = |name: &str| alice.headers.iter().find(|(have, _)| *have == name).map(|(_, value)| value.clone());
        assert_eq!(named("cookie").as_deref(), Some("a=b"), "the session's own cookie goes no further");
        assert_eq!(named("x-pomerium-jwt-assertion").unwrap().split('.').count(), 3);
        assert_eq!(decide(Some(&cookie(2)), "app.localhost", NOW).refused, 403);
        assert_eq!(decide(Some(&cookie(3)), "app.localhost", NOW).refused, 401);
        assert_eq!(decide(Some(&cookie(1)), "other.localhost", NOW).refused, 401);
        assert_eq!(decide(Some(&cookie(1)), "app.localhost", Time::from_millis(1_790_000_600_000)).refused, 401);
        assert_eq!(decide(Some("_pomerium=v1.x.y"), "app.localhost", NOW).refused, 401);
        assert_eq!(decide(None, "app.localhost", NOW).refused, 401);
    }
}
