//! What a run is like, in lines that people read: only what is not as usual.

use std::fmt::Debug;

use hermes_bus_core::Config;

use crate::character::{Character, Client, Driver, Reads};
use crate::durable;
use crate::script::{Action, Script, To};
use crate::shrink::Scenario;

impl Scenario for Script {
    fn events(&self) -> usize {
        self.events.len()
    }

    fn only(&self, kept: &[usize]) -> Self {
        let events = kept.iter().filter_map(|place| self.events.get(*place).cloned());
        Script { seed: self.seed, character: self.character.clone(), events: events.collect() }
    }

    fn likeness(&self) -> Vec<String> {
        lines(&self.character)
    }

    fn event(&self, place: usize) -> String {
        self.events.get(place).map_or_else(String::new, |event| {
            let named = named(event.action, &self.character.names);
            format!("client {} {:?}{named}", event.client, event.action)
        })
    }
}

impl Scenario for durable::Script {
    fn events(&self) -> usize {
        self.events.len()
    }

    fn only(&self, kept: &[usize]) -> Self {
        let events = kept.iter().filter_map(|place| self.events.get(*place).cloned());
        let events = events.collect();
        durable::Script { seed: self.seed, character: self.character.clone(), events }
    }

    fn likeness(&self) -> Vec<String> {
        let durable::script::Character { config, clients, .. } = &self.character;
        let clients = clients.iter().enumerate();
        let mut lines: Vec<String> =
            clients.map(|(number, client)| format!("client {number}: {client:?}")).collect();
        lines.extend(differing("limits", config, &Config::default()));
        lines
    }

    fn event(&self, place: usize) -> String {
        self.events
            .get(place)
            .map_or_else(String::new, |event| format!("client {} {:?}", event.client, event.action))
    }
}

/// What a run is like: its names, each client, and what differs from the usual limits and driver.
fn lines(character: &Character) -> Vec<String> {
    let Character { config, names, clients, driver, is_huge, .. } = character;
    let numbered = names.iter().enumerate().map(|(number, name)| format!("{number} {name:?}"));
    let mut lines = vec![format!("names: {}", numbered.collect::<Vec<_>>().join(", "))];
    lines.extend(clients.iter().enumerate().map(|(number, one)| client(number, one)));
    lines.extend(differing("limits", config, &Config::default()));
    lines.extend(differing("driver", driver, &Driver::USUAL));
    if *is_huge {
        lines.push("messages near the largest size occur".to_owned());
    }
    lines
}

fn client(number: usize, client: &Client) -> String {
    let Client { temper, uid, to_bus_bytes_max, from_bus_bytes_max, reads, drip_bytes } = client;
    let reads = match reads {
        Reads::Everything => String::new(),
        Reads::Some(bytes) => format!(", reads {bytes} bytes at a time"),
        Reads::Nothing => ", reads nothing".to_owned(),
    };
    let drips = drip_bytes.map(|bytes| format!(", sends {bytes} bytes at a time"));
    format!(
        "client {number}: {temper:?}, user {uid}, sockets of {to_bus_bytes_max} bytes to the bus and \
         {from_bus_bytes_max} from it{reads}{}",
        drips.unwrap_or_default()
    )
}

/// Fields in a line of the report.
const FIELDS_IN_A_LINE: usize = 4;

/// The fields that differ, as their `Debug` shows them: what is new among them is shown, too.
fn differing(title: &str, actual: &impl Debug, usual: &impl Debug) -> Vec<String> {
    let (actual, usual) = (fields(actual), fields(usual));
    let differing: Vec<String> =
        actual.into_iter().filter(|field| !usual.contains(field)).collect();
    if differing.is_empty() {
        return vec![format!("{title}: as usual")];
    }
    let lines = differing.chunks(FIELDS_IN_A_LINE);
    lines.map(|fields| format!("{title}: {}", fields.join(", "))).collect()
}

/// The fields of a struct, each in one line. In the long form of `Debug`, they are indented by four.
fn fields(of: &impl Debug) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in format!("{of:#?}").lines().filter_map(|line| line.strip_prefix("    ")) {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', ']', '}', ')']) => {
                field.push(' ');
                field.push_str(line.trim());
            }
            _ => fields.push(line.to_owned()),
        }
    }
    let short = |field: String| {
        let field = field.trim_end_matches(',').replace("( ", "(").replace("[ ", "[");
        field.replace(", )", ")").replace(", ]", "]").replace(", }", " }")
    };
    fields.into_iter().map(short).collect()
}

/// The name that an action means by a number, as what stands behind the action.
fn named(action: Action, names: &[String]) -> String {
    let number = match action {
        Action::Register { name }
        | Action::Tire { name, .. }
        | Action::Send { to: To::Name(name), .. }
        | Action::Visit { to: To::Name(name), .. } => name,
        _ => return String::new(),
    };
    let name = names.get(usize::from(number) % names.len().max(1));
    name.map(|name| format!("  (name {number} is {name:?})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Script;
    use crate::character::Temper;
    use hermes_bus_core::Protection;

    #[test]
    fn only_what_differs_is_shown() {
        let protected =
            Protection { name: "a".to_owned(), uid: Some(1), token: Some("sesame".to_owned()) };
        let config = Config {
            allow_uids: vec![5, 6],
            protected: vec![protected],
            messages_per_s: Some(20),
            ..Config::default()
        };
        let expected = "limits: allow_uids: [5, 6], \
                        protected: [Protection { name: \"a\", uid: Some(1), token: Some(\"…\") }], \
                        messages_per_s: Some(20)";
        assert_eq!(differing("limits", &config, &Config::default()), [expected]);
        assert_eq!(differing("limits", &config, &config), ["limits: as usual"]);
    }

    #[test]
    fn each_client_and_each_name_has_its_number() {
        let mut character = Script::draw(1, 0).character;
        character.names = vec!["a".to_owned(), "b".to_owned()];
        character.driver = Driver { writes_max: 2, ..Driver::USUAL };
        character.config = Config::default();
        character.clients = vec![Client {
            temper: Temper::Slow,
            uid: 7,
            to_bus_bytes_max: 64,
            from_bus_bytes_max: 32,
            reads: Reads::Some(9),
            drip_bytes: None,
        }];
        character.is_huge = false;
        let expected = [
            "names: 0 \"a\", 1 \"b\"",
            "client 0: Slow, user 7, sockets of 64 bytes to the bus and 32 from it, \
             reads 9 bytes at a time",
            "limits: as usual",
            "driver: writes_max: 2",
        ];
        assert_eq!(lines(&character), expected);
        assert_eq!(named(Action::Register { name: 3 }, &character.names), "  (name 3 is \"b\")");
        assert_eq!(named(Action::Odd, &character.names), "");
    }
}
