use std::fs;
use std::time::Duration;

use super::super::Pattern;
use super::super::hook::Filter;
use super::*;

const HOME: &str = "/home/somebody";

fn environment(hooks: Option<&str>) -> Environment {
    let hooks = hooks.map(OsString::from);
    Environment { hooks, hermes_home: None, home: Some(HOME.into()) }
}

fn paths(found: &Found) -> Vec<String> {
    found.hooks.iter().map(|hook| hook.path.to_str().unwrap().to_owned()).collect()
}

fn by_variable(value: &str) -> Found {
    Found::find(&environment(Some(value)), Path::new("/nonexistent"))
}

/// What a file with this text names, below the root.
fn by_file(text: &[u8]) -> Found {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("hermes-bus")).unwrap();
    fs::write(root.path().join(FILE), text).unwrap();
    Found::find(&environment(None), root.path())
}

/// The one thing that is wrong, without the path in front.
fn error_in(text: &str) -> String {
    let found = by_file(text.as_bytes());
    assert_eq!(found.errors.len(), 1, "{:?}", found.errors);
    let (_, error) = found.errors[0].split_once("hooks.yaml:").unwrap();
    error.to_owned()
}

/// What released versions make of a text; `~` stands for the home directory.
fn expect(found: &Found, expected: &[&str], of: &str) {
    let home = |path: &&str| match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{HOME}{rest}"),
        _ => (*path).to_owned(),
    };
    let expected: Vec<String> = expected.iter().map(home).collect();
    assert_eq!(paths(found), expected, "{of:?}");
}

#[test]
fn the_variable_is_read_as_released_versions_do() {
    // The first ten are the cases that their behaviour was recorded with.
    let cases: &[(&str, &[&str])] = &[
        ("/a.py", &["/a.py"]),
        ("/a.py, /b.py ,,", &["/a.py", "/b.py"]),
        ("none", &[]),
        ("NONE", &[]),
        (" ", &[]),
        ("[]", &[]),
        ("[\"/a.py\",\"~/b.py\"]", &["/a.py", "~/b.py"]),
        ("[/a.py", &["[/a.py"]),
        ("~/x.py", &["~/x.py"]),
        ("{\"a\":1}", &["{\"a\":1}"]),
        (" [\"/a\"] ", &["/a"]),
        (" nOnE\t", &[]),
        ("none,/a", &["none", "/a"]),
        ("[none]", &["[none]"]),
        (" [ ] ", &[]),
        ("[]x", &["[]x"]),
        ("[\"/a\", ", &["[\"/a\""]),
        ("/a,[\"/b\"]", &["/a", "[\"/b\"]"]),
        ("[\"\"]", &[""]),
        ("[\" /a \", \" ~/y\"]", &[" /a ", " ~/y"]),
        ("null", &["null"]),
        ("\"/a\"", &["\"/a\""]),
        (", ,", &[]),
        ("\u{a0}\u{1f}", &[]),
        ("~", &["~"]),
        ("~no-such-user/x", &["~no-such-user/x"]),
        ("a\nb", &["a\nb"]),
        ("/a ; /b", &["/a ; /b"]),
    ];
    for (value, expected) in cases {
        let found = by_variable(value);
        expect(&found, expected, value);
        assert_eq!((found.source, found.errors), (Source::Variable, vec![]), "{value:?}");
    }
}

#[test]
fn what_is_no_text_in_the_list_is_told_and_left_out() {
    let found = by_variable("[1, \"/a\", null, [\"/b\"]]");
    expect(&found, &["/a"], "");
    assert_eq!(found.errors.len(), 3);
    assert!(found.errors[0].starts_with("HERMES_BUS_HOOKS: item 1 of the list is no text"));
    for odd in ["[NaN]", "[\"\\ud800\"]"] {
        let found = by_variable(odd);
        assert_eq!((found.hooks.len(), found.errors.len()), (0, 1), "{odd}");
    }
}

#[test]
fn a_path_need_not_be_utf8() {
    let hooks = Some(OsString::from_vec(b" /a\xff , /b".to_vec()));
    let found = Found::find(&Environment { hooks, ..environment(None) }, Path::new("/nonexistent"));
    let paths: Vec<_> = found.hooks.iter().map(|hook| hook.path.as_os_str().as_bytes()).collect();
    assert_eq!(paths, [b"/a\xff".as_slice(), b"/b"]);
}

#[test]
fn the_file_is_read_line_by_line_as_released_versions_do() {
    // The first five are the cases that their behaviour was recorded with.
    let cases: &[(&str, &[&str])] = &[
        ("- /a.py\n", &["/a.py"]),
        ("hooks:\n  - /a.py\n  - '~/b.py'\n# - /c.py\n", &["/a.py", "~/b.py"]),
        ("-/a.py\n", &[]),
        ("- /a.py # comment\n", &["/a.py # comment"]),
        ("x: y\n", &[]),
        ("", &[]),
        ("-   '/a'  ", &["/a"]),
        ("-\t/a", &[]),
        ("-\u{a0}/a\n", &[]),
        ("- 'a\"", &["a"]),
        ("- ", &[]),
        ("- \"\" \n- /b", &["", "/b"]),
        ("- /a\r\n- /b\r- /c\n", &["/a", "/b", "/c"]),
        ("- /a\u{c}- /b\n", &["/a\u{c}- /b"]),
        ("- - /a\n", &["- /a"]),
        ("-  -\n", &["-"]),
        ("- ~\n", &["~"]),
        ("- ''/a''\n", &["/a"]),
        ("- \"'/a'\"\n", &["/a"]),
        ("- ' /a '\n", &[" /a "]),
        ("- '~/x'y\n", &["~/x'y"]),
        ("- 'a''b'\n", &["a''b"]),
        ("- '\n", &[""]),
        ("- $HOME/x\n", &["$HOME/x"]),
        ("---\n- /a\n", &["/a"]),
        ("--- - /a\n", &[]),
        ("\u{a0}- /a\u{a0}\n", &["/a"]),
        ("\u{1f}- /a\u{1f}\n", &["/a"]),
        ("other:\n  - /a\nhooks:\n  - /b\n", &["/a", "/b"]),
    ];
    for (text, expected) in cases {
        let found = by_file(text.as_bytes());
        expect(&found, expected, text);
        assert_eq!(found.errors, Vec::<String>::new(), "{text:?}");
    }
    for (text, is_doubtful) in
        [("hooks:\n  path: /a\n", true), ("# - /a\n\nhooks:\n", false), ("", false)]
    {
        let found = by_file(text.as_bytes());
        assert_eq!(!found.warnings.is_empty(), is_doubtful, "{text:?}: {:?}", found.warnings);
    }
    let flow = by_file(b"hooks: [/a]\n");
    assert_eq!((flow.hooks.len(), flow.warnings.len()), (0, 1), "{:?}", flow.warnings);
}

#[test]
fn the_first_of_variable_and_files_counts() {
    let (hermes_home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |home: &Path, text: &str| {
        fs::create_dir_all(home.join("hermes-bus")).unwrap();
        fs::write(home.join(FILE), text).unwrap();
    };
    let find = |variable: &str| {
        let hermes_home = Some(hermes_home.path().to_owned());
        let environment = Environment { hermes_home, ..environment(Some(variable)) };
        let found = Found::find(&environment, root.path());
        (found.listing(), found.source)
    };
    assert_eq!(find(""), ("(none)".to_owned(), Source::Nothing));
    write(root.path(), "- /root.py\n- /more.py\n");
    let in_root = Source::File(root.path().join(FILE));
    assert_eq!(find(""), ("/root.py, /more.py".to_owned(), in_root));
    write(hermes_home.path(), "- /home.py");
    let in_home = Source::File(hermes_home.path().join(FILE));
    assert_eq!(find(""), ("/home.py".to_owned(), in_home.clone()));
    assert_eq!(find("/variable.py"), ("/variable.py".to_owned(), Source::Variable));
    assert_eq!(find(" none "), ("(none)".to_owned(), Source::Variable));
    write(hermes_home.path(), "# none\n");
    assert_eq!(find(""), ("(none)".to_owned(), in_home), "a file that names none still counts");
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_names_nothing() {
    let odd = by_file(b"- /a\n- /\xff\n");
    assert_eq!((odd.hooks.len(), odd.errors.len()), (0, 1));
    let large = by_file(&b"#".repeat(FILE_BYTES_MAX as usize + 1));
    assert!(large.errors[0].contains("over the limit"), "{:?}", large.errors);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(FILE)).unwrap();
    let directory = Found::find(&environment(None), root.path());
    assert!(directory.errors[0].contains("no regular file"), "{:?}", directory.errors);
}

#[test]
fn an_entry_that_is_a_mapping_makes_the_file_yaml() {
    let text = r#"
hooks:
  - /plain.sh   # a comment, now
  - path: ~/rich.py
    args: [--fast, "two words"]
    match:
      to: lead
      from: [worker-*, ""]
      type: [ack]
    timeout_s: 1.5
    concurrency: 2
    env: {TOKEN: abc, EMPTY: ""}
"#;
    let found = by_file(text.as_bytes());
    assert_eq!(found.errors, Vec::<String>::new());
    let patterns = |texts: &[&str]| Some(texts.iter().map(|text| Pattern::new(*text)).collect());
    let rich = Hook {
        path: format!("{HOME}/rich.py").into(),
        args: vec!["--fast".to_owned(), "two words".to_owned()],
        filter: Filter {
            to: patterns(&["lead"]),
            from: patterns(&["worker-*", ""]),
            body_type: patterns(&["ack"]),
        },
        timeout: Some(Duration::from_millis(1_500)),
        concurrency: Some(2),
        env: vec![("TOKEN".into(), "abc".into()), ("EMPTY".into(), String::new())],
    };
    assert_eq!(found.hooks, [Hook::at("/plain.sh"), rich]);
    let flow = by_file(b"[{path: /a}, /b]");
    assert_eq!(paths(&flow), ["/a", "/b"]);
    let other = by_file(b"hooks:\n  - path: /a\nhoks: []\n");
    assert_eq!(paths(&other), ["/a"]);
    assert!(
        other.warnings[0]
            .ends_with("hooks.yaml:3:1: 'hoks' says nothing here; hooks stand under 'hooks'"),
        "{:?}",
        other.warnings
    );
}

#[test]
fn what_is_wrong_in_an_entry_is_told_with_its_place() {
    let cases = [
        ("- pth: /a\n", "1:3: unknown key 'pth': did you mean 'path'?; this hook is not run"),
        (
            "- path: /a\n  nonsense: 1\n",
            "2:3: unknown key 'nonsense': there are path, args, match, timeout_s, concurrency, env; this hook is not run",
        ),
        ("- args: [x]\n", "1:3: the entry has no 'path'; this hook is not run"),
        ("- path: [/a]\n", "1:9: 'path' must be a text, but is a list; this hook is not run"),
        (
            "- path: /a\n  args: x\n",
            "2:9: 'args' must be a list of texts, but is a text; this hook is not run",
        ),
        (
            "- path: /a\n  args: [1]\n",
            "2:10: 'args' must be a text, but is a number (put it in quotes); this hook is not run",
        ),
        (
            "- path: /a\n  timeout_s: 0\n",
            "2:14: 'timeout_s' must be over 0 and at most 604800 seconds; this hook is not run",
        ),
        (
            "- path: /a\n  timeout_s: 1e9\n",
            "2:14: 'timeout_s' must be over 0 and at most 604800 seconds; this hook is not run",
        ),
        (
            "- path: /a\n  timeout_s: soon\n",
            "2:14: 'timeout_s' must be a number of seconds, but is a text; this hook is not run",
        ),
        (
            "- path: /a\n  concurrency: 0\n",
            "2:16: 'concurrency' must be a whole number from 1 to 1000; this hook is not run",
        ),
        (
            "- path: /a\n  concurrency: 1.5\n",
            "2:16: 'concurrency' must be a whole number from 1 to 1000; this hook is not run",
        ),
        (
            "- path: /a\n  match: lead\n",
            "2:10: 'match' must be a mapping with 'to', 'from' or 'type', but is a text; this hook is not run",
        ),
        (
            "- path: /a\n  match: {too: x}\n",
            "2:11: unknown key 'too': did you mean 'to'?; this hook is not run",
        ),
        (
            "- path: /a\n  match: {to: 5}\n",
            "2:15: 'to' must be a text or a list of texts, but is a number (put it in quotes); this hook is not run",
        ),
        (
            "- path: /a\n  env: [A]\n",
            "2:8: 'env' must be a mapping of names to texts, but is a list; this hook is not run",
        ),
        (
            "- path: /a\n  env: {A=B: x}\n",
            "2:9: 'A=B' cannot be the name of a variable; this hook is not run",
        ),
        (
            "- path: /a\n  env: {A: true}\n",
            "2:12: 'A' must be a text, but is a truth value (put it in quotes); this hook is not run",
        ),
        (
            "- 5\n- path: /a\n",
            "1:3: an entry must be a path or a mapping, but is a number; this hook is not run",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error_in(text), expected, "{text:?}");
    }
    let half = by_file(b"- path: /a\n- path: /b\n  timeout_s: -1\n- /c\n");
    assert_eq!((paths(&half), half.errors.len()), (vec!["/a".to_owned(), "/c".to_owned()], 1));
}

#[test]
fn a_mapping_that_is_no_yaml_is_not_taken_for_paths() {
    for text in ["- path: /a\n   args: [x\n", "- path: /a\n  path: /b\n", "- match:\n\tto: x\n"] {
        let found = by_file(text.as_bytes());
        assert_eq!((found.hooks.len(), found.errors.len()), (0, 1), "{text:?}");
        assert!(found.errors[0].contains("no valid YAML"), "{:?}", found.errors);
    }
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n{}hooks:\n  - path: *j\n",
        "bcdefghij"
            .chars()
            .map(|c| {
                let p = (c as u8 - 1) as char;
                format!("{c}: &{c} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n")
            })
            .collect::<String>()
    );
    let found = by_file(bomb.as_bytes());
    assert_eq!((found.hooks.len(), found.errors.len()), (0, 1), "{:?}", found.errors);
}

#[test]
fn more_hooks_than_the_limit_are_told() {
    let many: Vec<String> = (0..=HOOKS_MAX).map(|number| format!("/{number}")).collect();
    let found = by_variable(&many.join(","));
    assert_eq!((found.hooks.len(), found.errors.len()), (HOOKS_MAX, 1));
}

#[test]
fn homes_are_found_by_name_and_without_a_variable() {
    let root = nix::unistd::User::from_name("root").unwrap().unwrap().dir;
    assert_eq!(by_variable("~root/x").hooks[0].path, root.join("x"));
    let odd = Environment { home: Some("/h//".into()), ..Environment::default() };
    assert_eq!(odd.expand("~/x".as_ref()), Path::new("/h/x"));
    let top = Environment { home: Some("/".into()), ..Environment::default() };
    assert_eq!((top.expand("~/x".as_ref()), top.expand("~".as_ref())), ("/x".into(), "/".into()));
    assert_eq!(Environment::default().expand("~/x".as_ref()), Path::new("~/x"));
}
