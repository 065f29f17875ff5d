//! What a client's certificate decides.

use portcullis_config::policy::{CertificateMatcher, Criterion};

use super::people::*;

fn email(of: &str) -> Criterion {
    Criterion::ClientCertificate(CertificateMatcher { email: Some(is(of)), ..CertificateMatcher::default() })
}

const ALICE: &str = "alice@example.com";

#[test]
fn without_a_certificate_that_holds_nobody_is_led_to_sign_in() {
    let guarded = policy([deny(or([Criterion::InvalidClientCertificate])), allow(or([Criterion::AuthenticatedUser]))]);
    let alice = caller(alice());
    let none = request("GET", "/", "203.0.113.9", false);
    for (request, known, unknown) in [(none, 495, 495), (shown(ALICE, false), 495, 495), (shown(ALICE, true), 200, 401)]
    {
        assert_eq!(status(decide(&guarded, &request, Some(&alice)).outcome()), known);
        assert_eq!(status(decide(&guarded, &request, None).outcome()), unknown);
    }
}

#[test]
fn what_a_certificate_says_counts_only_where_it_holds() {
    let by_name = policy([allow(and([email(ALICE)]))]);
    let outcome = |request| status(decide(&by_name, &request, None).outcome());
    assert_eq!(outcome(shown(ALICE, true)), 200);
    assert_eq!(outcome(shown("mallory@example.com", true)), 403);
    assert_eq!(outcome(shown(ALICE, false)), 495, "anybody may write a name into a certificate");
    assert_eq!(outcome(request("GET", "/", "203.0.113.9", false)), 495);
}

#[test]
fn every_reason_about_certificates_is_the_languages_own() {
    let reasons = |criterion: Criterion, request| {
        decide(&policy([allow(or([criterion]))]), request, None).allow_reasons().names().collect::<Vec<_>>()
    };
    let none = &request("GET", "/", "203.0.113.9", false);
    let (good, bad) = (&shown(ALICE, true), &shown(ALICE, false));
    for (criterion, request, expected) in [
        (email(ALICE), good, "client-certificate-ok"),
        (email("bob@example.com"), good, "client-certificate-unauthorized"),
        (email(ALICE), bad, "invalid-client-certificate"),
        (email(ALICE), none, "client-certificate-required"),
        (Criterion::InvalidClientCertificate, good, "valid-client-certificate"),
        (Criterion::InvalidClientCertificate, bad, "invalid-client-certificate"),
        (Criterion::InvalidClientCertificate, none, "client-certificate-required"),
    ] {
        assert_eq!(reasons(criterion, request), [expected]);
    }
}
