//! Finding a claim by its path: the whole path as one name first (`https://example.com/roles`), then level by level.

use serde_json::{Map, Value};

use crate::databroker::view::SessionView;

/// What separates the levels of a path.
const LEVELS: [char; 2] = ['/', '.'];

/// The address as the provider gave it, verified or not.
const EMAIL: &str = "email";

/// The values of the claim at a path: the members of an array, a scalar as the only one. What is absent, `null` or an
/// object has none; nor has an e-mail address that the provider says is not verified.
pub(super) fn values<'a>(session: &'a SessionView, path: &[String]) -> &'a [Value] {
    if session.email.is_none() && path == [EMAIL] { &[] } else { members(find(&session.claims, path)) }
}

/// The claim with a name, as `jwt_claims_headers` spells it.
pub(super) fn named<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| find(claims, &name.split(LEVELS).map(str::to_owned).collect::<Vec<_>>()))
}

fn members(claim: Option<&Value>) -> &[Value] {
    match claim {
        Some(Value::Array(members)) => members,
        Some(Value::Null | Value::Object(_)) | None => &[],
        Some(scalar @ (Value::Bool(_) | Value::Number(_) | Value::String(_))) => std::slice::from_ref(scalar),
    }
}

fn find<'a>(claims: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    if rest.is_empty() {
        return claims.get(first);
    }
    let whole = || claims.iter().find(|(name, _)| name.split(LEVELS).eq(path.iter().map(String::as_str)));
    whole().map(|(_, value)| value).or_else(|| find(claims.get(first)?.as_object()?, rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Map<String, Value> {
        let claims = json!({
            "https://example.com/roles": ["owner"],
            "realm_access": {"roles": ["admin", "dev"], "deep": {"er": {"than": {"all": 5}}}},
            "a.b": "whole", "a": {"b": "level"},
            "name": "Alice", "on": true, "none": null, "empty": [],
        });
        claims.as_object().unwrap().clone()
    }

    fn at(path: &str) -> Value {
        members(find(&claims(), &path.split(LEVELS).map(str::to_owned).collect::<Vec<_>>())).into()
    }

    #[test]
    fn a_claim_is_found_by_its_whole_name_or_level_by_level() {
        assert_eq!(at("https://example.com/roles"), json!(["owner"]));
        assert_eq!(at("realm_access/roles"), json!(["admin", "dev"]));
        assert_eq!(at("realm_access.roles"), json!(["admin", "dev"]));
        assert_eq!(at("realm_access/deep/er/than/all"), json!([5]));
        assert_eq!(at("a/b"), json!(["whole"]));
        assert_eq!(named(&claims(), "realm_access/roles"), Some(&json!(["admin", "dev"])));
        assert_eq!(named(&claims(), "https://example.com/roles"), Some(&json!(["owner"])));
    }

    #[test]
    fn a_scalar_is_a_list_of_one_and_what_is_not_there_an_empty_list() {
        assert_eq!(at("name"), json!(["Alice"]));
        assert_eq!(at("on"), json!([true]));
        for nothing in
            ["none", "empty", "absent", "name/first", "realm_access", "realm_access/absent", "", "/", "a/b/c"]
        {
            assert_eq!(at(nothing), json!([]), "{nothing}");
        }
        assert!(find(&claims(), &[]).is_none());
    }
}
