//! The policy language as it is written, decoded into the data of `policy`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Number, Value};

use crate::keys::{check_names, nearest};
use crate::limits::CLAIM_DEPTH;
use crate::node::{NOT_YET, Node};
use crate::policy::{Actions, Criterion, ListMatcher, ListTest, Rule, StringMatcher, StringTest};
use crate::tree::Kind;

/// The criteria of this version, as they are written.
const CRITERIA: &[&str] = &[
    "accept",
    "reject",
    "authenticated_user",
    "user",
    "email",
    "domain",
    "groups",
    "claim",
    "http_method",
    "http_path",
    "source_ip",
    "cors_preflight",
    "pomerium_routes",
];

/// The criteria of Pomerium that this version does not have.
const LATER: &[&str] = &[
    "client_certificate",
    "date",
    "day_of_week",
    "device",
    "invalid_client_certificate",
    "mcp_tool",
    "record",
    "ssh_ca",
    "ssh_publickey",
    "ssh_username",
    "ssh_username_matches_claim",
    "ssh_username_matches_email",
    "time_of_day",
];

/// `document := rule | [rule, …]`. Rules with a problem are reported and left out.
pub fn decode(node: &Node<'_>) -> Vec<Rule> {
    let nodes = node.items().unwrap_or_else(|| vec![node.clone()]);
    nodes.iter().filter_map(rule).collect()
}

/// `rule := {allow: actions, deny: actions}`, at least one of them.
fn rule(node: &Node<'_>) -> Option<Rule> {
    let fields = node.fields()?;
    check_names(&fields, &["allow", "deny"]);
    if node.is_empty_collection() {
        return node.refuse("says nothing", "allow or deny");
    }
    let part = |name| fields.entries().find(|(key, _)| *key == name).map(|(_, node)| actions(&node));
    let (allow, deny) = (part("allow"), part("deny"));
    Some(Rule { allow: transposed(allow)?, deny: transposed(deny)? })
}

/// An absent part is fine; a part with a problem takes its rule with it.
fn transposed<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
    }
}

/// `actions := {and: […], or: […], not: […], nor: […]}`, at least one of them.
fn actions(node: &Node<'_>) -> Option<Actions> {
    let fields = node.fields()?;
    check_names(&fields, &["and", "or", "not", "nor"]);
    if node.is_empty_collection() {
        return node.refuse("says nothing", "and, or, not or nor, with a list of criteria");
    }
    let part = |name| fields.entries().find(|(key, _)| *key == name).map(|(_, node)| criteria(&node));
    let (and, or, not, nor) = (part("and"), part("or"), part("not"), part("nor"));
    Some(Actions {
        and: transposed(and)?.unwrap_or_default(),
        or: transposed(or)?.unwrap_or_default(),
        not: transposed(not)?.unwrap_or_default(),
        nor: transposed(nor)?.unwrap_or_default(),
    })
}

fn criteria(node: &Node<'_>) -> Option<Vec<Criterion>> {
    let Some(items) = node.items() else {
        return node.refuse("is not a list", "a list of criteria, each with a dash");
    };
    let read: Vec<_> = items.iter().map(criterion).collect();
    read.into_iter().collect()
}

/// `criterion := {name: data}` or `{name/sub/path: data}`, exactly one key.
fn criterion(node: &Node<'_>) -> Option<Criterion> {
    let fields = node.fields()?;
    let mut entries = fields.entries();
    let (Some((key, data)), None) = (entries.next(), entries.next()) else {
        return node.refuse("is not exactly one criterion", "one criterion behind each dash");
    };
    let (name, path) = match key.split_once('/') {
        Some((name, path)) => (name, Some(path)),
        None => (key, None),
    };
    if !CRITERIA.contains(&name) {
        return unknown(&data, name);
    }
    match (name, path) {
        ("claim", Some(path)) => {
            Some(Criterion::Claim { path: claim_path(&data, path)?, matcher: list_matcher(&data, scalar)? })
        }
        ("claim", None) => data.refuse("names no claim", "claim/NAME"),
        (_, Some(_)) => data.refuse("takes no path behind its name", name),
        ("accept", None) => bare(&data, Criterion::Accept),
        ("reject", None) => bare(&data, Criterion::Reject),
        ("authenticated_user", None) => bare(&data, Criterion::AuthenticatedUser),
        ("cors_preflight", None) => bare(&data, Criterion::CorsPreflight),
        ("pomerium_routes", None) => bare(&data, Criterion::PomeriumRoutes),
        ("user", None) => string_matcher(&data).map(Criterion::User),
        ("email", None) => string_matcher(&data).map(Criterion::Email),
        ("domain", None) => string_matcher(&data).map(Criterion::Domain),
        ("http_method", None) => string_matcher(&data).map(Criterion::HttpMethod),
        ("http_path", None) => string_matcher(&data).map(Criterion::HttpPath),
        ("groups", None) => list_matcher(&data, group).map(Criterion::Groups),
        ("source_ip", None) => networks(&data).map(Criterion::SourceIp),
        (_, None) => unknown(&data, name),
    }
}

fn unknown<T>(node: &Node<'_>, name: &str) -> Option<T> {
    if LATER.contains(&name) {
        return node.refuse(&format!("{NOT_YET} as a criterion"), "remove it, or the route");
    }
    match nearest(name, CRITERIA.iter().copied()) {
        Some(near) => node.refuse("is not a known criterion", &format!("did you mean {near}")),
        None => node.refuse("is not a known criterion", &format!("one of {}", CRITERIA.join(", "))),
    }
}

/// A criterion without data: `true`, nothing, an empty map. What looks like its opposite or like a matcher is refused,
/// because it would be ignored.
fn bare(node: &Node<'_>, criterion: Criterion) -> Option<Criterion> {
    let is_negative = |text: &str| ["false", "no", "off", "0"].iter().any(|no| text.eq_ignore_ascii_case(no));
    match node.scalar() {
        Some(scalar) if is_negative(&scalar.text) => {
            node.refuse("cannot be switched off", "true; to say the opposite use `not`, or remove it")
        }
        Some(_) => Some(criterion),
        None if node.is_empty_collection() => Some(criterion),
        None => node.refuse("takes no data", "true"),
    }
}

/// Levels of a claim, split at `/` and `.`. A name that is itself a URL (as namespaced claims are) is one level.
pub fn claim_path(node: &Node<'_>, path: &str) -> Option<Vec<String>> {
    if path.contains("://") {
        return Some(vec![path.to_owned()]);
    }
    let levels: Vec<String> = path.split(['/', '.']).map(str::to_owned).collect();
    if levels.iter().any(String::is_empty) {
        return node.refuse("has an empty level in its claim", "claim/NAME or claim/NAME/NAME");
    }
    if levels.len() > CLAIM_DEPTH {
        return node.refuse("looks too deep into its claim", &format!("{CLAIM_DEPTH} levels at most"));
    }
    Some(levels)
}

fn string_matcher(node: &Node<'_>) -> Option<StringMatcher> {
    if !node.is_map() {
        return node.text().map(|text| StringMatcher(vec![StringTest::Is(text)]));
    }
    let known = ["is", "not", "contains", "starts_with", "ends_with", "in", "not_in"];
    let fields = node.fields()?;
    check_names(&fields, &known);
    let tests: Vec<_> = (fields.entries().filter(|(name, _)| known.contains(name)))
        .map(|(name, data)| match name {
            "is" => data.text().map(StringTest::Is),
            "not" => data.text().map(StringTest::Not),
            "contains" => data.text().map(StringTest::Contains),
            "starts_with" => data.text().map(StringTest::StartsWith),
            "ends_with" => data.text().map(StringTest::EndsWith),
            "in" => texts(&data).map(StringTest::In),
            _ => texts(&data).map(StringTest::NotIn),
        })
        .collect();
    let tests: Vec<_> = tests.into_iter().collect::<Option<_>>()?;
    if node.is_empty_collection() {
        return node.refuse("tests nothing", &format!("one of {}", known.join(", ")));
    }
    // only keys that are not known: reported above
    (!tests.is_empty()).then_some(StringMatcher(tests))
}

fn texts(node: &Node<'_>) -> Option<Vec<String>> {
    let Some(items) = node.items() else {
        return node.refuse("is not a list", "a list of texts");
    };
    let read: Vec<_> = items.iter().map(Node::text).collect();
    read.into_iter().collect()
}

fn list_matcher(node: &Node<'_>, value: fn(&Node<'_>) -> Option<Value>) -> Option<ListMatcher> {
    if !node.is_map() {
        return value(node).map(|value| ListMatcher(vec![ListTest::Has(value)]));
    }
    let known = ["has", "is", "exclude"];
    let fields = node.fields()?;
    check_names(&fields, &known);
    let tests: Vec<_> = (fields.entries().filter(|(name, _)| known.contains(name)))
        .map(|(name, data)| match name {
            "has" => value(&data).map(ListTest::Has),
            "is" => value(&data).map(ListTest::Is),
            _ => value(&data).map(ListTest::Exclude),
        })
        .collect();
    let tests: Vec<_> = tests.into_iter().collect::<Option<_>>()?;
    if node.is_empty_collection() {
        return node.refuse("tests nothing", "has, is or exclude");
    }
    (!tests.is_empty()).then_some(ListMatcher(tests))
}

/// A group is a text, whatever it looks like.
fn group(node: &Node<'_>) -> Option<Value> {
    one(node)?;
    node.text().map(Value::String)
}

/// A claim's value: text, number or boolean.
pub fn scalar(node: &Node<'_>) -> Option<Value> {
    let scalar = one(node)?;
    match scalar.kind {
        Kind::Text => Some(Value::String(scalar.text.clone())),
        Kind::Bool(value) => Some(Value::Bool(value)),
        Kind::Integer(value) => Some(Value::Number(value.into())),
        Kind::Float(value) => match Number::from_f64(value) {
            Some(number) => Some(Value::Number(number)),
            None => node.refuse("is not a number that JSON has", "put it in quotes"),
        },
        Kind::Null => node.refuse("has no value", "the value that the claim must have"),
    }
}

fn one<'a>(node: &Node<'a>) -> Option<&'a crate::tree::Scalar> {
    let scalar = node.scalar();
    if scalar.is_none() {
        node.wrong("is a list or a map", "one value; for several, one criterion each, under `or`");
    }
    scalar
}

/// One address or network, or a list of them.
fn networks(node: &Node<'_>) -> Option<Vec<IpNet>> {
    let nodes = node.items().unwrap_or_else(|| vec![node.clone()]);
    if nodes.is_empty() {
        return node.refuse("is empty", "an address or a network, or a list of them");
    }
    let read: Vec<_> = nodes.iter().map(network).collect();
    read.into_iter().collect()
}

fn network(node: &Node<'_>) -> Option<IpNet> {
    let text = node.text()?;
    let network = text.parse::<IpNet>().map(|network| network.trunc());
    match network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
        Ok(network) => Some(network),
        Err(_) => node.refuse("is not an address or network", "such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"),
    }
}
