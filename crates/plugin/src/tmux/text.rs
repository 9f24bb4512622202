//! Texts: made harmless for a terminal, and found again on its screen. Pure functions.

use super::pane::View;
use super::screen::{OWN_BYTES_MIN, bare};

/// Most bytes of a text (1 MiB).
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// How many of a text's last characters are looked for on the screen. Enough to tell texts apart,
/// and few enough for a narrow pane that shows only the end.
const NEEDLE_CHARACTERS: usize = 24;
/// What agents show instead of a long text: `[Pasted text #1 +12 lines]`, `[Pasted Content 4096
/// chars]`, `[Pasted Text: 30 lines]`, squashed.
const PLACEHOLDER: &str = "[pasted";

/// A text that can be put into a terminal: line feeds for line ends, and no control characters
/// besides them and tabs. So it cannot end a bracketed paste, nor press a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(String);

/// Why a text cannot be put into a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing is left of it.
    #[error("the text has nothing but control characters, which cannot be typed")]
    OnlyControls,
    /// Over [`TEXT_BYTES_MAX`].
    #[error("the text of {0} bytes is over the limit of {TEXT_BYTES_MAX} bytes: send it in parts")]
    TooLong(usize),
}

impl Text {
    /// Makes a text harmless.
    pub fn new(raw: &str) -> Result<Text, TextError> {
        if raw.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong(raw.len()));
        }
        let lines = raw.replace("\r\n", "\n").replace('\r', "\n");
        // `char::is_control` is C0, DEL and C1.
        let kept = |c: &char| matches!(c, '\t' | '\n') || !c.is_control();
        let text: String = lines.chars().filter(kept).collect();
        if text.is_empty() && !raw.is_empty() {
            return Err(TextError::OnlyControls);
        }
        Ok(Text(text))
    }

    /// The same for a program in which Enter at the end of some texts does not submit: after a word
    /// with an `@`, or one that begins with a `$`, it takes what the program proposes; after a `\` it
    /// makes a line break. A space prevents both.
    pub(super) fn guarded(&self) -> Text {
        let last = self.0.rsplit(char::is_whitespace).next().unwrap_or_default();
        let is_open = last.contains('@') || last.starts_with('$') || last.ends_with('\\');
        Text(self.0.clone() + if is_open { " " } else { "" })
    }

    /// What is typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What can be recognised of a text whatever a program does to it: without white space and frames,
/// as programs wrap and frame texts; without symbols beyond ASCII, as terminals differ in what they
/// keep of emoji and combining characters.
pub(super) fn squash(text: &str) -> String {
    text.chars().filter(|&c| c != '|' && (c.is_ascii_graphic() || c.is_alphanumeric())).collect()
}

/// How to recognise a text on a screen.
#[derive(Debug)]
pub(super) struct Needle {
    /// Its end, squashed. Empty if nothing of it can be recognised.
    end: String,
}

/// How often something was found on a screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) text: usize,
    pub(super) placeholder: usize,
}

impl Needle {
    /// Of the last line that has something to be recognised: programs put prompts before lines.
    pub(super) fn of(text: &Text) -> Needle {
        let lines = text.0.lines().rev().map(squash);
        let squashed = lines.into_iter().find(|line| !line.is_empty()).unwrap_or_default();
        let skipped = squashed.chars().count().saturating_sub(NEEDLE_CHARACTERS);
        Needle { end: squashed.chars().skip(skipped).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether the end is in the line of the cursor, as in an input line. A short one has to be all
    /// that is there.
    pub(super) fn is_at_cursor(&self, view: &View) -> bool {
        let line = bare(view.screen.lines().nth(view.cursor_row).unwrap_or_default());
        let is_long = self.end.len() >= OWN_BYTES_MIN;
        !self.end.is_empty() && (line == self.end || is_long && line.contains(&self.end))
    }

    /// Whether the end is in the line of the cursor or wrapped there from the lines above.
    pub(super) fn is_near_cursor(&self, view: &View) -> bool {
        let first = view.cursor_row.saturating_sub(NEEDLE_CHARACTERS / OWN_BYTES_MIN);
        let lines = view.screen.lines().skip(first).take(view.cursor_row + 1 - first);
        squash(&lines.collect::<String>()).contains(&self.end)
    }

    /// How often the text's end, and placeholders, are on a screen.
    pub(super) fn find(&self, screen: &str) -> Found {
        let squashed = squash(screen);
        let text = if self.end.is_empty() { 0 } else { squashed.matches(&self.end).count() };
        let placeholder = squashed.to_ascii_lowercase().matches(PLACEHOLDER).count();
        Found { text, placeholder }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(raw: &str) -> String {
        Text::new(raw).unwrap().as_str().to_owned()
    }

    #[test]
    fn what_can_be_read_is_kept_exactly() {
        let wide = "测试 📬 ünï e\u{301} 👩\u{200d}💻 \u{202e}rtl";
        for text in ["", "-x", "make;", "\"q\" '$5' `now` \\n", "a\tb\n\nc\n", "Enter", wide] {
            assert_eq!(prepared(text), text);
        }
        let long = "0123456789abcdef".repeat(6_400);
        assert_eq!(prepared(&long), long);
    }

    #[test]
    fn every_line_end_is_a_line_feed() {
        assert_eq!(prepared("a\r\nb\rc\n\r\n\r\rd"), "a\nb\nc\n\n\n\nd");
    }

    #[test]
    fn control_characters_are_removed_so_that_a_paste_cannot_be_left() {
        assert_eq!(prepared("a\u{1b}[201~b\u{3}c"), "a[201~bc");
        assert_eq!(prepared("\u{9b}201~x\u{90}y\u{9c}z\u{7f}\0"), "201~xyz");
        for c in (0..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control()) {
            let expected = match c {
                '\t' => "a\tb",
                '\n' | '\r' => "a\nb",
                _ => "ab",
            };
            assert_eq!(prepared(&format!("a{c}b")), expected, "{c:?}");
        }
    }

    #[test]
    fn a_text_of_nothing_but_controls_or_over_the_limit_is_refused() {
        assert_eq!(Text::new("\u{1b}\u{3}\u{9b}"), Err(TextError::OnlyControls));
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(Text::new(&long), Err(TextError::TooLong(TEXT_BYTES_MAX + 1)));
    }

    #[test]
    fn a_text_whose_end_would_keep_enter_from_submitting_gets_a_space() {
        for (text, expected) in [
            ("ask @a", "ask @a "),
            ("mail to u@example.org", "mail to u@example.org "),
            ("use $ima", "use $ima "),
            ("for 5$", "for 5$"),
            ("a line \\", "a line \\ "),
            ("ask @a now", "ask @a now"),
            ("ask @a ", "ask @a "),
            ("\\ at the start", "\\ at the start"),
            ("", ""),
        ] {
            assert_eq!(Text::new(text).unwrap().guarded().as_str(), expected);
        }
    }

    #[test]
    fn a_text_that_still_stands_at_the_cursor() {
        let stands = |text: &str, screen: &str, cursor_row: usize| {
            let view = View::of(screen, cursor_row);
            Needle::of(&Text::new(text).unwrap()).is_at_cursor(&view)
        };
        assert!(stands("please ask @a", "● fine.\n────\n❯ please ask @a.txt\n────\n", 2));
        assert!(stands("go", "│ > go │\n", 0));
        assert!(!stands("go", "❯ go\n● fine.\n❯ \n", 2), "the line of the cursor only");
        assert!(!stands("do", "› Ask Codex to do anything\n", 0), "too short to be no accident");
        assert!(!stands("🎉", "❯ 🎉\n", 0));
    }

    fn found(text: &str, screen: &str) -> usize {
        Needle::of(&Text::new(text).unwrap()).find(screen).text
    }

    #[test]
    fn a_text_is_found_however_it_is_wrapped_and_framed() {
        let text = "please look at the failing test in crates/core and fix it";
        let framed = "╭──────────────────╮\n│ > please look at │\n│ the failing test │\n│ in crates/core a │\n│ \
                      nd fix it        │\n╰──────────────────╯\n";
        assert_eq!(found(text, framed), 1);
        assert_eq!(found(text, &format!("$ {text}\n{framed}")), 2);
        assert_eq!(found(text, "│ > please look at │\n│ the failing test │\n"), 0, "its end");
        assert_eq!(found("a = 1\nb = 2\n\n", ">>> a = 1\n>>> b = 2\n... "), 1, "prompts between");
        assert_eq!(found("测试 📬 第二行\n完成 🎉", "> 测试 📬 第\n  二行\n  完成"), 1);
    }

    #[test]
    fn a_placeholder_is_found_and_a_text_of_symbols_cannot_be() {
        let needle = Needle::of(&Text::new("🎉📬").unwrap());
        assert!(needle.is_empty());
        for shown in
            ["[Pasted text #1 +12 lines]", "[Pasted Content 4096 chars]", "[Pasted Text: 3 lines]"]
        {
            assert_eq!(needle.find(&format!("❯ {shown}\n")), Found { text: 0, placeholder: 1 });
        }
    }
}
