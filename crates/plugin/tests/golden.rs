//! What the released plugin makes of rules, templates and names, this one makes of them, too. The cases are in
//! `golden/golden.json`, made by `golden/make.py`; HERMES_PLUGIN_VECTORS names a further file of the same form.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use hermes_bus_plugin::engine::template::render;
use hermes_bus_plugin::engine::{
    Action, AgentState, Attested, Engine, Incoming, Mode, Now, Rulebook,
};
use hermes_bus_plugin::name::Surroundings;
use hermes_bus_plugin::rules::Rules;
use jiff::tz::TimeZone;
use serde_json::Value;

const NOW: Now = Now { unix_s: 1_716_307_200.0, uptime: Duration::ZERO };

fn files() -> Vec<Value> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/golden.json");
    let further = env::var_os("HERMES_PLUGIN_VECTORS").map(PathBuf::from);
    let paths = [PathBuf::from(own)].into_iter().chain(further);
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).expect("it is JSON")
    };
    paths.map(read).collect()
}

fn cases<'a>(file: &'a Value, kind: &str) -> &'a [Value] {
    file.get(kind).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn incoming(case: &Value) -> Incoming {
    Incoming::read(case["msg"].to_string().as_bytes(), Attested::Yes).expect("it is an object")
}

#[test]
fn templates() {
    for case in files().iter().flat_map(|file| cases(file, "format")) {
        let template = case["template"].as_str().unwrap();
        let rendering = render(template, &incoming(case), Mode::Print, NOW.unix_s, &TimeZone::UTC);
        assert_eq!(rendering.rendered.as_str(), case["expected"], "{case}");
    }
}

#[test]
fn rules() {
    for group in files().iter().flat_map(|file| cases(file, "process")) {
        let text = group["rules_yaml"].as_str().unwrap_or_default();
        let rules = Rulebook::parse(text).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
        let mut engine = Engine::new(Arc::new(rules), TimeZone::UTC);
        for case in cases(group, "cases")
            .iter()
            .filter(|case| case.get("raises").is_none_or(Value::is_null))
        {
            let plan = engine.take(1, &incoming(case), AgentState::Idle, NOW);
            let (mut printed, mut context, mut command) = (Vec::new(), Vec::new(), Vec::new());
            for planned in plan.actions {
                match planned.action {
                    Action::Print(print) => {
                        printed.push(print.rendering.rendered.as_str().to_owned());
                    }
                    Action::Context(it) => {
                        context.extend(
                            it.pieces
                                .iter()
                                .map(|piece| piece.rendering.rendered.as_str().to_owned()),
                        );
                    }
                    Action::Command(it) => command.push(it.command),
                }
            }
            assert_eq!(Value::from(printed), case["printed"], "{case}");
            assert_eq!(Value::from(context), case["context"], "{case}");
            assert_eq!(Value::from(command), case["command"], "{case}");
        }
    }
}

#[test]
fn names() {
    for case in files().iter().flat_map(|file| cases(file, "endpoint")) {
        let text = case["rules_yaml"].as_str().unwrap_or_default();
        // A file that cannot be understood names nothing.
        let rules = Rulebook::parse(text).unwrap_or_default();
        let set = |name: &str| {
            case["env"].get(name).and_then(Value::as_str).filter(|value| !value.is_empty())
        };
        let of_gateway = |argument: &Value| argument == "gateway" || argument == "run";
        let arguments = case
            .get("argv")
            .and_then(Value::as_array)
            .map_or(0, |argv| argv.iter().filter(|it| of_gateway(it)).count());
        let surroundings = Surroundings {
            endpoint: set("HERMES_BUS_ENDPOINT").map(str::to_owned),
            hermes_home: set("HERMES_HOME")
                .map(|home| PathBuf::from(home.replace('~', "/home/me"))),
            homes: vec![PathBuf::from("/home/me"), PathBuf::from("/root")],
            is_gateway: set("_HERMES_GATEWAY") == Some("1") || arguments == 2,
        };
        assert_eq!(surroundings.name(rules.endpoint.as_deref()), case["expected"], "{case}");
    }
}

#[test]
fn roles() {
    for file in files() {
        let Some(map) = file.get("role_map") else { continue };
        let rules = Rules::parse(&format!("role_map: {map}")).unwrap();
        for case in cases(&file, "role") {
            assert_eq!(
                rules.display_name(case["token"].as_str().unwrap()),
                case["expected"],
                "{case}"
            );
        }
    }
}
