//! The reference of all keys, as the document in `docs/`.

use std::fmt::Write;

use super::Settings;
use super::keys::{GROUPS, KEYS, Key, OnReload};

const INTRODUCTION: &str = "\
# Configuration

Everything works without a configuration. What can be set is set in `hermes-bus/config.yaml` in the root
directory of the bus (`~/.hermes`, unless said otherwise), in the environment, or on the command line:

```yaml
sessions:
  linger: 5s
queues:
  bytes_max: 32MiB
log:
  level: warn
  levels: {hooks: debug}
```

- **Which file:** `--config FILE`, else `HERMES_BUS_CONFIG`, else the one above. A file that was named must
  be there; the usual one need not.
- **Which value:** `--set KEY=VALUE` wins over the environment, that over the file, that over the default.
  A variable that is set to nothing counts as not set. Values are written the same way everywhere:
  `--set access.allow_uids='[1000, 1001]'`, `HERMES_BUS_LOG_LEVELS='{hooks: debug}'`.
- **Times** are `90s`, `700ms`, `2m`, `1h 30m`, or a number of seconds. **Sizes** are `16MiB` (1024 · 1024
  bytes), `64kB` (1000 bytes), or a number of bytes; frames count with their headers. **Switches** are `on`
  or `off`.
- **Mistakes** are errors: unknown keys, values out of range, keys that are there twice. All of them are
  told at once, with file, line and column. Anchors, aliases and tags of YAML are not supported, and a file
  has at most 256 KiB.
- **A reload** (`SIGHUP`, `hermes-busd reload`) reads everything anew. Keys that are marked with *restart*
  keep their value until then. If anything is wrong, nothing is changed.

`hermes-bus config check` finds mistakes before the bus does, `config show` says what would hold for a bus
that is started in this environment and why (one that runs may have been told otherwise), and `config path`
where the file is.

This document is made by `hermes-bus config reference`.
";

/// The document.
pub fn reference() -> String {
    let defaults = Settings::default();
    let mut text = INTRODUCTION.to_owned();
    for group in GROUPS {
        let _ = write!(text, "\n## `{}`\n\n{}\n", group.name, group.about);
        for key in KEYS.iter().filter(|key| key.group() == group.name) {
            text.push_str(&entry(key, &defaults));
        }
    }
    text
}

fn entry(key: &Key, defaults: &Settings) -> String {
    // How values are written is in the introduction.
    let (before, after) = (key.form(), key.form());
    let form = match (before.split_once(" ("), after.rsplit_once(')')) {
        (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
        _ => before,
    };
    let mut facts = vec![format!("Default: `{}`", key.written(defaults)), form];
    let range = key.range();
    if !range.is_empty() {
        facts.push(range);
    }
    facts.push(format!("`{}`", key.variable()));
    if key.on_reload == OnReload::NeedsRestart {
        facts.push("*restart*".to_owned());
    }
    format!("\n### `{}`\n\n{}\n\n{}.\n", key.name, key.about, facts.join("; "))
}
