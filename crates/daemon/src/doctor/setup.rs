//! What the user has set up: the configuration, and the hooks.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Finding, Subject, programs};
use crate::config::Sources;
use crate::hooks::{self, Found};
use crate::root::Root;

/// What the configuration says, as far as checks need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Why the configuration cannot be used: all that is wrong with it.
    pub errors: Vec<String>,
    /// What is doubtful about it.
    pub warnings: Vec<String>,
    /// Other users may connect, so that the socket is open to all.
    pub others_may_connect: bool,
    /// The files of the hooks, in their order.
    pub hooks: Vec<PathBuf>,
    /// What is wrong with what names them. None of what it concerns is run.
    pub hook_errors: Vec<String>,
    /// What looks like a mistake there.
    pub hook_warnings: Vec<String>,
}

impl Configured {
    /// What a bus would be told that is started now, in this environment.
    pub fn read(root: &Root) -> Self {
        let found = Found::find(&hooks::Environment::of_process(), root.directory());
        let loaded = Sources::new(root, None, Vec::new()).load();
        let (errors, warnings, others_may_connect) = match loaded {
            Ok(loaded) => {
                (Vec::new(), loaded.warnings, !loaded.settings.router.allow_uids.is_empty())
            }
            Err(error) => (error.lines(), Vec::new(), false),
        };
        Configured {
            errors,
            warnings,
            others_may_connect,
            hooks: found.hooks.into_iter().map(|hook| hook.path).collect(),
            hook_errors: found.errors,
            hook_warnings: found.warnings,
        }
    }
}

pub(super) fn configuration(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let path = subject.root.config_file();
    let shown = path.display();
    let Configured { errors, warnings, .. } = subject.configured;
    if !errors.is_empty() || !warnings.is_empty() {
        let errors = errors.iter().map(|error| {
            Finding::problem(CHECK, error.clone())
                .advice("mend it: a bus does not start with it, nor reload it")
        });
        let warnings = warnings.iter().map(|warning| {
            Finding::warning(CHECK, warning.clone()).advice("'hermes-bus config show' has it all")
        });
        return errors.chain(warnings).collect();
    }
    let finding = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::ok(CHECK, format!("there is no {shown}: all is as usual"))
        }
        Err(error) => Finding::problem(CHECK, format!("{shown} cannot be read: {error}"))
            .advice("give this user access to it"),
        Ok(found) if found.mode() & 0o022 != 0 => Finding::warning(
            CHECK,
            format!("{shown} is writable for others (mode {:o})", found.mode() & 0o777),
        )
        .advice(format!("chmod 600 {shown}: it decides who may connect, and what is run")),
        Ok(_) => Finding::ok(CHECK, format!("{shown}")),
    };
    vec![finding]
}

// ---- hooks ------------------------------------------------------------------------------------------

/// What runs hooks that cannot run by themselves.
const INTERPRETER: &str = "python3";

pub(super) fn hooks(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "hooks";
    let Configured { hooks, hook_errors, hook_warnings, .. } = subject.configured;
    let errors = hook_errors.iter().map(|error| {
        Finding::problem(CHECK, error.clone()).advice("mend it: what it concerns is not run")
    });
    let warnings = hook_warnings.iter().map(|warning| {
        Finding::warning(CHECK, warning.clone()).advice("look at what names the hooks")
    });
    let mut findings: Vec<Finding> = errors.chain(warnings).collect();
    if hooks.is_empty() && findings.is_empty() {
        findings.push(Finding::ok(CHECK, "there are none"));
    }
    let has_interpreter = programs::find(&subject.surroundings.path, INTERPRETER).next().is_some();
    findings.extend(hooks.iter().map(|path| hook(CHECK, path, has_interpreter)));
    findings
}

fn hook(check: &'static str, path: &Path, has_interpreter: bool) -> Finding {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            return Finding::warning(check, format!("{shown} cannot be run: {error}"))
                .advice("put the file there, or take the hook out; its calls are skipped");
        }
    };
    let kind = found.file_type();
    if kind.is_dir() || kind.is_fifo() || kind.is_socket() {
        return Finding::warning(check, format!("{shown} is no file"))
            .advice("take the hook out; its calls are skipped");
    }
    if found.mode() & 0o022 != 0 {
        let mode = found.mode() & 0o777;
        return Finding::warning(check, format!("{shown} is writable for others (mode {mode:o})"))
            .advice(format!("chmod go-w {shown}: it runs as this user"));
    }
    match begins_as(path) {
        Err(error) => Finding::warning(check, format!("{shown} cannot be read: {error}"))
            .advice(format!("give this user access to it (chmod u+rx {shown})")),
        Ok(start) if start.runs_by_itself() && is_executable(&found) => {
            Finding::ok(check, format!("{shown} runs by itself"))
        }
        Ok(Start::Native) => {
            Finding::warning(check, format!("{shown} is a program, but not executable"))
                .advice(format!("chmod u+x {shown}; {INTERPRETER} cannot run it"))
        }
        Ok(Start::Script { is_python: false }) => Finding::warning(
            check,
            format!("{shown} is not executable: {INTERPRETER} runs it, which its first line does not ask for"),
        )
        .advice(format!("chmod u+x {shown}")),
        Ok(_) if !has_interpreter => {
            Finding::problem(check, format!("{shown} needs {INTERPRETER}, which is not on PATH"))
                .advice(format!("install {INTERPRETER}, or start the bus with another PATH"))
        }
        Ok(_) => Finding::ok(check, format!("{shown} runs with {INTERPRETER}")),
    }
}

/// How a file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// As a compiled program.
    Native,
    /// With `#!`.
    Script {
        is_python: bool,
    },
    Other,
}

impl Start {
    fn runs_by_itself(self) -> bool {
        matches!(self, Start::Native | Start::Script { .. })
    }
}

fn begins_as(path: &Path) -> std::io::Result<Start> {
    let mut start = Vec::new();
    File::open(path)?.take(128).read_to_end(&mut start)?;
    let first_line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(match start.as_slice() {
        [0x7f, b'E', b'L', b'F', ..] => Start::Native,
        [b'#', b'!', ..] => {
            Start::Script { is_python: String::from_utf8_lossy(first_line).contains("python") }
        }
        _ => Start::Other,
    })
}

fn is_executable(found: &fs::Metadata) -> bool {
    found.permissions().mode() & 0o111 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::tests::{World, only};
    use crate::manager::Daemon;

    #[test]
    fn a_configuration_is_missing_broken_open_or_fine() {
        let mut world = World::created();
        let path = world.root.config_file();
        let look = |world: &World| only(configuration(&world.subject_with(Daemon::Absent)));
        assert_eq!(look(&world).severity, Severity::Ok);
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(look(&world).severity, Severity::Ok);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(look(&world).severity, Severity::Warning);
        world.configured.errors = vec!["config.yaml:3:5: unknown key".to_owned()];
        let finding = look(&world);
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.what.contains("config.yaml:3:5"), "{}", finding.what);
    }

    #[test]
    fn a_hook_can_run_or_it_is_said_why_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hook");
        let with = |content: &[u8], mode: u32, has_interpreter: bool| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            hook("hooks", &path, has_interpreter).severity
        };
        assert_eq!(with(b"#!/bin/sh\n", 0o755, false), Severity::Ok);
        assert_eq!(with(b"#!/bin/sh\n", 0o644, true), Severity::Warning);
        assert_eq!(with(b"\x7fELF...", 0o755, false), Severity::Ok);
        assert_eq!(with(b"\x7fELF...", 0o644, true), Severity::Warning);
        assert_eq!(with(b"import sys\n", 0o644, true), Severity::Ok);
        assert_eq!(with(b"import sys\n", 0o755, true), Severity::Ok);
        assert_eq!(with(b"#!/usr/bin/env python3\n", 0o644, true), Severity::Ok);
        assert_eq!(with(b"import sys\n", 0o644, false), Severity::Problem);
        assert_eq!(with(b"#!/bin/sh\n", 0o757, true), Severity::Warning, "anybody can change it");
        let missing = hook("hooks", &directory.path().join("gone"), true);
        assert_eq!(missing.severity, Severity::Warning);
        assert_eq!(hook("hooks", directory.path(), true).severity, Severity::Warning);
    }

    #[test]
    fn the_interpreter_is_looked_for_on_path() {
        let mut world = World::created();
        let hook = world.root.directory().join("hook.py");
        fs::write(&hook, "import sys\n").unwrap();
        world.configured.hooks = vec![hook];
        let look = |world: &World| only(hooks(&world.subject_with(Daemon::Absent))).severity;
        assert_eq!(look(&world), Severity::Problem);
        let interpreter = world.root.directory().join(INTERPRETER);
        fs::write(&interpreter, "").unwrap();
        fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).unwrap();
        world.surroundings.path = world.root.directory().into();
        assert_eq!(look(&world), Severity::Ok);
    }
}
