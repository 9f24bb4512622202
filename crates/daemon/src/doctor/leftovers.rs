//! What released versions left behind, or look for in other places.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::{Finding, Subject};
use crate::manager::{self, Daemon, PidFile, pid_file};
use crate::root::Root;

pub(super) fn environment(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "HERMES_BUS_ROOT";
    if !subject.environment.root_is_set_to_nothing {
        return Vec::new();
    }
    vec![
        Finding::warning(CHECK, "is set to nothing, which counts as not set")
            .advice("unset it: released clients take it for the directory that they run in"),
    ]
}

/// Where clients of version 0.5.0 look for the socket.
pub(super) fn hermes_home(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "HERMES_HOME";
    let Some(home) = &subject.environment.hermes_home else { return Vec::new() };
    let (root, socket) = (subject.root.directory(), subject.root.socket());
    let Some(name) = socket.file_name() else { return Vec::new() };
    if is_same(home, root) {
        return vec![Finding::ok(CHECK, "is the root")];
    }
    let path = home.join(name);
    let shown = path.display();
    let is_ours = fs::canonicalize(&path)
        .is_ok_and(|real| fs::canonicalize(&socket).is_ok_and(|socket| real == socket));
    let is_running = !matches!(subject.daemon, Daemon::Absent);
    let finding = match fs::symlink_metadata(&path) {
        _ if is_ours => Finding::ok(CHECK, format!("{shown} leads to the socket")),
        Err(_) if is_running => {
            Finding::warning(CHECK, format!("there is no {shown}, where clients of version 0.5.0 look"))
                .advice("'hermes-busd restart' with this HERMES_HOME places a link there")
        }
        Err(_) => Finding::ok(CHECK, format!("{shown} is free for a link to the socket")),
        Ok(found) if found.is_symlink() && fs::metadata(&path).is_err() => {
            Finding::note(CHECK, format!("{shown} leads nowhere"))
                .advice("the next start of the bus replaces it")
        }
        Ok(found) if found.is_symlink() || found.file_type().is_socket() => {
            Finding::warning(CHECK, format!("{shown} is not the socket of this root"))
                .advice(format!("stop the other bus, or remove what a dead one left (rm {shown}), then 'hermes-busd restart'"))
        }
        Ok(_) => Finding::warning(CHECK, format!("{shown} exists and is not a socket"))
            .advice("move it away, then 'hermes-busd restart': clients of version 0.5.0 look there"),
    };
    vec![finding]
}

fn is_same(a: &Path, b: &Path) -> bool {
    a == b || fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// A bus in the usual place, where this one has another root.
pub(super) fn default_root(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "other bus";
    let Some(default) = &subject.environment.default_root else { return Vec::new() };
    if is_same(default, subject.root.directory()) {
        return Vec::new();
    }
    let Ok(other) = Root::find(Some(default)) else { return Vec::new() };
    if pid_file(&other) == PidFile::Missing {
        return Vec::new();
    }
    let finding = match manager::look(&other).pid() {
        Some(pid) => {
            let what = format!("{} has a bus as well (pid {pid})", default.display());
            Finding::note(CHECK, what).advice("clients without HERMES_BUS_ROOT go to that one")
        }
        None => {
            let what = format!("{} was left behind by a dead bus", other.pid_file().display());
            let advice =
                format!("'hermes-bus doctor --root {} --fix' removes it", default.display());
            Finding::note(CHECK, what).advice(advice)
        }
    };
    vec![finding]
}

/// Where the released plugin writes messages to.
pub(super) fn plugin_log(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "plugin log";
    let path = &subject.environment.plugin_log;
    let Ok(found) = fs::symlink_metadata(path) else { return Vec::new() };
    let shown = path.display();
    let finding = if found.is_file() && found.mode() & 0o044 != 0 {
        Finding::warning(
            CHECK,
            format!("{shown} of the released plugin holds texts of messages, for all to read"),
        )
        .advice(format!("rm {shown}; the plugin writes it anew"))
    } else {
        Finding::note(CHECK, format!("{shown} is of the released plugin, and is never cut"))
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::tests::{World, only};
    use crate::lock::Lock;

    #[test]
    fn an_empty_root_variable_is_worth_a_warning() {
        let mut world = World::new();
        assert_eq!(environment(&world.subject()), []);
        world.environment.root_is_set_to_nothing = true;
        assert_eq!(only(environment(&world.subject())).severity, Severity::Warning);
    }

    #[test]
    fn the_place_where_old_clients_look_leads_to_the_socket_or_not() {
        let mut world = World::created();
        assert_eq!(hermes_home(&world.subject()), []);
        world.environment.hermes_home = Some(world.root.directory().to_owned());
        assert_eq!(only(hermes_home(&world.subject())).severity, Severity::Ok);
        let home = world.root.directory().join("home");
        fs::create_dir(&home).unwrap();
        let place = home.join("hermes-bus.sock");
        world.environment.hermes_home = Some(home);
        let look = |daemon| only(hermes_home(&world.subject_with(daemon))).severity;
        let running = || Daemon::Unresponsive { pid: 7 };
        assert_eq!(look(Daemon::Absent), Severity::Ok);
        assert_eq!(look(running()), Severity::Warning);
        symlink(world.root.socket(), &place).unwrap();
        assert_eq!(look(running()), Severity::Note, "there is no socket yet");
        let _listener = UnixListener::bind(world.root.socket()).unwrap();
        assert_eq!(look(running()), Severity::Ok);
        fs::remove_file(&place).unwrap();
        let _other = UnixListener::bind(&place).unwrap();
        assert_eq!(look(running()), Severity::Warning);
        fs::remove_file(&place).unwrap();
        fs::write(&place, "").unwrap();
        assert_eq!(look(running()), Severity::Warning);
    }

    #[test]
    fn a_bus_in_the_usual_place_is_told_about() {
        let mut world = World::created();
        let default = world.root.directory().join("default");
        let other = Root::find(Some(&default)).unwrap();
        other.create().unwrap();
        world.environment.default_root = Some(default);
        assert_eq!(default_root(&world.subject()), []);
        fs::write(other.pid_file(), std::process::id().to_string()).unwrap();
        assert!(only(default_root(&world.subject())).what.contains("dead bus"));
        let lock = Lock::take(&other).unwrap();
        assert!(only(default_root(&world.subject())).what.contains("has a bus as well"));
        drop(lock);
        world.environment.default_root = Some(world.root.directory().to_owned());
        assert_eq!(default_root(&world.subject()), []);
    }

    #[test]
    fn a_log_that_all_can_read_is_worth_a_warning() {
        let world = World::created();
        assert_eq!(plugin_log(&world.subject()), []);
        let path = &world.environment.plugin_log;
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(only(plugin_log(&world.subject())).severity, Severity::Warning);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(only(plugin_log(&world.subject())).severity, Severity::Note);
    }
}
