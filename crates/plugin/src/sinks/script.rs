//! Running a format script: a template that is the path of an executable file.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::group::Group;
use crate::engine::Script;

/// How long a format script may run.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of its output (1 MiB).
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// What a script prints, without white space around. `None` where the template itself is to be taken: there is no such
/// file, or it cannot be run, fails, takes too long or prints nothing.
pub async fn run(script: &Script) -> Option<String> {
    let path = expanded(&script.path)?;
    let file = std::fs::metadata(&path).ok()?;
    if !file.is_file() || file.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let mut command = tokio::process::Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    for (name, value) in &script.variables {
        // What is too long for an environment, or cannot stand in it, is not told.
        if value.len() <= 100 * 1024 && !value.contains('\0') {
            command.env(name, value);
        } else {
            command.env_remove(name);
        }
    }
    let mut group = Group::start(&mut command).ok()?;
    let stdout = group.child().stdout.take()?;
    let mut output = Vec::new();
    let mut stdout = stdout.take(OUTPUT_BYTES_MAX);
    let all = async {
        stdout.read_to_end(&mut output).await.ok()?;
        group.wait().await.ok()
    };
    let status = match timeout(TIMEOUT, all).await {
        Ok(status) => status?,
        Err(_) => {
            group.end().await;
            return None;
        }
    };
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    (status.success() && !output.is_empty()).then_some(output)
}

fn expanded(path: &str) -> Option<PathBuf> {
    let Some(rest) = path.strip_prefix('~') else { return Some(PathBuf::from(path)) };
    let home = match rest.split('/').next().unwrap_or_default() {
        "" => std::env::home_dir()?,
        name => nix::unistd::User::from_name(name).ok()??.dir,
    };
    let below = rest.split_once('/').map_or("", |(_, below)| below);
    Some(home.join(below))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn output(text: &str, mode: u32) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("format");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let path = path.display().to_string();
        run(&Script { path, variables: vec![("TEXT", "hi".to_owned())] }).await
    }

    #[tokio::test]
    async fn what_it_prints_counts_if_it_succeeds_and_prints_something() {
        assert_eq!(
            output("#!/bin/sh\necho; echo \" [$TEXT] \"\n", 0o755).await.as_deref(),
            Some("[hi]")
        );
        assert_eq!(output("#!/bin/sh\necho x; exit 1\n", 0o755).await, None);
        assert_eq!(output("#!/bin/sh\n", 0o755).await, None);
        assert_eq!(output("#!/bin/sh\necho x\n", 0o644).await, None);
        assert_eq!(output("#!/no/such/program\n", 0o755).await, None);
        let none = Script { path: "/no/such/script {text}".to_owned(), variables: Vec::new() };
        assert_eq!(run(&none).await, None);
    }
}
