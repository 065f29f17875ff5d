//! What a person is known by, read from the claims of a provider that was believed.

use serde_json::{Map, Value};

/// What a person is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The user id: `sub`; empty where the claims have none.
    pub user: String,
    /// The e-mail address, if there is exactly one and nobody says that it is not verified.
    pub email: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The groups: only from a list of strings.
    pub groups: Vec<String>,
}

/// Reads a profile from all claims of a session.
#[must_use]
pub fn profile(claims: &Map<String, Value>) -> Profile {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    Profile {
        user: text("sub").unwrap_or_default(),
        email: text("email").filter(|email| is_address(email) && verified(claims)),
        name: text("name"),
        groups: claims.get("groups").and_then(strings).unwrap_or_default(),
    }
}

/// One mailbox: a domain policy looks at what follows the `@`, so there must not be two of them.
fn is_address(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    match text.split_once('@') {
        Some((local, domain)) => {
            !local.is_empty() && !domain.is_empty() && !domain.contains('@') && !text.contains(odd)
        }
        None => false,
    }
}

/// Providers that know nothing of verification leave `email_verified` out; some write it as a string.
pub(super) fn verified(claims: &Map<String, Value>) -> bool {
    match claims.get("email_verified") {
        None => true,
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(verified)) => verified.eq_ignore_ascii_case("true"),
        Some(Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) => false,
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> Profile {
        profile(value.as_object().unwrap())
    }

    #[test]
    fn an_address_that_is_not_verified_is_no_address() {
        let with = |verified: Value| of(json!({"sub": "a", "email": "a@b.example", "email_verified": verified})).email;
        for no in [json!(false), json!("false"), json!("False"), json!(0), json!(1), json!(null), json!([]), json!("")]
        {
            assert_eq!(with(no.clone()), None, "{no}");
        }
        for yes in [json!(true), json!("true"), json!("True")] {
            assert_eq!(with(yes).as_deref(), Some("a@b.example"));
        }
        assert_eq!(of(json!({"email": "a@b.example"})).email.as_deref(), Some("a@b.example"));
    }

    #[test]
    fn an_address_has_exactly_one_at_sign() {
        for bad in ["", "a", "@", "a@", "@b", "a@evil.example,b@example.com", "a@b@c", "a b@c", "a@b\n", "a@b\r\nX: y"]
        {
            assert_eq!(of(json!({"email": bad})).email, None, "{bad}");
        }
        assert_eq!(of(json!({"email": ["a@b.example"]})).email, None);
    }

    #[test]
    fn groups_come_from_a_list_of_strings_alone() {
        assert_eq!(of(json!({"groups": ["a", "b"]})).groups, ["a", "b"]);
        for bad in [json!("admins"), json!({"admins": 1}), json!(["a", 1]), json!([["a"]]), json!(null), json!(1)] {
            assert!(of(json!({"groups": bad})).groups.is_empty());
        }
    }
}
