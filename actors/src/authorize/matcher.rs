//! Matchers, compiled: tests of a text, of a list of values, and of an address; none of them allocates.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_config::policy::{CertificateMatcher, ListMatcher, ListTest, StringMatcher, StringTest};
use serde_json::Value;

use crate::request::certificate::CertificateDetails;

/// A sorted set of texts.
#[derive(Debug)]
pub(super) struct TextSet(Box<[Box<str>]>);

impl TextSet {
    pub(super) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut texts: Vec<Box<str>> = texts.into_iter().map(Into::into).collect();
        texts.sort_unstable();
        texts.dedup();
        Self(texts.into())
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.0.binary_search_by(|member| (**member).cmp(text)).is_ok()
    }
}

/// Tests of one text, all of which must hold.
#[derive(Debug)]
pub(super) struct Text(Box<[TextTest]>);

#[derive(Debug)]
enum TextTest {
    Is(Box<str>),
    Not(Box<str>),
    Contains(Box<str>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    In(TextSet),
    NotIn(TextSet),
}

impl Text {
    /// Case-sensitive.
    pub(super) fn compile(matcher: &StringMatcher) -> Self {
        Self(matcher.0.iter().map(|test| TextTest::compile(test, &|text| text.to_owned())).collect())
    }

    /// For texts that are lower case when they come here: what is looked for is made so too, else a deny that was
    /// written in capitals would never be true.
    pub(super) fn compile_lower_case(matcher: &StringMatcher) -> Self {
        Self(matcher.0.iter().map(|test| TextTest::compile(test, &str::to_ascii_lowercase)).collect())
    }

    /// A matcher without a test matches nothing.
    pub(super) fn matches(&self, text: &str) -> bool {
        !self.0.is_empty() && self.0.iter().all(|test| test.holds(text))
    }
}

impl TextTest {
    fn compile(test: &StringTest, spelled: &dyn Fn(&str) -> String) -> Self {
        let set = |texts: &[String]| {
            let texts: Vec<String> = texts.iter().map(|text| spelled(text)).collect();
            TextSet::new(texts.iter().map(String::as_str))
        };
        match test {
            StringTest::Is(text) => Self::Is(spelled(text).into()),
            StringTest::Not(text) => Self::Not(spelled(text).into()),
            StringTest::Contains(text) => Self::Contains(spelled(text).into()),
            StringTest::StartsWith(text) => Self::StartsWith(spelled(text).into()),
            StringTest::EndsWith(text) => Self::EndsWith(spelled(text).into()),
            StringTest::In(texts) => Self::In(set(texts)),
            StringTest::NotIn(texts) => Self::NotIn(set(texts)),
        }
    }

    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Is(wanted) => text == &**wanted,
            Self::Not(unwanted) => text != &**unwanted,
            Self::Contains(part) => text.contains(&**part),
            Self::StartsWith(start) => text.starts_with(&**start),
            Self::EndsWith(end) => text.ends_with(&**end),
            Self::In(wanted) => wanted.contains(text),
            Self::NotIn(unwanted) => !unwanted.contains(text),
        }
    }
}

/// Tests of a certificate that holds; all of those that are present must.
#[derive(Debug)]
pub(super) struct Certificate {
    fingerprints: Option<TextSet>,
    spki_hashes: Option<TextSet>,
    names: [Option<Text>; 3],
}

impl Certificate {
    pub(super) fn compile(matcher: &CertificateMatcher) -> Self {
        let set =
            |texts: &Option<Vec<String>>| texts.as_ref().map(|texts| TextSet::new(texts.iter().map(String::as_str)));
        Self {
            fingerprints: set(&matcher.fingerprints),
            spki_hashes: set(&matcher.spki_hashes),
            names: [&matcher.dns, &matcher.email, &matcher.uri].map(|names| names.as_ref().map(Text::compile)),
        }
    }

    /// A matcher without a test matches nothing.
    pub(super) fn matches(&self, certificate: &CertificateDetails) -> bool {
        let in_set = |set: &Option<TextSet>, hash: &str| set.as_ref().map(|set| set.contains(hash));
        let any = |text: &Option<Text>, names: &[String]| {
            text.as_ref().map(|text| names.iter().any(|name| text.matches(name)))
        };
        let [dns, email, uri] = &self.names;
        let tests = [
            in_set(&self.fingerprints, &certificate.fingerprint),
            in_set(&self.spki_hashes, &certificate.spki_hash),
            any(dns, &certificate.dns),
            any(email, &certificate.email),
            any(uri, &certificate.uri),
        ];
        tests.iter().flatten().count() > 0 && tests.into_iter().flatten().all(|holds| holds)
    }
}

/// Tests of a list of values, all of which must hold.
#[derive(Debug)]
pub(super) struct List(Box<[ListTest]>);

impl List {
    pub(super) fn compile(matcher: &ListMatcher) -> Self {
        Self(matcher.0.iter().cloned().collect())
    }

    /// Against JSON values.
    pub(super) fn matches_values(&self, values: &[Value]) -> bool {
        self.matches(values.len(), |wanted| values.iter().any(|value| same(value, wanted)))
    }

    /// Against texts.
    pub(super) fn matches_texts(&self, texts: &[String]) -> bool {
        self.matches(texts.len(), |wanted| {
            wanted.as_str().is_some_and(|wanted| texts.iter().any(|text| text == wanted))
        })
    }

    /// A matcher without a test matches nothing.
    fn matches(&self, length: usize, contains: impl Fn(&Value) -> bool) -> bool {
        let holds = |test: &ListTest| match test {
            ListTest::Has(value) => contains(value),
            ListTest::Is(value) => length == 1 && contains(value),
            ListTest::Exclude(value) => !contains(value),
        };
        !self.0.is_empty() && self.0.iter().all(holds)
    }
}

/// Above this, not every integer is a floating-point number, and two different ones could seem equal.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Equality of JSON scalars: of the same type, and numbers by value (`1` is `1.0`, and never `"1"`).
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || matches!((one.as_f64(), other.as_f64()), (Some(one), Some(other)) if one == other && one.abs() < EXACT)
        }
        (Value::Array(_) | Value::Object(_), _) => false,
        (one, other) => one == other,
    }
}

/// A set of networks: disjoint ranges of addresses in their order, first and last.
#[derive(Debug)]
pub(super) struct Networks(Box<[(IpAddr, IpAddr)]>);

impl Networks {
    pub(super) fn compile(networks: &[IpNet]) -> Self {
        let networks = IpNet::aggregate(&networks.iter().map(IpNet::trunc).collect());
        let mut ranges: Vec<_> = networks.iter().map(|network| (network.network(), network.broadcast())).collect();
        ranges.sort_unstable();
        Self(ranges.into())
    }

    /// An IPv4 address in IPv6 clothes is the IPv4 address.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| address <= *last)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(tests: Vec<StringTest>) -> Text {
        Text::compile(&StringMatcher(tests))
    }

    #[test]
    fn every_test_of_a_text_is_exact_and_minds_the_case() {
        let own = || "admin".to_owned();
        let few = || vec!["root".to_owned(), "admin".to_owned()];
        let cases = [
            (StringTest::Is(own()), ["admin"].as_slice(), ["Admin", "admin ", "", "xadmin"].as_slice()),
            (StringTest::Not(own()), &["Admin", ""], &["admin"]),
            (StringTest::Contains(own()), &["admin", "an admin here"], &["ad min", "ADMIN"]),
            (StringTest::StartsWith(own()), &["admin", "admins"], &["an admin", ""]),
            (StringTest::EndsWith(own()), &["admin", "an admin"], &["admins", ""]),
            (StringTest::In(few()), &["root", "admin"], &["", "roo", "rooted"]),
            (StringTest::NotIn(few()), &["", "roo", "Root"], &["root", "admin"]),
        ];
        for (test, yes, no) in cases {
            let matcher = text(vec![test.clone()]);
            assert!(yes.iter().all(|text| matcher.matches(text)), "{test:?}");
            assert!(no.iter().all(|text| !matcher.matches(text)), "{test:?}");
        }
    }

    #[test]
    fn all_tests_of_a_matcher_must_hold_and_none_is_never_true() {
        let both = text(vec![StringTest::StartsWith("/api/".into()), StringTest::EndsWith(".json".into())]);
        assert!(both.matches("/api/a.json") && !both.matches("/api/a") && !both.matches("/a.json"));
        assert!(!text(vec![]).matches("") && !List::compile(&ListMatcher(vec![])).matches_values(&[json!(1)]));
    }

    #[test]
    fn a_list_has_is_or_excludes_values_of_the_same_type() {
        let list = |test| List::compile(&ListMatcher(vec![test]));
        let values = [json!("1"), json!(true), json!(2)];
        assert!(list(ListTest::Has(json!("1"))).matches_values(&values));
        assert!(!list(ListTest::Has(json!(1))).matches_values(&values));
        assert!(!list(ListTest::Has(json!("true"))).matches_values(&values));
        assert!(list(ListTest::Has(json!(2.0))).matches_values(&values));
        assert!(!list(ListTest::Is(json!("1"))).matches_values(&values));
        assert!(list(ListTest::Is(json!("1"))).matches_values(&values[..1]));
        assert!(!list(ListTest::Is(json!("1"))).matches_values(&[]));
        assert!(!list(ListTest::Exclude(json!(2))).matches_values(&values));
        assert!(list(ListTest::Exclude(json!("2"))).matches_values(&values));
        assert!(list(ListTest::Exclude(json!("2"))).matches_values(&[]));
    }

    #[test]
    fn large_numbers_are_not_rounded_into_each_other() {
        assert!(!same(&json!(9_007_199_254_740_993_u64), &json!(9_007_199_254_740_992_u64)));
        assert!(!same(&json!(9_007_199_254_740_993_u64), &json!(9_007_199_254_740_992.0)));
        assert!(same(&json!(9_007_199_254_740_993_u64), &json!(9_007_199_254_740_993_u64)));
    }

    #[test]
    fn an_address_is_found_in_overlapping_networks_of_both_families() {
        let networks = ["10.1.2.3/8", "10.2.0.0/16", "192.0.2.7/32", "2001:db8::/32", "10.128.0.0/9"];
        let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
        let set = Networks::compile(&networks);
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "2001:db8:ffff::1", "::ffff:10.9.9.9"] {
            assert!(set.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in
            ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::", "0.0.0.0", "::10.9.9.9"]
        {
            assert!(!set.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::compile(&[]).contains("10.0.0.1".parse().unwrap()));
    }
}
