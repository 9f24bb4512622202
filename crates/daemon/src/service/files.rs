//! The files that make a service manager run the bus, as text. Nothing here touches the system.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Stands in every file that is written here; a file without it is somebody else's.
pub(super) const MARK: &str = "Written by 'hermes-busd install-service'";

/// The service of the default root.
const NAME: &str = "hermes-bus";

/// What a service is made from.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// The server's program, absolute.
    pub(super) server: PathBuf,
    /// The user's home directory.
    pub(super) home: PathBuf,
    /// The root, absolute.
    pub(super) root: PathBuf,
    /// `HERMES_HOME`, absolute, if it is set: where the file of hooks is looked for first. A service does
    /// not inherit it.
    pub(super) hermes_home: Option<PathBuf>,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// A path that the files cannot name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} cannot stand in a service file: it is not plain text")]
pub(super) struct Unprintable(PathBuf);

fn text(path: &Path) -> Result<&str, Unprintable> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.ok_or_else(|| Unprintable(path.to_owned()))
}

impl Service {
    /// What the service is to have in its environment.
    fn variables(&self) -> Result<Vec<(&'static str, &str)>, Unprintable> {
        let root = (!self.is_default()).then_some(("HERMES_BUS_ROOT", &self.root));
        let home = self.hermes_home.as_ref().map(|home| ("HERMES_HOME", home));
        let all = root.into_iter().chain(home);
        all.map(|(name, path)| Ok((name, text(path)?))).collect()
    }

    fn is_default(&self) -> bool {
        self.root == self.home.join(".hermes")
    }

    /// The service's name: one of its own for each root.
    pub(super) fn name(&self) -> Result<String, Unprintable> {
        if self.is_default() {
            return Ok(NAME.to_owned());
        }
        Ok(format!("{NAME}-{}", escape_as_name(text(&self.root)?)))
    }

    /// The socket and the service for systemd, in `directory`.
    pub(super) fn systemd(&self, directory: &Path) -> Result<[File; 2], Unprintable> {
        let name = self.name()?;
        let root = text(&self.root)?;
        let socket = match self.root.strip_prefix(&self.home) {
            Ok(below) => format!("%h/{}", escape_percent(text(below)?)),
            Err(_) => escape_percent(root),
        };
        let listen = format!("{}/hermes-bus.sock", socket.trim_end_matches('/'));
        let mut unit = format!(
            "# {MARK}; 'hermes-busd uninstall-service' removes it.\n\
             [Unit]\n\
             Description=Hermes message bus (socket)\n\
             \n\
             [Socket]\n\
             ListenStream={listen}\n\
             SocketMode=0600\n\
             DirectoryMode=0700\n\
             # Released clients take a refused connect for a dead bus.\n\
             Backlog=4096\n\
             RemoveOnStop=yes\n\
             \n\
             [Install]\n\
             WantedBy=sockets.target\n"
        );
        let socket = File { path: directory.join(format!("{name}.socket")), text: unit };
        unit = format!(
            "# {MARK}; 'hermes-busd uninstall-service' removes it.\n\
             [Unit]\n\
             Description=Hermes message bus\n\
             Requires={name}.socket\n\
             After={name}.socket\n\
             \n\
             [Service]\n\
             Type=notify\n\
             ExecStart={server} --detached --root {quoted_root}\n\
             ExecReload=kill -HUP $MAINPID\n\
             Restart=on-failure\n\
             RestartSec=1\n\
             WatchdogSec=30\n\
             TimeoutStopSec=20\n\
             # Only the server is asked to end. Hooks that still run then end with the service.\n\
             KillMode=mixed\n\
             LimitNOFILE=524288\n",
            name = escape_percent(&name),
            server = quote_argument(text(&self.server)?),
            quoted_root = quote_argument(root),
        );
        for (name, value) in self.variables()? {
            let _ = writeln!(unit, "Environment={}", quote(&format!("{name}={value}")));
        }
        let service = File { path: directory.join(format!("{name}.service")), text: unit };
        Ok([socket, service])
    }

    /// The agent for launchd, in `directory`.
    pub(super) fn launchd(&self, directory: &Path) -> Result<File, Unprintable> {
        let name = self.name()?;
        let (server, root) = (escape_xml(text(&self.server)?), escape_xml(text(&self.root)?));
        let label = escape_xml(&name);
        let variables: String = self
            .variables()?
            .into_iter()
            .map(|(name, value)| {
                format!("\n    <key>{name}</key>\n    <string>{}</string>", escape_xml(value))
            })
            .collect();
        let text = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- {MARK}; 'hermes-busd uninstall-service' removes it. -->
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{label}</string>
  <key>ProgramArguments</key>
  <array>
    <string>{server}</string>
    <string>--detached</string>
    <string>--root</string>
    <string>{root}</string>
  </array>
  <key>EnvironmentVariables</key>
  <dict>{variables}
  </dict>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ProcessType</key>
  <string>Interactive</string>
</dict>
</plist>
"#
        );
        Ok(File { path: directory.join(format!("{name}.plist")), text })
    }
}

/// A path as a part of a unit's name, as `systemd-escape --path` has it.
fn escape_as_name(path: &str) -> String {
    let mut name = String::new();
    for byte in path.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            other => {
                let _ = write!(name, "\\x{other:02x}");
            }
        }
    }
    if name.is_empty() { "-".to_owned() } else { name }
}

/// `%` begins a specifier nearly everywhere in a unit.
fn escape_percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word of a list.
fn quote(text: &str) -> String {
    format!("\"{}\"", escape_percent(text).replace('\\', "\\\\").replace('"', "\\\""))
}

/// A word of a command line: there `$` begins a variable.
fn quote_argument(text: &str) -> String {
    quote(text).replace('$', "$$")
}

fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(root: &str) -> Service {
        Service {
            server: PathBuf::from("/opt/a b/hermes-bus-server"),
            home: PathBuf::from("/home/me"),
            root: PathBuf::from(root),
            hermes_home: None,
        }
    }

    #[test]
    fn the_default_root_has_the_plain_name_and_others_have_their_own() {
        let name = |root: &str| service(root).name().unwrap();
        assert_eq!(name("/home/me/.hermes"), "hermes-bus");
        assert_eq!(name("/srv/my-bus"), "hermes-bus-srv-my\\x2dbus");
        assert_eq!(name("/srv/my/bus"), "hermes-bus-srv-my-bus");
        assert_eq!(name("/.hidden"), "hermes-bus-\\x2ehidden");
    }

    #[test]
    fn the_default_units() {
        let [socket, unit] = service("/home/me/.hermes").systemd(Path::new("/units")).unwrap();
        assert_eq!(socket.path, Path::new("/units/hermes-bus.socket"));
        assert_eq!(unit.path, Path::new("/units/hermes-bus.service"));
        assert!(socket.text.contains("\nListenStream=%h/.hermes/hermes-bus.sock\n"));
        let start =
            "\nExecStart=\"/opt/a b/hermes-bus-server\" --detached --root \"/home/me/.hermes\"\n";
        assert!(unit.text.contains(start), "{}", unit.text);
        assert!(!unit.text.contains("Environment="));
        for file in [socket, unit] {
            assert!(file.text.starts_with(&format!("# {MARK}")));
        }
    }

    #[test]
    fn the_service_finds_the_hooks_where_the_user_has_them() {
        let mut service = service("/home/me/.hermes");
        service.hermes_home = Some(PathBuf::from("/srv/hermes & home"));
        let [_, unit] = service.systemd(Path::new("/units")).unwrap();
        let line = "\nEnvironment=\"HERMES_HOME=/srv/hermes & home\"\n";
        assert!(unit.text.contains(line), "{}", unit.text);
        let agent = service.launchd(Path::new("/agents")).unwrap();
        let entry = "<key>HERMES_HOME</key>\n    <string>/srv/hermes &amp; home</string>\n";
        assert!(agent.text.contains(entry), "{}", agent.text);
    }

    #[test]
    fn what_means_something_to_systemd_is_escaped() {
        let [socket, unit] = service(r#"/srv/100% "$x"\"#).systemd(Path::new("/units")).unwrap();
        let listen = "\nListenStream=/srv/100%% \"$x\"\\/hermes-bus.sock\n";
        assert!(socket.text.contains(listen), "{}", socket.text);
        assert!(unit.text.contains(r#" --root "/srv/100%% \"$$x\"\\""#), "{}", unit.text);
        let environment = r#"Environment="HERMES_BUS_ROOT=/srv/100%% \"$x\"\\""#;
        assert!(unit.text.contains(environment), "{}", unit.text);
        let forged = service("/srv/x\nExecStartPre=/bin/evil").systemd(Path::new("/units"));
        assert!(forged.is_err());
    }

    #[test]
    fn the_agent_for_launchd_is_escaped() {
        let agent = service("/srv/<a> & b").launchd(Path::new("/agents")).unwrap();
        assert!(agent.text.contains("<string>/srv/&lt;a&gt; &amp; b</string>"), "{}", agent.text);
        assert_eq!(agent.text.matches("<string>").count(), agent.text.matches("</string>").count());
        assert!(agent.text.contains(MARK));
    }
}
