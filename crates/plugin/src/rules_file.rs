//! `bus-rules.yaml` as a file that people edit while an agent runs.
//!
//! A change is taken over when it is next looked for. Of a file that cannot be understood nothing is taken over: the
//! last good rules hold, and what is wrong is told once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::Rulebook;
use crate::engine::rulebook::Remark;
use crate::rules::{RulesError, read_text};

/// A rules file and the last good rules of it.
#[derive(Debug)]
pub struct RulesFile {
    /// `None`: there is no place where it could be.
    path: Option<PathBuf>,
    rules: Arc<Rulebook>,
    seen: Option<Stamp>,
}

/// What tells a file from what it was before. Times alone do not: a file can be written twice within one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why the rules of a file cannot be used.
#[derive(Debug)]
pub enum Bad {
    /// It cannot be read, or is no text.
    File(RulesError),
    /// It holds mistakes.
    Mistakes(PathBuf, Vec<Remark>),
}

impl Bad {
    /// One line for each mistake, with its place in front.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Bad::File(error) => vec![error.to_string()],
            Bad::Mistakes(path, remarks) => prefixed(path, remarks),
        }
    }
}

/// What has become of the file since it was last looked at.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// It holds other rules, which are in force.
    Rules(Arc<Rulebook>),
    /// It is gone, and with it all rules.
    Gone(Arc<Rulebook>),
    /// It is wrong. The rules stay as they were.
    Bad(Bad),
}

impl RulesFile {
    /// A file that has not been looked at. Until then there are no rules.
    pub fn new(path: Option<PathBuf>) -> Self {
        RulesFile { path, rules: Arc::new(Rulebook::default()), seen: None }
    }

    /// The file, if there is a place for it.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rulebook> {
        Arc::clone(&self.rules)
    }

    /// The warnings of the rules in force, with their places.
    pub fn warnings(&self) -> Vec<String> {
        self.path.as_ref().map_or_else(Vec::new, |path| prefixed(path, &self.rules.warnings))
    }

    /// Looks whether the file has changed.
    pub fn refresh(&mut self) -> Change {
        let Some(path) = self.path.clone() else { return Change::None };
        let stamp = Stamp::of(&path);
        if stamp == self.seen {
            return Change::None;
        }
        self.seen = stamp;
        match load(&path) {
            Ok(rules) => {
                self.rules = Arc::new(rules);
                Change::Rules(self.rules())
            }
            Err(Bad::File(RulesError::Missing { .. })) => {
                self.rules = Arc::new(Rulebook::default());
                Change::Gone(self.rules())
            }
            Err(bad) => Change::Bad(bad),
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let file = fs::metadata(path).ok()?;
        Some(Stamp {
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// Reads and understands a file.
pub fn load(path: &Path) -> Result<Rulebook, Bad> {
    let text = read_text(path).map_err(Bad::File)?;
    Rulebook::parse(&text).map_err(|remarks| Bad::Mistakes(path.to_owned(), remarks))
}

/// Remarks behind the path of their file.
pub fn prefixed(path: &Path, remarks: &[Remark]) -> Vec<String> {
    remarks.iter().map(|remark| format!("{}{remark}", path.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_over_and_a_mistake_leaves_the_last_good_rules() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus-rules.yaml");
        let mut file = RulesFile::new(Some(path.clone()));
        assert!(matches!(file.refresh(), Change::None), "there is none, and was none");

        fs::write(&path, "callbacks: [{match_type: a}]").unwrap();
        assert!(matches!(file.refresh(), Change::Rules(rules) if rules.rules.len() == 1));
        assert!(matches!(file.refresh(), Change::None));

        // Of the same size.
        fs::write(&path, "callbacks: [{match_type: 5}").unwrap();
        let Change::Bad(bad) = file.refresh() else { panic!("it is no YAML") };
        let lines = bad.lines();
        assert!(lines[0].starts_with(&format!("{}:1:", path.display())), "{lines:?}");
        assert_eq!(file.rules().rules.len(), 1, "the last good ones");
        assert!(matches!(file.refresh(), Change::None), "told once");

        fs::write(&path, "callbacks: [{match_type: a}, {match_type: b}]").unwrap();
        assert!(matches!(file.refresh(), Change::Rules(rules) if rules.rules.len() == 2));
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.refresh(), Change::Gone(_)));
        assert!(file.rules().rules.is_empty());
    }
}
