//! From a path or a text to a configuration: the whole way on one page.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::limits::CONFIG_BYTES;
use crate::node::Node;
use crate::report::Report;
use crate::{Config, Place, Problem, Problems, environment, global, tree};

/// Reads a configuration file (YAML or JSON) and puts environment variables over it.
///
/// `variables` answers for a variable's name, in upper case (`IDP_CLIENT_ID`); an empty value counts as absent.
///
/// # Errors
/// Every problem of the file and the variables, in file order; the file cannot be read, is too large or is not UTF-8.
pub fn load(path: &Path, variables: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    let name = path.display().to_string();
    let text = read(path, &name).map_err(|problem| Problems(vec![problem]))?;
    parse(&name, &text, variables)
}

/// The same from a text; `name` is what problems print as the file.
///
/// # Errors
/// Every problem of the text and the variables, in the text's order.
pub fn parse(name: &str, text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    let report = Report::new(name);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let config = tree::read(text, &report, &tree::Spot::Line).and_then(|mut tree| {
        environment::overlay(&mut tree, variables, &report);
        global::decode(&Node::root(&tree, &report))
    });
    report.finish(config)
}

fn read(path: &Path, name: &str) -> Result<String, Problem> {
    let problem = |wrong: &str, right: &str| Problem {
        place: Place::File(name.to_owned()),
        key: String::new(),
        wrong: wrong.to_owned(),
        right: right.to_owned(),
    };
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => problem("no such file", "name a configuration file that exists"),
        ErrorKind::PermissionDenied => problem("may not be read by this user", "make it readable"),
        ErrorKind::IsADirectory => problem("is a directory", "name a file"),
        _ => problem("cannot be read", "name a readable file"),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    let too_large = u64::try_from(bytes.len()).map_or(true, |length| length > CONFIG_BYTES);
    if too_large {
        return Err(problem("is too large", &format!("{CONFIG_BYTES} bytes at most")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + good.filter(|byte| **byte == b'\n').count();
        let place = Place::Line { file: name.to_owned(), line };
        Problem { place, ..problem("is not UTF-8", "save the file as UTF-8") }
    })
}
