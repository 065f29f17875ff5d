//! The top level of a configuration, key by key.

use crate::keys::{self, GLOBAL};
use crate::node::{Fields, Node};
use crate::{
    Config, GroupsFilter, IssuerFormat, ListenAddress, LogLevel, Route, bounds, certificates, downstream, files,
    groups, headers, identity, metrics, order, programs, routes, services, staleness, storage, timeouts, upstreams,
    urls,
};

/// Decodes a document. `None` only where something was reported.
pub fn decode(root: &Node<'_>) -> Option<Config> {
    let top = root.fields()?;
    keys::check(&top, GLOBAL);
    let services = services::decode(&top);
    let insecure_server = flag(&top, "insecure_server", false);
    let address = listen(&top, "address", ListenAddress { host: None, port: 443 });
    warn_of_plain_http(&top, insecure_server && services.proxy, address.as_ref());
    let certificates = certificates::decode(&top, insecure_server || !services.proxy);
    let downstream = downstream::decode(&top, insecure_server && services.proxy);
    let authenticate = top.required(
        "authenticate_service_url",
        "the https URL of a host that leads here; there is no hosted authenticate service",
    );
    let storage = storage::decode(&top, services);
    let cookie = identity::cookie(&top);
    let session_idle_timeout = top.get("session_idle_timeout").and_then(|node| identity::idle_timeout(&node));
    let pass_identity_headers = flag(&top, "pass_identity_headers", false);
    let jwt_issuer_format = issuer_format(&top).unwrap_or(IssuerFormat::HostOnly);
    let max_staleness = staleness::decode(&top).unwrap_or_default();
    let timeouts = timeouts::global(&top);
    let connections = bounds::connections(&top);
    let max_request_body = bounds::max_request_body(&top).unwrap_or_default();
    let groups_filter = groups::decode(&top, &GroupsFilter::default());
    let upstreams = upstreams::defaults(&top);
    let response = top.get("set_response_headers");
    let authenticate_service_url = authenticate.as_ref().and_then(urls::service);
    let idp = identity::provider(&top, services.know_the_provider());
    let health_check_addr = listen(&top, "health_check_addr", health_address());
    let (metrics_address, metrics_basic_auth) = metrics::decode(&top);
    let shared_secret = files::secret(&top, "shared_secret");
    let cookie_secret = files::secret(&top, "cookie_secret");
    let signing_key = files::signing_key(&top);
    let jwt_claims_headers = top.get("jwt_claims_headers").as_ref().map(headers::claims).unwrap_or_default();
    let signout_redirect_url = top.get("signout_redirect_url").as_ref().and_then(urls::page);
    let program_hosts = programs::decode(&top);
    let set_response_headers = headers::global_response(response.as_ref(), !insecure_server);
    let log_level = log_level(&top).unwrap_or(LogLevel::Info);
    let defaults = routes::Defaults {
        insecure_server,
        pass_identity_headers,
        jwt_issuer_format,
        max_staleness,
        timeouts,
        max_request_body,
        groups_filter,
        claims: jwt_claims_headers.iter().map(|(name, _)| name.clone()).collect(),
        upstreams,
    };
    let mut routes = order::ordered(routes::decode(&top, &defaults), &cookie);
    match &downstream.mtls {
        Some(authority) => routes.iter_mut().for_each(|route| authority.guard(&mut route.policy)),
        None => warn_of_unasked_certificates(&top, &routes),
    }
    // nothing is decoded below: every problem was said, whichever value is absent
    Some(Config {
        services,
        address: address?,
        insecure_server,
        certificates,
        downstream,
        authenticate_service_url: authenticate_service_url?,
        shared_secret,
        cookie_secret,
        signing_key,
        cookie,
        session_idle_timeout,
        idp: idp?,
        storage: storage?,
        jwt_claims_headers,
        jwt_issuer_format,
        pass_identity_headers,
        signout_redirect_url,
        program_hosts,
        set_response_headers,
        log_level,
        health_check_addr: health_check_addr?,
        metrics_address,
        metrics_basic_auth,
        max_staleness,
        timeouts,
        connections,
        max_request_body,
        routes,
        warnings: Vec::new(),
    })
}

/// A boolean key of a map.
pub fn flag(fields: &Fields<'_>, name: &str, default: bool) -> bool {
    fields.get(name).and_then(|node| node.boolean()).unwrap_or(default)
}

/// `jwt_issuer_format`, at the top level or in a route; Pomerium has spelled the first value in three ways.
pub fn issuer_format(fields: &Fields<'_>) -> Option<IssuerFormat> {
    let here = [
        ("host_only", IssuerFormat::HostOnly),
        ("uri", IssuerFormat::Uri),
        ("hostOnly", IssuerFormat::HostOnly),
        ("IssuerHostOnly", IssuerFormat::HostOnly),
        ("IssuerURI", IssuerFormat::Uri),
    ];
    fields.get("jwt_issuer_format")?.choice(&here, &[])
}

fn listen(top: &Fields<'_>, name: &str, default: ListenAddress) -> Option<ListenAddress> {
    top.get(name).map_or(Some(default), |node| urls::listen(&node))
}

fn health_address() -> ListenAddress {
    ListenAddress { host: Some("127.0.0.1".to_owned()), port: 28080 }
}

fn log_level(top: &Fields<'_>) -> Option<LogLevel> {
    let here = [
        ("trace", LogLevel::Trace),
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
    ];
    top.get("log_level")?.choice(&here, &["fatal", "panic", "disabled"])
}

/// Nobody is asked for a certificate, and policies want one.
fn warn_of_unasked_certificates(top: &Fields<'_>, routes: &[Route]) {
    if let Some(node) = top.get("routes").or_else(|| top.get("policy"))
        && routes.iter().any(|route| route.policy.reads_client_certificate())
    {
        let wrong = "has policies about client certificates, and without downstream_mtls clients are asked for none";
        node.warn(wrong, "add downstream_mtls, or remove those criteria");
    }
}

fn warn_of_plain_http(top: &Fields<'_>, insecure_server: bool, address: Option<&ListenAddress>) {
    let is_public = address.is_some_and(|address| !address.is_loopback());
    if let Some(node) = top.get("insecure_server").filter(|_| insecure_server && is_public) {
        node.warn(
            "speaks plain HTTP on an address that other machines reach",
            "end TLS here, or let only the proxy in front reach this address",
        );
    }
}
