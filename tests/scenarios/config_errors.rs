//! A configuration that is wrong says everything that is wrong with it, where, and what would be right.

use anyhow::Result;
use portcullis_harness::certificate::Authority;
use portcullis_harness::gateway::{Gateway, Launcher, Outcome};
use tempfile::TempDir;

const SECRET: &str = "c2VjcmV0IG9mIHRoaXJ0eS10d28gYnl0ZXMsIG9yIHNvIQ==";

fn launcher() -> Launcher {
    Gateway::binary(env!("CARGO_BIN_EXE_portcullis"))
}

/// A directory with a certificate and a configuration.
struct File {
    dir: TempDir,
}

impl File {
    fn new(text: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        Authority::new()?.issue(dir.path(), "tls", &["app.example.com"])?;
        let at = dir.path().to_string_lossy().into_owned();
        std::fs::write(dir.path().join("config.yaml"), text.replace("DIR", &at))?;
        Ok(Self { dir })
    }

    fn path(&self) -> String {
        self.dir.path().join("config.yaml").to_string_lossy().into_owned()
    }

    async fn validate(&self, environment: &[(&str, &str)]) -> Result<Outcome> {
        launcher().outcome(&["validate", "-c", &self.path()], environment).await
    }
}

const GOOD: &str = "\
address: 127.0.0.1:0
health_check_addr: 127.0.0.1:0
certificate_file: DIR/tls.pem
certificate_key_file: DIR/tls.key
authenticate_service_url: https://authenticate.example.com
idp_provider: oidc
idp_provider_url: https://idp.example.com
idp_client_id: portcullis
idp_client_secret: not shown to anybody
routes:
- from: https://app.example.com
  to: http://127.0.0.1:9
  allow_any_authenticated_user: true
";

#[tokio::test]
async fn a_good_configuration_is_valid() -> Result<()> {
    let outcome = File::new(GOOD)?.validate(&[]).await?;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn a_component_without_a_listener_needs_no_certificate() -> Result<()> {
    let of = |services: &str| {
        let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        format!(
            "services: {services}\nauthenticate_service_url: https://authenticate.example.com\nidp_provider: oidc\n\
             idp_provider_url: https://id.example.com\nidp_client_id: us\nshared_secret: {secret}\n\
             cookie_secret: {secret}\ndatabroker_storage_type: nats\n\
             databroker_storage_connection_string: nats://127.0.0.1:4222\n"
        )
    };
    for services in ["authenticate", "databroker", "[authenticate, databroker]"] {
        let outcome = File::new(&of(services))?.validate(&[]).await?;
        assert_eq!(outcome.code, Some(0), "{services}: {}", outcome.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_no_valid_configuration() -> Result<()> {
    let other = tempfile::tempdir()?;
    let other = std::fs::read_to_string(Authority::new()?.issue(other.path(), "tls", &["app.example.com"])?.key)?;
    let file = File::new(GOOD)?;
    let dir = file.dir.path();
    let [cert, key] = [std::fs::read_to_string(dir.join("tls.pem"))?, std::fs::read_to_string(dir.join("tls.key"))?];
    // the same in the configuration itself
    let in_place = |cert: &str, key: &str| {
        let written = |text: &str| serde_json::Value::from(text).to_string();
        let (cert, key) = (written(cert), written(key));
        let keys = format!("certificate: {cert}\ncertificate_key: {key}\n");
        GOOD.replace("certificate_file: DIR/tls.pem\ncertificate_key_file: DIR/tls.key\n", &keys)
    };
    let outcome = File::new(&in_place(&cert, &key))?.validate(&[]).await?;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    let outcome = File::new(&in_place(&cert, &other))?.validate(&[]).await?;
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert_eq!(outcome.stderr.trim(), "portcullis: certificate_key: does not belong to certificate");
    for (name, text, said) in [
        ("tls.key", other.as_str(), "tls.key: does not belong to "),
        ("tls.key", &cert, "tls.key: no private key in PEM"),
        ("tls.pem", &key, "tls.pem: no certificate in PEM"),
    ] {
        let file = File::new(GOOD)?;
        std::fs::write(file.dir.path().join(name), text)?;
        for command in ["validate", "run"] {
            let outcome = launcher().outcome(&[command, "-c", &file.path()], &[]).await?;
            assert_eq!(outcome.code, Some(64), "{command}: {outcome:?}");
            assert!(outcome.stderr.contains(said), "{command}: {outcome:?}");
        }
    }
    Ok(())
}

/// In the form of a NATS user's credentials; nobody's.
const CREDENTIALS: &str = "\
-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.c2lnbmF0dXJl
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4
------END USER NKEY SEED------
";

/// The fenced blocks of YAML in the README.
fn readme() -> Vec<String> {
    let text = include_str!("../../README.md");
    text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_configurations_of_the_readme_are_valid() -> Result<()> {
    let [alone, certificates, pair, cluster, apart, tunnels] =
        readme().try_into().map_err(|found: Vec<_>| anyhow::anyhow!("{} blocks", found.len()))?;
    let pair_elsewhere: String =
        pair.lines().filter(|line| !line.contains("connection_string")).map(|line| format!("{line}\n")).collect();
    let files = [
        alone.clone(),
        format!("{certificates}{alone}"),
        format!("{alone}{tunnels}"),
        format!("{alone}{pair}"),
        format!("{alone}{pair_elsewhere}{cluster}"),
        format!("{alone}{pair}{apart}"),
    ];
    for text in files {
        let file = File::new(&text.replace("/etc/portcullis", "DIR"))?;
        let dir = file.dir.path();
        for (name, like) in
            [("tls.crt", "tls.pem"), ("nats-ca.pem", "tls.pem"), ("nats.pem", "tls.pem"), ("nats.key", "tls.key")]
        {
            std::fs::copy(dir.join(like), dir.join(name))?;
        }
        let clients = Authority::new()?;
        std::fs::write(dir.join("clients.pem"), clients.pem())?;
        std::fs::write(dir.join("revoked.pem"), clients.revoke(&[])?)?;
        std::fs::write(dir.join("nats.creds"), CREDENTIALS)?;
        for secret in ["client-secret", "shared-secret", "cookie-secret"] {
            std::fs::write(dir.join(secret), "c2hhcmVkIHNlY3JldCBvZiAzMiBieXRlcyBmb3IgdXM=")?;
        }
        let outcome = file.validate(&[]).await?;
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    }
    Ok(())
}

#[tokio::test]
async fn every_problem_is_said_at_once_each_with_its_line_and_key() -> Result<()> {
    let file = File::new(&format!(
        "{GOOD}  prefx: /a
- from: http://[bad
  to: ftp://127.0.0.1
- from: https://two.example.com
  to: http://127.0.0.1:9
  policy:
  - allow:
      and:
      - emial: {{is: alice@example.com}}
- from: https://three.example.com
  to: http://127.0.0.1:9
  allowed_groups: [admins]
cookie_expire: soon
shared_secret: {SECRET}x
tracing_provider: jaeger
autocert: true
unheard_of: 1
"
    ))?;
    let outcome = file.validate(&[]).await?;
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    let path = file.path();
    let problem = |line: usize, words: &[&str]| {
        let start = format!("{path}:{line}: ");
        let found = outcome.stderr.lines().any(|text| {
            text.starts_with(&start) && words.iter().all(|word| text.contains(word)) && text.contains("; ")
        });
        assert!(found, "{start}…{words:?} in\n{}", outcome.stderr);
    };
    problem(14, &["routes[0].prefx", "prefix"]);
    problem(15, &["routes[1].from"]);
    problem(16, &["routes[1].to"]);
    problem(22, &["routes[2]", "emial", "email"]);
    problem(25, &["routes[3].allowed_groups"]);
    problem(26, &["cookie_expire"]);
    problem(27, &["shared_secret"]);
    problem(28, &["tracing_provider"]);
    problem(29, &["autocert"]);
    problem(30, &["unheard_of"]);
    assert!(!outcome.stderr.contains(SECRET), "a secret was shown");
    assert!(!outcome.stderr.contains("not shown to anybody"), "a secret was shown");
    Ok(())
}

#[tokio::test]
async fn what_is_missing_is_said_too() -> Result<()> {
    let outcome = File::new("log_level: info\n")?.validate(&[]).await?;
    assert_eq!(outcome.code, Some(64));
    for key in ["authenticate_service_url", "idp_provider", "certificate"] {
        assert!(outcome.stderr.contains(key), "{key} in\n{}", outcome.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_no_yaml_is_told_where_it_stops_being_one() -> Result<()> {
    let file = File::new("address: :443\nroutes: [\n  {from: 'https://a\n")?;
    let outcome = file.validate(&[]).await?;
    assert_eq!(outcome.code, Some(64));
    assert!(outcome.stderr.contains(&format!("{}:", file.path())), "{}", outcome.stderr);
    Ok(())
}

#[tokio::test]
async fn a_variable_that_is_wrong_is_named() -> Result<()> {
    let outcome = File::new(GOOD)?.validate(&[("COOKIE_EXPIRE", "soon")]).await?;
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(outcome.stderr.contains("COOKIE_EXPIRE"), "{}", outcome.stderr);
    Ok(())
}

#[tokio::test]
async fn a_variable_overrides_the_file() -> Result<()> {
    let outcome = File::new(&GOOD.replace("idp_client_id: portcullis", "idp_client_id:"))?
        .validate(&[("IDP_CLIENT_ID", "portcullis")])
        .await?;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn nats_requires_the_secrets_that_nodes_share() -> Result<()> {
    let text =
        format!("{GOOD}databroker_storage_type: nats\ndatabroker_storage_connection_string: nats://127.0.0.1:4222\n");
    let outcome = File::new(&text)?.validate(&[]).await?;
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(outcome.stderr.contains("shared_secret") && outcome.stderr.contains("cookie_secret"), "{}", outcome.stderr);
    Ok(())
}

#[tokio::test]
async fn what_is_unsafe_works_and_is_warned_of_by_its_place() -> Result<()> {
    let file = File::new(&format!("{GOOD}  tls_skip_verify: true\n"))?;
    let outcome = file.validate(&[]).await?;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("{}:14: ", file.path())), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("tls_skip_verify"), "{}", outcome.stderr);
    Ok(())
}

#[tokio::test]
async fn run_refuses_what_validate_refuses() -> Result<()> {
    let file = File::new(&format!("{GOOD}unheard_of: 1\n"))?;
    for arguments in [["run", "-c"], ["run", "--config"]] {
        let outcome = launcher().outcome(&[arguments[0], arguments[1], &file.path()], &[]).await?;
        assert_eq!(outcome.code, Some(64), "{outcome:?}");
        assert!(outcome.stderr.contains("unheard_of"), "{}", outcome.stderr);
    }
    // as Pomerium is started
    let outcome = launcher().outcome(&["-config", &file.path()], &[]).await?;
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(outcome.stderr.contains("unheard_of"), "{}", outcome.stderr);
    let outcome = launcher().outcome(&["run"], &[("PORTCULLIS_CONFIG", &file.path())]).await?;
    assert!(outcome.stderr.contains("unheard_of"), "{}", outcome.stderr);
    Ok(())
}

#[tokio::test]
async fn bad_usage_is_64_and_help_is_fine() -> Result<()> {
    let bad: [&[&str]; 5] = [
        &["frobnicate"],
        &["run", "--no-such-flag"],
        &["events", "--from", "0"],
        &["run"],
        &["validate", "-c", "/nonexistent"],
    ];
    for arguments in bad {
        let outcome = launcher().outcome(arguments, &[]).await?;
        assert_eq!(outcome.code, Some(64), "{arguments:?}: {outcome:?}");
        assert!(!outcome.stderr.is_empty() && outcome.stdout.is_empty(), "{outcome:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        let outcome = launcher().outcome(&arguments, &[]).await?;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(!outcome.stdout.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_fault_is_70() -> Result<()> {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = taken.local_addr()?.to_string();
    let file = File::new(&GOOD.replace("address: 127.0.0.1:0\nhealth", &format!("address: {address}\nhealth")))?;
    let outcome = launcher().outcome(&["run", "-c", &file.path()], &[]).await?;
    assert_eq!(outcome.code, Some(70), "{outcome:?}");
    assert!(outcome.stderr.contains(&address), "{}", outcome.stderr);
    Ok(())
}
