//! Whatever comes in, nothing that steers a terminal or passes for something else goes out.

use std::sync::Arc;
use std::time::Duration;

use hermes_bus_plugin::engine::clean::{one_line, own_colours, plain};
use hermes_bus_plugin::engine::{Action, AgentState, Attested, Engine, Incoming, Now, Rulebook};
use jiff::tz::TimeZone;
use proptest::prelude::*;

fn is_harmful(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t'))
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
}

/// The text without the escapes of colours: `ESC [`, digits and semicolons, `m`.
fn without_colours(text: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        let inner = &rest[at + 2..];
        let length = inner
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, ';' | ':'))
            .unwrap_or(inner.len());
        if !inner[length..].starts_with('m') {
            break;
        }
        left.push_str(&rest[..at]);
        rest = &inner[length + 1..];
    }
    left + rest
}

/// Texts full of what is dangerous: pieces of escapes, line ends of all kinds, placeholders, and any characters.
fn dangerous() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\x1b".to_owned()),
        Just("\x1b[".to_owned()),
        Just("\x1b]".to_owned()),
        Just("\x1b\\".to_owned()),
        Just("\x07".to_owned()),
        Just("\u{9b}".to_owned()),
        Just("\u{9d}".to_owned()),
        Just("\u{9c}".to_owned()),
        Just("31m".to_owned()),
        Just("\r".to_owned()),
        Just("\n/quit".to_owned()),
        Just("\u{2028}| ".to_owned()),
        Just("\u{202e}".to_owned()),
        Just("\u{e0041}".to_owned()),
        Just("\u{85}".to_owned()),
        Just("{color:red}".to_owned()),
        Just("{text}".to_owned()),
        Just("{reset}".to_owned()),
        Just("{ts:%H".to_owned()),
        Just("}".to_owned()),
        Just("{from}".to_owned()),
        any::<char>().prop_map(String::from),
        ".{0,5}",
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// Everything that is planned for a message, as it would go out: `(screen, model)`.
fn outcome(rules: &str, from: &str, text: &str, kind: &str) -> (Vec<String>, Vec<String>) {
    let Ok(rules) = Rulebook::parse(rules) else { return Default::default() };
    let frame =
        serde_json::json!({"type": "message", "from": from, "body": {"text": text, "type": kind}});
    let message = Incoming::read(frame.to_string().as_bytes(), Attested::Yes);
    let message = message.expect("it is an object");
    let mut engine = Engine::new(Arc::new(rules), TimeZone::UTC);
    let now = Now { unix_s: 0.0, uptime: Duration::ZERO };
    let (mut screen, mut model) = (Vec::new(), Vec::new());
    for planned in engine.take(1, &message, AgentState::Idle, now).actions {
        match planned.action {
            Action::Print(print) => screen.push(print.rendering.rendered.for_terminal(200)),
            Action::Context(context) => {
                model.extend(
                    context
                        .pieces
                        .iter()
                        .map(|piece| piece.marked(&piece.whole(None), "somewhere")),
                );
            }
            Action::Command(_) => {}
        }
    }
    (screen, model)
}

proptest! {
    #[test]
    fn plain_text_is_plain(text in dangerous()) {
        let cleaned = plain(&text);
        prop_assert!(!cleaned.contains(is_harmful), "{cleaned:?}");
        prop_assert_eq!(plain(&cleaned), cleaned.clone(), "cleaning twice changes nothing");
        let line = one_line(&text, 10);
        prop_assert!(!line.contains(|c| is_harmful(c) || c == '\n') && line.chars().count() <= 11);
    }

    #[test]
    fn harmless_text_stays_as_it_is(text in "[^\\p{Cc}\u{2028}-\u{202e}\u{2066}-\u{2069}\u{fff9}-\u{fffb}\u{e0000}-\u{e007f}]{0,40}") {
        prop_assert_eq!(plain(&text), text.as_str());
    }

    #[test]
    fn of_ones_own_text_only_colours_stay(text in dangerous()) {
        let cleaned = own_colours(&text).into_owned();
        prop_assert!(!without_colours(&cleaned).contains(is_harmful), "{cleaned:?}");
    }

    #[test]
    fn no_message_brings_an_escape_to_the_screen(format in dangerous(), from in dangerous(), text in dangerous(), kind in dangerous()) {
        let format = serde_json::to_string(&format).unwrap();
        let rules = format!("callbacks: [{{from: '*', print_format: {format}}}]");
        let (screen, _) = outcome(&rules, &from, &text, &kind);
        let escapes = |text: &str| text.matches("\x1b[").count();
        // A message of plain letters shows how many escapes are the template's own, one at the end included.
        let (own, _) = outcome(&rules, "a", "b", "c");
        for (shown, own) in screen.iter().zip(&own) {
            prop_assert!(!without_colours(shown).contains(is_harmful), "{shown:?}");
            prop_assert!(escapes(shown) <= escapes(own) + 1, "{shown:?} {own:?}");
        }
    }

    #[test]
    fn no_message_leaves_its_marking(format in dangerous(), from in dangerous(), text in dangerous(), kind in dangerous()) {
        let format = serde_json::to_string(&format).unwrap();
        let rules = format!("callbacks: [{{from: '*', context: true, context_format: {format}}}]");
        for marked in outcome(&rules, &from, &text, &kind).1 {
            prop_assert!(!marked.contains(is_harmful), "{marked:?}");
            let mut lines = marked.split('\n');
            prop_assert!(lines.next().unwrap().starts_with("hermes-bus message from "));
            prop_assert!(lines.all(|line| line.starts_with("| ") || line.starts_with("(")), "{marked:?}");
        }
    }
}
