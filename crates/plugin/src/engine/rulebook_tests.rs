//! What is understood of a file, and what is said about what is not.

use super::*;

fn mistakes(text: &str) -> Vec<String> {
    Rulebook::parse(text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn warnings(text: &str) -> Vec<String> {
    Rulebook::parse(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_file_with_everything_in_it() {
    let book = Rulebook::parse(
        "bus: {endpoint: ' lead '}\nrole_map: {w: {name: W}}\ndefault_sender: x\ncallbacks:\n\
         - name: builds\n  match_type: [task_done, task_error]\n  from: ci-*\n  sender: [ci-1, ci-2]\n\
         \x20 to: '*'\n  channel: feishu:*\n  text: (?i)build\n  json: {'$.build.status': [failed, 1]}\n\
         \x20 when: busy\n  context: true\n  context_format: '{text}'\n  command: 'true'\n  continue: true\n\
         \x20 rate_limit: {messages: 10, per_s: 0.5}\n  merge_s: 30\n  timeout_s: 5\n  context_bytes_max: 1000\n\
         - json: $.a\n  print: no\n",
    )
    .unwrap();
    assert_eq!(book.endpoint.as_deref(), Some("lead"));
    assert_eq!(book.warnings, []);
    let rule = &book.rules[0];
    assert_eq!((rule.name.as_deref(), rule.line), (Some("builds"), 5));
    assert_eq!(rule.merge, Some(Duration::from_secs(30)));
    assert_eq!(rule.timeout, Duration::from_secs(5));
    let limit = RateLimit { messages: 10, per: Duration::from_millis(500) };
    assert_eq!((rule.rate_limit, rule.context_bytes_max), (Some(limit), 1000));
    assert!(rule.context && rule.goes_on && !book.rules[1].print);
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_do() {
    let table = [
        ("callbacks: [", "no valid YAML"),
        ("- a\n", ": the file must be a mapping (lines of 'key: value'), but is a list"),
        ("callbacks: 5\n", ":1:12: 'callbacks' must be a list of rules"),
        (
            "callback:\n- {match_type: a}\n",
            ":1:1: unknown key 'callback': did you mean 'callbacks'?",
        ),
        ("callbacks:\n- ack\n", ":2:3: a rule must be a mapping"),
        (
            "callbacks:\n- match_type: a\n  form: x\n",
            ":3:3: unknown key 'form': did you mean 'from'?",
        ),
        (
            "callbacks:\n- {print_format: 5}\n",
            ":2:18: 'print_format' must be a text, but is a number (put it in quotes)",
        ),
        (
            "callbacks:\n- {from: [a, 5]}\n",
            ":2:14: 'from' must be a text or a list of texts, but is a number (put it in quotes)",
        ),
        ("callbacks:\n- {text: '(a'}\n", ":2:10: 'text' is no regular expression: unclosed group"),
        ("callbacks:\n- {json: a.b}\n", ":2:10: 'a.b' is no JSON path (it begins with '$')"),
        ("callbacks:\n- {json: {'$.a': {}}}\n", "'json' must be compared with"),
        ("callbacks:\n- {when: sometimes}\n", ":2:10: 'when' must be 'idle' or 'busy'"),
        (
            "callbacks:\n- {rate_limit: 5}\n",
            "'rate_limit' must be a mapping: {messages: 10, per_s: 60}, but is a number",
        ),
        ("callbacks:\n- {rate_limit: {messages: 5}}\n", "one of the two is missing"),
        (
            "callbacks:\n- {rate_limit: {messages: 0.5, per_s: 1}}\n",
            "'messages' must be a whole number from 1 to 1000000",
        ),
        ("callbacks:\n- {match_type: a, merge_s: 5}\n", ":2:3: 'merge_s' says how long"),
        (
            "callbacks:\n- {match_type: a, timeout_s: -1}\n",
            "'timeout_s' must be over 0 and at most 604800 seconds",
        ),
        (
            "callbacks:\n- {match_type: {}}\n",
            "'match_type' must be a text or a list of texts, but is a mapping",
        ),
        ("role_map: 5\n", ":1:11: 'role_map' must be a mapping"),
        ("bus: {endpoint: [a]}\n", ":1:17: 'endpoint' must be a text, but is a list"),
    ];
    for (text, expected) in table {
        let mistakes = mistakes(text);
        assert_eq!(mistakes.len(), 1, "{text:?}: {mistakes:?}");
        assert!(mistakes[0].contains(expected), "{text:?}: {mistakes:?}");
    }
    let all = mistakes("callbacks:\n- {when: x, from: 5}\n- {match_type: a}\n- 5\n");
    assert_eq!(all.len(), 3, "all of them are told: {all:?}");
}

#[test]
fn what_released_plugins_passed_over_is_passed_over_with_a_word() {
    let table = [
        ("", None),
        ("# nothing\n", None),
        ("callbacks:\n", None),
        ("bus: []\nsession_aliases: {a: b}\n", None),
        (
            "callbacks:\n- {match_type: a, description: x}\n",
            Some(":2:19: unknown key 'description' is passed over"),
        ),
        (
            "callbacks:\n- {match_type: a, comand: x}\n",
            Some("unknown key 'comand': did you mean 'command'?"),
        ),
        ("callbacks:\n- {print: false}\n", Some("has no condition and is for no message")),
        ("callbacks:\n- {match_type: ''}\n", Some("'match_type' that is empty is for no message")),
        ("role_map: {w: Alpha}\n", Some("these entries of 'role_map' are no mappings")),
    ];
    for (text, expected) in table {
        let warnings = warnings(text);
        match expected {
            None => assert_eq!(warnings, [""; 0], "{text:?}"),
            Some(expected) => assert!(warnings[0].contains(expected), "{text:?}: {warnings:?}"),
        }
    }
}
