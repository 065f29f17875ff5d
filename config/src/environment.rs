//! Environment variables over the file: a key's name in upper case, its value in place of the file's.

use base64::Engine;

use crate::keys::{BASE64, GLOBAL, Shape, Status};
use crate::node::NOT_YET;
use crate::report::Report;
use crate::tree::{Content, Entry, Spot, Tree, read};

/// Puts every variable that is set over the key of its name. An empty variable is not set.
pub fn overlay(tree: &mut Tree, variables: &dyn Fn(&str) -> Option<String>, report: &Report) {
    let Content::Map(entries) = &mut tree.content else { return };
    let set = |name: &str| variables(name).filter(|value| !value.is_empty());
    for key in GLOBAL {
        let variable = key.name.to_ascii_uppercase();
        let spot = Spot::Variable(variable.clone());
        match key.status {
            Status::Here(shape) => {
                if let Some(text) = set(&variable)
                    && let Some(value) = value(&spot, key.name, text, shape, report)
                {
                    put(entries, Entry { name: key.name.to_owned(), spot, value });
                }
            }
            // Pomerium's own name for the response headers' variable
            Status::Gone(_) if key.name == "headers" => {
                let name = "set_response_headers".to_owned();
                if let Some(text) = set(&variable)
                    && let Some(value) = value(&spot, &name, text, Shape::Map, report)
                {
                    put(entries, Entry { name, spot, value });
                }
            }
            // variables that OpenTelemetry addresses to every program of a machine
            Status::NotYet if key.name.starts_with("otel_") => {
                if set(&variable).is_some() {
                    report.warning(&spot, key.name, "has no effect in this version", "unset the variable");
                }
            }
            Status::NotYet => {
                if set(&variable).is_some() {
                    report.problem(&spot, key.name, NOT_YET, "unset the variable");
                }
            }
            Status::Gone(instead) => {
                if set(&variable).is_some() {
                    report.problem(&spot, key.name, "no longer exists in Pomerium", instead);
                }
            }
        }
    }
}

fn put(entries: &mut Vec<Entry>, entry: Entry) {
    entries.retain(|other| other.name != entry.name);
    entries.push(entry);
}

/// What a variable's text means for a key of this shape; `None` where it was reported.
fn value(spot: &Spot, key: &str, text: String, shape: Shape, report: &Report) -> Option<Tree> {
    let parsed = |text: &str| read(text, report, &|_| spot.clone());
    match shape {
        Shape::Text => Some(Tree::text(spot.clone(), text)),
        Shape::List if !text.trim_start().starts_with(['[', '{']) => Some(Tree::text(spot.clone(), text)),
        Shape::List | Shape::Map => parsed(&text),
        Shape::Document => {
            let decoded = BASE64.decode(text.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let Some(decoded) = decoded else {
                report.problem(spot, key, "is not base64 of a YAML text", "encode the YAML list in base64");
                return None;
            };
            parsed(&decoded)
        }
    }
}
