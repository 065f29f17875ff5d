//! One criterion, compiled, and its verdict on a request and the person behind it.

use std::borrow::Cow;

use http::Method;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use portcullis_config::policy;

use super::claim;
use super::decision::{Reason, Reasons, Verdict};
use super::matcher::{Certificate, List, Networks, Text, TextSet};
use crate::authenticate::Caller;
use crate::databroker::view::SessionView;
use crate::request::Canonical;
use crate::request::certificate::ClientCertificate;

/// A criterion as it is evaluated.
#[derive(Debug)]
pub(super) enum Criterion {
    Accept,
    Reject,
    AuthenticatedUser,
    User(Text),
    Email(Text),
    Domain(Text),
    Groups(List),
    Claim { path: Vec<String>, list: List },
    HttpMethod(Text),
    HttpPath(Text),
    SourceIp(Networks),
    CorsPreflight,
    PomeriumRoutes,
    ClientCertificate(Certificate),
    InvalidClientCertificate,
    AllowedUsers(TextSet),
}

impl Criterion {
    pub(super) fn compile(criterion: &policy::Criterion) -> Self {
        match criterion {
            policy::Criterion::Accept => Self::Accept,
            policy::Criterion::Reject => Self::Reject,
            policy::Criterion::AuthenticatedUser => Self::AuthenticatedUser,
            policy::Criterion::User(matcher) => Self::User(Text::compile(matcher)),
            policy::Criterion::Email(matcher) => Self::Email(Text::compile(matcher)),
            policy::Criterion::Domain(matcher) => Self::Domain(Text::compile_lower_case(matcher)),
            policy::Criterion::Groups(matcher) => Self::Groups(List::compile(matcher)),
            policy::Criterion::Claim { path, matcher } => {
                Self::Claim { path: path.clone(), list: List::compile(matcher) }
            }
            policy::Criterion::HttpMethod(matcher) => Self::HttpMethod(Text::compile(matcher)),
            policy::Criterion::HttpPath(matcher) => Self::HttpPath(Text::compile(matcher)),
            policy::Criterion::SourceIp(networks) => Self::SourceIp(Networks::compile(networks)),
            policy::Criterion::CorsPreflight => Self::CorsPreflight,
            policy::Criterion::PomeriumRoutes => Self::PomeriumRoutes,
            policy::Criterion::ClientCertificate(matcher) => Self::ClientCertificate(Certificate::compile(matcher)),
            policy::Criterion::InvalidClientCertificate => Self::InvalidClientCertificate,
            policy::Criterion::AllowedUsers(users) => {
                Self::AllowedUsers(TextSet::new(users.iter().map(String::as_str)))
            }
        }
    }

    pub(super) fn evaluate(&self, request: &Canonical, caller: Option<&Caller>) -> Verdict {
        // a criterion about a person is false without one, and says that somebody has to sign in
        let person = |judge: &dyn Fn(&SessionView) -> Verdict| {
            caller.map_or(Verdict { holds: false, reasons: Reasons::of(Reason::UserUnauthenticated) }, |caller| {
                judge(caller.session())
            })
        };
        match self {
            Self::Accept => Verdict { holds: true, reasons: Reasons::of(Reason::Accept) },
            Self::Reject => Verdict { holds: true, reasons: Reasons::of(Reason::Reject) },
            Self::AuthenticatedUser => person(&|_| Verdict { holds: true, reasons: Reasons::of(Reason::UserOk) }),
            Self::User(text) => person(&|session| user(text.matches(&session.user))),
            Self::Email(text) => person(&|session| email(text.matches(email_of(session)))),
            Self::Domain(text) => person(&|session| {
                let holds = domain_of(email_of(session)).is_some_and(|domain| text.matches(&domain));
                Verdict::of(holds, Reason::DomainOk, Reason::DomainUnauthorized)
            }),
            Self::Groups(list) => person(&|session| {
                Verdict::of(list.matches_texts(&session.groups), Reason::GroupsOk, Reason::GroupsUnauthorized)
            }),
            Self::Claim { path, list } => person(&|session| {
                let holds = list.matches_values(claim::values(session, path));
                Verdict::of(holds, Reason::ClaimOk, Reason::ClaimUnauthorized)
            }),
            Self::HttpMethod(text) => {
                let holds = text.matches(request.method().as_str());
                Verdict::of(holds, Reason::HttpMethodOk, Reason::HttpMethodUnauthorized)
            }
            Self::HttpPath(text) => {
                Verdict::of(text.matches(request.path()), Reason::HttpPathOk, Reason::HttpPathUnauthorized)
            }
            Self::SourceIp(networks) => {
                let holds = networks.contains(request.client());
                Verdict::of(holds, Reason::SourceIpOk, Reason::SourceIpUnauthorized)
            }
            Self::CorsPreflight => Verdict::of(is_preflight(request), Reason::CorsRequest, Reason::NonCorsRequest),
            Self::PomeriumRoutes => Verdict::of(is_own(request), Reason::PomeriumRoute, Reason::NonPomeriumRoute),
            Self::ClientCertificate(wanted) => shown(request).map_or_else(
                |missing| Verdict { holds: false, reasons: Reasons::of(missing) },
                |certificate| {
                    let (ok, failed) = (Reason::ClientCertificateOk, Reason::ClientCertificateUnauthorized);
                    Verdict::of(wanted.matches(certificate.details()), ok, failed)
                },
            ),
            Self::InvalidClientCertificate => match shown(request) {
                Ok(_) => Verdict { holds: false, reasons: Reasons::of(Reason::ValidClientCertificate) },
                Err(missing) => Verdict { holds: true, reasons: Reasons::of(missing) },
            },
            Self::AllowedUsers(users) => person(&|session| {
                let either = [user(users.contains(&session.user)), email(users.contains(email_of(session)))];
                Verdict::any(either.into_iter())
            }),
        }
    }
}

/// The client's certificate, if it holds: what another one says, anybody may have written into it.
fn shown(request: &Canonical) -> Result<&ClientCertificate, Reason> {
    match request.certificate() {
        None => Err(Reason::ClientCertificateRequired),
        Some(certificate) if !certificate.holds() => Err(Reason::InvalidClientCertificate),
        Some(certificate) => Ok(certificate),
    }
}

fn user(holds: bool) -> Verdict {
    Verdict::of(holds, Reason::UserOk, Reason::UserUnauthorized)
}

fn email(holds: bool) -> Verdict {
    Verdict::of(holds, Reason::EmailOk, Reason::EmailUnauthorized)
}

/// Who has no e-mail address has the empty one, as in Pomerium.
fn email_of(session: &SessionView) -> &str {
    session.email.as_deref().unwrap_or_default()
}

/// What follows the only `@`, in lower case. With two of them, nobody can say whose address it is.
fn domain_of(email: &str) -> Option<Cow<'_, str>> {
    let (_, domain) = email.split_once('@').filter(|(local, _)| !local.is_empty())?;
    if domain.is_empty() || domain.contains('@') {
        return None;
    }
    let in_capitals = domain.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if in_capitals { domain.to_ascii_lowercase().into() } else { domain.into() })
}

/// The request a browser makes to ask whether it may make another (Fetch §4.8).
fn is_preflight(request: &Canonical) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn is_own(request: &Canonical) -> bool {
    request.path().strip_prefix("/.pomerium").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_what_follows_the_only_at_sign() {
        assert_eq!(domain_of("alice@example.com").as_deref(), Some("example.com"));
        assert_eq!(domain_of("ALICE@EXAMPLE.COM").as_deref(), Some("example.com"));
        for nobody in ["", "alice", "@example.com", "alice@", "a@b@example.com", "alice@evil.example,bob@example.com"] {
            assert_eq!(domain_of(nobody), None, "{nobody}");
        }
        assert_ne!(domain_of("alice@ex\u{430}mple.com").as_deref(), Some("example.com"));
    }
}
