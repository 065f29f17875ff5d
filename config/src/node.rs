//! A view of one value that knows its place and key path, and reports what is wrong with it.

use crate::duration;
use crate::keys::nearest;
use crate::report::Report;
use crate::tree::{Content, Entry, Kind, Scalar, Spot, Tree, shown};

/// A value, where it stands, and what it is called.
#[derive(Clone)]
pub struct Node<'a> {
    tree: &'a Tree,
    spot: &'a Spot,
    key: String,
    report: &'a Report,
}

/// A map, seen as keys with values.
#[derive(Clone)]
pub struct Fields<'a> {
    node: Node<'a>,
    entries: &'a [Entry],
}

impl<'a> Node<'a> {
    pub fn root(tree: &'a Tree, report: &'a Report) -> Self {
        Self { tree, spot: &tree.spot, key: String::new(), report }
    }

    /// Reports a problem with this value. Neither text may repeat the value.
    pub fn wrong(&self, wrong: &str, right: &str) {
        self.report.problem(self.spot, &self.key, wrong, right);
    }

    /// The same as the end of an expression.
    pub fn refuse<T>(&self, wrong: &str, right: &str) -> Option<T> {
        self.wrong(wrong, right);
        None
    }

    /// Reports what works but should not be left so.
    pub fn warn(&self, wrong: &str, right: &str) {
        self.report.warning(self.spot, &self.key, wrong, right);
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn report(&self) -> &'a Report {
        self.report
    }

    pub fn is_from_variable(&self) -> bool {
        matches!(self.spot, Spot::Variable(_))
    }

    pub fn scalar(&self) -> Option<&'a Scalar> {
        match &self.tree.content {
            Content::Scalar(scalar) => Some(scalar),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.tree.content, Content::Map(_))
    }

    /// Whether it is a list or map without members.
    pub fn is_empty_collection(&self) -> bool {
        match &self.tree.content {
            Content::Scalar(_) => false,
            Content::List(items) => items.is_empty(),
            Content::Map(entries) => entries.is_empty(),
        }
    }

    /// The members of a list; `None` for anything else.
    pub fn items(&self) -> Option<Vec<Self>> {
        match &self.tree.content {
            Content::List(items) => Some(
                (items.iter().enumerate())
                    .map(|(index, tree)| {
                        let spot = if self.is_from_variable() { self.spot } else { &tree.spot };
                        Self { tree, spot, key: format!("{}[{index}]", self.key), report: self.report }
                    })
                    .collect(),
            ),
            Content::Scalar(_) | Content::Map(_) => None,
        }
    }

    /// The value as a map; anything else is a problem.
    pub fn fields(&self) -> Option<Fields<'a>> {
        match &self.tree.content {
            Content::Map(entries) => Some(Fields { node: self.clone(), entries }),
            Content::Scalar(_) | Content::List(_) => self.refuse("is not a map", "write `key: value` pairs"),
        }
    }

    /// The value as text. Whole numbers are taken as they are written; what YAML would change must be quoted.
    pub fn text(&self) -> Option<String> {
        let Some(Scalar { text, kind }) = self.scalar() else {
            return self.refuse("is a list or a map", "one text");
        };
        match kind {
            Kind::Text => Some(text.clone()),
            Kind::Integer(number) if *text == number.to_string() => Some(text.clone()),
            Kind::Null => self.refuse("has no value", "write one or remove the key"),
            Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => {
                self.refuse("is a number or a boolean, not text", "put it in quotes")
            }
        }
    }

    /// A boolean, also in the spellings that Go's parser takes from text (`true`, `True`, `t`, `1` and their opposites).
    pub fn boolean(&self) -> Option<bool> {
        match self.scalar().map(|scalar| scalar.text.as_str()) {
            Some("true" | "True" | "TRUE" | "t" | "T" | "1") => Some(true),
            Some("false" | "False" | "FALSE" | "f" | "F" | "0") => Some(false),
            Some(_) | None => self.refuse("is neither true nor false", "true or false"),
        }
    }

    /// A duration in Go's syntax.
    pub fn duration(&self) -> Option<std::time::Duration> {
        let text = self.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
        duration::parse(text).map_or_else(
            |error| self.refuse(&error.to_string(), "a number with a unit, such as 30s, 1h30m or 14h"),
            Some,
        )
    }

    /// Texts: a list, or one text in which commas separate. Empty ones are problems in a list and skipped in a text.
    pub fn texts(&self) -> Vec<(Self, String)> {
        if let Some(items) = self.items() {
            let filled = |item: Self| match item.text() {
                Some(text) if text.is_empty() => item.refuse("is empty", "write a value or remove it"),
                Some(text) => Some((item, text)),
                None => None,
            };
            return items.into_iter().filter_map(filled).collect();
        }
        let Some(text) = self.text() else { return Vec::new() };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| (self.clone(), part.to_owned())).collect()
    }

    /// One of the values that are known here; `later` are those that Pomerium has and we do not yet.
    pub fn choice<T: Copy>(&self, here: &[(&str, T)], later: &[&str]) -> Option<T> {
        let text = self.text()?;
        let is = |name: &str| name.eq_ignore_ascii_case(&text);
        if let Some((_, value)) = here.iter().find(|(name, _)| is(name)) {
            return Some(*value);
        }
        let names: Vec<&str> = here.iter().map(|(name, _)| *name).collect();
        let wrong = if later.iter().any(|name| is(name)) { NOT_YET } else { "is not a known value" };
        let right = match nearest(&text, names.iter().copied()) {
            Some(name) if names.len() > 1 => format!("did you mean {name}"),
            Some(_) | None => match names.as_slice() {
                [only] => (*only).to_owned(),
                names => format!("one of {}", names.join(", ")),
            },
        };
        self.refuse(wrong, &right)
    }
}

/// Said of a key or value that Pomerium has and we do not cover.
pub const NOT_YET: &str = "not supported by this version";

impl<'a> Fields<'a> {
    /// Every key with its value, in the order in which they were written.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> + use<'a, '_> {
        self.entries.iter().map(|entry| (entry.name.as_str(), self.child(entry)))
    }

    /// The value of a key; an absent, null or empty one is not set.
    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        let node = self.child(entry);
        let is_unset = node.scalar().is_some_and(|scalar| scalar.kind == Kind::Null || scalar.text.is_empty());
        (!is_unset).then_some(node)
    }

    /// A key that must be set: its absence is a problem of the map that lacks it.
    pub fn required(&self, name: &str, right: &str) -> Option<Node<'a>> {
        let found = self.get(name);
        if found.is_none() {
            self.missing(name, right);
        }
        found
    }

    /// Reports that a key is missing: at the map, or for the document at the file as a whole.
    pub fn missing(&self, name: &str, right: &str) {
        let is_document = self.node.key.is_empty();
        let spot = if is_document { &Spot::Whole } else { self.node.spot };
        self.node.report.problem(spot, &self.path(name), "is missing", right);
    }

    fn child(&self, entry: &'a Entry) -> Node<'a> {
        Node { tree: &entry.value, spot: &entry.spot, key: self.path(&entry.name), report: self.node.report }
    }

    fn path(&self, name: &str) -> String {
        match self.node.key.as_str() {
            "" => shown(name),
            key => format!("{key}.{}", shown(name)),
        }
    }
}
