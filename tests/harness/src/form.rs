//! The forms of a page, read tolerantly: enough for pages that people wrote, not for every page there is.

use anyhow::{Context, Result};
use url::Url;

/// One form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// `action`, as it was written.
    pub action: String,
    /// Whether it is posted.
    pub post: bool,
    /// Its fields with their values, in order; buttons are none.
    pub fields: Vec<(String, String)>,
    /// Its named submit buttons with their values.
    pub buttons: Vec<(String, String)>,
    /// The names of its password fields.
    pub passwords: Vec<String>,
}

impl Form {
    /// All forms of a page.
    #[must_use]
    pub fn all(html: &str) -> Vec<Self> {
        let mut forms = Vec::new();
        let mut ids = Vec::new();
        let mut open: Option<usize> = None;
        for tag in tags(html) {
            match tag.name.as_str() {
                "form" => {
                    forms.push(Self {
                        action: tag.attribute("action").unwrap_or_default(),
                        post: tag.attribute("method").is_some_and(|method| method.eq_ignore_ascii_case("post")),
                        ..Self::default()
                    });
                    ids.push(tag.attribute("id"));
                    open = Some(forms.len() - 1);
                }
                "/form" => open = None,
                "input" | "button" | "textarea" | "select" => {
                    // a control may stand outside the form that it names
                    let named = tag.attribute("form");
                    let by_id = named.and_then(|id| ids.iter().position(|known| known.as_ref() == Some(&id)));
                    if let Some(form) = by_id.or(open).and_then(|index| forms.get_mut(index)) {
                        form.add(&tag);
                    }
                }
                _ => {}
            }
        }
        forms
    }

    fn add(&mut self, tag: &Tag) {
        let Some(name) = tag.attribute("name").filter(|name| !name.is_empty()) else { return };
        let value = tag.attribute("value").unwrap_or_default();
        let default = if tag.name == "button" { "submit" } else { "text" };
        match tag.attribute("type").unwrap_or_else(|| default.to_owned()).to_ascii_lowercase().as_str() {
            "submit" => self.buttons.push((name, value)),
            "button" | "reset" | "image" => {}
            "checkbox" | "radio" if tag.attribute("checked").is_none() => {}
            "password" => {
                self.passwords.push(name.clone());
                self.fields.push((name, value));
            }
            _ => self.fields.push((name, value)),
        }
    }

    /// Whether it has a field of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    /// The value of a field.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Fills a field in.
    pub fn fill(&mut self, name: &str, value: &str) {
        match self.fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, held)) => value.clone_into(held),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Where it is sent from a page at `page`.
    ///
    /// # Errors
    /// The action is no URL.
    pub fn target(&self, page: &Url) -> Result<Url> {
        page.join(&self.action).with_context(|| format!("not an action: {}", self.action))
    }
}

#[derive(Debug)]
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn attribute(&self, name: &str) -> Option<String> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }
}

fn tags(html: &str) -> Vec<Tag> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        rest = after;
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
        } else if after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') {
            let (tag, after) = read_tag(after);
            // what stands in a script or a style is no markup
            rest = match tag.name.as_str() {
                raw @ ("script" | "style") => after.split_once(&format!("</{raw}")).map_or("", |(_, after)| after),
                _ => after,
            };
            found.push(tag);
        }
    }
    found
}

fn read_tag(text: &str) -> (Tag, &str) {
    let end = text.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let mut tag = Tag { name: name.trim_end_matches('/').to_ascii_lowercase(), attributes: Vec::new() };
    if name == "/" {
        name.clone_into(&mut tag.name);
    }
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if rest.is_empty() {
            return (tag, rest);
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (tag, after);
        }
        let (attribute, after) = read_attribute(rest);
        tag.attributes.push(attribute);
        rest = after;
    }
}

fn read_attribute(text: &str) -> ((String, String), &str) {
    let end = text.find(|c: char| c.is_ascii_whitespace() || "=>/".contains(c)).unwrap_or(text.len());
    // an attribute is at least one character, or we would never get on
    let end = if end == 0 { text.chars().next().map_or(0, char::len_utf8) } else { end };
    let (name, rest) = text.split_at(end);
    let name = name.to_ascii_lowercase();
    let Some(value) = rest.trim_start().strip_prefix('=').map(str::trim_start) else {
        return ((name, String::new()), rest);
    };
    for quote in ['"', '\''] {
        if let Some(quoted) = value.strip_prefix(quote) {
            let (value, rest) = quoted.split_once(quote).unwrap_or((quoted, ""));
            return ((name, unescape(value)), rest);
        }
    }
    let end = value.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(value.len());
    let (value, rest) = value.split_at(end);
    ((name, unescape(value)), rest)
}

/// Character references: numbers, and the five names that templates write.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let reference = after.split_once(';').and_then(|(name, after)| Some((character(name)?, after)));
        match reference {
            Some((character, after)) => {
                out.push(character);
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(reference: &str) -> Option<char> {
    match reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = reference.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_with_its_hidden_fields_and_buttons() {
        let html = r#"<!doctype html><!-- <form action="/no"> --><script>"<form>"</script>
            <FORM method='POST' action="/login?a=1&amp;b=2">
              <input type=hidden name=csrf value="a&#43;b&#x2f;c&quot;"><input name="username" autofocus/>
              <input type="password" name="password" required>
              <input type="checkbox" name="no" value="1"><input type="checkbox" name="yes" value="1" checked>
              <button name="go" value="now">Sign in</button><button type="button" name="x">No</button>
            </FORM><input name="outside"><button form="late" name="logout" value="yes">Out</button>"#;
        let forms = Form::all(html);
        assert_eq!(forms.len(), 1);
        let form = &forms[0];
        assert!(form.post);
        assert_eq!(form.action, "/login?a=1&b=2");
        assert_eq!(form.passwords, ["password"]);
        let fields = [("csrf", "a+b/c\""), ("username", ""), ("password", ""), ("yes", "1")];
        assert_eq!(form.fields, fields.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(form.buttons, [("go".to_owned(), "now".to_owned())]);
        let page = Url::parse("http://127.0.0.1:1/x/y").unwrap();
        assert_eq!(form.target(&page).unwrap().as_str(), "http://127.0.0.1:1/login?a=1&b=2");
    }

    #[test]
    fn a_button_belongs_to_the_form_it_names() {
        let forms =
            Form::all(r#"<form id="f" method="post"></form><button form="f" name="logout" value="yes">Out</button>"#);
        assert_eq!(forms[0].buttons, [("logout".to_owned(), "yes".to_owned())]);
    }

    #[test]
    fn nonsense_ends() {
        for html in ["<", "<form", "<form =", "<input name='", "</", "<a =\"=<'>", "<!--", "<script"] {
            let _ = Form::all(html);
        }
    }
}
