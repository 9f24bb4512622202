//! A YAML document as a tree with the places of what is in it, for errors that name a line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::rules::{Fault, Position};

/// Any value.
#[derive(Debug)]
pub(super) enum Node {
    Nothing,
    Text(String),
    Number(f64),
    Truth(bool),
    List(Vec<Placed>),
    Mapping(Vec<(Placed, Placed)>),
}

/// A value and where it stands.
pub(super) type Placed = Spanned<Node>;

/// Where a value stands, if that is known.
pub(super) fn place(value: &Placed) -> Option<Position> {
    let (line, column) = (value.referenced.line(), value.referenced.column());
    (line > 0).then_some(Position { line, column })
}

/// Reads a document. A file of nothing, or of comments only, is nothing.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = serde_saphyr::options! {
        // Of a key that is there twice the last value holds, as with the released programs.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        // `y` is a name there; `yes` and `no` are looked at where a truth value is wanted.
        strict_booleans: true,
    };
    let node = serde_saphyr::from_str_with_options::<Option<Node>>(text, options)
        .map_err(|error| Fault::syntax(&error))?;
    Ok(node.unwrap_or(Node::Nothing))
}

impl Node {
    /// What it is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Node::Nothing => "nothing",
            Node::Text(_) => "a text",
            Node::Number(_) => "a number",
            Node::Truth(_) => "a truth value",
            Node::List(_) => "a list",
            Node::Mapping(_) => "a mapping",
        }
    }

    /// Whether Python takes it for true; of texts those that YAML 1.1 takes for false are not.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Node::Nothing => false,
            Node::Text(text) => {
                let word = text.to_ascii_lowercase();
                !matches!(word.as_str(), "" | "no" | "off" | "false")
            }
            Node::Number(number) => *number != 0.0,
            Node::Truth(truth) => *truth,
            Node::List(items) => !items.is_empty(),
            Node::Mapping(members) => !members.is_empty(),
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Node, D::Error> {
        value.deserialize_any(self)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Node, E> {
        Ok(Node::Truth(truth))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = mapping.next_entry()? {
            members.push(member);
        }
        Ok(Node::Mapping(members))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}
