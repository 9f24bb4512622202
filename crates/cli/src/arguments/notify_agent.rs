//! `notify-agent`.
