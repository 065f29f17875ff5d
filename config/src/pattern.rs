//! Regular expressions of routes, in the syntax of RE2, and what they put in the place of what they match.

use regex::{Captures, Regex, RegexBuilder};
use regex_syntax::hir::Hir;
use regex_syntax::hir::literal::{ExtractKind, Extractor};

use crate::limits::{PATTERN_BYTES, PATTERN_COMPILED_BYTES};
use crate::node::Node;

/// A regular expression that must match the whole of a text. Two are equal if they were written alike.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    beginning: Vec<u8>,
    regex: Regex,
}

/// Why a text is no pattern. Never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`PATTERN_BYTES`].
    #[error("is longer than {PATTERN_BYTES} bytes")]
    TooLong,
    /// Not the syntax.
    #[error("is no regular expression: {0}")]
    Syntax(String),
    /// Larger than [`PATTERN_COMPILED_BYTES`].
    #[error("is too large once it is compiled")]
    TooLarge,
}

impl Pattern {
    /// The pattern that a text says.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        // by itself first: `a)(b` is none, and would be one between the anchors
        let hir = hir(text)?;
        let beginning =
            Extractor::new().kind(ExtractKind::Prefix).extract(&hir).longest_common_prefix().map(<[u8]>::to_vec);
        let regex = compiled(&format!("^(?:{text})$"))?;
        Ok(Self { text: text.to_owned(), beginning: beginning.unwrap_or_default(), regex })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole of this text.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// What everything that it matches begins with; may be empty.
    #[must_use]
    pub fn beginning(&self) -> &[u8] {
        &self.beginning
    }

    /// The expression that is tried, anchors included: several of them can be tried at once.
    #[must_use]
    pub fn anchored(&self) -> &str {
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

/// A pattern as it stands in a configuration.
pub fn whole(node: &Node<'_>) -> Option<Pattern> {
    understood(node, Pattern::new(&node.text()?))
}

fn understood<T>(node: &Node<'_>, read: Result<T, PatternError>) -> Option<T> {
    read.map_or_else(
        |error| node.refuse(&error.to_string(), "an expression as RE2 takes it, such as /items/[0-9]+"),
        Some,
    )
}

fn hir(text: &str) -> Result<Hir, PatternError> {
    if text.len() > PATTERN_BYTES {
        return Err(PatternError::TooLong);
    }
    regex_syntax::parse(text).map_err(|error| {
        PatternError::Syntax(match error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => "not known".to_owned(),
        })
    })
}

fn compiled(text: &str) -> Result<Regex, PatternError> {
    let compiled = RegexBuilder::new(text).size_limit(PATTERN_COMPILED_BYTES).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        _ => PatternError::Syntax("it does not stand by itself".to_owned()),
    })
}

/// A pattern, and what takes the place of everything that it matches.
#[derive(Clone)]
pub struct Replacement {
    /// Matches any part of a text.
    regex: Regex,
    substitution: Vec<Piece>,
}

impl std::fmt::Debug for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Replacement").field(&self.regex.as_str()).field(&self.substitution).finish()
    }
}

impl PartialEq for Replacement {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.substitution == other.substitution
    }
}

impl Eq for Replacement {}

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
        let replaced = self.regex.replace_all(text, |captures: &Captures<'_>| {
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
    let regex = pattern.text().and_then(|text| understood(pattern, hir(&text).and_then(|_| compiled(&text))));
    let substitution = match substitution {
        None => Some(Vec::new()),
        Some(node) => node.text().and_then(|text| pieces(node, &text, regex.as_ref())),
    };
    Some(Replacement { regex: regex?, substitution: substitution? })
}

/// Pieces of RE2's rewrite syntax: `\0` to `\9`, and `\\` for a backslash.
fn pieces(node: &Node<'_>, text: &str, regex: Option<&Regex>) -> Option<Vec<Piece>> {
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
                if regex.is_some_and(|regex| group >= regex.captures_len()) {
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
            assert_eq!(Pattern::new(pattern).unwrap().is_match(text), matches, "{pattern} {text}");
        }
        for none in ["(", "a)(b", "[", "*", "(?=a)", r"\1", "(?x) a # b", "a{1000}{1000}"] {
            assert!(Pattern::new(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_a_pattern_matches_begins_with_its_beginning() {
        for (pattern, beginning) in [
            ("/api/v[0-9]+/x", "/api/v"),
            ("/(ab|ac)d", "/a"),
            ("/a|/ab", "/a"),
            ("(?i)/A", "/"),
            (".*", ""),
            ("/a?b", "/"),
            ("/exact", "/exact"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().beginning(), beginning.as_bytes(), "{pattern}");
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
