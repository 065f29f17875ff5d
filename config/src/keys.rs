//! Every key that Pomerium has or had, at the top level and in a route, and what we do with it.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::node::{Fields, NOT_YET};

/// The base64 of configuration values: standard alphabet, padding optional.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A key and what we do with it.
pub struct Key {
    pub name: &'static str,
    pub status: Status,
}

/// What we do with a key.
pub enum Status {
    /// Decoded; how an environment variable gives it.
    Here(Shape),
    /// Pomerium has it, we do not yet.
    NotYet,
    /// Pomerium had it; what took its place.
    Gone(&'static str),
}

/// How an environment variable gives a value.
#[derive(Clone, Copy)]
pub enum Shape {
    /// As it is.
    Text,
    /// Separated by commas, or JSON.
    List,
    /// JSON (or YAML).
    Map,
    /// YAML in base64.
    Document,
}

use Shape::{Document, List, Map, Text};

const fn here(name: &'static str, shape: Shape) -> Key {
    Key { name, status: Status::Here(shape) }
}

const fn later(name: &'static str) -> Key {
    Key { name, status: Status::NotYet }
}

const fn gone(name: &'static str, instead: &'static str) -> Key {
    Key { name, status: Status::Gone(instead) }
}

const DIRECTORY: &str = "use the `groups` claim of the identity provider";
const TRACING: &str = "remove it; tracing is set by `otel_…`";
const ALWAYS: &str = "remove it; cookies are always `Secure`";
const CLIENT_CA: &str = "use `downstream_mtls.ca` or `downstream_mtls.ca_file`";

/// Keys of the top level.
pub const GLOBAL: &[Key] = &[
    here("services", List),
    here("address", Text),
    here("insecure_server", Text),
    here("certificates", Map),
    here("certificate", Text),
    here("certificate_key", Text),
    here("certificate_file", Text),
    here("certificate_key_file", Text),
    here("authenticate_service_url", Text),
    here("shared_secret", Text),
    here("shared_secret_file", Text),
    here("cookie_secret", Text),
    here("cookie_secret_file", Text),
    here("signing_key", Text),
    here("signing_key_file", Text),
    here("cookie_name", Text),
    here("cookie_domain", Text),
    here("cookie_http_only", Text),
    here("cookie_expire", Text),
    here("cookie_same_site", Text),
    here("session_idle_timeout", Text),
    here("idp_provider", Text),
    here("idp_provider_url", Text),
    here("idp_client_id", Text),
    here("idp_client_secret", Text),
    here("idp_client_secret_file", Text),
    here("idp_scopes", List),
    here("idp_request_params", Map),
    here("databroker_storage_type", Text),
    here("databroker_storage_connection_string", Text),
    here("databroker_storage_connection_string_file", Text),
    here("databroker_storage_ca_file", Text),
    here("databroker_storage_cert_file", Text),
    here("databroker_storage_key_file", Text),
    here("databroker_storage_tls_skip_verify", Text),
    // ours, as Pomerium has no storage that they would belong to
    here("databroker_storage_credentials_file", Text),
    here("databroker_storage_nkey_file", Text),
    here("databroker_storage_replicas", Text),
    here("databroker_storage_api_prefix", Text),
    here("jwt_claims_headers", List),
    here("jwt_issuer_format", Text),
    here("pass_identity_headers", Text),
    here("signout_redirect_url", Text),
    here("programmatic_redirect_domain_whitelist", List),
    here("set_response_headers", Map),
    here("log_level", Text),
    here("health_check_addr", Text),
    here("metrics_address", Text),
    here("metrics_basic_auth", Text),
    // ours
    here("max_staleness", Text),
    here("max_connections", Text),
    here("max_connections_per_client", Text),
    here("max_request_body", Text),
    // Pomerium's again
    here("http_redirect_addr", Text),
    here("codec_type", Text),
    here("use_proxy_protocol", Text),
    here("skip_xff_append", Text),
    here("xff_num_trusted_hops", Text),
    here("normalize_path", Text),
    here("merge_slashes", Text),
    here("path_with_escaped_slashes_action", Text),
    here("headers_with_underscores_action", Text),
    here("downstream_mtls", Map),
    here("routes", Document),
    here("policy", Document),
    later("installation_id"),
    later("proxy_log_level"),
    later("access_log_fields"),
    later("authorize_log_fields"),
    later("runtime_flags"),
    later("debug_address"),
    later("health_check_systemd_disabled"),
    later("autocert"),
    later("autocert_ca"),
    later("autocert_email"),
    later("autocert_use_staging"),
    later("autocert_eab_key_id"),
    later("autocert_eab_mac_key"),
    later("autocert_must_staple"),
    later("autocert_trusted_ca"),
    later("autocert_trusted_ca_file"),
    later("autocert_dir"),
    later("http3_advertise_port"),
    here("timeout_read", Text),
    here("timeout_write", Text),
    here("timeout_idle", Text),
    later("allow_upgrades"),
    later("envoy_bind_config_source_address"),
    later("envoy_bind_config_freebind"),
    later("envoy_admin_address"),
    later("envoy_admin_access_log_path"),
    later("envoy_admin_profile_path"),
    later("envoy_dynamic_extensions"),
    later("authenticate_internal_service_url"),
    later("authorize_service_url"),
    later("authorize_service_urls"),
    later("authorize_internal_service_url"),
    later("databroker_service_url"),
    later("databroker_service_urls"),
    later("databroker_internal_service_url"),
    later("grpc_address"),
    later("grpc_insecure"),
    later("grpc_client_timeout"),
    later("override_certificate_name"),
    here("certificate_authority", Text),
    here("certificate_authority_file", Text),
    later("tls_derive"),
    later("idp_access_token_allowed_audiences"),
    later("identity_providers"),
    later("bearer_token_format"),
    here("jwt_groups_filter", List),
    later("jwt_groups_filter_infer_from_ppl"),
    later("google_cloud_serverless_authentication_service_account"),
    later("primary_color"),
    later("secondary_color"),
    later("darkmode_primary_color"),
    later("darkmode_secondary_color"),
    later("logo_url"),
    later("favicon_url"),
    later("error_message_first_paragraph"),
    here("default_upstream_timeout", Text),
    here("circuit_breaker_thresholds", Map),
    here("dns_lookup_family", Text),
    here("dns_refresh_rate", Text),
    here("dns_failure_refresh_rate", Text),
    here("dns_query_timeout", Text),
    later("dns_query_tries"),
    later("dns_udp_max_queries"),
    later("dns_use_tcp"),
    later("dns_resolvers"),
    later("databroker_cluster_nodes"),
    later("databroker_cluster_node_id"),
    later("databroker_cluster_leader_id"),
    later("databroker_raft_bind_address"),
    later("blob_storage"),
    later("session_recording_concurrency"),
    later("directory_provider"),
    later("directory_provider_options"),
    later("directory_provider_refresh_interval"),
    later("directory_provider_refresh_timeout"),
    later("auto_apply_changesets"),
    later("metrics_certificate"),
    later("metrics_certificate_file"),
    later("metrics_certificate_key"),
    later("metrics_certificate_key_file"),
    later("metrics_client_ca"),
    later("metrics_client_ca_file"),
    later("otel_traces_exporter"),
    later("otel_traces_sampler_arg"),
    later("otel_resource_attributes"),
    later("otel_log_level"),
    later("otel_attribute_value_length_limit"),
    later("otel_exporter_otlp_endpoint"),
    later("otel_exporter_otlp_traces_endpoint"),
    later("otel_exporter_otlp_protocol"),
    later("otel_exporter_otlp_traces_protocol"),
    later("otel_exporter_otlp_headers"),
    later("otel_exporter_otlp_traces_headers"),
    later("otel_exporter_otlp_timeout"),
    later("otel_exporter_otlp_traces_timeout"),
    later("otel_bsp_schedule_delay"),
    later("otel_bsp_max_export_batch_size"),
    later("ssh_address"),
    later("ssh_host_keys"),
    later("ssh_host_key_files"),
    later("ssh_user_ca_key"),
    later("ssh_user_ca_key_file"),
    later("ssh_rls_enabled"),
    later("ssh_rls_additional_entries"),
    later("mcp_allowed_client_id_domains"),
    later("mcp_allowed_as_metadata_domains"),
    gone("headers", "use `set_response_headers`"),
    gone("pomerium_debug", "use `log_level: debug`"),
    gone("client_ca", CLIENT_CA),
    gone("client_ca_file", CLIENT_CA),
    gone("idp_service_account", DIRECTORY),
    gone("idp_refresh_directory_timeout", DIRECTORY),
    gone("idp_refresh_directory_interval", DIRECTORY),
    gone("idp_qps", DIRECTORY),
    gone("policy_file", "use `routes`"),
    gone("authenticate_callback_path", "remove it; the callback is `/oauth2/callback`"),
    gone("cookie_secure", ALWAYS),
    gone("forward_auth_url", "use `routes`; there is no forward-auth mode"),
    gone("administrators", "remove it; rights are given by policy"),
    gone("tracing_provider", TRACING),
    gone("tracing_sample_rate", TRACING),
    gone("tracing_debug", TRACING),
    gone("tracing_otlp_endpoint", TRACING),
    gone("tracing_otlp_protocol", TRACING),
    gone("tracing_datadog_address", TRACING),
    gone("tracing_jaeger_collector_endpoint", TRACING),
    gone("tracing_jaeger_agent_endpoint", TRACING),
    gone("tracing_zipkin_endpoint", TRACING),
];

/// Keys of a route.
pub const ROUTE: &[Key] = &[
    here("name", Text),
    here("from", Text),
    here("to", List),
    here("prefix", Text),
    here("path", Text),
    here("prefix_rewrite", Text),
    here("preserve_host_header", Text),
    here("set_request_headers", Map),
    here("remove_request_headers", List),
    here("set_response_headers", Map),
    here("allow_websockets", Text),
    here("tls_skip_verify", Text),
    here("pass_identity_headers", Text),
    here("jwt_issuer_format", Text),
    here("max_staleness", Text),
    here("max_request_body", Text),
    here("rate_limit", Map),
    here("policy", Map),
    here("allow_public_unauthenticated_access", Text),
    here("allow_any_authenticated_user", Text),
    here("cors_allow_preflight", Text),
    here("allowed_users", List),
    here("allowed_domains", List),
    here("id", Text),
    here("description", Text),
    here("logo_url", Text),
    here("stat_name", Text),
    here("redirect", Map),
    here("response", Map),
    here("regex", Text),
    here("regex_priority_order", Text),
    here("regex_rewrite_pattern", Text),
    here("regex_rewrite_substitution", Text),
    here("host_rewrite", Text),
    here("host_rewrite_header", Text),
    here("host_path_regex_rewrite_pattern", Text),
    here("host_path_regex_rewrite_substitution", Text),
    here("allowed_idp_claims", Map),
    here("show_error_details", Text),
    here("timeout", Text),
    here("idle_timeout", Text),
    here("rewrite_response_headers", List),
    here("jwt_groups_filter", List),
    later("sub_policies"),
    later("allow_spdy"),
    later("allow_upgrades"),
    later("jwt_groups_filter_infer_from_ppl"),
    later("bearer_token_format"),
    later("idp_access_token_allowed_audiences"),
    later("identity_providers"),
    later("idp_client_id"),
    later("idp_client_secret"),
    later("kubernetes_service_account_token"),
    later("kubernetes_service_account_token_file"),
    later("enable_google_cloud_serverless_authentication"),
    here("tls_server_name", Text),
    here("tls_upstream_server_name", Text),
    later("tls_downstream_server_name"),
    here("tls_custom_ca", Text),
    here("tls_custom_ca_file", Text),
    here("tls_client_cert", Text),
    here("tls_client_cert_file", Text),
    here("tls_client_key", Text),
    here("tls_client_key_file", Text),
    here("tls_upstream_allow_renegotiation", Text),
    later("tls_downstream_client_ca"),
    later("tls_downstream_client_ca_file"),
    later("depends_on"),
    here("load_balancing_policy", Text),
    here("load_balancing_weights", List),
    here("health_checks", Document),
    here("outlier_detection", Map),
    here("healthy_panic_threshold", Text),
    here("circuit_breaker_thresholds", Map),
    later("mcp"),
    later("upstream_tunnel"),
    later("session_recording"),
    later("policy_ids"),
    later("namespace_id"),
    later("originator_id"),
    later("tls_client_key_pair_id"),
    later("tls_custom_ca_key_pair_id"),
    later("tls_downstream_client_ca_key_pair_id"),
    gone("allowed_groups", "use `policy` with the criterion `groups`"),
    gone("set_authorization_header", "use `set_request_headers` with `Authorization`"),
];

/// Reports every key of a map that is not decoded: not yet, not any more, or not known.
pub fn check(fields: &Fields<'_>, table: &[Key]) {
    for (name, node) in fields.entries() {
        if node.report().is_full() {
            return;
        }
        match find(name, table) {
            Some(Status::Here(_)) => {}
            Some(Status::NotYet) => node.wrong(NOT_YET, "remove it"),
            Some(Status::Gone(instead)) => node.wrong("no longer exists in Pomerium", instead),
            None => node.wrong("is not a known key", &suggestion(name, table)),
        }
    }
}

/// Reports every key of a map that is not among those known.
pub fn check_names(fields: &Fields<'_>, known: &[&str]) {
    for (name, node) in fields.entries().filter(|(name, _)| !known.contains(name)) {
        let right = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean {near}"),
            None => format!("one of {}", known.join(", ")),
        };
        node.wrong("is not a known key", &right);
    }
}

/// The known name that was probably meant, if one is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name.chars().take(crate::limits::CONFIG_KEY_SHOWN).collect::<String>().to_ascii_lowercase();
    let allowed = 1 + name.chars().count() / 4;
    known
        .map(|other| (strsim::damerau_levenshtein(&name, &other.to_ascii_lowercase()), other))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

fn find<'a>(name: &str, table: &'a [Key]) -> Option<&'a Status> {
    table.iter().find(|key| key.name == name).map(|key| &key.status)
}

fn suggestion(name: &str, table: &[Key]) -> String {
    let is_known_in = |other: &[Key]| matches!(find(name, other), Some(Status::Here(_)));
    let here = table.iter().filter(|key| matches!(key.status, Status::Here(_))).map(|key| key.name);
    if is_known_in(ROUTE) {
        return "it belongs to a route".to_owned();
    }
    if is_known_in(GLOBAL) {
        return "it belongs to the top level".to_owned();
    }
    match nearest(name, here) {
        Some(near) => format!("did you mean {near}"),
        None => "remove it".to_owned(),
    }
}

#[cfg(test)]
mod tests;
