//! Stories of messages and rules.

use super::*;

const UTC: TimeZone = TimeZone::UTC;

fn engine(rules: &str) -> Engine {
    let rules = Rulebook::parse(rules).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    Engine::new(Arc::new(rules), UTC)
}

fn at(second: u64) -> Now {
    Now { unix_s: 1_716_307_200.0 + second as f64, uptime: Duration::from_secs(second) }
}

fn message(frame: &str) -> Incoming {
    Incoming::read(frame.as_bytes(), Attested::Yes).unwrap()
}

fn of_type(kind: &str) -> Incoming {
    message(&format!(
        r#"{{"type": "message", "from": "w", "body": {{"text": "t", "type": "{kind}"}}}}"#
    ))
}

/// `print t`, `context a|b`, `run c`: what is planned, with the texts as they are rendered.
fn shown(actions: &[Planned]) -> Vec<String> {
    let text = |rendering: &Rendering| rendering.rendered.as_str().to_owned();
    let show = |planned: &Planned| match &planned.action {
        Action::Print(print) => format!("print {}", text(&print.rendering)),
        Action::Context(context) => {
            let pieces: Vec<_> =
                context.pieces.iter().map(|piece| text(&piece.rendering)).collect();
            format!("context {}", pieces.join("|"))
        }
        Action::Command(command) => format!("run {}", command.command),
    };
    actions.iter().map(show).collect()
}

fn take(engine: &mut Engine, message: &Incoming) -> Vec<String> {
    shown(&engine.take(1, message, AgentState::Idle, at(0)).actions)
}

#[test]
fn the_first_rule_has_the_last_word_unless_it_says_continue() {
    let mut engine = engine(
        "callbacks:\n- {match_type: a, print_format: one, continue: true}\n- {from: 'x*', print_format: two}\n\
         - {from: w, context: true, context_format: three, command: c}\n- {match_type: a, print_format: four}\n",
    );
    assert_eq!(take(&mut engine, &of_type("a")), ["print one", "context three", "run c"]);
    assert_eq!(take(&mut engine, &of_type("b")), ["context three", "run c"]);
    let stranger = message(r#"{"from": "y", "body": {"text": "t"}}"#);
    assert_eq!(take(&mut engine, &stranger), ["print t"], "what no rule is for is printed");
}

#[test]
fn each_condition_must_hold() {
    let frame = r##"{"from": "ci-7", "to": "#build.done", "sender": {"uid": 1, "pid": 2, "endpoint": "runner"},
        "body": {"text": "Build 7 FAILED", "type": "task_error", "channel": "feishu:oc_1", "build": {"status": "failed", "tries": 2}}}"##;
    let table = [
        ("match_type: task_error", true),
        ("match_type: [a, task_error]", true),
        ("match_type: task", false),
        ("from: ci-*", true),
        ("from: runner", false),
        ("sender: runner", true),
        ("sender: ci-*", false),
        ("to: '#build.*'", true),
        ("to: ''", false),
        ("channel: feishu:*", true),
        ("channel: feishu", false),
        ("text: '(?i)build \\d+ failed$'", true),
        ("text: ^failed", false),
        ("json: $.build.status", true),
        ("json: $.build.nothing", false),
        ("json: {$.build.status: failed}", true),
        ("json: {$.build.status: [ok, failed], $.build.tries: 2}", true),
        ("json: {$.build.status: ok}", false),
        ("json: '$[?$.build.tries > 1]'", true),
        ("json: '$[?$.build.tries > 2]'", false),
        ("when: idle", true),
        ("when: busy", false),
        ("{from: ci-*, match_type: other}", false),
    ];
    for (condition, expected) in table {
        let rule = condition.trim_matches(['{', '}']);
        let rule = if condition.starts_with('{') { rule } else { condition };
        let engine = engine(&format!(
            "callbacks:\n- {}\n",
            if condition.starts_with('{') { format!("{{{rule}}}") } else { rule.to_owned() }
        ));
        let verdict = engine.explain(&message(frame), AgentState::Idle).remove(0);
        assert_eq!(verdict.mismatch.is_none(), expected, "{condition}: {verdict:?}");
    }
}

#[test]
fn a_forged_from_does_not_fire_a_rule_about_the_sender() {
    let mut engine = engine(
        "callbacks:\n- {sender: lead, command: deploy, print: false}\n- {from: '*', print: false}\n",
    );
    let sent = |sender: &str| {
        message(&format!(r#"{{"from": "lead", "sender": {sender}, "body": {{"text": "go"}}}}"#))
    };
    assert_eq!(
        take(&mut engine, &sent(r#"{"uid": 0, "pid": 1, "endpoint": "lead"}"#)),
        ["run deploy"]
    );
    assert_eq!(take(&mut engine, &sent(r#"{"uid": 0, "pid": 1, "endpoint": "mallory"}"#)), [""; 0]);
    assert_eq!(take(&mut engine, &sent(r#"{"uid": 0, "pid": 1, "endpoint": null}"#)), [""; 0]);
}

#[test]
fn a_command_is_told_of_the_message() {
    let mut engine = engine("callbacks:\n- {from: '*', print: false, command: c, timeout_s: 3}\n");
    let frame = r#"{"from": "w", "id": "i", "ts": 1.50, "sender": {"uid": 1, "pid": 2, "endpoint": "e"}, "delivery": 2, "body": {"text": "a\u0000b", "type": "k", "channel": "c:d"}}"#;
    let plan = engine.take(1, &message(frame), AgentState::Idle, at(0));
    let Action::Command(command) = &plan.actions[0].action else { panic!("it is a command") };
    let value = |wanted: &str| {
        command.variables.iter().find(|(name, _)| *name == wanted).unwrap().1.as_deref()
    };
    let told =
        ["MESSAGE", "TYPE", "FROM", "CHANNEL", "TEXT", "TS", "ID", "SENDER", "DELIVERY"].map(value);
    let expected = [
        Some(frame),
        Some("k"),
        Some("w"),
        Some("c:d"),
        None,
        Some("1.50"),
        Some("i"),
        Some("e"),
        Some("2"),
    ];
    assert_eq!(told, expected, "a text that no environment can hold is left out");
    assert_eq!(command.input, format!("{frame}\n"));
    assert_eq!(command.timeout, Duration::from_secs(3));
}

#[test]
fn over_the_rate_nothing_is_done_but_what_comes_again_passes() {
    let mut engine =
        engine("callbacks:\n- {match_type: a, rate_limit: {messages: 2, per_s: 10}}\n");
    let mut plan =
        |message: &Incoming, second| engine.take(1, message, AgentState::Idle, at(second));
    let count = |plan: &Plan| (plan.actions.len(), plan.left_out_by.len());
    let once = of_type("a");
    assert_eq!(
        [0, 0, 0, 5].map(|second| count(&plan(&once, second))),
        [(1, 0), (1, 0), (0, 1), (1, 0)]
    );
    let again =
        message(r#"{"body": {"type": "a"}, "sender": {"uid": 1, "pid": 2}, "delivery": 2}"#);
    assert_eq!(count(&plan(&again, 5)), (1, 0));
}

#[test]
fn messages_of_one_chat_are_merged_and_those_of_two_never() {
    let mut engine = engine("callbacks:\n- {match_type: a, context: true, merge_s: 30}\n");
    let sent = |text: &str, channel: &str| {
        message(&format!(
            r#"{{"body": {{"type": "a", "text": "{text}", "channel": "{channel}"}}}}"#
        ))
    };
    for (ticket, text, channel, second) in
        [(1, "one", "x:1", 0), (2, "two", "x:2", 1), (3, "three", "x:1", 20)]
    {
        let plan = engine.take(ticket, &sent(text, channel), AgentState::Idle, at(second));
        assert_eq!((plan.waits, plan.actions.len()), (1, 0));
    }
    assert_eq!(engine.next_due(), Some(Duration::from_secs(30)));
    assert_eq!(engine.due(at(29)), []);
    let due = engine.due(at(30));
    assert_eq!(shown(&due), ["context one|three"]);
    assert_eq!(due[0].tickets, [1, 3]);
    assert!(matches!(&due[0].action, Action::Context(context) if context.channel == "x:1"));
    assert_eq!(shown(&engine.due(at(31))), ["context two"]);
    assert_eq!(engine.next_due(), None);
}

#[test]
fn what_is_enough_or_under_old_rules_does_not_wait_longer() {
    let rules = "callbacks:\n- {match_type: a, context: true, merge_s: 30}\n";
    let mut merging = engine(rules);
    for ticket in 0..MERGED_MESSAGES_MAX as u64 {
        let plan = merging.take(ticket, &of_type("a"), AgentState::Idle, at(0));
        let is_last = ticket + 1 == MERGED_MESSAGES_MAX as u64;
        assert_eq!((plan.waits, plan.actions.len()), (usize::from(!is_last), usize::from(is_last)));
    }
    merging.take(7, &of_type("a"), AgentState::Idle, at(0));
    let old = merging.replace(Arc::new(Rulebook::default()));
    assert_eq!(old[0].tickets, [7]);
    assert_eq!(take(&mut merging, &of_type("a")), ["print t"]);
}

#[test]
fn what_is_no_message_is_nobodys_business() {
    let mut engine = engine("");
    assert_eq!(take(&mut engine, &message(r#"{"type": "pong"}"#)), [""; 0]);
}
