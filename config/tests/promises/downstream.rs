//! What lies between clients and their requests: each key, its default, and what it refuses.

use std::io::Write;
use std::path::PathBuf;

use portcullis_config::policy::{Actions, CertificateMatcher, Criterion, Rule, StringMatcher, StringTest};
use portcullis_config::{
    AlternativeName, Codec, Config, Downstream, Enforcement, EscapedSlashes, Problems, Reading, Underscores, parse,
};

use crate::{LEAST, problems, with};

const CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const CRL: &str = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
const ROUTE: &str =
    "routes:\n- {from: https://a.example.com, to: 'http://127.0.0.1:1', allow_any_authenticated_user: true}\n";

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// With TLS of our own, which client certificates need.
fn with_tls(more: &str) -> Result<Config, Problems> {
    let pem = file(CA);
    let least = LEAST
        .replace("insecure_server: true", &format!("certificates: [{{cert: {0}, key: {0}}}]", pem.path().display()));
    parse("config.yaml", &format!("{least}{more}"), &|_| None)
}

/// Problems without their places.
fn wrong(more: &str) -> Vec<String> {
    let problems = with_tls(more).expect_err(more).0;
    problems.iter().map(|it| format!("{}: {}; {}", it.key, it.wrong, it.right)).collect()
}

#[test]
fn absent_keys_leave_clients_and_requests_as_pomerium_does() {
    let downstream = with("").unwrap().downstream;
    assert_eq!(downstream, Downstream::default());
    let usual = Reading {
        normalize_path: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::Reject,
        underscores: Underscores::Reject,
        trusted_hops: 0,
        append_forwarded_for: true,
    };
    assert_eq!((downstream.reading, downstream.codec), (usual, Codec::Auto));
}

#[test]
fn every_key_gives_what_was_written_and_warns_where_it_is_unsafe() {
    let config = with(
        "http_redirect_addr: :80\ncodec_type: http2\nuse_proxy_protocol: true\nskip_xff_append: true\n\
         xff_num_trusted_hops: 2\nnormalize_path: false\nmerge_slashes: false\n\
         path_with_escaped_slashes_action: keep_unchanged\nheaders_with_underscores_action: allow\n",
    )
    .unwrap();
    let Downstream { http_redirect_addr, codec, proxy_protocol, reading, mtls } = config.downstream;
    assert_eq!(http_redirect_addr.unwrap().to_string(), ":80");
    assert_eq!((codec, proxy_protocol, mtls), (Codec::Http2, true, None));
    let expected = Reading {
        normalize_path: false,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
        underscores: Underscores::Allow,
        trusted_hops: 2,
        append_forwarded_for: false,
    };
    assert_eq!(reading, expected);
    let warned: Vec<_> = config.warnings.iter().map(|it| it.key.as_str()).collect();
    let unsafe_keys =
        ["normalize_path", "merge_slashes", "path_with_escaped_slashes_action", "headers_with_underscores_action"];
    assert!(unsafe_keys.iter().all(|key| warned.contains(key)) && !warned.contains(&"skip_xff_append"), "{warned:?}");
    let alone = with("skip_xff_append: true\n").unwrap();
    assert!(alone.warnings.iter().any(|it| it.key == "skip_xff_append"), "with nobody in front that is to be trusted");
    for (action, expected) in [
        ("unescape_and_redirect", EscapedSlashes::Redirect),
        ("unescape_and_forward", EscapedSlashes::Forward),
        ("reject_request", EscapedSlashes::Reject),
    ] {
        let config = with(&format!("path_with_escaped_slashes_action: {action}\n")).unwrap();
        assert_eq!(config.downstream.reading.escaped_slashes, expected);
        assert!(!config.warnings.iter().any(|it| it.key.starts_with("path_")), "{action}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, said) in [
        ("codec_type: http3", "1 codec_type: not supported by this version; did you mean http1"),
        ("codec_type: spdy", "1 codec_type: is not a known value; one of auto, http1, http2"),
        (
            "xff_num_trusted_hops: -1",
            "1 xff_num_trusted_hops: is not a number of proxies; a whole number from 0 to 100",
        ),
        (
            "xff_num_trusted_hops: 101",
            "1 xff_num_trusted_hops: is not a number of proxies; a whole number from 0 to 100",
        ),
        (
            "http_redirect_addr: '80'",
            "1 http_redirect_addr: has no port; host:port, such as :443, 127.0.0.1:8443 or [::1]:8443",
        ),
        ("merge_slashes: perhaps", "1 merge_slashes: is neither true nor false; true or false"),
        (
            "headers_with_underscores_action: drop",
            "1 headers_with_underscores_action: is not a known value; one of reject_request, allow, drop_header",
        ),
    ] {
        assert_eq!(problems(&format!("{text}\n")), [said]);
    }
    let said = problems("downstream_mtls: {ca: x}\n");
    assert!(said[0].starts_with("1 downstream_mtls: has no meaning with insecure_server; "), "{said:?}");
}

#[test]
fn client_certificates_are_asked_for_by_what_was_written() {
    let (ca, crl) = (file(CA), file(CRL));
    let (ca, crl) = (ca.path(), crl.path());
    let text = format!(
        "downstream_mtls:\n  ca_file: {}\n  crl_file: {}\n  enforcement: reject_connection\n  max_verify_depth: 0\n  \
         match_subject_alt_names:\n  - email: '.*@example\\.com'\n  - user_principal_name: a\n",
        ca.display(),
        crl.display()
    );
    let config = with_tls(&text).unwrap();
    let authority = config.downstream.mtls.as_ref().unwrap();
    assert_eq!((authority.ca.as_str(), authority.crl.as_deref()), (CA, Some(CRL)));
    assert_eq!((authority.enforcement, authority.max_depth), (Enforcement::Reject, None));
    let names: Vec<_> = authority.names.iter().map(|name| (name.kind, name.pattern.anchored())).collect();
    let upn = (AlternativeName::UserPrincipalName, "^(?:a)$");
    assert_eq!(names, [(AlternativeName::Email, "^(?:.*@example\\.com)$"), upn]);
    let watched: Vec<PathBuf> = config.watched_files().map(PathBuf::from).collect();
    assert!(watched.ends_with(&[ca.to_owned(), crl.to_owned()]) && watched.len() == 4, "{watched:?}");

    let in_place = with_tls(&format!("downstream_mtls: {{ca: '{}'}}\n", CA.replace('\n', "\n\n"))).unwrap();
    let authority = in_place.downstream.mtls.unwrap();
    assert_eq!((authority.enforcement, authority.max_depth), (Enforcement::DefaultDeny, Some(1)));
}

#[test]
fn without_somebody_to_trust_there_is_no_configuration() {
    let (empty, none) = (file(""), file("no PEM"));
    for (text, said) in [
        ("{}".to_owned(), "downstream_mtls.ca: is missing; "),
        ("{enforcement: policy}".to_owned(), "downstream_mtls.ca: is missing; "),
        (format!("{{ca_file: {}}}", empty.path().display()), "downstream_mtls.ca_file: names an empty file; "),
        (format!("{{ca_file: {}}}", none.path().display()), "downstream_mtls.ca_file: names a file that holds none; "),
        ("{ca_file: /nowhere}".to_owned(), "downstream_mtls.ca_file: names a file that does not exist; "),
        ("{ca: '!'}".to_owned(), "downstream_mtls.ca: is neither PEM nor base64 of PEM; "),
        (format!("{{ca: x, ca_file: {}}}", none.path().display()), "downstream_mtls.ca_file: is given beside ca; "),
        ("{cafile: x}".to_owned(), "downstream_mtls.cafile: is not a known key; did you mean ca_file"),
    ] {
        let said_all = wrong(&format!("downstream_mtls: {text}\n"));
        assert!(said_all.iter().any(|it| it.starts_with(said)), "{text}: {said_all:?}");
    }
    let ca = file(CA);
    for (more, said) in [
        ("crl_file: /nowhere", "downstream_mtls.crl_file: names a file that does not exist; "),
        ("enforcement: perhaps", "downstream_mtls.enforcement: is not a known value; "),
        ("max_verify_depth: 17", "downstream_mtls.max_verify_depth: is not a number of certificates; "),
        ("match_subject_alt_names: x", "downstream_mtls.match_subject_alt_names: is not a list; "),
        (
            "match_subject_alt_names: [{dns: '('}]",
            "downstream_mtls.match_subject_alt_names[0].dns: is no regular expression; ",
        ),
        (
            // it would end the anchors' group
            "match_subject_alt_names: [{dns: 'a)|(?:b'}]",
            "downstream_mtls.match_subject_alt_names[0].dns: is no regular expression; ",
        ),
        (
            "match_subject_alt_names: [{mail: x}]",
            "downstream_mtls.match_subject_alt_names[0].mail: is not a known key; ",
        ),
        (
            "match_subject_alt_names: [{dns: a, uri: b}]",
            "downstream_mtls.match_subject_alt_names[0]: is not exactly one pattern; ",
        ),
    ] {
        let said_all = wrong(&format!("downstream_mtls: {{ca_file: {}, {more}}}\n", ca.path().display()));
        assert!(said_all.iter().any(|it| it.starts_with(said)), "{more}: {said_all:?}");
    }
}

#[test]
fn every_route_is_guarded_unless_policy_alone_decides() {
    let ca = file(CA);
    let rules = |enforcement: &str| {
        let text =
            format!("downstream_mtls: {{ca_file: {}, enforcement: {enforcement}}}\n{ROUTE}", ca.path().display());
        with_tls(&text).unwrap().routes.remove(0).policy.rules
    };
    let deny = Actions { or: vec![Criterion::InvalidClientCertificate], ..Actions::default() };
    let guard = Rule { allow: None, deny: Some(deny) };
    for enforcement in ["policy_with_default_deny", "reject_connection"] {
        assert_eq!(rules(enforcement).first(), Some(&guard), "{enforcement}");
        assert_eq!(rules(enforcement).len(), 2);
    }
    assert_eq!(rules("policy").len(), 1);
}

#[test]
fn criteria_about_certificates_are_understood() {
    let read = |criterion: &str| {
        let route =
            ROUTE.replace("allow_any_authenticated_user: true", &format!("policy: {{deny: {{or: [{criterion}]}}}}"));
        let config = with(&route).map_err(|problems| problems.to_string())?;
        assert!(config.warnings.iter().any(|it| it.wrong.contains("without downstream_mtls")), "nobody is asked");
        Ok::<_, String>(config.routes[0].policy.rules[0].deny.as_ref().unwrap().or[0].clone())
    };
    assert_eq!(read("{invalid_client_certificate: true}"), Ok(Criterion::InvalidClientCertificate));
    let hex = "AB:".repeat(31) + "ab";
    let matcher = CertificateMatcher {
        fingerprints: Some(vec!["ab".repeat(32)]),
        spki_hashes: Some(vec![format!("{}=", "A".repeat(43))]),
        dns: Some(StringMatcher(vec![StringTest::EndsWith(".test".into())])),
        email: Some(StringMatcher(vec![StringTest::Is("a@b".into())])),
        uri: Some(StringMatcher(vec![StringTest::In(vec!["x".into(), "y".into()])])),
    };
    let text = format!(
        "{{client_certificate: {{fingerprint: '{hex}', spki_hash: [{}], san_dns: {{ends_with: .test}}, san_email: a@b, san_uri: [x, y]}}}}",
        "A".repeat(43)
    );
    assert_eq!(read(&text), Ok(Criterion::ClientCertificate(matcher)));
    for (data, said) in [
        ("{}", "tests nothing"),
        ("{fingerprint: abc}", "is not a fingerprint"),
        ("{fingerprint: []}", "is empty"),
        ("{spki_hash: abc}", "is not a hash of a public key"),
        ("{san: x}", "is not a known key"),
        ("true", "is not a map"),
    ] {
        let refused = read(&format!("{{client_certificate: {data}}}")).unwrap_err();
        assert!(refused.contains(said), "{data}: {refused}");
    }
}

#[test]
fn certificates_and_reading_change_at_once_and_the_listener_waits_for_a_restart() {
    let (started, ca) = (with_tls(ROUTE).unwrap(), file(CA));
    let text = format!(
        "merge_slashes: false\nxff_num_trusted_hops: 1\ndownstream_mtls: {{ca_file: {}}}\n{ROUTE}",
        ca.path().display()
    );
    // the certificate is another file here
    let read = with_tls(&text).unwrap();
    assert!(started.needs_restart(&read).is_empty(), "{:?}", started.needs_restart(&read));
    let next = started.with_routes_of(&read);
    assert_eq!(next.certificates, read.certificates);
    assert_eq!(next.downstream, read.downstream);
    for (key, value) in [("codec_type", "http1"), ("use_proxy_protocol", "true"), ("http_redirect_addr", ":80")] {
        let read = with_tls(&format!("{key}: {value}\n{ROUTE}")).unwrap();
        assert_eq!(started.needs_restart(&read), [key]);
        assert!(started.needs_restart(&started.with_routes_of(&read)).is_empty(), "{key} has changed all the same");
    }
}
