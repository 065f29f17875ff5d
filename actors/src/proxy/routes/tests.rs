//! Where requests lead.

use std::time::Duration;

use portcullis_config::policy::{Actions, Criterion, Policy, Rule, StringMatcher, StringTest};
use portcullis_config::{
    Action, Config, Connections, Cookie, From, GroupsFilter, HostPort, IssuerFormat, ListenAddress, LogLevel,
    PathMatcher, PathRewrite, Pattern, Rewrites, Route, RouteBounds, RouteTimeouts, Services, Staleness, Storage,
    Timeouts, Tunnel, Upstream,
};
use proptest::prelude::*;
use url::Url;

use super::{Located, NotLocated, RouteTable};
use crate::request::tests::{Head, paths::difficult_path};

/// A configuration with these routes: `host[:port]path`, the path a prefix, exact after a `=`, or an expression after a
/// `~`.
pub(crate) fn config(routes: &[&str]) -> Config {
    Config {
        downstream: portcullis_config::Downstream::default(),
        services: Services::ALL,
        address: ListenAddress { host: None, port: 0 },
        insecure_server: false,
        certificates: Vec::new(),
        authenticate_service_url: Url::parse("https://auth.test:8443").unwrap(),
        shared_secret: None,
        cookie_secret: None,
        signing_key: None,
        cookie: Cookie {
            name: "_pomerium".to_owned(),
            domain: None,
            http_only: true,
            expire: Duration::from_secs(60),
            same_site: None,
        },
        session_idle_timeout: None,
        idp: None,
        storage: Storage::Memory,
        jwt_claims_headers: Vec::new(),
        jwt_issuer_format: IssuerFormat::HostOnly,
        max_staleness: Staleness::default(),
        pass_identity_headers: false,
        signout_redirect_url: None,
        program_hosts: Vec::new(),
        set_response_headers: Vec::new(),
        log_level: LogLevel::Info,
        health_check_addr: ListenAddress { host: None, port: 0 },
        metrics_address: None,
        metrics_basic_auth: None,
        timeouts: Timeouts::default(),
        connections: Connections::default(),
        max_request_body: None,
        routes: routes.iter().map(|route| self::route(route)).collect(),
        warnings: Vec::new(),
    }
}

fn route(text: &str) -> Route {
    let (authority, path) = text.split_at(text.find(['/', '=', '~']).unwrap());
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, port.parse().ok()));
    Route {
        id: text.to_owned(),
        name: None,
        stat_name: None,
        from: From { host: host.to_owned(), port },
        action: Action::Forward(vec![Upstream::at(Url::parse("http://upstream.test").unwrap())]),
        matcher: match (path.strip_prefix('='), path.strip_prefix('~')) {
            (Some(whole), _) => PathMatcher::Path(whole.to_owned()),
            (_, Some(regex)) => PathMatcher::Regex(Pattern::new(regex).unwrap()),
            (None, None) => PathMatcher::Prefix(path.to_owned()),
        },
        regex_priority_order: 0,
        rewrites: Rewrites::default(),
        timeouts: RouteTimeouts::default(),
        bounds: RouteBounds::default(),
        set_request_headers: Vec::new(),
        remove_request_headers: Vec::new(),
        set_response_headers: Vec::new(),
        allow_websockets: false,
        tls_skip_verify: false,
        upstream: portcullis_config::UpstreamOptions::default(),
        pass_identity_headers: false,
        jwt_issuer_format: IssuerFormat::HostOnly,
        groups_filter: GroupsFilter::default(),
        show_error_details: false,
        max_staleness: Staleness::default(),
        policy: Policy::default(),
    }
}

/// `own`, `own at authenticate`, the id of the route, or why not.
fn leads(table: &RouteTable, host: &str, path: &str) -> String {
    let request = Head { target: path, headers: vec![("host", host)], ..Head::default() }.accepted();
    match table.locate(&request) {
        Ok(Located::Own { at_authenticate: false }) => "own".to_owned(),
        Ok(Located::Own { at_authenticate: true }) => "own at authenticate".to_owned(),
        Ok(Located::Route { index: _, route }) => route.id.clone(),
        Err(NotLocated::UnknownHost) => "unknown host".to_owned(),
        Err(NotLocated::NoRoute) => "no route".to_owned(),
        Err(NotLocated::OddPath) => "odd".to_owned(),
    }
}

#[test]
fn the_first_route_of_a_host_that_takes_the_path_wins() {
    let table = RouteTable::new(&config(&[
        "app.test=/exact",
        "app.test/admin",
        "app.test/api/",
        "app.test/",
        "other.test/only",
        "port.test:8443/",
        "port.test:9443/x",
    ]));
    for (host, path, leads_to) in [
        ("app.test", "/exact", "app.test=/exact"),
        ("app.test", "/exact/", "app.test/"),
        ("app.test", "/exact?x", "app.test=/exact"),
        ("APP.test.:1234", "/%61dmin", "app.test/admin"),
        ("app.test", "/administrator", "app.test/admin"),
        ("app.test", "//admin", "app.test/admin"),
        ("app.test", "/public/../admin", "app.test/admin"),
        ("app.test", "/Admin", "app.test/"),
        ("app.test", "/api", "app.test/"),
        ("app.test", "/api/", "app.test/api/"),
        ("app.test", "/?/admin", "app.test/"),
        ("other.test", "/", "no route"),
        ("other.test", "/only/x", "other.test/only"),
        ("port.test", "/", "no route"),
        ("port.test:443", "/", "no route"),
        ("port.test:8443", "/", "port.test:8443/"),
        ("port.test:9443", "/", "no route"),
        ("port.test:9443", "/x", "port.test:9443/x"),
        ("nowhere.test", "/", "unknown host"),
        ("app.test.evil.test", "/", "unknown host"),
        ("evilapp.test", "/", "unknown host"),
        ("127.0.0.1", "/", "unknown host"),
    ] {
        assert_eq!(leads(&table, host, path), leads_to, "{host}{path}");
    }
    assert!(table.is_route_host("app.test") && table.knows_host("app.test"));
    assert!(!table.is_route_host("auth.test") && table.knows_host("auth.test"));
    assert!(!table.knows_host("nowhere.test"));
}

#[test]
fn a_tunnel_is_found_by_host_and_port_and_by_connect_alone() {
    let mut config = config(&["db.test/", "gate.test/", "app.test/"]);
    let place = |host: &str, port| HostPort { host: host.to_owned(), port };
    let to = vec![place("10.0.0.1", 1)];
    config.routes[0].action = Action::Tunnel(Tunnel { named: place("db.test", 5432), to: to.clone() });
    config.routes[1].action = Action::Tunnel(Tunnel { named: place("redis", 6379), to });
    let table = RouteTable::new(&config);
    let connect = |target: &str| {
        let head = Head { method: "CONNECT", target, headers: vec![("host", target)], ..Head::default() };
        match table.locate(&head.accepted()) {
            Ok(Located::Route { index, route }) => Ok((index, route.id.clone())),
            Ok(Located::Own { .. }) => panic!("a page"),
            Err(error) => Err(error),
        }
    };
    assert_eq!(connect("db.test:5432"), Ok((0, "db.test/".to_owned())));
    assert_eq!(connect("redis:6379"), Ok((1, "gate.test/".to_owned())));
    for nothing in ["db.test:443", "db.test:5433", "gate.test:6379", "app.test:443", "auth.test:8443", "redis:22"] {
        assert_eq!(connect(nothing), Err(NotLocated::NoRoute), "{nothing}");
    }
    // the host has our own pages, and nothing else
    for host in ["db.test", "db.test:5432", "gate.test"] {
        assert_eq!(leads(&table, host, "/.pomerium/api/v1/login"), "own");
        assert_eq!(leads(&table, host, "/"), "no route");
    }
    assert!(table.is_route_host("gate.test") && table.is_route_host("db.test") && !table.knows_host("redis"));
    assert_eq!(leads(&table, "redis:6379", "/"), "unknown host");
}

#[test]
fn an_index_is_the_place_in_the_configuration() {
    let config = config(&["b.test/x", "a.test/", "b.test/"]);
    let table = RouteTable::new(&config);
    for (index, route) in config.routes.iter().enumerate() {
        let target = match &route.matcher {
            PathMatcher::Prefix(prefix) | PathMatcher::Path(prefix) => prefix,
            PathMatcher::Regex(regex) => panic!("{regex:?}"),
        };
        let head = Head { target, headers: vec![("host", &route.from.host)], ..Head::default() };
        let Ok(Located::Route { index: found, route: taken }) = table.locate(&head.accepted()) else {
            panic!("no route")
        };
        assert_eq!((found, &taken.id), (index, &route.id));
    }
}

#[test]
fn our_own_paths_are_never_forwarded() {
    let table = RouteTable::new(&config(&["app.test/", "deep.test/deep"]));
    for path in [
        "/.pomerium",
        "/.pomerium/",
        "/.pomerium/sign_out",
        "/.pomerium/x/../user",
        "//.pomerium/",
        "/%2epomerium/user",
        "/.pomerium/..;/x",
        "/.pomerium/%5c",
        "/.well-known/pomerium",
        "/.well-known/pomerium/jwks.json",
        "/robots.txt",
        "/ping",
        "/healthz",
    ] {
        for host in ["app.test", "deep.test"] {
            assert_eq!(leads(&table, host, path), "own", "{host}{path}");
        }
        assert_eq!(leads(&table, "auth.test", path), "own at authenticate", "{path}");
    }
    for path in [
        "/.pomeriumx",
        "/.well-known/pomeriumx",
        "/.well-known/x",
        "/ping/",
        "/healthz/x",
        "/oauth2/callback",
        "/.POMERIUM",
    ] {
        assert_eq!(leads(&table, "app.test", path), "app.test/", "{path}");
    }
    for path in ["/ping", "/healthz", "/ping?x", "//ping"] {
        assert_eq!(leads(&table, "nowhere.test", path), "own", "{path}");
    }
    for path in ["/robots.txt", "/.pomerium/", "/.well-known/pomerium"] {
        assert_eq!(leads(&table, "nowhere.test", path), "unknown host", "{path}");
    }
}

#[test]
fn the_authenticate_host_is_ours_but_for_the_routes_it_has() {
    let alone = RouteTable::new(&config(&["app.test/"]));
    for path in ["/", "/oauth2/callback", "/anything", "/..;/x"] {
        assert_eq!(leads(&alone, "auth.test", path), "own at authenticate", "{path}");
        assert_eq!(leads(&alone, "auth.test:8443", path), "own at authenticate", "{path}");
    }
    let shared = RouteTable::new(&config(&["auth.test/"]));
    for path in ["/", "/oauth2/callback", "/oauth2/x/../callback", "/.pomerium/sign_in"] {
        assert_eq!(leads(&shared, "auth.test", path), "own at authenticate", "{path}");
    }
    assert_eq!(leads(&shared, "auth.test", "/anything"), "auth.test/");
}

const ODD: [&str; 9] =
    ["/..;/x", "/a\\b", "/a%5cb", "/%252e%252e/x", "/%c0%ae/x", "/a%00", "/caf\u{e9}", "/;/x", "/a;x/../b"];

#[test]
fn an_odd_path_is_refused_where_a_path_decides_and_passes_where_none_does() {
    let mut deciding = vec![config(&["app.test/", "app.test/x"]), config(&["app.test/x"]), config(&["app.test=/x"])];
    let rules = |actions: Actions| {
        [Rule { allow: Some(actions.clone()), deny: None }, Rule { allow: None, deny: Some(actions) }]
    };
    let by_path = Criterion::HttpPath(StringMatcher(vec![StringTest::Is("/x".to_owned())]));
    for actions in [
        Actions { and: vec![Criterion::Accept, by_path.clone()], ..Actions::default() },
        Actions { or: vec![by_path.clone()], ..Actions::default() },
        Actions { not: vec![by_path.clone()], ..Actions::default() },
        Actions { nor: vec![by_path], ..Actions::default() },
    ] {
        for rule in rules(actions) {
            let mut config = config(&["app.test/"]);
            config.routes[0].policy = Policy { rules: vec![Rule::default(), rule] };
            deciding.push(config);
        }
    }
    // beyond a rewritten prefix or the path of `to` lies what is not the route's
    let mut rewritten = config(&["app.test/"]);
    rewritten.routes[0].rewrites.path = Some(PathRewrite::Prefix("/inner/".to_owned()));
    let mut below = config(&["app.test/"]);
    let Action::Forward(to) = &mut below.routes[0].action else { panic!("it forwards") };
    to[0].url.set_path("/inner");
    deciding.extend([rewritten, below]);
    for config in deciding {
        let table = RouteTable::new(&config);
        for path in ODD {
            assert_eq!(leads(&table, "app.test", path), "odd", "{path} {:?}", config.routes);
        }
    }
    let mut catch_all = config(&["app.test/", "other.test/x"]);
    catch_all.routes[0].rewrites.path = Some(PathRewrite::Prefix("/".to_owned()));
    catch_all.routes[0].policy = Policy {
        rules: vec![Rule { allow: Some(Actions { or: vec![Criterion::Accept], ..Actions::default() }), deny: None }],
    };
    let table = RouteTable::new(&catch_all);
    for path in ODD {
        assert_eq!(leads(&table, "app.test", path), "app.test/", "{path}");
    }
}

#[test]
fn a_path_with_two_readings_is_refused_only_where_they_lead_to_different_places() {
    let table = RouteTable::new(&config(&["app.test=/exact", "app.test/admin", "app.test/"]));
    for (path, leads_to) in [
        ("/exact;x", "odd"),
        ("/exact%3bx", "odd"),
        ("/exact%3fx", "odd"),
        ("/exact%23/x", "odd"),
        ("/exac%2574", "odd"),
        ("/adm%2569n", "odd"),
        ("/a;x/dmin", "app.test/"),
        ("/admin;x", "app.test/admin"),
        ("/admin/x;jsessionid=1", "app.test/admin"),
        ("/list;v=1/C%23", "app.test/"),
        ("/a%2520b", "app.test/"),
    ] {
        assert_eq!(leads(&table, "app.test", path), leads_to, "{path}");
    }
    let mut by_path = config(&["app.test/"]);
    let is_admin = Criterion::HttpPath(StringMatcher(vec![StringTest::Is("/admin".to_owned())]));
    let deny = Actions { or: vec![is_admin], ..Actions::default() };
    by_path.routes[0].policy = Policy { rules: vec![Rule { allow: None, deny: Some(deny) }] };
    let table = RouteTable::new(&by_path);
    for (path, leads_to) in [("/admin;x", "odd"), ("/admin%23", "odd"), ("/adm%2569n", "odd"), ("/a%20b", "app.test/")]
    {
        assert_eq!(leads(&table, "app.test", path), leads_to, "{path}");
    }
}

#[test]
fn an_expression_takes_whole_paths_in_the_order_of_all_routes() {
    let mut config = config(&[
        "app.test=/v1/x",
        "app.test~/v[0-9]+/.*",
        "app.test~/v1/y",
        "app.test/v1/",
        "app.test~(?i)/LATE",
        "app.test/",
    ]);
    config.routes.sort_by(Route::order);
    let table = RouteTable::new(&config);
    for (path, leads_to) in [
        ("/v1/x", "app.test=/v1/x"),
        ("/v1/y", "app.test~/v[0-9]+/.*"),
        ("/v22/y/z", "app.test~/v[0-9]+/.*"),
        ("/v1", "app.test/"),
        ("/late", "app.test~(?i)/LATE"),
        ("/late/", "app.test/"),
        ("/x/../v1/y", "app.test~/v[0-9]+/.*"),
        ("/v1/%7E", "app.test~/v[0-9]+/.*"),
        ("/v%31/y", "app.test~/v[0-9]+/.*"),
        ("/late;x", "odd"),
        ("/a%5cb", "odd"),
    ] {
        assert_eq!(leads(&table, "app.test", path), leads_to, "{path}");
    }
    let alone = RouteTable::new(&self::config(&["app.test~/x.*"]));
    assert_eq!(leads(&alone, "app.test", "/x"), "app.test~/x.*");
    for path in ODD {
        assert_eq!(leads(&alone, "app.test", path), "odd", "{path}");
    }
    assert_eq!(leads(&alone, "app.test", "/y"), "no route");
}

#[test]
fn a_wildcard_stands_for_one_label_of_hosts_that_have_no_routes_of_their_own() {
    let table = RouteTable::new(&config(&[
        "*.apps.test/",
        "*.test/wide",
        "own.apps.test/only",
        "*.port.test/x",
        "*.port.test:8443/",
    ]));
    for (host, path, leads_to) in [
        ("a.apps.test", "/", "*.apps.test/"),
        ("A.Apps.Test.:8443", "/.pomerium-not", "*.apps.test/"),
        ("a.b.apps.test", "/", "unknown host"),
        (".apps.test", "/", "unknown host"),
        ("apps.test", "/", "no route"),
        ("apps.test", "/wide", "*.test/wide"),
        ("own.apps.test", "/", "no route"),
        ("own.apps.test", "/only", "own.apps.test/only"),
        ("a.port.test:8443", "/", "*.port.test:8443/"),
        ("a.port.test:8443", "/x", "*.port.test/x"),
        ("a.port.test", "/", "no route"),
        ("a.apps.test", "/.pomerium/user", "own"),
        ("x.a.test", "/.pomerium/user", "unknown host"),
        // the authenticate component's host is its own
        ("auth.test", "/wide", "own at authenticate"),
    ] {
        if host.starts_with('.') {
            assert!(Head { headers: vec![("host", host)], ..Head::default() }.canonical().is_err());
            continue;
        }
        assert_eq!(leads(&table, host, path), leads_to, "{host}{path}");
    }
    assert!(table.is_route_host("a.apps.test") && table.knows_host("a.apps.test"));
    assert!(!table.is_route_host("a.b.apps.test") && !table.is_route_host("auth.test"));
}

#[test]
fn what_an_expression_makes_of_a_path_decides_as_well() {
    let replacement = |config: &mut Config| {
        let text = "authenticate_service_url: https://auth.test\ninsecure_server: true\nidp_provider: oidc\n\
             idp_provider_url: https://idp.test\nidp_client_id: gate\nroutes:\n\
             - {from: 'https://app.test', to: 'http://u', allowed_users: [x], regex_rewrite_pattern: '^/([^/]*)', \
             regex_rewrite_substitution: '/in/\\1'}\n\
             - {from: 'https://b.test', to: 'http://u', allowed_users: [x], host_path_regex_rewrite_pattern: '^/([^/]*).*', \
             host_path_regex_rewrite_substitution: '\\1.test'}\n";
        config.routes = portcullis_config::parse("f", text, &|_| None).unwrap().routes;
    };
    let mut config = config(&[]);
    replacement(&mut config);
    let table = RouteTable::new(&config);
    for host in ["app.test", "b.test"] {
        for path in ODD.into_iter().chain(["/a;x/b", "/a%23b", "/%2561"]) {
            assert_eq!(leads(&table, host, path), "odd", "{host}{path}");
        }
        assert_ne!(leads(&table, host, "/a/b"), "odd");
    }
}

#[test]
fn the_asterisk_leads_to_no_route() {
    let table = RouteTable::new(&config(&["app.test/"]));
    let request = Head { method: "OPTIONS", ..Head::to("*") }.accepted();
    assert!(matches!(table.locate(&request), Err(NotLocated::NoRoute)));
}

#[test]
fn ten_thousand_hosts_are_found_by_name() {
    let routes: Vec<_> = (0..10_000).map(|index| format!("app-{index}.test/")).collect();
    let table = RouteTable::new(&config(&routes.iter().map(String::as_str).collect::<Vec<_>>()));
    for index in [0, 4_999, 9_999] {
        let host = format!("app-{index}.test");
        assert_eq!(leads(&table, &host, "/x"), format!("{host}/"));
    }
}

/// What going through the routes one by one would find: the reference.
fn by_going_through<'a>(config: &'a Config, host: &str, port: Option<u16>, path: &str) -> Option<&'a str> {
    let has_own = config.routes.iter().any(|route| route.from.host == host);
    let takes = |matcher: &PathMatcher| match matcher {
        PathMatcher::Prefix(prefix) => path.starts_with(prefix.as_str()),
        PathMatcher::Path(whole) => path == whole,
        PathMatcher::Regex(regex) => regex.is_match(path),
    };
    let found = config.routes.iter().find(|route| {
        let is_its_host = if has_own { route.from.host == host } else { route.from.takes_host(host) };
        is_its_host && (route.from.port.is_none() || route.from.port == port) && takes(&route.matcher)
    });
    found.map(|route| route.id.as_str())
}

fn any_route() -> impl Strategy<Value = (String, i64)> {
    let host = prop::sample::select(vec!["a.test", "a.test", "*.test", "a.test:8443", "*.test:8443", "b.test"]);
    let matcher = prop_oneof![
        "/([ab]/?){0,4}",
        "=/([ab]/?){0,3}",
        "~/([ab]|\\[ab\\]|[ab]\\+|\\.\\*|/){0,4}",
        "~(/a|/ab|/b)?/?[ab]?(\\.\\*)?",
    ];
    (host, matcher, -1_i64..2).prop_map(|(host, matcher, priority)| (format!("{host}{matcher}"), priority))
}

proptest! {
    #[test]
    fn the_table_finds_what_going_through_its_routes_would_find(
        routes in prop::collection::vec(any_route(), 0..40),
        sorted in any::<bool>(),
        asked in prop::collection::vec(("[abc]\\.test", prop::option::of(Just(8443_u16)), "(/[ab]{1,2}){0,3}/?"), 1..20),
    ) {
        let texts: Vec<_> = routes.iter().map(|(text, _)| text.as_str()).collect();
        let mut config = config(&texts);
        for (route, (_, priority)) in config.routes.iter_mut().zip(&routes) {
            route.regex_priority_order = *priority;
        }
        if sorted {
            config.routes.sort_by(Route::order);
        }
        let table = RouteTable::new(&config);
        for (host, port, path) in asked {
            let path = if path.is_empty() { "/" } else { path.as_str() };
            let authority = port.map_or(host.clone(), |port| format!("{host}:{port}"));
            let found = leads(&table, &authority, path);
            match by_going_through(&config, &host, port, path) {
                Some(expected) => prop_assert_eq!(found, expected),
                None => prop_assert!(found == "no route" || found == "unknown host", "{}", found),
            }
        }
    }

    #[test]
    fn the_route_is_a_function_of_the_canonical_value(
        path in difficult_path(),
        host in "(?i)(app|auth|none)\\.test\\.?(:443)?",
    ) {
        let table = RouteTable::new(&config(&["app.test=/a", "app.test/admin", "app.test/public/", "app.test/", "auth.test/b"]));
        let head = Head { target: &path, headers: vec![("host", &host)], ..Head::default() };
        let Ok(request) = head.canonical() else { return Ok(()) };
        let first = leads(&table, &host, &path);
        let again = leads(&table, request.authority(), request.path());
        // what dot segments took away is judged only once
        if first != "odd" {
            prop_assert_eq!(first, again);
        }
    }
}
