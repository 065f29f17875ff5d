//! `programmatic_redirect_domain_whitelist`: where the handle of a program's sign-in may be sent.

use url::Host;

use crate::node::{Fields, Node};

/// The key.
const KEY: &str = "programmatic_redirect_domain_whitelist";

/// Hosts, canonical; `localhost` alone by default, and nobody where the list is empty.
pub fn decode(top: &Fields<'_>) -> Vec<String> {
    let Some(node) = top.get(KEY) else { return vec!["localhost".to_owned()] };
    node.texts().into_iter().filter_map(|(node, text)| host(&node, &text)).collect()
}

fn host(node: &Node<'_>, text: &str) -> Option<String> {
    let right = "a host, such as localhost or tools.example.com";
    if text.contains('/') {
        return node.refuse("is an address, not a host", right);
    }
    match Host::parse(text.strip_suffix('.').unwrap_or(text)) {
        Ok(Host::Domain(name)) if name.contains('*') => node.refuse("has a wildcard", "name each host"),
        Ok(Host::Domain(name)) if name.starts_with('.') || name.ends_with('.') => node.refuse("is not a host", right),
        Ok(host) => Some(host.to_string()),
        Err(_) => node.refuse("is not a host", right),
    }
}
