//! What was found wrong while a configuration is read, in the order in which it will be said.

use std::cell::RefCell;

use crate::limits::CONFIG_PROBLEMS;
use crate::tree::Spot;
use crate::{Config, Place, Problem, Problems};

/// Collects problems and warnings. A value never appears in one: its line shows it, and it may be a secret.
pub struct Report {
    file: String,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Report {
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), problems: RefCell::default(), warnings: RefCell::default() }
    }

    /// Whether so many problems were found that no more are recorded.
    pub fn is_full(&self) -> bool {
        self.problems.borrow().len() >= CONFIG_PROBLEMS
    }

    pub fn problem(&self, spot: &Spot, key: &str, wrong: &str, right: &str) {
        if !self.is_full() {
            self.problems.borrow_mut().push(self.made(spot, key, wrong, right));
        }
    }

    pub fn warning(&self, spot: &Spot, key: &str, wrong: &str, right: &str) {
        if self.warnings.borrow().len() < CONFIG_PROBLEMS {
            self.warnings.borrow_mut().push(self.made(spot, key, wrong, right));
        }
    }

    /// The configuration, with its warnings, if nothing is wrong with it.
    pub fn finish(self, config: Option<Config>) -> Result<Config, Problems> {
        let full = self.is_full();
        let said = |wrong: &str, right: &str| self.made(&Spot::Whole, "", wrong, right);
        let cut = said("has more problems than are shown", "correct these first");
        let nothing = said("cannot be understood", "begin with a configuration that is known to work");
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| rank(&problem.place));
        if full {
            problems.push(cut);
        }
        match config {
            Some(config) if problems.is_empty() => {
                let mut warnings = self.warnings.into_inner();
                warnings.sort_by_key(|warning| rank(&warning.place));
                Ok(Config { warnings, ..config })
            }
            None if problems.is_empty() => Err(Problems(vec![nothing])),
            Some(_) | None => Err(Problems(problems)),
        }
    }

    fn made(&self, spot: &Spot, key: &str, wrong: &str, right: &str) -> Problem {
        let file = self.file.clone();
        let place = match spot {
            Spot::Line(line) => Place::Line { file, line: *line },
            Spot::Variable(name) => Place::Variable(name.clone()),
            Spot::Whole => Place::File(file),
        };
        Problem { place, key: key.to_owned(), wrong: wrong.to_owned(), right: right.to_owned() }
    }
}

/// Lines first, then variables, then what concerns the file as a whole.
fn rank(place: &Place) -> (u8, usize, String) {
    match place {
        Place::Line { line, .. } => (0, *line, String::new()),
        Place::Variable(name) => (1, 0, name.clone()),
        Place::File(_) => (2, 0, String::new()),
    }
}
