//! What a running process takes over from a configuration that was read again, and what waits for a restart.

use crate::{Config, IdentityProvider, Timeouts};

impl Config {
    /// This configuration with the routes and policies of `new`, and with the keys that routes take from the top level.
    #[must_use]
    pub fn with_routes_of(&self, new: &Self) -> Self {
        Self {
            pass_identity_headers: new.pass_identity_headers,
            jwt_issuer_format: new.jwt_issuer_format,
            max_staleness: new.max_staleness,
            // what bounds connections waits for a restart; routes bring their own
            timeouts: Timeouts { idle: self.timeouts.idle, ..new.timeouts },
            routes: new.routes.clone(),
            warnings: new.warnings.clone(),
            ..self.clone()
        }
    }

    /// The keys that differ in `new` and do not change while the process runs. Every field is named here, so that a new
    /// one cannot be forgotten.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            services,
            address,
            insecure_server,
            certificates,
            authenticate_service_url,
            shared_secret,
            cookie_secret,
            signing_key,
            cookie,
            idp,
            storage,
            jwt_claims_headers,
            signout_redirect_url,
            set_response_headers,
            log_level,
            health_check_addr,
            metrics_address,
            metrics_basic_auth,
            session_idle_timeout,
            timeouts,
            // what routes decide by
            jwt_issuer_format: _,
            pass_identity_headers: _,
            max_staleness: _,
            routes: _,
            warnings: _,
        } = self;
        let differs = [
            ("services", *services != new.services),
            ("address", *address != new.address),
            ("insecure_server", *insecure_server != new.insecure_server),
            ("certificates", *certificates != new.certificates),
            ("authenticate_service_url", *authenticate_service_url != new.authenticate_service_url),
            ("shared_secret", *shared_secret != new.shared_secret),
            ("cookie_secret", *cookie_secret != new.cookie_secret),
            ("signing_key", *signing_key != new.signing_key),
            ("cookie_name", cookie.name != new.cookie.name),
            ("cookie_domain", cookie.domain != new.cookie.domain),
            ("cookie_http_only", cookie.http_only != new.cookie.http_only),
            ("cookie_expire", cookie.expire != new.cookie.expire),
            ("cookie_same_site", cookie.same_site != new.cookie.same_site),
            ("idp_provider_url", of(idp, |idp| &idp.issuer) != of(&new.idp, |idp| &idp.issuer)),
            ("idp_client_id", of(idp, |idp| &idp.client_id) != of(&new.idp, |idp| &idp.client_id)),
            ("idp_client_secret", of(idp, |idp| &idp.client_secret) != of(&new.idp, |idp| &idp.client_secret)),
            ("idp_scopes", of(idp, |idp| &idp.scopes) != of(&new.idp, |idp| &idp.scopes)),
            ("idp_request_params", of(idp, |idp| &idp.request_params) != of(&new.idp, |idp| &idp.request_params)),
            ("databroker_storage_connection_string", *storage != new.storage),
            ("jwt_claims_headers", *jwt_claims_headers != new.jwt_claims_headers),
            ("signout_redirect_url", *signout_redirect_url != new.signout_redirect_url),
            ("set_response_headers", *set_response_headers != new.set_response_headers),
            ("log_level", *log_level != new.log_level),
            ("health_check_addr", *health_check_addr != new.health_check_addr),
            ("metrics_address", *metrics_address != new.metrics_address),
            ("metrics_basic_auth", *metrics_basic_auth != new.metrics_basic_auth),
            ("session_idle_timeout", *session_idle_timeout != new.session_idle_timeout),
            ("timeout_idle", timeouts.idle != new.timeouts.idle),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

fn of<T>(idp: &Option<IdentityProvider>, key: impl Fn(&IdentityProvider) -> &T) -> Option<&T> {
    idp.as_ref().map(key)
}
