//! `outlier_detection`: Envoy's fields with Envoy's defaults, every one of them enforced.

use std::time::Duration;

use super::OutlierDetection;
use super::decode::{check, positive, whole};
use crate::node::Node;

const HERE: [&str; 24] = [
    "consecutive_5xx",
    "interval",
    "base_ejection_time",
    "max_ejection_percent",
    "enforcing_consecutive_5xx",
    "enforcing_success_rate",
    "success_rate_minimum_hosts",
    "success_rate_request_volume",
    "success_rate_stdev_factor",
    "consecutive_gateway_failure",
    "enforcing_consecutive_gateway_failure",
    "split_external_local_origin_errors",
    "consecutive_local_origin_failure",
    "enforcing_consecutive_local_origin_failure",
    "enforcing_local_origin_success_rate",
    "failure_percentage_threshold",
    "enforcing_failure_percentage",
    "enforcing_failure_percentage_local_origin",
    "failure_percentage_minimum_hosts",
    "failure_percentage_request_volume",
    "max_ejection_time",
    "max_ejection_time_jitter",
    "successful_active_health_check_uneject_host",
    "always_eject_one_host",
];

/// The map; every key may be absent.
pub fn decode(node: &Node<'_>) -> Option<OutlierDetection> {
    let fields = node.fields()?;
    check(&fields, &HERE, &["monitors"]);
    let count = |name: &str, default| fields.get(name).and_then(|node| whole(&node, 0, u32::MAX)).unwrap_or(default);
    let percent = |name: &str, default| fields.get(name).and_then(|node| whole(&node, 0, 100)).unwrap_or(default);
    let truth = |name: &str, default| fields.get(name).and_then(|node| node.boolean()).unwrap_or(default);
    let time =
        |name: &str, default| fields.get(name).and_then(|node| positive(&node)).unwrap_or(Duration::from_secs(default));
    let base_ejection_time = time("base_ejection_time", 30);
    Some(OutlierDetection {
        consecutive_5xx: count("consecutive_5xx", 5),
        interval: time("interval", 10),
        base_ejection_time,
        max_ejection_percent: percent("max_ejection_percent", 10),
        enforcing_consecutive_5xx: percent("enforcing_consecutive_5xx", 100),
        enforcing_success_rate: percent("enforcing_success_rate", 100),
        success_rate_minimum_hosts: count("success_rate_minimum_hosts", 5),
        success_rate_request_volume: count("success_rate_request_volume", 100),
        success_rate_stdev_factor: count("success_rate_stdev_factor", 1900),
        consecutive_gateway_failure: count("consecutive_gateway_failure", 5),
        enforcing_consecutive_gateway_failure: percent("enforcing_consecutive_gateway_failure", 0),
        split_external_local_origin_errors: truth("split_external_local_origin_errors", false),
        consecutive_local_origin_failure: count("consecutive_local_origin_failure", 5),
        enforcing_consecutive_local_origin_failure: percent("enforcing_consecutive_local_origin_failure", 100),
        enforcing_local_origin_success_rate: percent("enforcing_local_origin_success_rate", 100),
        failure_percentage_threshold: percent("failure_percentage_threshold", 85),
        enforcing_failure_percentage: percent("enforcing_failure_percentage", 0),
        enforcing_failure_percentage_local_origin: percent("enforcing_failure_percentage_local_origin", 0),
        failure_percentage_minimum_hosts: count("failure_percentage_minimum_hosts", 5),
        failure_percentage_request_volume: count("failure_percentage_request_volume", 50),
        max_ejection_time: time("max_ejection_time", 300).max(base_ejection_time),
        max_ejection_time_jitter: fields
            .get("max_ejection_time_jitter")
            .and_then(|node| node.duration())
            .unwrap_or_default(),
        successful_active_health_check_uneject_host: truth("successful_active_health_check_uneject_host", true),
        always_eject_one_host: truth("always_eject_one_host", false),
    })
}
