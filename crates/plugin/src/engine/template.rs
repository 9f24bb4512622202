//! Templates: `print_format` and `context_format`.
//!
//! Placeholders are replaced one kind after the other, as released plugins do: what a message's text brings in is looked
//! through for the kinds that follow. Every byte remembers whether it is the template's own, so that afterwards nothing
//! that came in with a message can pass for it.

use std::ops::Range;

use jiff::tz::TimeZone;

use super::clean::{beginning, own_colours, plain};
use super::incoming::Incoming;
use super::strftime;

/// What a template is rendered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For the screen.
    Print,
    /// For a model.
    Context,
}

impl Mode {
    /// As format scripts are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Print => "print",
            Mode::Context => "context",
        }
    }
}

/// A template that has been filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// For each byte whether it is the template's own.
    is_own: Vec<bool>,
}

/// A program that may render instead, if it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its path, as it was written: `~` stands for the home directory.
    pub path: String,
    /// The variables that tell it of the message. Texts are without escapes.
    pub variables: Vec<(&'static str, String)>,
}

/// What a message looks like in a template, and which program may say it better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// The template, filled in.
    pub rendered: Rendered,
    /// Whose output takes its place, where it gives any.
    pub script: Option<Script>,
}

/// Fills in a template. Without a `ts` in the message, `now_s` (seconds since 1970) stands for it.
pub fn render(
    template: &str,
    message: &Incoming,
    mode: Mode,
    now_s: f64,
    zone: &TimeZone,
) -> Rendering {
    let ts = Timestamp { seconds: message.ts, text: message.ts_text.as_deref(), now_s, zone };
    let mut canvas = Rendered::own(template);
    let from = message.from.as_deref().unwrap_or("?");
    canvas.put("{from}", from);
    canvas.put("{text}", &message.text);
    canvas.put("{type}", &message.body_type_text);
    canvas.replace("{ts", |rest| {
        let (format, length) = match rest.strip_prefix(':') {
            Some(format) => (&format[..format.find('}')?], format.find('}')? + 2),
            None => ("", rest.starts_with('}').then_some(1)?),
        };
        Some((length, ts.shown(format)))
    });
    canvas.replace("{color:", |rest| {
        let name = &rest[..rest.find('}').filter(|end| *end > 0)?];
        Some((name.len() + 1, colour(name)))
    });
    canvas.replace("{bold}", |_| Some((0, "\x1b[1m".to_owned())));
    canvas.replace("{reset}", |_| Some((0, "\x1b[0m".to_owned())));
    let is_path = template.starts_with(['~', '/']);
    let script = is_path.then(|| Script {
        path: template.to_owned(),
        variables: vec![
            ("FROM", plain(from).into_owned()),
            ("TYPE", plain(&message.body_type_text).into_owned()),
            ("TEXT", plain(&message.text).into_owned()),
            ("FORMAT_MODE", mode.as_str().to_owned()),
            ("TS", ts.plain()),
        ],
    });
    Rendering { rendered: canvas, script }
}

impl Rendered {
    fn own(text: &str) -> Self {
        Rendered { text: text.to_owned(), is_own: vec![true; text.len()] }
    }

    /// The text as it is, with everything that came in.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As it may go to a terminal: the template's own colours stay, what came in has lost its own, and a
    /// colour that is left on at the end is switched off. `bytes_max` is a limit to the text.
    pub fn for_terminal(&self, bytes_max: usize) -> String {
        let mut shown = String::new();
        for run in self.runs() {
            let text = &self.text[run.clone()];
            let cleaned = if self.is_own[run.start] { own_colours(text) } else { plain(text) };
            shown.push_str(&cleaned);
        }
        finish(shown, bytes_max)
    }

    /// As it may go to a model: without any escapes.
    pub fn for_context(&self) -> String {
        plain(&self.text).into_owned()
    }

    /// Stretches of the same origin.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at;
            let is_own = *self.is_own.get(start)?;
            let length = self.is_own[start..].iter().position(|own| *own != is_own);
            at = length.map_or(self.is_own.len(), |length| start + length);
            Some(start..at)
        })
    }

    /// Puts what came in for each `placeholder`.
    fn put(&mut self, placeholder: &str, value: &str) {
        if !self.text.contains(placeholder) {
            return;
        }
        let mut next = Rendered::default();
        let mut at = 0;
        for (found, _) in self.text.match_indices(placeholder) {
            next.copy(self, at..found);
            next.push(value, false);
            at = found + placeholder.len();
        }
        next.copy(self, at..self.text.len());
        *self = next;
    }

    /// Replaces each placeholder that begins with `start`. `read` sees what follows, and says how many bytes of it
    /// belong to the placeholder and what stands for it. That is the template's own where the whole placeholder is.
    fn replace(&mut self, start: &str, read: impl Fn(&str) -> Option<(usize, String)>) {
        let mut next = Rendered::default();
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = self.text[at..].find(start).map(|found| at + found) {
            let after = found + start.len();
            match read(&self.text[after..]) {
                None => at = after,
                Some((length, value)) => {
                    let end = after + length;
                    next.copy(self, copied..found);
                    next.push(&value, self.is_own[found..end].iter().all(|own| *own));
                    (copied, at) = (end, end);
                }
            }
        }
        if copied > 0 {
            next.copy(self, copied..self.text.len());
            *self = next;
        }
    }

    fn copy(&mut self, from: &Rendered, range: Range<usize>) {
        self.text.push_str(&from.text[range.clone()]);
        self.is_own.extend_from_slice(&from.is_own[range]);
    }

    fn push(&mut self, text: &str, is_own: bool) {
        self.text.push_str(text);
        self.is_own.resize(self.text.len(), is_own);
    }
}

/// What a format script has printed, as it may go to a terminal. It was told texts without escapes, so its colours
/// are its own.
pub fn script_for_terminal(output: &str, bytes_max: usize) -> String {
    finish(own_colours(output.trim()).into_owned(), bytes_max)
}

/// Cuts what is too long, and switches off what is left on.
fn finish(mut shown: String, bytes_max: usize) -> String {
    if shown.len() > bytes_max {
        let kept = beginning(&shown, bytes_max).len();
        // Not in the middle of an escape: what follows its beginning would be taken for the rest of it.
        let kept = match shown[..kept].rfind('\x1b') {
            Some(escape) if !shown[escape..kept].contains('m') => escape,
            _ => kept,
        };
        let left_out = shown.len() - kept;
        shown.truncate(kept);
        shown.push_str(&format!("\n[… {left_out} bytes more]"));
    }
    let last = shown.rfind("\x1b[").map(|at| &shown[at..]);
    let is_on =
        last.is_some_and(|last| !last.starts_with("\x1b[0m") && !last.starts_with("\x1b[m"));
    if is_on {
        shown.push_str("\x1b[0m");
    }
    shown
}

/// What a user who wants no colours gets.
pub fn without_colours(text: &str) -> String {
    plain(text).into_owned()
}

fn colour(name: &str) -> String {
    let name = name.to_lowercase();
    let (weight, name) = match name.split_once('_') {
        Some(("bold", name)) => ("1;", name.to_owned()),
        Some((first, _)) => ("", first.to_owned()),
        None => ("", name),
    };
    let names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    match names.iter().position(|known| *known == name) {
        Some(number) => format!("\x1b[{weight}3{number}m"),
        None => String::new(),
    }
}

struct Timestamp<'a> {
    seconds: Option<f64>,
    text: Option<&'a str>,
    now_s: f64,
    zone: &'a TimeZone,
}

impl Timestamp<'_> {
    /// A moment that no clock can show is shown as it was written.
    fn shown(&self, format: &str) -> String {
        let Some(seconds) = self.moment() else { return self.plain() };
        if format.is_empty() {
            return format!("{:.0}", seconds.trunc());
        }
        // To the microsecond, as Python has it.
        let microseconds = (seconds * 1e6).round_ties_even();
        let moment = jiff::Timestamp::from_microsecond(microseconds as i64);
        match moment.map(|moment| moment.to_zoned(self.zone.clone())) {
            Ok(moment) => strftime::format(&moment, format),
            Err(_) => self.plain(),
        }
    }

    fn moment(&self) -> Option<f64> {
        match self.text {
            Some(_) => self.seconds,
            None => Some(self.now_s),
        }
    }

    fn plain(&self) -> String {
        self.text.map_or_else(|| self.now_s.to_string(), |text| plain(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::incoming::Attested;
    use super::*;

    fn message(text: &str) -> Incoming {
        let text = serde_json::Value::from(text);
        let frame = format!(
            r#"{{"from": "w\u001b[5m", "ts": 1716307200.123456, "body": {{"type": "ack", "text": {text}}}}}"#
        );
        Incoming::read(frame.as_bytes(), Attested::Yes).unwrap()
    }

    fn rendered(template: &str, text: &str) -> Rendered {
        render(template, &message(text), Mode::Print, 0.0, &TimeZone::UTC).rendered
    }

    #[test]
    fn colours_of_the_template_stay_and_those_of_the_message_go() {
        let shown = |template: &str, text: &str| rendered(template, text).for_terminal(1000);
        assert_eq!(
            shown("{color:cyan}{from}{reset} {text}", "\x1b[31mred\x1b[0m"),
            "\x1b[36mw\x1b[0m red"
        );
        assert_eq!(shown("\x1b[1m{text}\x1b[0m\x1b[2J", "x"), "\x1b[1mx\x1b[0m");
        // Placeholders in a text are replaced, as ever, but their colours are not the template's.
        assert_eq!(shown("{text}", "{color:red}{bold}{type}{reset}"), "ack");
        // Nor are those that template and text make together.
        assert_eq!(shown("{color:{text}", "red}"), "");
        assert_eq!(shown("\x1b[{text}", "31mx"), "31mx");
        assert_eq!(shown("{text}[31mx", "\x1b"), "[31mx");
        assert_eq!(shown("{color:red}{text}", "x"), "\x1b[31mx\x1b[0m", "switched off at the end");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters_and_escapes() {
        let shown = |template: &str, text: &str, max| rendered(template, text).for_terminal(max);
        assert_eq!(shown("{text}", "äöü", 3), "ä\n[… 4 bytes more]");
        assert_eq!(shown("ab{color:red}c{reset}", "", 4), "ab\n[… 10 bytes more]");
        assert_eq!(shown("{color:red}{text}", "xyz", 6), "\x1b[31mx\n[… 2 bytes more]\x1b[0m");
    }

    #[test]
    fn moments() {
        let shown = |template: &str| rendered(template, "").text;
        assert_eq!(shown("{ts:}|{ts}|{ts"), "1716307200|1716307200|{ts");
        assert_eq!(shown("{ts:%f %z%Z%% %5 %Q %}"), "123456 % %5 %Q %");
        assert_eq!(
            shown("{ts:%c | %x %X | %D %T %R %r}"),
            "Tue May 21 16:00:00 2024 | 05/21/24 16:00:00 | 05/21/24 16:00:00 16:00 04:00:00 PM"
        );
        assert_eq!(
            shown("{ts:%-d %e %j %-j %U %W %V %G %u %w %p %I %y %b %B %a %A %s}"),
            "21 21 142 142 20 21 21 2024 2 2 PM 04 24 May May Tue Tuesday 1716307200"
        );
        let odd = Incoming::read(br#"{"ts": "soon\u001b[1m", "body": {}}"#, Attested::Yes).unwrap();
        let render = |message| render("{ts} {ts:%H}", message, Mode::Print, 60.0, &TimeZone::UTC);
        assert_eq!(render(&odd).rendered.text, "soon soon");
        let none = Incoming::read(b"{}", Attested::Yes).unwrap();
        assert_eq!(render(&none).rendered.text, "60 00");
        let far = Incoming::read(br#"{"ts": 1e300}"#, Attested::Yes).unwrap();
        assert!(render(&far).rendered.text.ends_with(" 1e300"));
    }

    #[test]
    fn a_path_names_a_script_that_is_told_of_the_message_without_escapes() {
        let rendering = render("~/fmt", &message("a\x1b[1mb"), Mode::Context, 0.0, &TimeZone::UTC);
        let script = rendering.script.unwrap();
        assert_eq!(script.path, "~/fmt");
        let told: Vec<_> = script.variables.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(told, ["w", "ack", "ab", "context", "1716307200.123456"]);
        assert_eq!(script_for_terminal(" \x1b[31mx\x1b]0;t\x07 \n", 100), "\x1b[31mx\x1b[0m");
    }
}
