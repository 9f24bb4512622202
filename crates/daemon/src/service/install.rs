//! Installing the bus as a service of this user, and removing it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

use super::files::{File, MARK, Service};
use crate::manager::{self, Outcome};
use crate::root::{Root, hermes_home};

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Files are written or removed, and the service manager is told.
    Real,
    /// It is only shown what would be done.
    DryRun,
}

/// Files of a service, and the commands that put it into effect.
struct Plan {
    files: Vec<File>,
    enable: Vec<Vec<String>>,
    disable: Vec<Vec<String>>,
    /// After the files are removed.
    forget: Vec<Vec<String>>,
    /// Succeeds where a service manager of this user runs.
    probe: Vec<String>,
}

/// Installs a service that runs the bus of `root`, and starts it. Files of somebody else are never
/// overwritten; a bus that was started by hand has to be stopped before.
pub fn install(root: &Root, change: Change, out: &mut dyn Write) -> Outcome {
    let plan = plan(root)?;
    for file in &plan.files {
        if state(&file.path)? == State::Foreign {
            let path = file.path.display();
            bail!("{path} was not written by hermes-busd: move it away, then install again");
        }
    }
    let is_new = plan.files.iter().all(|file| matches!(state(&file.path), Ok(State::Missing)));
    let by_hand = if is_new { manager::look(root).pid() } else { None };
    if change == Change::DryRun {
        return show_install(&plan, by_hand, out);
    }
    if let Some(pid) = by_hand {
        bail!(
            "a bus runs on {} already (pid={pid}): end it with 'hermes-busd stop', then install",
            root.socket().display()
        );
    }
    for file in &plan.files {
        write(file).with_context(|| format!("cannot write {}", file.path.display()))?;
        writeln!(out, "wrote {}", file.path.display())?;
    }
    if !succeeds(&plan.probe) {
        writeln!(out, "No service manager of this user answers here. Where one does, run:")?;
        return print_commands(&plan.enable, out);
    }
    run_all(&plan.enable, out)?;
    writeln!(out, "the bus is served at {}", root.socket().display())?;
    if !is_new {
        writeln!(out, "a bus that runs already goes on as it is until 'hermes-busd restart'")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_install(plan: &Plan, by_hand: Option<u32>, out: &mut dyn Write) -> Outcome {
    if let Some(pid) = by_hand {
        writeln!(out, "# A bus runs already (pid={pid}): first run 'hermes-busd stop'.")?;
    }
    for file in &plan.files {
        writeln!(out, "# would write {}:\n{}", file.path.display(), file.text)?;
    }
    writeln!(out, "# would run:")?;
    print_commands(&plan.enable, out)
}

/// Stops the service of `root` and removes its files. Those of somebody else stay.
pub fn uninstall(root: &Root, change: Change, out: &mut dyn Write) -> Outcome {
    let plan = plan(root)?;
    let (mut ours, mut foreign) = (Vec::new(), Vec::new());
    for file in &plan.files {
        match state(&file.path)? {
            State::Ours => ours.push(&file.path),
            State::Foreign => foreign.push(&file.path),
            State::Missing => {}
        }
    }
    if let Some(path) = foreign.first() {
        bail!("{} was not written by hermes-busd: remove it yourself", path.display());
    }
    if ours.is_empty() {
        writeln!(out, "no service is installed for {}", root.directory().display())?;
        return Ok(ExitCode::SUCCESS);
    }
    if change == Change::DryRun {
        writeln!(out, "# would run:")?;
        print_commands(&plan.disable, out)?;
        for path in ours {
            writeln!(out, "# would remove {}", path.display())?;
        }
        return print_commands(&plan.forget, out);
    }
    let is_managed = succeeds(&plan.probe);
    if is_managed {
        run_all(&plan.disable, out)?;
    }
    for path in ours {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        writeln!(out, "removed {}", path.display())?;
    }
    if is_managed {
        run_all(&plan.forget, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

// ---- what belongs to a service ------------------------------------------------------------------------

fn plan(root: &Root) -> anyhow::Result<Plan> {
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let home = home.context("there is no home directory: set HOME")?;
    let server = manager::server_program();
    if !server.is_absolute() {
        bail!("hermes-bus-server was not found beside hermes-busd: a service needs its place");
    }
    let directory = std::path::absolute(root.directory())?;
    let hermes_home = hermes_home().map(std::path::absolute).transpose()?;
    let service = Service { server, home, root: directory, hermes_home };
    if cfg!(target_os = "macos") { launchd(&service) } else { systemd(&service) }
}

fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn systemd(service: &Service) -> anyhow::Result<Plan> {
    let given = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let configuration = given.filter(|directory| directory.is_absolute());
    let configuration = configuration.unwrap_or_else(|| service.home.join(".config"));
    let files = service.systemd(&configuration.join("systemd/user"))?.to_vec();
    let name = service.name()?;
    let (socket, unit) = (format!("{name}.socket"), format!("{name}.service"));
    let reload = command(&["systemctl", "--user", "daemon-reload"]);
    Ok(Plan {
        files,
        enable: vec![reload.clone(), command(&["systemctl", "--user", "enable", "--now", &socket])],
        disable: vec![
            command(&["systemctl", "--user", "disable", "--now", &socket]),
            command(&["systemctl", "--user", "stop", &unit]),
        ],
        forget: vec![reload],
        probe: command(&["systemctl", "--user", "show-environment"]),
    })
}

fn launchd(service: &Service) -> anyhow::Result<Plan> {
    let file = service.launchd(&service.home.join("Library/LaunchAgents"))?;
    let domain = format!("gui/{}", rustix::process::geteuid().as_raw());
    let (name, path) = (service.name()?, file.path.display().to_string());
    Ok(Plan {
        files: vec![file],
        enable: vec![command(&["launchctl", "bootstrap", &domain, &path])],
        disable: vec![command(&["launchctl", "bootout", &format!("{domain}/{name}")])],
        forget: Vec::new(),
        probe: command(&["launchctl", "print", &domain]),
    })
}

// ---- files --------------------------------------------------------------------------------------------

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Ours,
    Foreign,
}

fn state(path: &Path) -> anyhow::Result<State> {
    match fs::read(path) {
        Ok(text) if String::from_utf8_lossy(&text).contains(MARK) => Ok(State::Ours),
        Ok(_) => Ok(State::Foreign),
        // A link that leads nowhere is how a unit is masked.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_link = fs::symlink_metadata(path).is_ok();
            Ok(if is_link { State::Foreign } else { State::Missing })
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file as a whole, or not at all.
fn write(file: &File) -> io::Result<()> {
    if let Some(directory) = file.path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut unfinished = file.path.clone().into_os_string();
    unfinished.push(".new");
    fs::write(&unfinished, &file.text)?;
    fs::rename(&unfinished, &file.path)
}

// ---- commands -----------------------------------------------------------------------------------------

fn print_commands(commands: &[Vec<String>], out: &mut dyn Write) -> Outcome {
    for command in commands {
        writeln!(out, "  {}", shown(command))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A command as it can be typed into a shell.
fn shown(command: &[String]) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@=".contains(letter);
    let word = |word: &String| match word.chars().all(is_plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn succeeds(command: &[String]) -> bool {
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    program.status().is_ok_and(|status| status.success())
}

fn run_all(commands: &[Vec<String>], out: &mut dyn Write) -> anyhow::Result<()> {
    for command in commands {
        writeln!(out, "running {}", shown(command))?;
        out.flush()?;
        let failed = || format!("'{}' failed", shown(command));
        let status = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).status();
        let status = status.with_context(failed)?;
        if !status.success() {
            bail!("{} ({status})", failed());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_ours_only_with_the_mark() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/hermes-bus.service");
        assert_eq!(state(&path).unwrap(), State::Missing);
        write(&File { path: path.clone(), text: format!("# {MARK}\n") }).unwrap();
        assert_eq!(state(&path).unwrap(), State::Ours);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing left over");
        fs::write(&path, "[Unit]\n").unwrap();
        assert_eq!(state(&path).unwrap(), State::Foreign);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/missing", &path).unwrap();
        assert_eq!(state(&path).unwrap(), State::Foreign, "masked");
    }

    #[test]
    fn commands_can_be_typed_as_they_are_shown() {
        let words = command(&["systemctl", "enable", "hermes-bus-a\\x2db.socket", "it's"]);
        assert_eq!(shown(&words), r"systemctl enable 'hermes-bus-a\x2db.socket' 'it'\''s'");
    }
}
