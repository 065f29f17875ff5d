//! What is wrong with a configuration: where, what, and what would be right.

use std::fmt;

/// Where a problem is: a file and line (from 1), or the name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `FILE:LINE`
    Line {
        /// The file as it was named.
        file: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// `$NAME`
    Variable(String),
    /// The file as a whole (unreadable, empty, a required key absent).
    File(String),
}

/// One problem, printed as `FILE:LINE: key.path: what is wrong; what would be right`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The key path, such as `routes[2].policy[0].allow.and[1]`; empty for the document itself.
    pub key: String,
    /// What is wrong, lower case, no full stop.
    pub wrong: String,
    /// What would be right, lower case, no full stop.
    pub right: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Variable(name) => write!(f, "${name}"),
            Self::File(file) => f.write_str(file),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.wrong, self.right)
    }
}

/// All problems of one configuration, in the order in which they stand in it. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
