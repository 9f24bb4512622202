//! YAML as far as a configuration needs it: texts, lists and mappings, each with its place.
//!
//! Values stay text until it is known what they are for, so that `90s`, `off` and `0755` mean what is
//! written there. Anchors, aliases and tags are refused: nothing can grow beyond the text's own size, and
//! nesting has a limit. The text's size is the caller's to limit.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, Span};

use super::error::{Fault, Position, shown};

/// Deepest nesting of lists and mappings. A configuration needs four.
const NESTING_MAX: usize = 16;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// No value, `~` or `null`.
    Null,
    /// Everything else that is one word or text, quoted or not.
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A line of a mapping. No key is there twice.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) value: Node,
}

impl Node {
    /// What this is, for errors.
    pub(super) fn kind(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Text(_) => "a text",
            Content::List(_) => "a list",
            Content::Mapping(_) => "a mapping",
        }
    }
}

/// Reads one document. A text of nothing, or of comments only, is null.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, Fault> {
    let text = str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = NESTING_MAX;
    options.block_nesting_limit = NESTING_MAX;
    let mut reader = Reader { events: Parser::new_from_str_with_options(text, options) };
    let mut document = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(..) if document.is_some() => {
                return Err(Fault::new(start(&span), "a second document; there may be only one"));
            }
            Event::DocumentStart(..) => {}
            event => document = Some(reader.node(event, &span, 0)?),
        }
    }
    let beginning = Position { line: 1, column: 1 };
    Ok(document.unwrap_or(Node { at: beginning, content: Content::Null }))
}

struct Reader<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Fault> {
        let event = self.events.next_event().transpose();
        event.map_err(|error| {
            let marker = error.marker();
            let at = Position { line: marker.line(), column: marker.col() + 1 };
            let what = match error.kind() {
                ErrorKind::RecursionLimitExceeded => "nested too deeply".to_owned(),
                kind => format!("no valid YAML: {kind}"),
            };
            Fault::new(at, what)
        })
    }

    /// The node that begins with `event`.
    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let at = start(span);
        if event.anchor_id().is_some_and(|id| id != 0) || event.is_alias() {
            return Err(Fault::new(at, "anchors and aliases (& and *) are not supported here"));
        }
        if event.tag().is_some() {
            return Err(Fault::new(at, "tags (!) are not supported here"));
        }
        if depth > NESTING_MAX {
            return Err(Fault::new(at, "nested too deeply"));
        }
        let content = match event {
            Event::Scalar(text, style, ..) => {
                let is_plain = style == ScalarStyle::Plain;
                let is_null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                if is_plain && is_null { Content::Null } else { Content::Text(text.into_owned()) }
            }
            Event::SequenceStart(..) => Content::List(self.list(depth)?),
            Event::MappingStart(..) => Content::Mapping(self.mapping(depth)?),
            _ => return Err(Fault::new(at, "no valid YAML: a value is missing")),
        };
        Ok(Node { at, content })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut nodes = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            nodes.push(self.node(event, &span, depth + 1)?);
        }
        Ok(nodes)
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, &span, depth + 1)?;
            let Content::Text(name) = key.content else {
                return Err(Fault::new(
                    key.at,
                    format!("a key must be a name, not {}", key.kind()),
                ));
            };
            if let Some(line) = lines.insert(name.clone(), key.at.line) {
                let what = format!("'{}' is there twice, first in line {line}", shown(&name));
                return Err(Fault::new(key.at, what));
            }
            let Some((event, span)) = self.next()? else {
                return Err(Fault::new(key.at, "no valid YAML: a value is missing"));
            };
            let value = self.node(event, &span, depth + 1)?;
            entries.push(Entry { key: name, key_at: key.at, value });
        }
        Ok(entries)
    }
}

fn start(span: &Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn not_utf8(bytes: &[u8], valid_bytes: usize) -> Fault {
    let before = &bytes[..valid_bytes];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    Fault::new(Position { line, column }, "a byte that is no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &[u8]) -> (usize, usize, String) {
        let fault = parse(text).unwrap_err();
        (fault.at.line, fault.at.column, fault.what)
    }

    #[test]
    fn places_are_those_of_the_text() {
        let node = parse("# comment\nä: {b: [1, \"x\"]}\nc:\n".as_bytes()).unwrap();
        let Content::Mapping(entries) = node.content else { panic!() };
        assert_eq!((entries[0].key.as_str(), entries[0].key_at.line), ("ä", 2));
        let Content::Mapping(inner) = &entries[0].value.content else { panic!() };
        let Content::List(items) = &inner[0].value.content else { panic!() };
        assert_eq!(items[1].at, Position { line: 2, column: 12 });
        assert!(matches!(entries[1].value.content, Content::Null));
    }

    #[test]
    fn only_plain_words_are_null() {
        let node = parse(b"[~, null, '', 'null', \"~\", off]").unwrap();
        let Content::List(items) = node.content else { panic!() };
        let kinds: Vec<_> = items.iter().map(Node::kind).collect();
        assert_eq!(kinds, ["nothing", "nothing", "a text", "a text", "a text", "a text"]);
        for nothing in ["", "# only a comment\n", "---\n", "\u{feff}", "...\n"] {
            let node = parse(nothing.as_bytes()).unwrap();
            assert!(matches!(node.content, Content::Null), "{nothing:?}");
        }
    }

    #[test]
    fn what_could_grow_or_surprise_is_refused_where_it_stands() {
        let anchors = "anchors and aliases (& and *) are not supported here".to_owned();
        assert_eq!(fault(b"a: &x [1]\nb: *x\n").2, anchors);
        assert_eq!(fault(b"a: &x 1\n").2, anchors);
        assert_eq!(fault(b"a: !!str 1").2, "tags (!) are not supported here");
        assert_eq!(
            fault(b"a: 1\nb: 2\na: 3"),
            (3, 1, "'a' is there twice, first in line 1".into())
        );
        assert_eq!(fault(b"[1]: 2").2, "a key must be a name, not a list");
        assert_eq!(fault(b"a: 1\n---\nb: 2\n").2, "a second document; there may be only one");
        assert_eq!(
            fault("a: ä\nb: é\u{e9}".as_bytes()[..10].as_ref()),
            (2, 4, "a byte that is no UTF-8".into())
        );
        let (line, _, what) = fault(b"a: 1\nb: [1, 2\n");
        assert!(line >= 2 && what.starts_with("no valid YAML: "), "{line} {what}");
    }

    #[test]
    fn deep_nesting_ends_in_an_error() {
        for deep in ["[".repeat(100_000), "- ".repeat(50_000), "{a: ".repeat(50_000)] {
            let what = fault(deep.as_bytes()).2;
            assert!(what == "nested too deeply", "{what}");
        }
        let allowed = format!("{}{}", "[".repeat(NESTING_MAX), "]".repeat(NESTING_MAX));
        assert!(parse(allowed.as_bytes()).is_ok());
    }
}
