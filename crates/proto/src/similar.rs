//! Names that somebody may have meant: the one rule for suggestions.

use alloc::vec::Vec;

use crate::limits::ADDRESS_BYTES_MAX;

/// Jaro-Winkler similarity from which on a name counts as meant: one slip in a short name, some in a
/// long one, or a common beginning.
const SIMILAR: f64 = 0.8;

/// Most names that are suggested.
const NAMES_MAX: usize = 5;

/// The names most like `wanted`, the likeliest first, five at most. Case does not count, and what is
/// over [`ADDRESS_BYTES_MAX`] is like nothing.
pub fn nearest<'n>(wanted: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    if wanted.len() > ADDRESS_BYTES_MAX {
        return Vec::new();
    }
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .filter(|name| name.len() <= ADDRESS_BYTES_MAX)
        .map(|name| (likeness(&wanted, &name.to_lowercase()), name))
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(NAMES_MAX).map(|(_, name)| name).collect()
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

    #[test]
    fn long_texts_are_not_compared() {
        let long = "x".repeat(ADDRESS_BYTES_MAX + 1);
        assert!(nearest(&long, [&long[1..]]).is_empty());
        assert!(nearest(&long[1..], [&*long]).is_empty());
        assert_eq!(nearest(&long[1..], [&long[1..]]).len(), 1);
    }
}
