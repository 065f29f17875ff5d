//! Routes against each other: the order in which they are tried, doubles, and what one takes from another.

use std::collections::HashMap;

use crate::routes::Placed;
use crate::{Cookie, PathMatcher, Route};

/// The routes in the order in which they are tried; reports doubles, and warns of what the order makes surprising.
pub fn ordered(mut placed: Vec<Placed<'_>>, cookie: &Cookie) -> Vec<Route> {
    refuse_doubles(&placed);
    refuse_double_ids(&placed);
    warn_outside_of_cookie(&placed, cookie);
    placed.sort_by(|one, other| one.route.order(&other.route));
    warn_of_open_prefixes(&placed);
    placed.into_iter().map(|placed| placed.route).collect()
}

/// Two routes with the same external side: the second would never be reached.
fn refuse_doubles(placed: &[Placed<'_>]) {
    let mut seen: HashMap<(String, [&str; 3]), &str> = HashMap::new();
    for one in placed {
        // tunnels are told apart by what CONNECT names, whatever the gateway's own host
        let from = one.route.tunnel().map_or_else(|| one.route.from.to_string(), |it| format!("tcp://{}", it.named));
        let side = (from, one.route.matcher.parts());
        match seen.get(&side) {
            Some(first) => one.node.wrong(
                &format!("has the same from, prefix, path and regex as {first}, so that it would never be used"),
                "keep one",
            ),
            None => {
                seen.insert(side, one.node.key());
            }
        }
    }
}

/// Decisions, metrics and a policy's place go by the id.
fn refuse_double_ids(placed: &[Placed<'_>]) {
    let mut seen: HashMap<&str, &Placed<'_>> = HashMap::new();
    for one in placed {
        let first = *seen.entry(one.route.id.as_str()).or_insert(one);
        if first.node.key() == one.node.key() {
            continue;
        }
        // of two that were made, the sides are the same, which was said; one that was given may be like one that is made
        let given = one.id.as_ref().map(|id| (id, first)).or_else(|| first.id.as_ref().map(|id| (id, one)));
        if let Some((id, other)) = given {
            id.wrong(&format!("is the id of {} as well", other.node.key()), "an id of its own, or none");
        }
    }
}

fn warn_outside_of_cookie(placed: &[Placed<'_>], cookie: &Cookie) {
    let Some(domain) = &cookie.domain else { return };
    // cookies have nothing to do with tunnels
    for one in placed.iter().filter(|one| one.route.tunnel().is_none()) {
        let host = &one.route.from.host;
        let is_inside = host == domain || host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
        if !is_inside {
            one.from.warn(
                "lies outside of cookie_domain, so that nobody can stay signed in there",
                "a host in that domain",
            );
        }
    }
}

/// A prefix is a string prefix: `/admin` takes `/administrator` too, perhaps from a route with a laxer policy.
fn warn_of_open_prefixes(placed: &[Placed<'_>]) {
    for (index, one) in placed.iter().enumerate() {
        let PathMatcher::Prefix(prefix) = &one.route.matcher else { continue };
        let Some(node) = one.prefix.as_ref().filter(|_| !prefix.ends_with('/')) else { continue };
        let later = placed.iter().skip(index + 1).take_while(|other| other.route.from == one.route.from);
        let beside =
            later.into_iter().filter(|other| other.route.tunnel().is_none()).find(|other| match &other.route.matcher {
                PathMatcher::Prefix(shorter) => prefix.starts_with(shorter.as_str()),
                PathMatcher::Path(_) | PathMatcher::Regex(_) => false,
            });
        if let Some(other) = beside {
            let wrong = format!("also takes longer names that begin so, which {} would take", other.node.key());
            node.warn(&wrong, "end it with /, and add a route with path for the name itself");
        }
    }
}
