//! Lists of names in errors.

/// `'a', 'b' and 3 more`: names in an error, ten at most.
pub fn quoted_list(names: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    const SHOWN_MAX: usize = 10;
    let more = names.len().saturating_sub(SHOWN_MAX);
    let shown: Vec<String> = names.take(SHOWN_MAX).map(|name| format!("'{name}'")).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
