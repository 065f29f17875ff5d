//! Files as people have them.

use portcullis_config::parse;

use crate::SECRET;

fn fine(text: &str) -> portcullis_config::Config {
    match parse("config.yaml", text, &|_| None) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn a_small_file_behind_a_load_balancer_is_understood() {
    let config = fine(
        "\
# TLS is ended in front
address: 127.0.0.1:8000
insecure_server: true
authenticate_service_url: https://authenticate.corp.example.com

idp_provider: oidc
idp_provider_url: https://sso.corp.example.com/realms/main
idp_client_id: access
idp_client_secret: not-a-real-one

routes:
  - from: https://verify.corp.example.com
    to: http://verify:8000
    pass_identity_headers: true
    policy:
      - allow:
          and:
            - domain:
                is: corp.example.com
",
    );
    assert_eq!(config.routes.len(), 1);
    assert!(config.warnings.is_empty());
}

#[test]
fn two_nodes_on_one_nats_server_are_understood() {
    let config = fine(&format!(
        "\
insecure_server: true
authenticate_service_url: https://auth.example.com
shared_secret: {SECRET}
cookie_secret: {SECRET}
databroker_storage_type: nats
databroker_storage_connection_string: nats://10.0.0.5:4222
idp_provider: oidc
idp_provider_url: https://idp.example.com/
idp_client_id: gate
jwt_claims_headers:
  X-Email: email
routes:
- from: https://app.example.com
  to:
  - http://10.0.0.7:8080
  - http://10.0.0.8:8080
  allow_any_authenticated_user: true
- from: https://app.example.com
  prefix: /admin/
  to: http://10.0.0.7:8080
  policy:
    allow:
      or:
      - groups: {{has: admins}}
      - email: {{in: [root@example.com, ops@example.com]}}
    deny:
      nor:
      - source_ip: [10.0.0.0/8]
"
    ));
    assert_eq!(config.idp.as_ref().unwrap().issuer, "https://idp.example.com/");
    assert_eq!(config.routes[0].matcher, portcullis_config::PathMatcher::Prefix("/admin/".into()));
}

#[test]
fn a_json_file_is_understood() {
    let config = fine(
        "{\n\t\"insecure_server\": true,\n\t\"address\": \"127.0.0.1:80\",\n\t\"authenticate_service_url\": \"https:\\/\\/auth.example.com\",\n\
         \t\"idp_provider\": \"oidc\",\n\t\"idp_provider_url\": \"https://idp.example.com\",\n\t\"idp_client_id\": \"gate\",\n\
         \t\"routes\": [\n\t\t{\"from\": \"https://a.example.com\", \"to\": [\"http://u\"], \"policy\": [{\"allow\": {\"or\": [{\"accept\": true}]}}]}\n\t]\n}\n",
    );
    assert_eq!(config.routes.len(), 1);
}
