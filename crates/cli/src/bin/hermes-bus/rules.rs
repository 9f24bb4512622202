//! `hermes-bus rules`: what an agent would make of its rules. Needs no bus, and does nothing of what they say.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermes_bus::arguments::bus::Place;
use hermes_bus::arguments::receiving::{Rules as Asked, RulesTest};
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{Palette, harmless, harmless_line, note, say};
use hermes_bus::sender::read_input;
use hermes_bus_client::BodyError;
use hermes_bus_plugin::agent::PRINT_BYTES_MAX;
use hermes_bus_plugin::engine::template::without_colours;
use hermes_bus_plugin::engine::{
    Action, AgentState, Attested, Engine, Incoming, Now, Plan, Rulebook, Verdict,
};
use hermes_bus_plugin::rules::{Rules, RulesError};
use hermes_bus_plugin::rules_file::{self, Bad};
use hermes_bus_proto::object::check_value;
use hermes_bus_proto::{FrameError, Object};
use serde_json::{Value, json};

pub(crate) fn run(asked: &Asked, place: &Place) -> anyhow::Result<ExitCode> {
    match asked {
        Asked::Check { file } => {
            let (path, rules) = match load(file.as_deref(), place)? {
                Ok(loaded) => loaded,
                Err(code) => return Ok(code),
            };
            check(&path, &rules, place)
        }
        Asked::Test(test) => {
            let (path, rules) = match load(test.rules.as_deref(), place)? {
                Ok(loaded) => loaded,
                Err(code) => return Ok(code),
            };
            self::test(test, &path, rules, place)
        }
    }
}

/// The rules, or what is wrong with them said and an exit code.
fn load(
    given: Option<&Path>,
    place: &Place,
) -> anyhow::Result<Result<(PathBuf, Rulebook), ExitCode>> {
    let path = given.map(Path::to_owned).or_else(Rules::default_path).ok_or_else(|| {
        Failure::new("no_home", "there is no home directory: give the file, or set HERMES_HOME")
    })?;
    match rules_file::load(&path) {
        Ok(rules) => Ok(Ok((path, rules))),
        Err(Bad::File(RulesError::Missing { .. })) if given.is_none() => {
            note(&format!(
                "hermes-bus: there is no {}",
                harmless_line(&path.display().to_string())
            ));
            Ok(Ok((path, Rulebook::default())))
        }
        Err(bad) => {
            let lines: Vec<String> = bad.lines().iter().map(|line| harmless_line(line)).collect();
            for line in &lines {
                note(line);
            }
            if place.json {
                let problems = problems(&bad, &lines);
                say(&json!({"ok": false, "error": "invalid_rules", "problems": problems})
                    .to_string())?;
            }
            Ok(Err(ExitCode::from(exit::FAILED)))
        }
    }
}

fn problems(bad: &Bad, lines: &[String]) -> Vec<Value> {
    let place = |number: usize| match bad {
        Bad::Mistakes(_, remarks) => remarks.get(number).and_then(|remark| remark.place),
        Bad::File(_) => None,
    };
    let problem = |(number, line): (usize, &String)| match place(number) {
        Some(at) => json!({"text": line, "line": at.line, "column": at.column}),
        None => json!({"text": line}),
    };
    lines.iter().enumerate().map(problem).collect()
}

fn check(path: &Path, rules: &Rulebook, place: &Place) -> anyhow::Result<ExitCode> {
    let warnings = rules_file::prefixed(path, &rules.warnings);
    for warning in &warnings {
        note(&format!("warning: {}", harmless_line(warning)));
    }
    let count = rules.rules.len();
    if place.json {
        let object = json!({"ok": true, "file": path, "rules": count, "endpoint": rules.endpoint, "warnings": warnings});
        say(&object.to_string())?;
    } else {
        say(&format!("ok: {count} {}", if count == 1 { "rule" } else { "rules" }))?;
    }
    Ok(ExitCode::SUCCESS)
}

// ---- test -------------------------------------------------------------------------------------------

fn test(test: &RulesTest, path: &Path, rules: Rulebook, place: &Place) -> anyhow::Result<ExitCode> {
    let message = message(test)?;
    let state = AgentState::of(&test.state).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let now = Now { unix_s: now, uptime: Duration::ZERO };
    let mut engine = Engine::new(Arc::new(rules), jiff::tz::TimeZone::system());
    let verdicts = engine.explain(&message, state);
    let mut plan = engine.take(1, &message, state, now);
    let merged = engine.flush();
    if place.json {
        plan.actions.extend(merged);
        return say_json(&verdicts, &plan, engine.rules()).map(|()| ExitCode::SUCCESS);
    }
    for verdict in &verdicts {
        say(&line(verdict, path, engine.rules()))?;
    }
    if verdicts.iter().all(|verdict| verdict.mismatch.is_some()) {
        say("no rule is for it, so it is printed")?;
    }
    let palette = Palette::new(place.color);
    for planned in &plan.actions {
        say_action(&planned.action, palette, "")?;
    }
    for planned in &merged {
        say_action(&planned.action, palette, ", when its time to be merged is over")?;
    }
    if plan.actions.is_empty() && merged.is_empty() {
        say("nothing is done; it is acknowledged")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn message(test: &RulesTest) -> anyhow::Result<Incoming> {
    let frame = match test.message.as_deref() {
        Some("-") => read_input()?,
        Some(message) => message.to_owned(),
        None => composed(test)?,
    };
    let incoming = Incoming::read(frame.as_bytes(), Attested::Yes);
    incoming.map_err(|error| {
        Failure::new("invalid_message", format!("the message is no JSON object: {error}")).into()
    })
}

fn composed(test: &RulesTest) -> anyhow::Result<String> {
    let given = |option: &Option<String>| option.clone().filter(|value| !value.is_empty());
    let mut body = match &test.body {
        Some(body) => {
            check_value(body).map_err(|error| Failure::body(&BodyError::NotJson(error)))?;
            body.clone()
        }
        None => json!({"text": test.text}).to_string(),
    };
    for (key, value) in [("type", given(&test.kind)), ("channel", given(&test.channel))] {
        let Some(value) = value else { continue };
        let object = Object::scan(body.clone().into());
        let object = object.map_err(|error| match error {
            FrameError::NotAnObject(kind) => Failure::body(&BodyError::NotAnObject(kind)),
            error => Failure::body(&BodyError::NotJson(error)),
        })?;
        body = object.with(key, &Value::from(value).to_string());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let endpoint = given(&test.sender).or(given(&test.from).filter(|_| test.sender.is_none()));
    let mut message = json!({
        "type": "message", "to": test.to, "body": null, "id": "test", "ts": now,
        "sender": {"uid": rustix::process::getuid().as_raw(), "pid": std::process::id(), "endpoint": endpoint},
    });
    if let Some(from) = given(&test.from) {
        message["from"] = from.into();
    }
    let message = Object::scan(message.to_string().into()).map_err(anyhow::Error::msg)?;
    Ok(message.with("body", &body))
}

fn name(verdict: &Verdict, rules: &Rulebook) -> (String, u64) {
    let rule = rules.rules.get(verdict.index);
    let name = rule
        .and_then(|rule| rule.name.as_deref())
        .map(|name| format!(" '{}'", harmless_line(name)));
    (name.unwrap_or_default(), rule.map_or(0, |rule| rule.line))
}

fn line(verdict: &Verdict, path: &Path, rules: &Rulebook) -> String {
    let (name, line) = name(verdict, rules);
    let number = verdict.index + 1;
    let place = format!("{}:{line}", harmless_line(&path.display().to_string()));
    match &verdict.mismatch {
        None => format!("rule {number}{name} ({place}) is for it"),
        Some(mismatch) => {
            format!(
                "rule {number}{name} ({place}) is not: {}",
                harmless_line(&mismatch.to_string())
            )
        }
    }
}

fn say_action(action: &Action, palette: Palette, when: &str) -> anyhow::Result<()> {
    match action {
        Action::Print(print) => {
            let text = print.rendering.rendered.for_terminal(PRINT_BYTES_MAX);
            let text = if palette.is_on() { text } else { without_colours(&text) };
            let chat = match print.channel.as_str() {
                "" => String::new(),
                channel => {
                    format!(" (in the chat '{}' where there is one)", harmless_line(channel))
                }
            };
            say(&format!("print{when}{chat}:\n{}", indented(&text)))?;
        }
        Action::Context(context) => {
            for piece in &context.pieces {
                let marked = piece.marked(&piece.whole(None), "a file");
                say(&format!("context{when}:\n{}", indented(&marked)))?;
            }
        }
        Action::Command(command) => {
            let text = harmless(&command.command).into_owned();
            say(&format!(
                "command, for {} s at most:\n{}",
                command.timeout.as_secs_f64(),
                indented(&text)
            ))?;
        }
    }
    Ok(())
}

fn indented(text: &str) -> String {
    format!("    {}", text.replace('\n', "\n    "))
}

fn say_json(verdicts: &[Verdict], plan: &Plan, rules: &Rulebook) -> anyhow::Result<()> {
    let rule = |verdict: &Verdict| {
        let (_, line) = name(verdict, rules);
        let because = verdict.mismatch.as_ref().map(ToString::to_string);
        json!({"rule": verdict.index + 1, "line": line, "matches": because.is_none(), "because": because})
    };
    let action = |action: &Action| match action {
        Action::Print(print) => {
            let text = without_colours(&print.rendering.rendered.for_terminal(PRINT_BYTES_MAX));
            json!({"action": "print", "text": text, "channel": print.channel})
        }
        Action::Context(context) => {
            let texts =
                context.pieces.iter().map(|piece| piece.marked(&piece.whole(None), "a file"));
            let text = texts.collect::<Vec<_>>().join("\n");
            json!({"action": "context", "text": text, "channel": context.channel})
        }
        Action::Command(command) => {
            json!({"action": "command", "command": command.command, "timeout_s": command.timeout.as_secs_f64()})
        }
    };
    let rules: Vec<Value> = verdicts.iter().map(rule).collect();
    let actions: Vec<Value> = plan.actions.iter().map(|planned| action(&planned.action)).collect();
    Ok(say(&json!({"ok": true, "rules": rules, "actions": actions}).to_string())?)
}
