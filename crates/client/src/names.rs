//! Names that somebody may have meant, and lists of names in errors.

/// The names most like `wanted`, the likeliest first, five at most. Case does not count.
pub fn nearest<'n>(wanted: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    /// Jaro-Winkler similarity from which on a name counts as meant: one slip in a short name, some
    /// in a long one, or a common beginning.
    const SIMILAR: f64 = 0.8;
    const SHOWN_MAX: usize = 5;
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| (likeness(&wanted, &name.to_lowercase()), name))
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(SHOWN_MAX).map(|(_, name)| name).collect()
}

/// `'a', 'b' and 3 more`: names in an error, ten at most.
pub fn quoted_list(names: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    const SHOWN_MAX: usize = 10;
    let more = names.len().saturating_sub(SHOWN_MAX);
    let shown: Vec<String> = names.take(SHOWN_MAX).map(|name| format!("'{name}'")).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn likeness(wanted: &str, name: &str) -> f64 {
    let contains = wanted.len() >= 3 && (name.contains(wanted) || wanted.contains(name));
    let similarity = strsim::jaro_winkler(wanted, name);
    if contains && !name.is_empty() { similarity.max(0.9) } else { similarity }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_a_case_and_a_part_are_recognised_and_strangers_are_not() {
        let names = ["lead-agent", "worker-alpha", "worker-beta", "Reviewer"];
        assert_eq!(nearest("lead-agnet", names), ["lead-agent"]);
        assert_eq!(nearest("worker-alpah", names)[0], "worker-alpha");
        assert_eq!(nearest("reviewer", names), ["Reviewer"]);
        assert_eq!(nearest("alpha", names), ["worker-alpha"]);
        assert!(nearest("zebra", names).is_empty());
        assert!(nearest("", names).is_empty());
    }
}
