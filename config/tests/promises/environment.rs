//! Variables over the file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_config::{Config, IssuerFormat, Place, Problems, Storage, parse};

use crate::{LEAST, SECRET};

fn set(text: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse("config.yaml", text, &|name| {
        variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    })
}

#[test]
fn a_variable_beats_the_file() {
    let config = set(
        &format!("{LEAST}cookie_name: file\nidp_scopes: [openid]\n"),
        &[
            ("COOKIE_NAME", "variable"),
            ("ADDRESS", "127.0.0.1:0"),
            ("IDP_SCOPES", "openid, email"),
            ("IDP_REQUEST_PARAMS", r#"{"prompt": "login"}"#),
            ("JWT_CLAIMS_HEADERS", r#"{"X-Mail": "email"}"#),
            ("PASS_IDENTITY_HEADERS", "true"),
            ("JWT_ISSUER_FORMAT", "uri"),
            ("DATABROKER_STORAGE_TYPE", "memory"),
            ("HEADERS", r#"{"X-One": "1"}"#),
        ],
    )
    .unwrap();
    assert_eq!(config.cookie.name, "variable");
    assert_eq!(config.address.to_string(), "127.0.0.1:0");
    assert_eq!(config.idp.as_ref().unwrap().scopes, ["openid", "email"]);
    assert_eq!(config.idp.as_ref().unwrap().request_params, [("prompt".to_owned(), "login".to_owned())]);
    assert_eq!(config.jwt_claims_headers[0].0, "x-mail");
    assert_eq!(config.jwt_claims_headers[0].1, "email");
    assert!(config.pass_identity_headers);
    assert_eq!(config.jwt_issuer_format, IssuerFormat::Uri);
    assert_eq!(config.storage, Storage::Memory);
    assert_eq!(config.set_response_headers.len(), 1);
}

#[test]
fn an_empty_variable_is_not_set() {
    let config = set(&format!("{LEAST}cookie_name: file\n"), &[("COOKIE_NAME", "")]).unwrap();
    assert_eq!(config.cookie.name, "file");
}

#[test]
fn a_configuration_may_come_from_variables_alone() {
    let routes = STANDARD.encode("- from: https://a.example.com\n  to: http://127.0.0.1:1\n  allowed_users: [a]\n");
    let config = set(
        "",
        &[
            ("AUTHENTICATE_SERVICE_URL", "https://authenticate.example.com"),
            ("INSECURE_SERVER", "1"),
            ("IDP_PROVIDER", "oidc"),
            ("IDP_PROVIDER_URL", "https://idp.example.com"),
            ("IDP_CLIENT_ID", "1234"),
            ("ROUTES", &routes),
        ],
    )
    .unwrap();
    assert_eq!(config.idp.as_ref().unwrap().client_id, "1234");
    assert_eq!(config.routes[0].from.host, "a.example.com");
}

#[test]
fn a_variable_beats_the_other_spelling_in_the_file() {
    let text = format!("{LEAST}shared_secret_file: /nowhere/at/all\n");
    assert!(set(&text, &[]).is_err());
    assert!(set(&text, &[("SHARED_SECRET", SECRET)]).unwrap().shared_secret.is_some());
}

#[test]
fn a_problem_in_a_variable_names_the_variable() {
    let routes = STANDARD.encode("- from: https://a.example.com\n  regex: '['\n  to: http://127.0.0.1:1\n");
    let variables =
        [("COOKIE_EXPIRE", "14"), ("AUTOCERT", "true"), ("POLICY_FILE", "x"), ("ROUTES", &*routes), ("HEADERS", "{")];
    let problems = set(LEAST, &variables).unwrap_err();
    let said: Vec<_> = problems.0.iter().map(|problem| (problem.place.clone(), problem.key.clone())).collect();
    let variable = |name: &str| Place::Variable(name.to_owned());
    assert_eq!(
        said,
        [
            (variable("AUTOCERT"), "autocert".to_owned()),
            (variable("COOKIE_EXPIRE"), "cookie_expire".to_owned()),
            (variable("HEADERS"), String::new()),
            (variable("POLICY_FILE"), "policy_file".to_owned()),
            (variable("ROUTES"), "routes[0].regex".to_owned()),
        ]
    );
}

#[test]
fn variables_meant_for_every_program_only_warn() {
    let config = set(LEAST, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")]).unwrap();
    assert!(
        config.warnings.iter().any(|warning| warning.place == Place::Variable("OTEL_EXPORTER_OTLP_ENDPOINT".into()))
    );
}
