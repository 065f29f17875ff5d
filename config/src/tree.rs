//! YAML (and so JSON) as a tree in which every value knows its line; what is dangerous in YAML is refused here.
//!
//! Built from the parser's events and not from its ready-made document, so that nesting and the growth of aliases are
//! bounded while they are read, and a key that is given twice is named with both of its lines.

use std::collections::HashMap;

use saphyr::{Scalar as Resolved, ScanError};
use saphyr_parser::{Event, Parser};

use crate::limits::{CONFIG_DEPTH, CONFIG_KEY_SHOWN, CONFIG_VALUES};
use crate::report::Report;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
    /// The file as a whole.
    Whole,
}

/// A value and its place. No `Debug`: it may hold secrets.
#[derive(Clone)]
pub struct Tree {
    pub spot: Spot,
    pub content: Content,
}

/// What a value is.
#[derive(Clone)]
pub enum Content {
    Scalar(Scalar),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

/// A value without parts: as it was written, and what YAML takes it for.
#[derive(Clone)]
pub struct Scalar {
    pub text: String,
    pub kind: Kind,
}

/// What YAML's core schema takes a scalar for.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text,
}

/// A key of a map with its value; keys of one map differ.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    /// Where the key stands.
    pub spot: Spot,
    pub value: Tree,
}

impl Tree {
    /// A text, as an environment variable gives it.
    pub fn text(spot: Spot, text: String) -> Self {
        Self { spot, content: Content::Scalar(Scalar { text, kind: Kind::Text }) }
    }

    /// Values in it, itself included, and how deep they nest.
    fn measure(&self) -> (usize, usize) {
        let parts: Vec<_> = match &self.content {
            Content::Scalar(_) => return (1, 0),
            Content::List(items) => items.iter().map(Self::measure).collect(),
            Content::Map(entries) => entries.iter().map(|entry| entry.value.measure()).collect(),
        };
        (1 + parts.iter().map(|part| part.0).sum::<usize>(), 1 + parts.iter().map(|part| part.1).max().unwrap_or(0))
    }
}

/// Reads one document; an empty one is an empty map. `spot` turns a line into the place that problems name.
///
/// `None` means that reading had to stop; the report says why.
pub fn read(text: &str, report: &Report, spot: &dyn Fn(usize) -> Spot) -> Option<Tree> {
    let mut builder = Builder { report, spot, open: Vec::new(), anchors: HashMap::new(), values: 0, root: None };
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        match event {
            Ok((Event::DocumentStart(_), span)) => {
                documents += 1;
                if documents > 1 {
                    builder.say(span.start.line(), "a second document begins", "one document in one file");
                    break;
                }
            }
            Ok((event, span)) => builder.take(event, span.start.line()).ok()?,
            Err(error) => {
                builder.refuse_syntax(&error);
                return None;
            }
        }
    }
    let empty = Tree { spot: spot(1), content: Content::Map(Vec::new()) };
    Some(builder.root.filter(|root| !is_null(root)).unwrap_or(empty))
}

/// A key name as problems repeat it: short, and without control characters.
pub fn shown(name: &str) -> String {
    name.chars().take(CONFIG_KEY_SHOWN).flat_map(char::escape_debug).collect()
}

fn is_null(tree: &Tree) -> bool {
    matches!(&tree.content, Content::Scalar(scalar) if scalar.kind == Kind::Null)
}

/// Reading had to stop; the reason was reported.
struct Stopped;

/// A collection whose end has not come yet.
struct Open {
    spot: Spot,
    anchor: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Tree>),
    Map { entries: Vec<Entry>, seen: HashMap<String, Spot>, key: Option<Key>, merged: Vec<Tree> },
}

/// A key that waits for its value.
enum Key {
    Named(String, Spot),
    /// `<<`: the value's keys join this map unless it has them itself (YAML 1.1 merge key).
    Merge,
    /// Was reported; its value is dropped.
    Refused,
}

struct Builder<'a> {
    report: &'a Report,
    spot: &'a dyn Fn(usize) -> Spot,
    open: Vec<Open>,
    anchors: HashMap<usize, Tree>,
    values: usize,
    root: Option<Tree>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Stopped> {
        let spot = (self.spot)(line);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let Some(resolved) = Resolved::parse_from_cow_and_metadata(text.clone(), style, tag.as_ref()) else {
                    self.say(line, "is not what its tag says", "remove the tag");
                    return Err(Stopped);
                };
                let kind = match resolved {
                    Resolved::Null => Kind::Null,
                    Resolved::Boolean(value) => Kind::Bool(value),
                    Resolved::Integer(value) => Kind::Integer(value),
                    Resolved::FloatingPoint(value) => Kind::Float(value.into_inner()),
                    Resolved::String(_) => Kind::Text,
                };
                let content = Content::Scalar(Scalar { text: text.into_owned(), kind });
                self.put(Tree { spot, content }, anchor, line)
            }
            Event::SequenceStart(anchor, _) => self.begin(spot, anchor, Parts::List(Vec::new()), line),
            Event::MappingStart(anchor, _) => {
                let (entries, seen, merged) = (Vec::new(), HashMap::new(), Vec::new());
                self.begin(spot, anchor, Parts::Map { entries, seen, key: None, merged }, line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(line),
            Event::Alias(anchor) => {
                let Some(tree) = self.anchors.get(&anchor) else {
                    self.say(line, "refers to itself", "write the value out");
                    return Err(Stopped);
                };
                let (values, depth) = tree.measure();
                let repeated = tree.clone();
                self.count(values, depth, line)?;
                self.put(repeated, 0, line)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, spot: Spot, anchor: usize, parts: Parts, line: usize) -> Result<(), Stopped> {
        if self.open.len() >= CONFIG_DEPTH {
            self.say(line, "is nested too deeply", &format!("{CONFIG_DEPTH} levels at most"));
            return Err(Stopped);
        }
        self.open.push(Open { spot, anchor, parts });
        Ok(())
    }

    fn end(&mut self, line: usize) -> Result<(), Stopped> {
        let Some(Open { spot, anchor, parts }) = self.open.pop() else { return Err(Stopped) };
        let content = match parts {
            Parts::List(items) => Content::List(items),
            Parts::Map { mut entries, mut seen, merged, .. } => {
                for entry in merged.into_iter().flat_map(entries_of) {
                    if seen.insert(entry.name.clone(), entry.spot.clone()).is_none() {
                        entries.push(entry);
                    }
                }
                Content::Map(entries)
            }
        };
        self.put(Tree { spot, content }, anchor, line)
    }

    /// A value is complete: it belongs to the collection that is open, or is the document.
    fn put(&mut self, tree: Tree, anchor: usize, line: usize) -> Result<(), Stopped> {
        self.count(1, 0, line)?;
        if anchor > 0 {
            self.count(tree.measure().0, 0, line)?;
            self.anchors.insert(anchor, tree.clone());
        }
        match self.open.last_mut().map(|open| &mut open.parts) {
            None => self.root = Some(tree),
            Some(Parts::List(items)) => items.push(tree),
            Some(Parts::Map { entries, key, merged, .. }) => match key.take() {
                None => self.name(tree, line),
                Some(Key::Named(name, spot)) => entries.push(Entry { name, spot, value: tree }),
                Some(Key::Merge) if is_mergeable(&tree) => merged.push(tree),
                Some(Key::Merge) => self.say(line, "`<<` takes a map or a list of maps", "refer to a map's anchor"),
                Some(Key::Refused) => {}
            },
        }
        Ok(())
    }

    /// So many more values, of so many more levels: aliases make large trees out of short texts.
    fn count(&mut self, values: usize, depth: usize, line: usize) -> Result<(), Stopped> {
        self.values = self.values.saturating_add(values);
        if self.values <= CONFIG_VALUES && self.open.len() + depth <= CONFIG_DEPTH {
            return Ok(());
        }
        self.say(line, "is too large", &format!("{CONFIG_VALUES} values, {CONFIG_DEPTH} levels at most"));
        Err(Stopped)
    }

    /// A key of the map that is open.
    fn name(&mut self, tree: Tree, line: usize) {
        let path = self.path();
        let Some(Open { parts: Parts::Map { seen, key, .. }, .. }) = self.open.last_mut() else { return };
        let Content::Scalar(Scalar { text, .. }) = tree.content else {
            *key = Some(Key::Refused);
            self.say(line, "a key is a list or a map", "a name");
            return;
        };
        if text == "<<" {
            *key = Some(Key::Merge);
            return;
        }
        let Some(first) = seen.get(&text).cloned() else {
            seen.insert(text.clone(), tree.spot.clone());
            *key = Some(Key::Named(text, tree.spot));
            return;
        };
        *key = Some(Key::Refused);
        let wrong = match first {
            Spot::Line(first) => format!("is given twice, first on line {first}"),
            Spot::Variable(_) | Spot::Whole => "is given twice".to_owned(),
        };
        let full = if path.is_empty() { shown(&text) } else { format!("{path}.{}", shown(&text)) };
        self.report.problem(&tree.spot, &full, &wrong, "keep one");
    }

    fn say(&self, line: usize, wrong: &str, right: &str) {
        self.report.problem(&(self.spot)(line), &self.path(), wrong, right);
    }

    fn refuse_syntax(&self, error: &ScanError) {
        let wrong = format!("is not valid YAML here: {}", error.info());
        self.say(error.marker().line(), &wrong, "correct the syntax; an indentation or a quote may be wrong above");
    }

    /// The key path of the value that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.parts {
                Parts::List(items) => path.push_str(&format!("[{}]", items.len())),
                Parts::Map { key: Some(Key::Named(name, _)), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&shown(name));
                }
                Parts::Map { .. } => {}
            }
        }
        path
    }
}

fn is_mergeable(tree: &Tree) -> bool {
    match &tree.content {
        Content::Map(_) => true,
        Content::List(items) => items.iter().all(|item| matches!(item.content, Content::Map(_))),
        Content::Scalar(_) => false,
    }
}

fn entries_of(tree: Tree) -> Vec<Entry> {
    match tree.content {
        Content::Map(entries) => entries,
        Content::List(items) => items.into_iter().flat_map(entries_of).collect(),
        Content::Scalar(_) => Vec::new(),
    }
}
