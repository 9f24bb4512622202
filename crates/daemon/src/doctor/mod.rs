//! The doctor: looks for everything that could keep a bus from working, says what to do about it,
//! and does the safe part if it is asked to.
//!
//! It only looks: it starts nothing, and waits for a hung bus no longer than the manager does. Each
//! check is a function that gives findings. What is repaired was made by the bus itself; files of
//! the user and running daemons are left alone.

mod environment;
mod files;
mod leftovers;
mod machine;
mod process;
mod programs;
mod setup;
mod store;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::manager::{self, Daemon};
use crate::root::Root;

pub use environment::Environment;
pub use setup::Configured;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works, but not for all, not safely, or not for long.
    Warning,
    /// It does not work.
    Problem,
}

impl Severity {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: a few words, for people and scripts.
    pub check: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What to do about it; none where there is nothing to do.
    pub advice: Option<String>,
    remedy: Option<Remedy>,
}

/// What may be done about a finding without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Remedy {
    /// Remove the socket and the PID file of a dead bus, under the root's lock.
    CleanUp,
    /// Give a file that the bus made the mode that it makes it with.
    SetMode { path: PathBuf, mode: u32 },
}

impl Finding {
    fn new(check: &'static str, severity: Severity, what: impl Into<String>) -> Self {
        Finding { check, severity, what: what.into(), advice: None, remedy: None }
    }

    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Finding::new(check, Severity::Ok, what)
    }

    fn note(check: &'static str, what: impl Into<String>) -> Self {
        Finding::new(check, Severity::Note, what)
    }

    fn warning(check: &'static str, what: impl Into<String>) -> Self {
        Finding::new(check, Severity::Warning, what)
    }

    fn problem(check: &'static str, what: impl Into<String>) -> Self {
        Finding::new(check, Severity::Problem, what)
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Whether [`repair`] does something about it.
    pub fn is_fixable(&self) -> bool {
        self.remedy.is_some()
    }

    /// Whether there is something to do.
    pub fn needs_action(&self) -> bool {
        self.severity >= Severity::Warning
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        json!({
            "check": self.check,
            "severity": self.severity.as_str(),
            "what": self.what,
            "advice": self.advice,
            "fixable": self.is_fixable(),
        })
    }
}

/// What every check knows.
struct Subject<'a> {
    root: &'a Root,
    daemon: Daemon,
    environment: &'a Environment,
    configured: &'a Configured,
}

/// Looks at everything. Takes as long as a hung bus is waited for, a few seconds at most.
pub fn examine(root: &Root, environment: &Environment, configured: &Configured) -> Vec<Finding> {
    let subject = Subject { root, daemon: manager::look(root), environment, configured };
    let checks: [fn(&Subject<'_>) -> Vec<Finding>; 21] = [
        files::root,
        files::run_directory,
        files::log,
        files::lock,
        files::socket,
        files::pid_file,
        process::daemon,
        process::version,
        process::open_files,
        machine::backlog,
        machine::disk,
        machine::clock,
        store::database,
        store::in_use,
        setup::configuration,
        setup::hooks,
        programs::on_path,
        leftovers::environment,
        leftovers::hermes_home,
        leftovers::default_root,
        leftovers::plugin_log,
    ];
    checks.iter().flat_map(|check| check(&subject)).collect()
}

/// Something that was done about findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What was done, or tried.
    pub what: String,
    /// Why it failed; none if it is done.
    pub failure: Option<String>,
}

impl Repair {
    /// For scripts.
    pub fn to_json(&self) -> Value {
        json!({"what": self.what, "ok": self.failure.is_none(), "failure": self.failure})
    }
}

/// Does what is safe about findings.
pub fn repair(root: &Root, findings: &[Finding]) -> Vec<Repair> {
    let mut remedies: Vec<&Remedy> = Vec::new();
    for remedy in findings.iter().filter_map(|finding| finding.remedy.as_ref()) {
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    let apply = |remedy: &Remedy| {
        let (what, done) = match remedy {
            Remedy::CleanUp => {
                ("removed what a dead bus left behind".to_owned(), manager::clean_up(root))
            }
            Remedy::SetMode { path, mode } => {
                (format!("set the mode of {} to {mode:o}", path.display()), set_mode(path, *mode))
            }
        };
        Repair { what, failure: done.err().map(|error| format!("{error:#}")) }
    };
    remedies.into_iter().map(apply).collect()
}

/// Only of what belongs to this user, and never through a link.
fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(path)?;
    anyhow::ensure!(!found.is_symlink(), "it is a link");
    anyhow::ensure!(is_own(&found), "it belongs to another user");
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn is_own(found: &fs::Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A root of its own, and nothing around it.
    pub(super) struct World {
        _directory: tempfile::TempDir,
        pub(super) root: Root,
        pub(super) environment: Environment,
        pub(super) configured: Configured,
    }

    impl World {
        pub(super) fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = Root::find(Some(&directory.path().join("root"))).unwrap();
            let environment = Environment::none(directory.path());
            let configured = Configured::default();
            World { _directory: directory, root, environment, configured }
        }

        pub(super) fn created() -> Self {
            let world = World::new();
            world.root.create().unwrap();
            world
        }

        pub(super) fn subject(&self) -> Subject<'_> {
            self.subject_with(manager::look(&self.root))
        }

        pub(super) fn subject_with(&self, daemon: Daemon) -> Subject<'_> {
            let World { root, environment, configured, .. } = self;
            Subject { root, daemon, environment, configured }
        }
    }

    pub(super) fn only(findings: Vec<Finding>) -> Finding {
        let [finding] = findings.try_into().unwrap();
        finding
    }

    #[test]
    fn a_dead_bus_is_found_and_cleaned_up_and_then_there_is_nothing_left_to_do() {
        let world = World::created();
        drop(UnixListener::bind(world.root.socket()).unwrap());
        fs::write(world.root.pid_file(), "999999999").unwrap();
        fs::write(world.root.log_file(), "old").unwrap();
        fs::set_permissions(world.root.log_file(), fs::Permissions::from_mode(0o666)).unwrap();
        let about_root = |finding: &Finding| {
            ["socket", "PID file", "log"].contains(&finding.check) && finding.needs_action()
        };
        let mut found = examine(&world.root, &world.environment, &world.configured);
        found.retain(about_root);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(Finding::is_fixable), "{found:?}");
        let repairs = repair(&world.root, &found);
        assert_eq!(repairs.len(), 2, "what two findings need is done once: {repairs:?}");
        assert!(repairs.iter().all(|repair| repair.failure.is_none()), "{repairs:?}");
        found = examine(&world.root, &world.environment, &world.configured);
        found.retain(about_root);
        assert_eq!(found, []);
        assert_eq!(fs::metadata(world.root.log_file()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_mode_is_changed_through_a_link() {
        let world = World::created();
        let precious = world.root.directory().join("precious");
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o644)).unwrap();
        let link = world.root.log_file();
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        assert!(set_mode(&link, 0o600).is_err());
        assert_eq!(fs::metadata(&precious).unwrap().mode() & 0o777, 0o644);
    }
}
