//! What the user has set up: the configuration, and the hooks.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hermes_bus_client::executables_on_path;

use super::{Environment, Finding, Subject};
use crate::config::Sources;
use crate::hooks::program::{self, Kind, Start};
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
    /// The configuration file; none means the usual one.
    pub file: Option<PathBuf>,
}

impl Configured {
    /// What a bus would be told that is started now, in this environment.
    pub fn read(root: &Root) -> Self {
        let found = Found::find(&hooks::Environment::of_process(), root.directory());
        let sources = Sources::new(root, None, Vec::new());
        let loaded = sources.load();
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
            file: Some(sources.file().to_owned()),
        }
    }
}

/// Whether a bus that runs was told to let other users connect: by its own command line and environment,
/// which may say something else than those of this process. None where they cannot be seen.
pub(super) fn lets_others_connect(root: &Root, pid: u32) -> Option<bool> {
    let strings = |name: &str| -> Option<Vec<OsString>> {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
        let strings = bytes.split(|byte| *byte == 0).filter(|string| !string.is_empty());
        Some(strings.map(|string| OsStr::from_bytes(string).to_owned()).collect())
    };
    let arguments = strings("cmdline")?;
    let values = |option: &str| {
        let places = arguments.windows(2).filter(move |pair| pair[0] == option);
        places.map(|pair| pair[1].clone()).collect::<Vec<_>>()
    };
    let file = values("--config").pop().map(PathBuf::from);
    let flags = values("--set").into_iter().filter_map(|flag| flag.into_string().ok()).collect();
    let variable = |string: OsString| {
        let bytes = string.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=')?;
        let (name, value) =
            (OsStr::from_bytes(&bytes[..end]), OsStr::from_bytes(&bytes[end + 1..]));
        Some((name.to_owned(), value.to_owned()))
    };
    let environment = strings("environ")?.into_iter().filter_map(variable).collect();
    let loaded = Sources::with_environment(root, file, flags, environment).load().ok()?;
    Some(!loaded.settings.router.allow_uids.is_empty())
}

pub(super) fn configuration(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let path = subject.configured.file.clone().unwrap_or_else(|| subject.root.config_file());
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
    let interpreter = Interpreter::of(subject.environment);
    findings.extend(hooks.iter().map(|path| hook(CHECK, path, &interpreter)));
    findings
}

/// What runs hooks that do not run by themselves.
struct Interpreter {
    /// As people call it.
    name: String,
    is_there: bool,
}

impl Interpreter {
    fn of(environment: &Environment) -> Self {
        let Environment { path, interpreters, .. } = environment;
        let is_there = |program: &OsString| match Path::new(program).components().count() {
            1 => executables_on_path(path, program).next().is_some(),
            _ => program::look_at(Path::new(program)) == Some(Kind::Direct),
        };
        let found = interpreters.iter().find(|program| is_there(program));
        let name = found.or(interpreters.first()).map(|program| program.to_string_lossy());
        Interpreter { name: name.unwrap_or_default().into_owned(), is_there: found.is_some() }
    }
}

fn hook(check: &'static str, path: &Path, interpreter: &Interpreter) -> Finding {
    let (shown, name) = (path.display(), &interpreter.name);
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            return Finding::warning(check, format!("{shown} cannot be run: {error}"))
                .advice("put the file there, or take the hook out; its calls are skipped");
        }
    };
    let Some(kind) = program::look_at(path) else {
        return Finding::warning(check, format!("{shown} is no file"))
            .advice("take the hook out; its calls are skipped");
    };
    if found.mode() & 0o022 != 0 {
        let mode = found.mode() & 0o777;
        return Finding::warning(check, format!("{shown} is writable for others (mode {mode:o})"))
            .advice(format!("chmod go-w {shown}: it runs as this user"));
    }
    match (kind, program::start_of(path)) {
        (_, Err(error)) => Finding::warning(check, format!("{shown} cannot be read: {error}"))
            .advice(format!("give this user access to it (chmod u+rx {shown})")),
        (Kind::Direct, Ok(_)) => Finding::ok(check, format!("{shown} runs by itself")),
        (Kind::Python, Ok(Start::Native)) => {
            Finding::warning(check, format!("{shown} is a program, but not executable"))
                .advice(format!("chmod u+x {shown}; {name} cannot run it"))
        }
        (Kind::Python, Ok(Start::Script { asks_for_python: false })) => Finding::warning(
            check,
            format!(
                "{shown} is not executable: {name} runs it, which its first line does not ask for"
            ),
        )
        .advice(format!("chmod u+x {shown}")),
        (Kind::Python, Ok(_)) if !interpreter.is_there => {
            Finding::problem(check, format!("{shown} needs {name}, which is not found")).advice(
                format!("install {name}, or start the bus with another PATH or HERMES_BUS_PYTHON"),
            )
        }
        (Kind::Python, Ok(_)) => Finding::ok(check, format!("{shown} runs with {name}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        let python = |is_there| Interpreter { name: "python3".to_owned(), is_there };
        let with = |content: &[u8], mode: u32, has_interpreter: bool| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            hook("hooks", &path, &python(has_interpreter)).severity
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
        let missing = hook("hooks", &directory.path().join("gone"), &python(true));
        assert_eq!(missing.severity, Severity::Warning);
        for no_file in [directory.path(), Path::new("/dev/null")] {
            let finding = hook("hooks", no_file, &python(true));
            assert!(finding.what.ends_with("is no file"), "{}", finding.what);
        }
    }

    #[test]
    fn the_interpreter_is_looked_for_on_path() {
        let mut world = World::created();
        let hook = world.root.directory().join("hook.py");
        fs::write(&hook, "import sys\n").unwrap();
        world.configured.hooks = vec![hook];
        let look = |world: &World| only(hooks(&world.subject_with(Daemon::Absent))).severity;
        assert_eq!(look(&world), Severity::Problem);
        let interpreter = world.root.directory().join("python3");
        fs::write(&interpreter, "").unwrap();
        fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).unwrap();
        world.environment.path = world.root.directory().into();
        assert_eq!(look(&world), Severity::Ok);
        world.environment.interpreters = vec!["python3.99".into()];
        assert_eq!(look(&world), Severity::Problem, "another one is asked for");
        world.environment.interpreters = vec![world.root.directory().join("python3").into()];
        assert_eq!(look(&world), Severity::Problem, "an empty file is no program");
        fs::write(world.root.directory().join("python3"), "#!/bin/sh\n").unwrap();
        assert_eq!(look(&world), Severity::Ok);
    }
}
