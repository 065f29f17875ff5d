//! `services`: which components a process runs, and what each of them needs of a file.

use portcullis_config::{Config, Problems, Services, parse};

use crate::{LEAST, SECRET, problems, with};

const NONE: Services = Services { proxy: false, authenticate: false, authorize: false, databroker: false };

fn on_nats(services: &str) -> Result<Config, Problems> {
    let nats = "databroker_storage_type: nats\ndatabroker_storage_connection_string: nats://a\n";
    let text = format!("{LEAST}{nats}shared_secret: {SECRET}\ncookie_secret: {SECRET}\nservices: {services}\n");
    parse("f", &text, &|_| None)
}

#[test]
fn everything_is_here_unless_something_else_is_said() {
    assert!(with("").unwrap().services.are_all());
    for all in ["all", "[all]", "'proxy, authenticate,authorize,databroker'", "[proxy, all]"] {
        assert!(with(&format!("services: {all}\n")).unwrap().services.are_all(), "{all}");
    }
}

#[test]
fn any_of_the_components_may_run_apart() {
    for (text, expected, shown) in [
        ("proxy", Services { proxy: true, ..NONE }, "proxy"),
        ("[authenticate]", Services { authenticate: true, ..NONE }, "authenticate"),
        ("cache", Services { databroker: true, ..NONE }, "databroker"),
        ("proxy,authorize", Services { proxy: true, authorize: true, ..NONE }, "authorize-proxy"),
        (
            "[databroker, authenticate]",
            Services { authenticate: true, databroker: true, ..NONE },
            "authenticate-databroker",
        ),
    ] {
        let services = on_nats(text).unwrap().services;
        assert_eq!(services, expected, "{text}");
        assert_eq!(services.to_string(), shown);
    }
    let variable = |name: &str| (name == "SERVICES").then(|| "proxy,databroker".to_owned());
    let nats = "databroker_storage_type: nats\ndatabroker_storage_connection_string: nats://a\n";
    let text = format!("{LEAST}{nats}shared_secret: {SECRET}\ncookie_secret: {SECRET}\n");
    let services = parse("f", &text, &variable).unwrap().services;
    assert_eq!(services, Services { proxy: true, databroker: true, ..NONE });
}

#[test]
fn components_apart_need_nats_and_a_name_that_is_known() {
    for text in ["services: proxy\n", "services: [authorize]\ndatabroker_storage_type: memory\n"] {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("1 services: runs components apart"), "{found:?}");
    }
    let found = problems("services: [proxy, gate]\n");
    assert!(found[0].starts_with("1 services[1]: is not a known service"), "{found:?}");
    assert!(problems("services: ','\n")[0].contains("names no service"));
}

/// What a role lacks in a file that has almost nothing, by key.
fn lacks(services: &str) -> Vec<String> {
    let text = format!("services: {services}\ndatabroker_storage_type: nats\n");
    let problems = parse("f", &text, &|_| None).unwrap_err().0;
    assert!(problems.iter().all(|problem| problem.wrong == "is missing"), "{problems:?}");
    let mut keys: Vec<_> = problems.into_iter().map(|problem| problem.key).collect();
    keys.sort();
    keys
}

#[test]
fn each_component_says_what_it_lacks_and_nothing_that_it_can_do_without() {
    let nats = "databroker_storage_connection_string";
    let idp = ["idp_client_id", "idp_provider", "idp_provider_url"];
    let with = |more: &[&str]| {
        let mut keys = vec!["authenticate_service_url", nats, "shared_secret"];
        keys.extend(more);
        keys.sort_unstable();
        keys.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lacks("proxy"), with(&["certificates", "cookie_secret"]));
    assert_eq!(lacks("authenticate"), with(&[&idp[..], &["cookie_secret"]].concat()));
    assert_eq!(lacks("authorize"), with(&idp));
    assert_eq!(lacks("databroker"), with(&idp));
    assert_eq!(lacks("all"), with(&[&idp[..], &["certificates", "cookie_secret"]].concat()));
}

#[test]
fn a_proxy_needs_no_provider_and_says_what_is_wrong_with_one_that_is_given() {
    let least = "authenticate_service_url: https://authenticate.example.com\ninsecure_server: true\nservices: proxy\n\
                 databroker_storage_type: nats\ndatabroker_storage_connection_string: nats://a\n";
    let text = format!("{least}shared_secret: {SECRET}\ncookie_secret: {SECRET}\n");
    assert!(parse("f", &text, &|_| None).unwrap().idp.is_none());
    let half = parse("f", &format!("{text}idp_provider: oidc\n"), &|_| None).unwrap_err();
    assert_eq!(half.0.len(), 2, "{half}");
}
