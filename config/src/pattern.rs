//! Regular expressions of routes, in the syntax of RE2, and what they put in the place of what they match.

use std::hash::{Hash, Hasher};

use regex::{Captures, Regex, RegexBuilder};

use crate::limits::{PATTERN_BYTES, PATTERN_COMPILED_BYTES};
use crate::node::Node;

/// A regular expression. Two are equal if they were written alike.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches; one made by [`whole`] the whole text, another some part of it.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression that is tried: that of [`whole`] has its anchors.
    #[must_use]
    pub fn compiled(&self) -> &str {
        self.regex.as_str()
    }
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A pattern that must match the whole of a text.
pub fn whole(node: &Node<'_>) -> Option<Pattern> {
    let text = text(node)?;
    // by itself first: `a)(b` is none, and would be one between the anchors
    let regex = compiled(node, &text).and_then(|_| compiled(node, &format!("^(?:{text})$")))?;
    Some(Pattern { text, regex })
}

/// A pattern that may match any part of a text.
fn part(node: &Node<'_>) -> Option<Pattern> {
    let text = text(node)?;
    let regex = compiled(node, &text)?;
    Some(Pattern { text, regex })
}

fn text(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    if text.len() > PATTERN_BYTES {
        return node.refuse("is too long", &format!("{PATTERN_BYTES} bytes at most"));
    }
    Some(text)
}

fn compiled(node: &Node<'_>, text: &str) -> Option<Regex> {
    let wrong = match regex_syntax::parse(text) {
        Ok(_) => match RegexBuilder::new(text).size_limit(PATTERN_COMPILED_BYTES).build() {
            Ok(regex) => return Some(regex),
            Err(_) => "is too large once it is compiled".to_owned(),
        },
        Err(regex_syntax::Error::Parse(error)) => format!("is no regular expression: {}", error.kind()),
        Err(regex_syntax::Error::Translate(error)) => format!("is no regular expression: {}", error.kind()),
        Err(_) => "is no regular expression".to_owned(),
    };
    node.refuse(&wrong, "an expression in RE2's syntax, such as /items/[0-9]+")
}

/// A pattern, and what takes the place of everything that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    pattern: Pattern,
    substitution: Vec<Piece>,
}

/// A piece of a substitution.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `\0` to `\9`: what a group has matched, `\0` the whole.
    Group(usize),
}

impl Replacement {
    /// The text with everything replaced that the pattern matches in it.
    #[must_use]
    pub fn of(&self, text: &str) -> String {
        let replaced = self.pattern.regex.replace_all(text, |captures: &Captures<'_>| {
            let mut replaced = String::new();
            for piece in &self.substitution {
                replaced.push_str(match piece {
                    Piece::Text(text) => text,
                    Piece::Group(group) => captures.get(*group).map_or("", |group| group.as_str()),
                });
            }
            replaced
        });
        replaced.into_owned()
    }
}

/// The pattern of one key with the substitution of another; an absent substitution leaves nothing.
pub fn replacement(pattern: &Node<'_>, substitution: Option<&Node<'_>>) -> Option<Replacement> {
    let part = part(pattern);
    let substitution = match substitution {
        None => Some(Vec::new()),
        Some(node) => node.text().and_then(|text| pieces(node, &text, part.as_ref())),
    };
    Some(Replacement { pattern: part?, substitution: substitution? })
}

/// Pieces of RE2's rewrite syntax: `\0` to `\9`, and `\\` for a backslash.
fn pieces(node: &Node<'_>, text: &str, pattern: Option<&Pattern>) -> Option<Vec<Piece>> {
    let (mut pieces, mut plain) = (Vec::new(), String::new());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match rest.next() {
            Some('\\') => plain.push('\\'),
            Some(digit) if digit.is_ascii_digit() => {
                let group = digit.to_digit(10).and_then(|digit| usize::try_from(digit).ok())?;
                if pattern.is_some_and(|pattern| group >= pattern.regex.captures_len()) {
                    return node.refuse("names a group that its pattern does not have", "\\1 for the first group");
                }
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(Piece::Group(group));
            }
            Some(_) | None => {
                return node.refuse("has a backslash that means nothing", "\\0 to \\9 for a group, or \\\\ for itself");
            }
        }
    }
    pieces.push(Piece::Text(plain));
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::tree::{Spot, Tree};

    fn with<T>(text: &str, read: impl FnOnce(&Node<'_>) -> T) -> T {
        let report = Report::new("f");
        let tree = Tree::text(Spot::Line(1), text.to_owned());
        read(&Node::root(&tree, &report))
    }

    fn replaced(pattern: &str, substitution: &str, text: &str) -> Option<String> {
        let made = with(pattern, |pattern| with(substitution, |node| replacement(pattern, Some(node))));
        made.map(|made| made.of(text))
    }

    #[test]
    fn a_whole_pattern_matches_nothing_but_the_whole() {
        for (pattern, text, matches) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a|/b", "/b", true),
            ("/a|/ab", "/ab", true),
            ("/a|/b", "/bx", false),
            ("/x/[0-9]+", "/x/17", true),
            ("/x/[0-9]+", "/x/", false),
            ("(?i)/A", "/a", true),
            ("(?m)/a$", "/a\n/b", false),
            (".*", "", true),
        ] {
            assert_eq!(with(pattern, whole).unwrap().is_match(text), matches, "{pattern} {text}");
        }
        for none in ["(", "a)(b", "[", "*", "(?=a)", r"\1", "(?x) a # b", "a{1000}{1000}"] {
            assert!(with(none, whole).is_none(), "{none}");
        }
    }

    #[test]
    fn groups_take_their_places() {
        assert_eq!(replaced("^/a/([^/]+)/(.*)$", r"/\2/\1", "/a/x/y/z").unwrap(), "/y/z/x");
        assert_eq!(replaced("a", r"[\0]", "banana").unwrap(), "b[a]n[a]n[a]");
        assert_eq!(replaced("a", r"$1\\", "a").unwrap(), r"$1\");
        assert_eq!(replaced("(a)|(b)", r"<\1>", "ab").unwrap(), "<a><>");
        assert_eq!(replaced("x", "", "axb").unwrap(), "ab");
        for wrong in [r"\1", r"\x", r"\"] {
            assert!(replaced("a", wrong, "a").is_none(), "{wrong}");
        }
    }
}
