//! What was found: for each row a table of figures, each for some subjects, round by round.

use serde::Serialize;

use crate::statistics::Spread;

/// A row.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// What it is called.
    pub title: String,
    /// What is to be known of it.
    pub note: String,
    /// Who was measured.
    pub subjects: Vec<String>,
    /// Each is compared with the first; else the first with each.
    pub grows: bool,
    /// What was measured.
    pub figures: Vec<Figure>,
}

/// A figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is called.
    pub name: String,
    /// Digits behind the point.
    pub digits: usize,
    /// For each subject, what each round found.
    pub found: Vec<Vec<f64>>,
}

impl Table {
    /// One without figures.
    pub fn new(title: &str, note: String, subjects: impl IntoIterator<Item = String>) -> Self {
        let subjects = subjects.into_iter().collect();
        Self { title: title.to_owned(), note, subjects, grows: false, figures: Vec::new() }
    }

    /// The same for subjects of which the first is the least.
    pub fn growing(title: &str, note: String, subjects: impl IntoIterator<Item = String>) -> Self {
        Self { grows: true, ..Self::new(title, note, subjects) }
    }

    /// A subject that is not the first, compared.
    pub fn compared(&self, figure: &Figure, subject: usize) -> Option<Spread> {
        if self.grows { figure.ratio(subject, 0) } else { figure.ratio(0, subject) }
    }

    /// Adds what a round found of a subject.
    pub fn add(&mut self, name: &str, digits: usize, subject: usize, value: f64) {
        if !self.figures.iter().any(|figure| figure.name == name) {
            let found = vec![Vec::new(); self.subjects.len()];
            self.figures.push(Figure { name: name.to_owned(), digits, found });
        }
        let figure = self.figures.iter_mut().find(|figure| figure.name == name);
        if let Some(rounds) = figure.and_then(|figure| figure.found.get_mut(subject)) {
            rounds.push(value);
        }
    }

    /// A figure by its name, as far as it begins so.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name.starts_with(name))
    }

    /// Where a subject stands.
    pub fn subject(&self, name: &str) -> Option<usize> {
        self.subjects.iter().position(|subject| subject == name)
    }
}

impl Figure {
    /// How it spread over the rounds; `None` for whom it was not measured.
    pub fn spread(&self, subject: usize) -> Option<Spread> {
        let rounds = self.found.get(subject).filter(|rounds| !rounds.is_empty())?;
        Some(Spread::of(rounds.iter().copied()))
    }

    /// One subject over another, round by round.
    pub fn ratio(&self, over: usize, under: usize) -> Option<Spread> {
        let (over, under) = (self.found.get(over)?, self.found.get(under)?);
        let pairs: Vec<f64> = over.iter().zip(under).map(|(over, under)| over / under).collect();
        (!pairs.is_empty()).then(|| Spread::of(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_pairs_and_not_of_medians() {
        let mut table = Table::new("row", String::new(), ["ours", "theirs"].map(str::to_owned));
        for (ours, theirs) in [(20.0, 10.0), (30.0, 20.0), (48.0, 40.0)] {
            table.add("CPU, µs", 1, 0, ours);
            table.add("CPU, µs", 1, 1, theirs);
        }
        let cpu = table.figure("CPU").unwrap();
        assert_eq!(cpu.ratio(0, 1), Some(Spread { min: 1.2, median: 1.5, max: 2.0 }));
        assert_eq!(cpu.spread(1), Some(Spread { min: 10.0, median: 20.0, max: 40.0 }));
        assert_eq!(cpu.spread(2), None);
    }
}
