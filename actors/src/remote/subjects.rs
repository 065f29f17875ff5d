//! The role subjects: one for each message that a component answers, and one for its word to all.

/// databroker: begin a session.
pub const OPEN: &str = "portcullis.role.databroker.open";
/// databroker: end a session.
pub const END: &str = "portcullis.role.databroker.end";
/// databroker: what is a session?
pub const STANDING: &str = "portcullis.role.databroker.standing";
/// databroker: a provider's logout.
pub const LOG_OUT: &str = "portcullis.role.databroker.log_out";
/// databroker: a session was in use.
pub const SEEN: &str = "portcullis.role.databroker.seen";
/// databroker: a consumer, to whoever may read and begin none.
pub const LEND: &str = "portcullis.role.databroker.lend";
/// authenticate: a browser arrives.
pub const ARRIVE: &str = "portcullis.role.authenticate.arrive";
/// authenticate: a browser returns from the provider.
pub const RETURN: &str = "portcullis.role.authenticate.return";
/// authenticate: a browser leaves.
pub const LEAVE: &str = "portcullis.role.authenticate.leave";
/// authenticate: a logout token.
pub const DELIVER: &str = "portcullis.role.authenticate.deliver";
/// authorize: may this request pass?
pub const CHECK: &str = "portcullis.role.authorize.check";
/// authorize: would these still pass?
pub const AGAIN: &str = "portcullis.role.authorize.again";
/// authorize: whose is this session?
pub const WHO: &str = "portcullis.role.authorize.who";
/// authorize: the public keys of assertions.
pub const KEYS: &str = "portcullis.role.authorize.keys";
/// authorize, to every proxy: these permits may be void.
pub const VOID: &str = "portcullis.role.authorize.void";

/// Where a component says that it is there.
#[must_use]
pub fn ping(component: &str) -> String {
    format!("portcullis.role.{component}.ping")
}

/// What a component says to all.
#[must_use]
pub fn said_by(component: &str) -> &'static [&'static str] {
    if component == "authorize" { &[VOID] } else { &[] }
}

/// What a component asks, and of which other.
#[must_use]
pub fn asked_by(component: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match component {
        "proxy" => &[
            ("authorize", &[CHECK, AGAIN, WHO, KEYS]),
            ("authenticate", &[ARRIVE, RETURN, LEAVE, DELIVER]),
            ("databroker", &[OPEN, END]),
        ],
        "authenticate" => &[("databroker", &[STANDING, LOG_OUT])],
        "authorize" => &[("databroker", &[SEEN, LEND])],
        _ => &[],
    }
}
