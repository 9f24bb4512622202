//! Screens of real programs, as tmux shows them: Claude Code, Codex, Gemini CLI, OpenCode, dialog,
//! pagers and others. One file for each kind of obstacle, and one for screens without any.

use super::*;

/// The name, the cursor's row and the screen of each.
fn captured(file: &'static str) -> Vec<(&'static str, usize, &'static str)> {
    let parts = file.split("==== ").skip(1).map(|part| {
        let (head, screen) = part.split_once('\n').unwrap();
        let (name, row) = head.split_once(", cursor in row ").unwrap();
        (name, row.parse().unwrap(), screen)
    });
    parts.collect()
}

fn assert_all(file: &'static str, is_expected: fn(&Obstacle) -> bool) {
    let screens = captured(file);
    assert!(!screens.is_empty());
    for (name, row, screen) in screens {
        let found = find(screen, row, None);
        assert!(found.as_ref().is_some_and(is_expected), "{name}: {found:?} on:\n{screen}");
        // A message that came before does not excuse it.
        let found = find(screen, row, Some("please look at the failing test"));
        assert!(found.as_ref().is_some_and(is_expected), "{name}: {found:?} with a text of ours");
    }
}

#[test]
fn menus() {
    assert_all(include_str!("../screens/menus.txt"), |found| matches!(found, Obstacle::Menu(_)));
}

#[test]
fn questions() {
    let is_question = |found: &Obstacle| matches!(found, Obstacle::Question(_));
    assert_all(include_str!("../screens/questions.txt"), is_question);
}

#[test]
fn secrets() {
    assert_all(include_str!("../screens/secrets.txt"), |found| {
        matches!(found, Obstacle::Secret(_))
    });
}

#[test]
fn pagers() {
    assert_all(include_str!("../screens/pagers.txt"), |found| matches!(found, Obstacle::Pager(_)));
}

#[test]
fn shell_modes() {
    let is_shell = |found: &Obstacle| matches!(found, Obstacle::Shell(_));
    assert_all(include_str!("../screens/shell_modes.txt"), is_shell);
    for (name, row, screen) in captured(include_str!("../screens/shell_modes.txt")) {
        assert_eq!(find(screen, row, Some("!make test")), None, "{name}: a text that asks for it");
    }
}

#[test]
fn screens_without_an_obstacle() {
    for (name, row, screen) in captured(include_str!("../screens/free.txt")) {
        assert_eq!(find(screen, row, None), None, "{name}:\n{screen}");
    }
}
