//! Every metric by its name, read from where it is kept and written as text.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portcullis_actors::clock;
use portcullis_actors::databroker::view::Views;
use portcullis_actors::metrics::{BUCKETS, Measured};
use portcullis_actors::proxy::connections::Connections;
use portcullis_actors::proxy::upstreams::member::Health;
use portcullis_actors::remote::lookout::Ties;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::tally::{Classes, Totals};
use crate::crowd::Crowd;
use crate::in_force::InForce;
use crate::tls::Tls;

/// Where metrics are read from.
#[derive(Clone)]
pub struct Measures {
    /// The views of this node, with what its actors count.
    pub views: Arc<Views>,
    /// What is in force.
    pub in_force: Arc<InForce>,
    /// What is open for long.
    pub connections: Connections,
    /// Who is connected.
    pub open: Crowd,
    /// What workers have counted.
    pub totals: Totals,
    /// What clients are shown.
    pub tls: Option<Arc<Tls>>,
    /// What is known of components in other processes.
    pub ties: Option<Ties>,
}

impl Measures {
    /// All of them.
    ///
    /// # Errors
    /// None is known: they are written to memory.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Measures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measures").finish_non_exhaustive()
    }
}

impl Collector for Measures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.others(&mut page)?;
        self.configuration(&mut page)?;
        self.certificates(&mut page)?;
        self.requests(&mut page)?;
        self.connections(&mut page)?;
        self.upstreams(&mut page)?;
        self.log(&mut page)?;
        self.sessions(&mut page)
    }
}

impl Measures {
    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        page.labelled_gauge("portcullis_build_info", "What runs here.", "version", &[(version, 1_u64)])?;
        page.labelled_gauge("pomerium_build_info", "What runs here.", "version", &[(version, 1_u64)])
    }

    fn others(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(ties) = &self.ties else { return Ok(()) };
        let others = ties.others();
        let values: Vec<_> = others.iter().map(|(other, wrong)| (*other, u64::from(wrong.is_none()))).collect();
        let help = "Whether a component in another process answers.";
        page.labelled_gauge("portcullis_component_answers", help, "component", &values)
    }

    /// With Pomerium's names beside ours where they mean the same.
    fn configuration(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &self.views.metrics;
        let rules = self.in_force.now();
        let (good, since) =
            (metrics.last_reload_good.get(), Duration::from_millis(millis(metrics.in_force_since.get())));
        page.labelled_gauge(
            "portcullis_config_revision_info",
            "The configuration in force.",
            "revision",
            &[(rules.revision.as_str(), 1_u64)],
        )?;
        page.gauge("pomerium_config_checksum_decimal", "The same as a number.", rules.revision.number())?;
        for (name, help) in [
            ("portcullis_config_last_reload_success", "Whether the configuration last read came into force."),
            ("pomerium_config_last_reload_success", "Whether the configuration last read came into force."),
        ] {
            page.gauge(name, help, good)?;
        }
        for name in
            ["portcullis_config_last_reload_success_timestamp_seconds", "pomerium_config_last_reload_success_timestamp"]
        {
            page.gauge(name, "When a configuration last came into force, in Unix time.", since.as_secs_f64())?;
        }
        page.outcomes("portcullis_config_reloads", "Configurations that were read again.", metrics.reloads.all())?;
        let routes = rules.config.routes.len();
        page.gauge("portcullis_routes", "Routes in force.", routes)?;
        page.gauge("pomerium_policy_count_total", "Routes in force.", routes)
    }

    fn certificates(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(tls) = &self.tls else { return Ok(()) };
        let state = tls.now();
        let ends: Vec<_> = state.certificates.ends().map(|(name, end)| (name, end.secs())).collect();
        let help = "When a certificate towards clients ends, in Unix time, by its first name.";
        page.labelled_gauge("portcullis_certificate_end_timestamp_seconds", help, "name", &ends)
    }

    fn requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let rules = self.in_force.now();
        let mut counts = self.totals.counts();
        // routes that are gone take their counts with them
        let in_force: std::collections::HashSet<&str> =
            rules.config.routes.iter().map(|route| route.id.as_str()).collect();
        counts.routes.retain(|id, _| in_force.contains(id.as_str()));
        let mut rows: Vec<(&str, &str, Classes)> = vec![("none", "", counts.elsewhere), ("other", "", counts.beyond)];
        rows.extend(
            counts
                .routes
                .iter()
                .map(|(id, route)| (id.as_str(), route.name.as_deref().unwrap_or_default(), route.classes)),
        );
        rows.sort_unstable();
        page.requests(&rows)?;
        let mut decisions: Vec<_> = counts.decisions.iter().map(|(decided, count)| (decided.name(), *count)).collect();
        decisions.sort_unstable();
        page.outcomes("portcullis_decisions", "Requests to routes, by what was decided.", decisions.into_iter())?;
        let mut misread: Vec<_> = counts.misread.iter().map(|(why, count)| (why.name(), *count)).collect();
        misread.sort_unstable();
        page.outcomes("portcullis_refused_heads", "Heads that became no requests.", misread.into_iter())?;
        let mut bounds: Vec<_> = counts.bounds.iter().map(|(bound, count)| (bound.name(), *count)).collect();
        bounds.sort_unstable();
        page.outcomes("portcullis_bounds_reached", "What clients came up against.", bounds.into_iter())?;
        page.durations(
            "portcullis_request_duration_seconds",
            "From the first byte of a request to the last one of its answer; no tunnels.",
            &counts.durations,
        )
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let long = i64::try_from(self.connections.len()).unwrap_or(i64::MAX);
        let client = i64::try_from(self.open.count()).unwrap_or(i64::MAX);
        let upstream = self.views.metrics.upstream_connections.get();
        page.labelled_gauge(
            "portcullis_open_connections",
            "Connections of clients and to upstreams; of these, what is registered as open for long.",
            "kind",
            &[("client", client), ("long_lived", long), ("upstream", upstream)],
        )
    }

    fn upstreams(&self, page: &mut Page<'_>) -> fmt::Result {
        let (mut available, mut unhealthy, mut ejected) = (0_u64, 0_u64, 0_u64);
        for cluster in self.in_force.now().upstreams.clusters() {
            for member in &cluster.view().members {
                match member.health() {
                    Health::Unhealthy => unhealthy += 1,
                    Health::Healthy | Health::Unknown if member.is_ejected() => ejected += 1,
                    Health::Healthy | Health::Unknown => available += 1,
                }
            }
        }
        page.labelled_gauge(
            "portcullis_upstreams",
            "Addresses that requests of all routes may go to.",
            "state",
            &[("available", available), ("unhealthy", unhealthy), ("ejected", ejected)],
        )?;
        let counted = &self.views.metrics.upstreams;
        page.outcomes("portcullis_upstream_checks", "Active checks of upstreams.", counted.checks.all())?;
        let help = "Requests that a route's upstreams did not take.";
        page.outcomes("portcullis_upstream_refusals", help, counted.refusals.all())?;
        let events = [("ejection", counted.ejections.get()), ("retry", counted.retries.get())];
        page.outcomes("portcullis_upstream_events", "Ejections and second attempts.", events.into_iter())
    }

    fn log(&self, page: &mut Page<'_>) -> fmt::Result {
        let (progress, metrics, now) = (&self.views.progress, &self.views.metrics, clock::now());
        let ready = progress.standing(now).is_ready();
        page.gauge("portcullis_log_ready", "Whether the log was read to its end lately.", u64::from(ready))?;
        page.gauge("portcullis_log_applied_sequence", "The last sequence in the views.", progress.applied())?;
        page.gauge("portcullis_log_head_sequence", "The log's last sequence, as far as is known.", progress.head())?;
        page.gauge("portcullis_log_lag_records", "Records that are known and not in the views.", progress.lag())?;
        // absent before the log was read to its end for the first time: any number would be a lie
        if let Some(age) = progress.staleness(now) {
            page.gauge(
                "portcullis_log_staleness_seconds",
                "How long ago the log's authority knew nothing that is not in the views.",
                age.as_secs_f64(),
            )?;
        }
        page.outcomes("portcullis_log_appends", "Appends to the log by this node.", metrics.appends.all())?;
        for (name, help, durations) in [
            ("portcullis_log_append_duration_seconds", "Appends that were acknowledged.", &metrics.append_time),
            (
                "portcullis_log_read_back_duration_seconds",
                "From an acknowledgement to this node's views.",
                &metrics.read_back_time,
            ),
            ("portcullis_replica_apply_duration_seconds", "Records applied by this node.", &metrics.apply_time),
            (
                "portcullis_revocation_apply_duration_seconds",
                "From the time in an event that ends a session until this node refuses it.",
                &metrics.revocation_time,
            ),
        ] {
            page.durations(name, help, &durations.get())?;
        }
        Ok(())
    }

    fn sessions(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &self.views.metrics;
        page.gauge("portcullis_sessions", "Sessions in the views.", self.views.sessions())?;
        page.outcomes("portcullis_sign_ins", "Sign-ins that came through this node.", metrics.sign_ins.all())?;
        page.outcomes("portcullis_token_refreshes", "Token refreshes by this node.", metrics.refreshes.all())
    }
}

fn millis(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// What the exemplars that we have none of would be labelled with.
type NoExemplar<V> = Exemplar<[(&'static str, &'static str); 0], V>;

/// The text in the making.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn labelled_gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(&str, V)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            metric.encode_family(&[(label, *of)])?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn outcomes<'n>(&mut self, name: &str, help: &str, all: impl Iterator<Item = (&'n str, u64)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (outcome, count) in all {
            metric.encode_family(&[("outcome", outcome)])?.encode_counter(&count, None::<&NoExemplar<f64>>)?;
        }
        Ok(())
    }

    fn requests(&mut self, rows: &[(&str, &str, Classes)]) -> fmt::Result {
        const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let help = "Requests by route and by the class of their answer; none where the client left before it.";
        let mut metric = self.0.encode_descriptor("portcullis_requests", help, None, MetricType::Counter)?;
        for (id, name, classes) in rows {
            for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| **count > 0) {
                let labels = [("route", *id), ("name", *name), ("class", *class)];
                metric.encode_family(&labels)?.encode_counter(count, None::<&NoExemplar<f64>>)?;
            }
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, measured: &Measured) -> fmt::Result {
        let bounds = BUCKETS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64());
        let mut buckets: Vec<(f64, u64)> = bounds.zip(measured.buckets).collect();
        buckets.push((f64::INFINITY, measured.longer));
        let sum = Duration::from_micros(measured.micros).as_secs_f64();
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram(sum, measured.count(), &buckets, None::<&NoExemplars>)
    }
}

type NoExemplars = std::collections::HashMap<usize, NoExemplar<f64>>;
