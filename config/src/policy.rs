//! The policy language as data: what a policy says, not what it decides (`actors::authorize` compiles and evaluates it).
//!
//! Grammar: `document := rule | [rule, …]`, `rule := {allow: actions, deny: actions}`,
//! `actions := {and: […], or: […], not: […], nor: […]}`, each member one criterion.

use ipnet::IpNet;
use serde_json::Value;

/// Every rule of a route; rules are alternatives (OR-ed into one allow set and one deny set).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// The rules in the order in which they were written, the shorthand keys of the route first.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// Whether it looks at the client's certificate.
    #[must_use]
    pub fn reads_client_certificate(&self) -> bool {
        let reads = |criterion: &Criterion| {
            matches!(criterion, Criterion::ClientCertificate(_) | Criterion::InvalidClientCertificate)
        };
        let sides = self.rules.iter().flat_map(|rule| [&rule.allow, &rule.deny]).flatten();
        sides.flat_map(|actions| [&actions.and, &actions.or, &actions.not, &actions.nor]).flatten().any(reads)
    }
}

/// What lets a request in and what keeps it out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// True lets in, unless a deny is true.
    pub allow: Option<Actions>,
    /// True keeps out, whatever the allows say.
    pub deny: Option<Actions>,
}

/// The four operators; those present are alternatives. An operator that is absent, or whose list is empty, is never true.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// All are true.
    pub and: Vec<Criterion>,
    /// At least one is true.
    pub or: Vec<Criterion>,
    /// All are false.
    pub not: Vec<Criterion>,
    /// At least one is false.
    pub nor: Vec<Criterion>,
}

/// One test of a request and the person behind it.
#[derive(Debug, Clone, PartialEq)]
pub enum Criterion {
    /// Always true.
    Accept,
    /// Always true; meant for `deny`.
    Reject,
    /// A session exists.
    AuthenticatedUser,
    /// The user id.
    User(StringMatcher),
    /// The e-mail address.
    Email(StringMatcher),
    /// What follows the only `@` of the e-mail address.
    Domain(StringMatcher),
    /// The groups by id or name.
    Groups(ListMatcher),
    /// A claim; the path split at `/` and `.`, at most five levels.
    Claim {
        /// The levels, outermost first; never empty.
        path: Vec<String>,
        /// What the values must be.
        matcher: ListMatcher,
    },
    /// The request method.
    HttpMethod(StringMatcher),
    /// The canonical path.
    HttpPath(StringMatcher),
    /// The client's address lies in one of these.
    SourceIp(Vec<IpNet>),
    /// `OPTIONS` with `Origin` and `Access-Control-Request-Method`.
    CorsPreflight,
    /// The path is one of our own (`/.pomerium/…`).
    PomeriumRoutes,
    /// The client shows a certificate that holds and is one of these.
    ClientCertificate(CertificateMatcher),
    /// The client shows none, or one that does not hold; meant for `deny`.
    InvalidClientCertificate,
    /// The route shorthand `allowed_users`: user id or e-mail is one of these.
    AllowedUsers(Vec<String>),
}

/// Tests of a client's certificate; those that are present must all hold, and at least one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateMatcher {
    /// SHA-256 of the certificate in lower-case hex: one of these.
    pub fingerprints: Option<Vec<String>>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo) in base64: one of these.
    pub spki_hashes: Option<Vec<String>>,
    /// One of its DNS names matches.
    pub dns: Option<StringMatcher>,
    /// One of its e-mail addresses matches.
    pub email: Option<StringMatcher>,
    /// One of its URIs matches.
    pub uri: Option<StringMatcher>,
}

/// Tests of one text, all of which must hold; case-sensitive. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringMatcher(pub Vec<StringTest>);

/// One test of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringTest {
    /// Equal.
    Is(String),
    /// Not equal.
    Not(String),
    /// Contains.
    Contains(String),
    /// Begins with.
    StartsWith(String),
    /// Ends with.
    EndsWith(String),
    /// One of.
    In(Vec<String>),
    /// None of.
    NotIn(Vec<String>),
}

/// Tests of a list of values, all of which must hold. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct ListMatcher(pub Vec<ListTest>);

/// One test of a list; values are JSON scalars.
#[derive(Debug, Clone, PartialEq)]
pub enum ListTest {
    /// Contains the value.
    Has(Value),
    /// Is exactly that one value.
    Is(Value),
    /// Does not contain the value.
    Exclude(Value),
}
