//! Values of `set_request_headers`: plain, or with places that a request fills (`${pomerium.jwt}`).

use std::iter::Peekable;
use std::str::Chars;

use http::{HeaderName, HeaderValue};

use crate::node::{NOT_YET, Node};

/// What a request's header is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderText {
    /// The same for every request.
    Plain(HeaderValue),
    /// Made for each request from these parts.
    Template(Vec<TemplatePart>),
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// As it stands.
    Text(String),
    /// `${pomerium.jwt}`: the signed assertion; nothing where nobody is signed in.
    Assertion,
    /// `${pomerium.request.headers["Name"]}`: what the client said; nothing where it said nothing.
    RequestHeader(HeaderName),
}

impl HeaderText {
    /// Whether it tells who is signed in.
    #[must_use]
    pub fn has_assertion(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Template(parts) => parts.contains(&TemplatePart::Assertion),
        }
    }
}

/// Reads a value: `$$` is a dollar sign, `${a.b}`, `${a["b"]}` and `$a.b` refer to something.
pub fn parse(node: &Node<'_>, text: &str) -> Option<HeaderText> {
    let right = "one line of text";
    if HeaderValue::from_bytes(text.as_bytes()).is_err() {
        return node.refuse("has a line end or a control character in its value", right);
    }
    let (mut parts, mut plain) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '$' {
            plain.push(character);
            continue;
        }
        let reference = match rest.peek() {
            Some('$') => {
                rest.next();
                plain.push('$');
                continue;
            }
            Some('{') => {
                rest.next();
                braced(&mut rest)
            }
            Some(next) if is_name(*next) && !next.is_ascii_digit() => path(&mut rest),
            Some(_) | None => {
                plain.push('$');
                continue;
            }
        };
        let Some(reference) = reference else {
            return node.refuse("has a template that does not end", "such as ${pomerium.jwt}; $$ for a dollar sign");
        };
        parts.push(TemplatePart::Text(std::mem::take(&mut plain)));
        parts.push(part(node, &reference)?);
    }
    if parts.is_empty() {
        let value = HeaderValue::from_bytes(plain.as_bytes()).ok();
        return value.map(HeaderText::Plain).or_else(|| node.refuse("is no header value", right));
    }
    parts.push(TemplatePart::Text(plain));
    parts.retain(|part| !matches!(part, TemplatePart::Text(text) if text.is_empty()));
    Some(HeaderText::Template(parts))
}

fn part(node: &Node<'_>, reference: &[String]) -> Option<TemplatePart> {
    let names: Vec<&str> = reference.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["pomerium", "jwt"] => Some(TemplatePart::Assertion),
        ["pomerium", "request", "headers", name] => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Some(TemplatePart::RequestHeader(name)),
            Err(_) => node.refuse("has a template that names no header", "${pomerium.request.headers[\"Name\"]}"),
        },
        ["pomerium", "access_token" | "id_token"] => {
            node.refuse(&format!("has a template of the provider's tokens, {NOT_YET}"), "${pomerium.jwt}")
        }
        ["pomerium", "client_cert_fingerprint" | "client_cert_san_dns" | "client_cert_san_email"] => {
            node.refuse(&format!("has a template of the client's certificate, {NOT_YET}"), "remove it")
        }
        _ => node.refuse(
            "has a template that is not known",
            "${pomerium.jwt} or ${pomerium.request.headers[\"Name\"]}; $$ for a dollar sign",
        ),
    }
}

/// What stands between braces, the first one read already.
fn braced(rest: &mut Peekable<Chars<'_>>) -> Option<Vec<String>> {
    let reference = path(rest)?;
    skip_space(rest);
    (rest.next() == Some('}')).then_some(reference)
}

/// Names, each behind a dot or in `["…"]`.
fn path(rest: &mut Peekable<Chars<'_>>) -> Option<Vec<String>> {
    skip_space(rest);
    let mut names = vec![name(rest)?];
    loop {
        // a dot may also end a sentence: it belongs to the reference only with a name behind it
        let mut ahead = rest.clone();
        skip_space(&mut ahead);
        match ahead.next() {
            Some('.') => {
                skip_space(&mut ahead);
                let Some(name) = name(&mut ahead) else { return Some(names) };
                names.push(name);
            }
            Some('[') => {
                skip_space(&mut ahead);
                names.push(quoted(&mut ahead)?);
                skip_space(&mut ahead);
                ahead.next().filter(|next| *next == ']')?;
            }
            Some(_) | None => return Some(names),
        }
        *rest = ahead;
    }
}

fn name(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut name = String::new();
    while let Some(next) = rest.next_if(|next| is_name(*next)) {
        name.push(next);
    }
    (!name.is_empty()).then_some(name)
}

/// A text in double quotes, with `\"` and `\\` in it.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    rest.next().filter(|next| *next == '"')?;
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => text.push(rest.next()?),
            next => text.push(next),
        }
    }
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|next| matches!(next, ' ' | '\t')).is_some() {}
}

const fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::tree::{Spot, Tree};

    fn read(text: &str) -> Option<HeaderText> {
        let report = Report::new("f");
        let tree = Tree::text(Spot::Line(1), text.to_owned());
        parse(&Node::root(&tree, &report), text)
    }

    #[test]
    fn a_template_has_its_parts_and_the_text_between_them() {
        use TemplatePart::{Assertion, RequestHeader, Text};
        let header = || RequestHeader(HeaderName::from_static("x-a"));
        for (text, parts) in [
            ("${pomerium.jwt}", vec![Assertion]),
            ("$pomerium.jwt", vec![Assertion]),
            ("Bearer ${ pomerium . jwt }!", vec![Text("Bearer ".into()), Assertion, Text("!".into())]),
            ("$pomerium.jwt.", vec![Assertion, Text(".".into())]),
            ("$$$pomerium.jwt$", vec![Text("$".into()), Assertion, Text("$".into())]),
            (r#"${pomerium.request.headers["X-A"]}"#, vec![header()]),
            ("$pomerium.request.headers.X-A,$pomerium.jwt", vec![header(), Text(",".into()), Assertion]),
        ] {
            assert_eq!(read(text), Some(HeaderText::Template(parts)), "{text}");
        }
        for (text, plain) in [("5$ $$x", "5$ $x"), ("$$", "$"), ("$", "$"), ("$1", "$1"), ("a", "a"), ("$${x}", "${x}")]
        {
            assert_eq!(read(text), Some(HeaderText::Plain(HeaderValue::from_static(plain))), "{text}");
        }
        for wrong in [
            "${",
            "${}",
            "${pomerium.jwt",
            "$HOME",
            "${pomerium.secret}",
            "${pomerium.request.headers}",
            r#"${pomerium.request.headers["a b"]}"#,
            r#"${pomerium.request.headers["a}"#,
            "${pomerium.access_token}",
            "$pomerium.id_token",
            "a\nb",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
