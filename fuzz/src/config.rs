//! Any bytes as a configuration file: they are read or refused, quickly and without a panic. What was
//! read is shown as text that reads back as the same, and errors can be shown.

use std::path::Path;

use hermes_bus_daemon::config::{Settings, parse};

/// Reads `text` as a configuration file.
pub fn check(text: &[u8]) {
    let loaded = match parse(text, &token) {
        Ok(loaded) => loaded,
        Err(error) => {
            let lines = error.lines();
            assert!(!lines.is_empty() && lines.len() <= 51);
            for line in lines {
                assert!(line.len() < 8 * 1024 && !line.chars().any(char::is_control), "{line:?}");
            }
            return;
        }
    };
    let shown = loaded.to_yaml();
    let again = match parse(shown.as_bytes(), &token) {
        Ok(again) => again,
        Err(error) => panic!("what was shown is refused:\n{shown}\n{error}"),
    };
    assert_eq!(shown_part(&loaded.settings), shown_part(&again.settings), "{shown}");
    for object in loaded.to_json() {
        assert!(object["key"].is_string());
    }
}

/// No file is read.
fn token(path: &Path) -> Result<String, String> {
    if path.ends_with("missing") { Err("no such file".to_owned()) } else { Ok("token".to_owned()) }
}

/// Tokens that are from no file are not shown.
fn shown_part(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    for protection in &mut settings.router.protected {
        if !settings.token_files.contains_key(&protection.name) {
            protection.token = None;
        }
    }
    settings
}
