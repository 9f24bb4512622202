//! The programs on `PATH`: whether the released Python ones stand in front of these.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use hermes_bus_client::executables_on_path;

use super::{Finding, Subject};

/// The programs, and whether one of them may start a bus.
const PROGRAMS: [(&str, Starts); 5] = [
    ("hermes-busd", Starts::Bus),
    ("hermes-bus-server", Starts::Bus),
    ("hermes-bus", Starts::Nothing),
    ("notify-hermes", Starts::Nothing),
    ("notify-agent", Starts::Nothing),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starts {
    Bus,
    Nothing,
}

/// How much of a script is read: those that package managers write are shorter.
const SCRIPT_BYTES: u64 = 4 * 1024;

/// Whose program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    /// Installed together with the program that looks.
    ThisInstallation,
    /// A script of the released Python packages.
    Python,
    Unknown,
}

pub(super) fn on_path(subject: &Subject<'_>) -> Vec<Finding> {
    let environment = subject.environment;
    let of = |(program, starts)| {
        let mut found: Vec<(PathBuf, Maker)> = Vec::new();
        for file in executables_on_path(&environment.path, program) {
            // The same file by another way is no other program.
            let real = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if found.iter().all(|(seen, _)| fs::canonicalize(seen).ok().as_ref() != Some(&real)) {
                let maker = maker(&real, environment.programs.as_deref());
                found.push((file, maker));
            }
        }
        judge(program, starts, &found)
    };
    PROGRAMS.into_iter().map(of).collect()
}

fn maker(real: &Path, own_directory: Option<&Path>) -> Maker {
    if own_directory.is_some() && real.parent() == own_directory {
        return Maker::ThisInstallation;
    }
    let mut start = Vec::new();
    let read = File::open(real).and_then(|file| file.take(SCRIPT_BYTES).read_to_end(&mut start));
    let text = String::from_utf8_lossy(&start);
    let is_of_the_package = text.contains("hermes_bus") || text.contains("hermes_notify");
    if read.is_ok() && text.starts_with("#!") && is_of_the_package {
        Maker::Python
    } else {
        Maker::Unknown
    }
}

fn judge(program: &'static str, starts: Starts, found: &[(PathBuf, Maker)]) -> Finding {
    let Some((first, maker)) = found.first() else {
        return Finding::note(program, "is not on PATH")
            .advice("scripts and agents that call it by its name do not find it");
    };
    let shown = first.display();
    let ours = found.iter().find(|(_, maker)| *maker == Maker::ThisInstallation);
    let shadowed = found[1..].iter().find(|(_, maker)| *maker == Maker::Python);
    match maker {
        Maker::ThisInstallation => match shadowed {
            None => Finding::ok(program, format!("{shown}")),
            Some((other, _)) => Finding::note(
                program,
                format!("{shown} comes before the one of the Python package, {}", other.display()),
            ),
        },
        Maker::Python => {
            let what = format!("{shown} is the one of the Python package");
            let finding = match starts {
                Starts::Bus => {
                    Finding::problem(program, what + ": who starts a bus by name starts that one")
                }
                Starts::Nothing => Finding::warning(program, what),
            };
            finding.advice(match ours.and_then(|(file, _)| file.parent()) {
                Some(directory) => format!(
                    "put {} before {} on PATH, or uninstall the Python package",
                    directory.display(),
                    first.parent().unwrap_or(Path::new("/")).display()
                ),
                None => "put the directory of this program first on PATH, or uninstall the Python \
                         package"
                    .to_owned(),
            })
        }
        Maker::Unknown => Finding::note(program, format!("{shown} is of another installation"))
            .advice("this program prefers the ones beside itself; scripts take the first on PATH"),
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::tests::World;
    use crate::manager::Daemon;

    const SCRIPT: &str = "#!/opt/venv/bin/python\nimport sys\nfrom hermes_bus.busd import main\n";
    /// As installers write it where the path of the interpreter is long.
    const LONG_SCRIPT: &str = "#!/bin/sh\n'''exec' /opt/venv/bin/python \"$0\" \"$@\"\n' '''\n\
                               from hermes_notify.notify_hermes import main\n";

    fn place(directory: &Path, program: &str, content: &str) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(program), content).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.join(program), mode).unwrap();
    }

    #[test]
    fn the_first_on_path_wins() {
        let mut world = World::created();
        let base = fs::canonicalize(world.root.directory()).unwrap();
        let (ours, python, other) = (base.join("ours"), base.join("python"), base.join("other"));
        for (program, _) in PROGRAMS {
            place(&ours, program, "\u{7f}ELF");
        }
        place(&python, "hermes-busd", SCRIPT);
        place(&python, "notify-hermes", LONG_SCRIPT);
        place(&other, "hermes-bus", "#!/bin/sh\nexec true\n");
        world.environment.programs = Some(ours.clone());
        let mut look = |path: &[&Path]| -> Vec<(&'static str, Severity, String)> {
            world.environment.path = env::join_paths(path).unwrap();
            let findings = on_path(&world.subject_with(Daemon::Absent));
            let told = |finding: Finding| {
                let advice = finding.advice.unwrap_or_default();
                (finding.check, finding.severity, finding.what + " " + &advice)
            };
            findings.into_iter().map(told).collect()
        };
        let of = |found: &[(&'static str, Severity, String)], program: &str| {
            found
                .iter()
                .find(|(check, ..)| *check == program)
                .map(|(_, s, t)| (*s, t.clone()))
                .unwrap()
        };

        let found = look(&[&ours]);
        assert!(found.iter().all(|(_, severity, _)| *severity == Severity::Ok), "{found:?}");
        let found = look(&[&ours, &python, &ours]);
        assert_eq!(of(&found, "hermes-busd").0, Severity::Note);
        let found = look(&[&python, &ours]);
        let (severity, text) = of(&found, "hermes-busd");
        assert_eq!(severity, Severity::Problem);
        let advice = format!("put {} before {} on PATH", ours.display(), python.display());
        assert!(text.contains(&advice), "{text}");
        assert_eq!(of(&found, "notify-hermes").0, Severity::Warning);
        assert_eq!(of(&found, "notify-agent").0, Severity::Ok);
        let found = look(&[&other]);
        assert_eq!(of(&found, "hermes-bus").0, Severity::Note);
        assert!(of(&found, "hermes-busd").1.contains("not on PATH"));
        // A link to ours is ours.
        let links = base.join("links");
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(ours.join("hermes-busd"), links.join("hermes-busd")).unwrap();
        assert_eq!(of(&look(&[&links, &python]), "hermes-busd").0, Severity::Note);
        assert_eq!(of(&look(&[&links, &ours]), "hermes-busd").0, Severity::Ok);
    }
}
