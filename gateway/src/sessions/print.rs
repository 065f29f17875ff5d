//! How sessions are shown: a table for people, JSON for programs. Names come from providers: nothing in them reaches a
//! terminal but what can be printed.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::Result;
use portcullis_actors::databroker::view::SessionView;
use portcullis_events::SessionId;
use serde_json::{Value, json};

use super::Shown;

const HEADS: [&str; 6] = ["SESSION", "USER", "E-MAIL", "SIGNED IN", "LAST SEEN", "ENDS"];

/// A line a session, under a line of heads.
pub fn table(sessions: &[Arc<SessionView>]) -> String {
    let rows: Vec<[String; 6]> = std::iter::once(HEADS.map(str::to_owned))
        .chain(sessions.iter().map(|session| {
            [
                session.id.to_string(),
                printable(&session.user),
                session.email.as_deref().map_or_else(|| "-".to_owned(), printable),
                session.issued_at.rfc3339(),
                session.activity.last().rfc3339(),
                session.expires_at.rfc3339(),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..HEADS.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        // writing to a string cannot fail
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// A list of objects.
pub fn list_json(sessions: &[Arc<SessionView>]) -> Result<String> {
    lines(&Value::Array(sessions.iter().map(|session| object(session)).collect()))
}

/// A line an attribute.
pub fn shown(shown: &Shown) -> String {
    let session = match shown {
        Shown::Open(session) => session,
        Shown::Over(id) => return format!("session    {id}\nopen       no\n"),
    };
    let or_none = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    let groups: Vec<_> = session.groups.iter().map(|group| printable(group)).collect();
    let attributes = [
        ("session", session.id.to_string()),
        ("open", "yes".to_owned()),
        ("user", printable(&session.user)),
        ("e-mail", or_none(&session.email)),
        ("name", or_none(&session.name)),
        ("groups", groups.join(", ")),
        ("person", session.person.to_string()),
        ("provider", session.idp.clone()),
        ("signed in", session.issued_at.rfc3339()),
        ("last seen", session.activity.last().rfc3339()),
        ("ends", session.expires_at.rfc3339()),
    ];
    let mut text = String::new();
    for (name, value) in attributes {
        let _ = writeln!(text, "{name:<9}  {value}");
    }
    text
}

/// An object.
pub fn shown_json(shown: &Shown) -> Result<String> {
    lines(&match shown {
        Shown::Open(session) => object(session),
        Shown::Over(id) => json!({"session": id, "open": false}),
    })
}

/// How many, and which.
pub fn revoked(sessions: &[SessionId]) -> String {
    let mut text = match sessions.len() {
        0 => "no open session: nothing was revoked\n".to_owned(),
        1 => "1 session was revoked:\n".to_owned(),
        many => format!("{many} sessions were revoked:\n"),
    };
    for session in sessions {
        let _ = writeln!(text, "{session}");
    }
    text
}

/// An object with the list.
pub fn revoked_json(sessions: &[SessionId]) -> Result<String> {
    lines(&json!({"revoked": sessions}))
}

fn object(session: &SessionView) -> Value {
    json!({
        "session": session.id,
        "open": true,
        "user": session.user,
        "email": session.email,
        "name": session.name,
        "groups": session.groups,
        "person": session.person,
        "provider": session.idp,
        "signed_in": session.issued_at.rfc3339(),
        "last_seen": session.activity.last().rfc3339(),
        "ends": session.expires_at.rfc3339(),
    })
}

/// It may be a terminal that reads it: what cannot be printed stands there as its escape (RFC 8259 §7).
fn lines(value: &Value) -> Result<String> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(value)?.chars() {
        if c == '\n' || is_printable(c) {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text.push('\n');
    Ok(text)
}

/// Control and formatting characters as escapes: they could write what is not there.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// Whether a character writes itself and nothing else.
pub fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_writes_nothing_into_a_terminal_but_itself() {
        assert_eq!(printable("O'Neill \"Åsa\" 字"), "O'Neill \"Åsa\" 字");
        assert_eq!(printable("a\u{1b}[2J\n\u{202e}b"), "a\\u{1b}[2J\\n\\u{202e}b");
    }

    #[test]
    fn json_is_for_programs_and_writes_nothing_into_a_terminal_either() {
        let name = "O'Neill \"\\Åsa\u{301}\" 字\u{7f}\u{9b}2J\u{202e}\u{e0041}\n";
        let text = lines(&json!({ "name": name })).unwrap();
        assert!(text.contains("O'Neill \\\"\\\\Åsa"), "{text}");
        assert!(!text.contains(['\u{7f}', '\u{9b}', '\u{202e}', '\u{e0041}']), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({ "name": name }));
    }

    #[test]
    fn a_table_of_nothing_has_its_heads() {
        assert_eq!(table(&[]), "SESSION  USER  E-MAIL  SIGNED IN  LAST SEEN  ENDS\n");
        assert_eq!(revoked(&[]), "no open session: nothing was revoked\n");
    }
}
