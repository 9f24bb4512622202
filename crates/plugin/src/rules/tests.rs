//! Tables of what the released programs make of a file, and what differs here on purpose.

use super::*;

fn names<'a>(text: &str, tokens: &[&'a str]) -> Vec<(&'a str, String)> {
    let rules = Rules::parse(text).unwrap_or_else(|fault| panic!("{text:?}: {fault}"));
    tokens.iter().map(|token| (*token, rules.display_name(token).to_owned())).collect()
}

/// The golden cases of the released programs.
#[test]
fn a_token_becomes_the_name_of_its_entry_or_stays() {
    let text = "role_map: {lead-agent: {name: Lead, color: bold_cyan}, w: {name: Alpha}, \
                noname: {color: red}, empty: {}}";
    let golden = [
        ("lead-agent", "Lead"),
        ("Lead", "Lead"),
        ("w", "Alpha"),
        ("Alpha", "Alpha"),
        ("noname", "noname"),
        ("empty", "empty"),
        ("zzz", "zzz"),
        ("", ""),
        ("lead", "lead"),
    ];
    let rules = Rules::parse(text).unwrap();
    for (token, expected) in golden {
        assert_eq!(rules.display_name(token), expected, "{token:?}");
    }
    assert_eq!(rules.odd_entries(), [""; 0]);
}

/// Each: a file, and all tokens of `TOKENS` that released programs change, with what they say.
#[test]
fn odd_but_valid_files_say_what_they_said_to_the_released_programs() {
    const TOKENS: [&str; 9] = ["w", "x", "a", "b", "123", "Alpha", "测试", "c", "null"];
    let table: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        ("# nothing\n# at all\n", &[]),
        ("~\n", &[]),
        ("0\n", &[]),
        ("[]\n", &[]),
        ("role_map: {w: {}, a: {name: Alpha}}\n", &[("a", "Alpha")]),
        ("role_map: {w: {name: '123'}}\n", &[("w", "123")]),
        ("role_map: {w: {name: ''}}\n", &[("w", "")]),
        ("role_map: {'123': {name: Alpha}}\n", &[("123", "Alpha")]),
        ("role_map: {~: {name: Alpha}, w: {name: B}}\n", &[("w", "B")]),
        ("role_map: {w: {name: One}, w: {name: Two}}\n", &[("w", "Two")]),
        ("role_map: {w: {name: One}}\nrole_map: {x: {name: Two}}\n", &[("x", "Two")]),
        ("role_map: {w: {name: One, name: Two}}\n", &[("w", "Two")]),
        ("role_map: {w: {name: One}, w: {}}\n", &[]),
        (
            "base: &b {name: Alpha, color: red}\nrole_map:\n  w: *b\n  x: {name: X}\n",
            &[("w", "Alpha"), ("x", "X")],
        ),
        ("n: &n Alpha\nrole_map: {w: {name: *n}}\n", &[("w", "Alpha")]),
        ("n: &n w\nrole_map: {*n : {name: Alpha}}\n", &[("w", "Alpha")]),
        (
            "base: &b {name: Alpha}\nrole_map:\n  w:\n    <<: *b\n    color: red\n",
            &[("w", "Alpha")],
        ),
        ("base: &b {name: Alpha}\nrole_map:\n  w:\n    <<: *b\n    name: Beta\n", &[("w", "Beta")]),
        ("a: &a {name: A}\nb: &b {name: B}\nrole_map:\n  w:\n    <<: [*a, *b]\n", &[("w", "A")]),
        (
            "b: &b {w: {name: Alpha}, x: {name: Xi}}\nrole_map:\n  <<: *b\n  x: {name: Own}\n",
            &[("w", "Alpha"), ("x", "Own")],
        ),
        ("r: &r {w: {name: Alpha}}\nrole_map: *r\n", &[("w", "Alpha")]),
        ("x: &x {role_map: {w: {name: Alpha}}}\n<<: *x\n", &[("w", "Alpha")]),
        (
            "bus: [1, {a: b}]\ncallbacks:\n- match_type: x\n  command: |\n    a\n    b\n\
             role_map: {w: {name: Alpha}}\n",
            &[("w", "Alpha")],
        ),
        ("%YAML 1.1\n---\nrole_map: {w: {name: A}}\n...\n", &[("w", "A")]),
        ("role_map:\n  w:\n    name: >-\n      Alpha\n      Beta\n", &[("w", "Alpha Beta")]),
        ("role_map: {测试: {name: 主管 ⚕}}\n", &[("测试", "主管 ⚕")]),
        ("\u{feff}role_map: {w: {name: A}}\n", &[("w", "A")]),
        ("role_map: {a: {name: w}, w: {name: Z}}\n", &[("a", "w"), ("w", "Z")]),
        ("role_map: {a: {name: b}, b: {name: c}}\n", &[("a", "b"), ("b", "c")]),
        ("role_map:\r\n  w:\r\n    name: A\r\n", &[("w", "A")]),
        ("role_map: {w: {name: !!str 5}}\n", &[("w", "5")]),
        ("role_map: {w: {name: 'null'}}\n", &[("w", "null")]),
        ("role_map: {w: {name: \"~\"}}\n", &[("w", "~")]),
        ("role_map: {w: {'name': Q, 5: x}}\n", &[("w", "Q")]),
    ];
    for (text, changed) in table {
        for (token, name) in names(text, &TOKENS) {
            let expected = changed.iter().find(|(of, _)| *of == token).map_or(token, |(_, to)| to);
            assert_eq!(name, expected, "{token:?} of {text:?}");
        }
    }
}

/// Where Python's types shine through in released programs, people see what they wrote.
#[test]
fn scalars_are_shown_as_they_are_written() {
    for (text, token, expected) in [
        ("role_map: {w: {name: 123}}", "w", "123"),
        ("role_map: {w: {name: yes}}", "w", "yes"),
        ("role_map: {w: {name: 1.10}}", "w", "1.10"),
        ("role_map: {w: {name: 0x10}}", "w", "0x10"),
        ("role_map: {w: {name: 2024-05-21}}", "w", "2024-05-21"),
        ("role_map: {w: {name: ~}}", "w", "w"),
        ("role_map: {0: {name: Lead}}", "0", "Lead"),
        ("role_map: {on: {name: Lead}}", "on", "Lead"),
    ] {
        assert_eq!(Rules::parse(text).unwrap().display_name(token), expected, "{text}");
    }
}

/// Released programs die of these, at least for tokens that their search comes across late.
#[test]
fn entries_that_are_no_mappings_give_no_name_and_harm_no_other() {
    let text = "role_map: {z: Beta, w: {name: Alpha}, a: [1], n: , e: {}}";
    let rules = Rules::parse(text).unwrap();
    for (token, expected) in [("w", "Alpha"), ("z", "z"), ("a", "a"), ("n", "n"), ("q", "q")] {
        assert_eq!(rules.display_name(token), expected);
    }
    assert_eq!(rules.odd_entries(), ["a", "z"]);
}

#[test]
fn an_empty_role_map_is_no_rules() {
    for text in ["role_map:\n", "role_map: {}\n", "role_map: []\n", "role_map: false\n"] {
        assert_eq!(Rules::parse(text), Ok(Rules::default()), "{text:?}");
    }
}

#[test]
fn a_wrong_shape_says_what_should_be_a_mapping_and_where_it_is() {
    for (text, part, found) in [
        ("- a\n- b\n", Part::File, "a list"),
        ("just words\n", Part::File, "a text"),
        ("7\n", Part::File, "a number"),
        ("role_map: [a, b]\n", Part::RoleMap, "a list"),
        ("role_map: words\n", Part::RoleMap, "a text"),
        ("role_map: 5\n", Part::RoleMap, "a number"),
        ("role_map: true\n", Part::RoleMap, "a truth value"),
    ] {
        let Err(Fault::Shape { part: said, found: seen, position }) = Rules::parse(text) else {
            panic!("{text:?} was understood");
        };
        assert_eq!((said, seen), (part, found), "{text:?}");
        let expected = (part == Part::RoleMap).then_some(Position { line: 1, column: 11 });
        assert_eq!(position, expected, "{text:?}");
    }
}

#[test]
fn what_is_no_yaml_is_told_with_its_place() {
    for text in [
        "role_map: [unclosed\n  : :",
        "role_map:\n\tw: {name: A}\n",
        "role_map: *nope\n",
        "role_map: {w: {name: A}}\n---\nrole_map: {w: {name: B}}\n",
        "role_map: {? [a] : {name: Alpha}, w: {name: B}}\n",
        "role_map: {w: {name: [A]}}\n",
    ] {
        let fault = Rules::parse(text).expect_err(text);
        let Fault::Syntax { reason, position: Some(_) } = &fault else { panic!("{fault:?}") };
        assert!(!reason.contains(" at line") && !reason.contains('\n'), "{reason:?}");
    }
}

#[test]
fn a_bomb_of_aliases_is_refused_in_no_time() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let list = vec![below; 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    text.push_str("role_map: {w: {name: A}}\n");
    let started = std::time::Instant::now();
    assert!(matches!(Rules::parse(&text), Err(Fault::Syntax { .. })));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    let deep = format!("role_map: {{w: {{name: A}}}}\nx: {}", "[".repeat(100_000));
    assert!(matches!(Rules::parse(&deep), Err(Fault::Syntax { .. })));
}

#[test]
fn files_that_cannot_be_used_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.yaml");
    let missing = Rules::load(&path).unwrap_err();
    assert!(matches!(missing, RulesError::Missing { .. }) && missing.is_ignored_by_original());
    let unreadable = Rules::load(directory.path()).unwrap_err();
    assert!(matches!(unreadable, RulesError::Read { .. }) && unreadable.is_ignored_by_original());

    let write = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    write(b"a: b\nx: caf\xe9\n");
    let error = Rules::load(&path).unwrap_err();
    assert!(matches!(error, RulesError::Syntax { .. }) && error.is_ignored_by_original());
    assert_eq!(
        error.to_string(),
        format!("{}:2:7: no valid YAML: a byte that is no UTF-8", path.display())
    );

    write(b"role_map: [a]\n");
    let error = Rules::load(&path).unwrap_err();
    assert!(matches!(error, RulesError::Shape { .. }) && !error.is_ignored_by_original());
    assert_eq!(error.odd_part(), Some(Part::RoleMap));
    let said = "'role_map' must be a mapping (lines of 'key: value'), but is a list";
    assert_eq!(error.to_string(), format!("{}:1:11: {said}", path.display()));

    write(format!("role_map: {{w: {{name: A}}}}\n#{}", "x".repeat(1024 * 1024)).as_bytes());
    assert!(matches!(Rules::load(&path).unwrap_err(), RulesError::TooLarge { .. }));
    write(b"role_map: {w: {name: A}}\n");
    assert_eq!(Rules::load(&path).unwrap().display_name("w"), "A");
}
