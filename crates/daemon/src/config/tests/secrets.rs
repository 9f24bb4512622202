//! Tokens of protected names.

use super::*;

const SECRET: &str = "correct-horse-battery";

#[test]
fn a_token_is_read_and_never_shown() {
    let text =
        format!("access:\n  protected: [{{name: lead, token: {SECRET}}}, {{name: nobody}}]\n");
    let loaded = read(&text).unwrap();
    let protected = &loaded.settings.router.protected;
    assert_eq!(protected[0].token.as_deref(), Some(SECRET));
    assert_eq!((protected[1].uid, &protected[1].token), (None, &None));
    let json: Vec<String> = loaded.to_json().iter().map(ToString::to_string).collect();
    let another = text.replace(SECRET, "incorrect-horse");
    let changes = Changes::between(&loaded.settings, &read(&another).unwrap().settings);
    assert_eq!(changes.applied[0].to_string(), "access.protected: another token");
    for shown in [loaded.to_yaml(), json.join("\n"), format!("{loaded:?}"), format!("{changes:?}")]
    {
        assert!(!shown.contains("horse"), "{shown}");
    }
    assert!(loaded.to_yaml().contains("[{name: \"lead\"}, {name: \"nobody\"}]"));
    assert!(loaded.to_yaml().contains("a token is not shown"));
}

#[test]
fn mistakes_around_a_token_do_not_show_it() {
    for (entries, reason) in [
        (format!("[{{nam: lead, token: {SECRET}}}]"), "(did you mean 'name'?)"),
        (format!("[{{name: lead, tokn: {SECRET}}}]"), "(did you mean 'token'?)"),
        (format!("[{{name: lead, token: [{SECRET}]}}]"), "a token is a text, not a list"),
        (format!("[{{name: lead, token: \"{SECRET}\\n\\nx\"}}]"), "several lines"),
        (format!("[{{name: lead, token: {}}}]", SECRET.repeat(60)), "over the limit of 1024 bytes"),
        (format!("[{{name: lead, token: {SECRET}, token_file: /x}}]"), "either a token or"),
        (format!("[{{name: lead, token: first, {SECRET}}}]"), "a token with ',' needs quotes"),
        (format!("[lead, {SECRET}]"), "an entry must be a mapping"),
        (format!("{{lead: {SECRET}}}"), "must be a list"),
        ("[{name: lead, token: ''}]".to_owned(), "the token is empty"),
        ("[{name: lead, uid: all}]".to_owned(), "'all' is no user id"),
        ("[{name: lead, uid: 4294967295}]".to_owned(), "is no user id"),
        ("[{uid: 5}]".to_owned(), "an entry needs a name"),
        ("[{name: ''}]".to_owned(), "must not be empty"),
        ("[{name: bus.x}]".to_owned(), "belong to the bus itself"),
        ("[{name: a}, {name: a}]".to_owned(), "'a' is protected twice"),
        ("[{name: a, token_file: token}]".to_owned(), "its whole path"),
        ("[{name: a, token_file: /x}]".to_owned(), "there are no token files here"),
    ] {
        let told = lines(&format!("access:\n  protected: {entries}\n")).join("\n");
        assert!(told.starts_with("config.yaml:2:"), "{told}");
        assert!(told.contains(reason), "{told}\n{reason}");
        assert!(!told.contains(SECRET), "{told}");
    }
}

#[test]
fn a_token_file_must_be_closed_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    write(&token, format!("  {SECRET}\n").as_bytes());
    let flag = format!("access.protected=[{{name: lead, token_file: {}}}]", token.display());
    let loaded = sources(directory.path(), &[], &[&flag]).load().unwrap();
    assert_eq!(loaded.settings.router.protected[0].token.as_deref(), Some(SECRET));
    assert!(loaded.to_yaml().contains("token_file"), "{}", loaded.to_yaml());
    for mode in [0o640, 0o604, 0o622] {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let told = sources(directory.path(), &[], &[&flag]).load().unwrap_err().to_string();
        assert!(told.contains("is open to other users: chmod 600"), "{mode:o} {told}");
        assert!(!told.contains(SECRET), "{told}");
    }
    fs::remove_file(&token).unwrap();
    let told = sources(directory.path(), &[], &[&flag]).load().unwrap_err().to_string();
    assert!(told.contains("cannot be read: No such file"), "{told}");
}

#[test]
fn a_token_stands_in_no_open_file_and_on_no_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let value = format!("[{{name: lead, token: {SECRET}}}]");
    let path = directory.path().join("hermes-bus/config.yaml");
    write(&path, format!("access: {{protected: {value}}}").as_bytes());
    assert!(sources(directory.path(), &[], &[]).load().is_ok());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let told = sources(directory.path(), &[], &[]).load().unwrap_err().to_string();
    assert!(told.contains(":1:35: access.protected: a token may be only in a file"), "{told}");
    fs::remove_file(&path).unwrap();
    let flag = format!("access.protected={value}");
    let environment = [("HERMES_BUS_ACCESS_PROTECTED", value.as_str())];
    for error in [
        sources(directory.path(), &[], &[&flag]).load().unwrap_err(),
        sources(directory.path(), &environment, &[]).load().unwrap_err(),
    ] {
        let told = error.to_string();
        assert!(told.contains("use token_file") && !told.contains(SECRET), "{told}");
    }
}
