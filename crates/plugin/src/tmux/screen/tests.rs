//! Screens as agents and shells show them.

use super::*;

/// With the cursor on the last line that has something.
fn at_end(screen: &str) -> Option<Obstacle> {
    let row = screen.trim_end().lines().count().saturating_sub(1);
    find(screen, row, None)
}

fn assert_menu(screen: &str) {
    // Agents hide the cursor or park it anywhere: it does not matter for a menu.
    for row in [0, 5, 23, 49] {
        let found = find(screen, row, None);
        assert!(matches!(found, Some(Obstacle::Menu(_))), "{found:?} on:\n{screen}");
    }
}

fn assert_free(screen: &str) {
    assert_eq!(at_end(screen), None, "on:\n{screen}");
    let below = screen.lines().count() + 1;
    assert_eq!(find(screen, below, None), None, "cursor below:\n{screen}");
}

#[test]
fn approval_menus_of_agents() {
    assert_menu(
        "● Bash(rm -rf build)\n  ⎿  Running…\n\n\
         ╭──────────────────────────────────────────────────────────────╮\n\
         │ Bash command                                                 │\n\
         │                                                              │\n\
         │   rm -rf build                                               │\n\
         │   Remove build directory                                     │\n\
         │                                                              │\n\
         │ Do you want to proceed?                                      │\n\
         │ ❯ 1. Yes                                                     │\n\
         │   2. Yes, and don't ask again for rm commands in /home/u/p   │\n\
         │   3. No, and tell Claude what to do differently (esc)        │\n\
         ╰──────────────────────────────────────────────────────────────╯\n\n\n",
    );
    assert_menu(
        "────────────────────────────────────────────────\n Edit file\n src/main.rs\n\
         ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌\n 12 -old\n 12 +new\n\
         ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌\n Do you want to make this edit to main.rs?\n\
         \u{20}  1. Yes\n ❯ 2. Yes, allow all edits during this session (shift+tab)\n   3. No\n\n Esc to cancel · Tab to amend\n",
    );
    assert_menu(
        "  Would you like to run the following command?\n\n  Reason: needs the network\n\n  $ cargo fetch\n\n\
         › 1. Yes, proceed (y)\n  2. Yes, and don't ask again for commands that start with `cargo fetch` (p)\n\
         \u{20} 3. No, and tell Codex what to do differently (esc)\n\n  Press enter to confirm or esc to cancel\n",
    );
    assert_menu(
        "╭─────────────────────────────────────────╮\n│ ?  Shell rm x                           │\n\
         │                                         │\n│ Allow execution of: 'rm'?               │\n\
         │                                         │\n│ ● 1. Yes, allow once                    │\n\
         │   2. Yes, allow always ...              │\n│   3. No, suggest changes (esc)          │\n\
         │                                         │\n╰─────────────────────────────────────────╯\n\n\
         ~/project (main*)      no sandbox      gemini-2.5-pro (76% context left)\n",
    );
    assert_menu(
        " Do you trust the files in this folder?\n\n /home/u/project\n\n ❯ 1. Yes, I trust this folder\n   2. No, exit\n\n Enter to confirm · Esc to cancel\n",
    );
}

#[test]
fn other_menus() {
    assert_menu("? Overwrite the file?\n❯ Yes\n  No\n");
    assert_menu(
        "│ DANGEROUS: rm -rf x │\n│ ❯ Allow once        │\n│   Allow this session │\n│   Deny │\n",
    );
    assert_menu("◆  Continue?\n│  ● Yes / ○ No\n└\n");
    assert_menu("◆  Continue?\n│  ● Yes\n│  ○ No\n└\n");
    assert_menu("Which one?\n\n  1. [ ] Red\n❯ 2. [✔] Green\n  3. [ ] Blue\n");
    assert_menu(
        "Select a model\n  9. nine, which has a very long explanation that\n     goes on over lines\n❯ 10. ten\n",
    );
    assert_menu("Pick a file\n  a.txt\n  b.txt\n\nEnter to select · Tab to move · Esc to leave\n");
}

#[test]
fn a_selected_option_in_the_middle_and_one_in_a_long_list() {
    assert_menu("  1) one\n  2) two\n> 3) three\n  4) four\n");
    let long: String =
        (1..=12).map(|n| format!("{} {n}. Option\n", if n == 7 { '❯' } else { ' ' })).collect();
    assert_menu(&format!("Choose:\n{long}\n ↑/↓ to move\n"));
}

#[test]
fn questions_and_secrets_at_the_end() {
    for question in [
        "Overwrite? [y/N]",
        "Overwrite? [Y/n] ",
        "Do you want to continue? (yes/no): ",
        "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
        "Proceed ([y]/n)? (y/n) y",
        "rm: really (y|n)?",
        "Do you want to proceed?",
        "  Would you like to update now?  ",
        "Replace a.txt? [y, n]: ",
        "Stage this hunk [y,n,q,a,d,e,p,?]? ",
        "      Choice [o/s/a/D]: ",
        "│ Go on? (y/n) │",
    ] {
        let screen = format!("$ ./deploy\nlooking around\n{question}\n\n\n");
        let found = at_end(&screen);
        assert!(matches!(found, Some(Obstacle::Question(_))), "{found:?} for {question:?}");
    }
    assert!(matches!(at_end("1) Yes\n2) No\n#? "), Some(Obstacle::Question(_))));
    let boxed = "╭──────────────╮\n│ Go on? (y/n) │\n╰──────────────╯\n";
    assert!(matches!(find(boxed, 0, None), Some(Obstacle::Question(_))));
    for secret in [
        "[sudo] password for user: ",
        "Password:",
        "git@example.org's password: ",
        "Enter passphrase for key '/home/u/.ssh/id_ed25519': ",
        "Password for 'https://u@example.org': ",
        "Verification code: ",
    ] {
        let found = at_end(&format!("$ ssh host\n{secret}"));
        assert!(matches!(found, Some(Obstacle::Secret(_))), "{found:?} for {secret:?}");
    }
}

#[test]
fn ordinary_prompts() {
    assert_free("");
    assert_free("\n\n\n");
    for prompt in [
        "❯ ",
        "> ",
        "› ",
        "❯ write a test",
        "> fix it",
        "step [1/2/3]",
        "$ ",
        "user@host:~/x$ ",
        "root@host:/# ",
        "bash-5.2$ make",
        "user@host:~/x$ echo 'Continue? [y/N]'",
        "> set the password:",
        "❯ do you want to proceed?",
        ">>> ",
        "sqlite> ",
    ] {
        assert_free(prompt);
    }
    assert_free("╭────────────────╮\n│ >              │\n╰────────────────╯\n  ? for shortcuts\n");
    assert_free(
        "────────────────\n❯ Try \"fix lint errors\"\n────────────────\n  ⏵⏵ accept edits on (shift+tab to cycle)\n",
    );
    assert_free("• Done.\n\n› Ask Codex to do anything\n\n  100% context left · ? for shortcuts\n");
    assert_free(
        "│ >   Type your message or @path/to/file │\n~/p  no sandbox  gemini-2.5-pro (99% context left)\n",
    );
}

#[test]
fn lists_and_quotes_in_a_chat() {
    assert_free(
        "● The plan:\n\n  1. Read the file\n  2. Fix the bug\n  3. Run the tests\n\n❯ \n  ? for shortcuts\n",
    );
    assert_free("● 1. Read the file\n  2. Fix the bug\n\n╭────╮\n│ >  │\n╰────╯\n");
    assert_free("> 1. Yes\n  2. No\n\nThat was the quote.\n\n> \n");
    assert_free("The plan:\n1. Yes\n2. No\n");
    assert_free("● Do you want to proceed?\n\n╭────────╮\n│ >      │\n╰────────╯\n");
    assert_free("● Shall I overwrite it? [y/N]\n\n────────\n❯ \n────────\n");
    assert_free("✻ Thinking… (esc to cancel, 3s)\n\n❯ \n");
    assert_free("Yes.\nNo problem at all.\n● Yes, that works.\n\n❯ \n");
    let bare = "┃  Your password:\n┃\n┃  \n╹▀▀▀▀▀▀▀▀▀▀\n";
    assert_eq!(find(bare, 2, None), None, "an input box without a mark, the cursor in it");
}

#[test]
fn what_was_asked_long_ago() {
    assert_free("Overwrite? [y/N] y\nwritten\nuser@host:~$ ");
    assert_free("❯ 1. Yes\n  2. No\nchosen: 1\nuser@host:~$ ");
    assert_free("❯ 1. Yes\n  2. No\n\n● Done.\n\n❯ next\n");
    let far = format!("❯ 1. Yes\n  2. No\n{}", "output\n".repeat(REGION_LINES));
    assert_free(&far);
    // A program that only listens: the cursor has gone on to the next line.
    assert_eq!(find("Do you want to proceed?\n", 1, None), None);
    assert_eq!(find("Password:\n", 1, None), None);
}

#[test]
fn a_text_of_ours_does_not_stand_in_its_own_way() {
    let free = |screen: &str, own: &str| {
        let row = screen.trim_end().lines().count() - 1;
        assert!(find(screen, row, None).is_some(), "it would be an obstacle:\n{screen}");
        assert_eq!(find(screen, row, Some(own)), None, "{screen}");
    };
    free("Do you want to proceed?", "Do you want to proceed?");
    free("repl> shall I overwrite it? [y/N]", "shall I overwrite it? [y/N]");
    free(
        "I will now ask: do you wa\nnt? Are you sure?",
        "I will now ask: do you want? Are you sure?",
    );
    free("user@host:~$ shall I over\nwrite it? [y/N]", "shall I overwrite it? [y/N]");
    free("│ > shall I overwrite it? │\n│ [y/N] │", "shall I overwrite it? [y/N]");
    free("the menu says\n❯ 1. Yes\n  2. No", "the menu says\n❯ 1. Yes\n  2. No");
}

#[test]
fn a_menu_of_others_is_seen_although_our_text_is_there() {
    let own = "yes, I have looked at 1. and 2. and there is no problem";
    let screen = format!("❯ {own}\n\nDo you want to proceed?\n❯ 1. Yes\n  2. No\n");
    assert!(matches!(find(&screen, 9, Some(own)), Some(Obstacle::Menu(_))));
    let screen = format!("> {own}\n❯ Yes\n  No\n");
    assert!(matches!(find(&screen, 9, Some(own)), Some(Obstacle::Menu(_))));
    let screen = format!("{own}\nOverwrite? [y/N] ");
    assert!(matches!(find(&screen, 1, Some(own)), Some(Obstacle::Question(_))));
}

#[test]
fn lines_that_tell_the_keys_of_a_menu() {
    for line in [
        "Press enter to confirm or esc to cancel",
        "Enter/↓ to select",
        "↑↓ navigate • ⏎ select",
        "[Return] to continue",
        "Resume: Enter   Quit: q",
        "esc dismiss",
        "(Press Esc to close)",
        "(Use arrow keys)",
        "  Yes    No  ",
        "<  OK  >    <Cancel>",
        "<Ok>",
    ] {
        assert_menu(&format!("Something\n  first\n  second\n\n{line}\n"));
    }
}

#[test]
fn status_lines_below_an_input_line() {
    for line in [
        "esc to interrupt · ? for shortcuts",
        "double tap esc to clear input",
        "Esc again to clear",
        "esc interrupt    tab agents  ctrl+p commands",
        "⠙ Thinking... (esc to cancel, 7s)",
        "✻ Thinking… (esc to cancel · 7s)",
        "⏎ send   ⌃J newline   ⌃C quit",
        "enter/tab insert · ↑/↓ select",
        "? / esc close",
        "auto-accept: yes, reject: no",
        "model ok    12% left",
        "<none>",
    ] {
        assert_free(&format!("● Done.\n\n────────\n❯ \n────────\n  {line}\n"));
    }
}

#[test]
fn an_input_line_is_no_line_of_a_list() {
    assert_menu("? Pick one: (Use arrow keys)\n  npm\n❯ yarn\n  pnpm\n");
    assert_free("? Pick one: (Use arrow keys)\n  npm\n❯ yarn\n  pnpm\n\n❯ go on\n");
    assert_menu("│ ● 1. Auto   │\n│   2. Manual │\n│ > A remark. │\n╰─────────────╯\n");
    assert_menu("Sessions   Open: Enter   Resume: Enter\n ❯ #1 │ 3 │ hello\n   #2 │ 6 │ fine\n");
    let box_of_ours = "  ┃  ❯ 1. Yes\n  ┃    2. No\n\n  ┃\n  ┃  Build\n  ╹▀▀▀▀▀▀▀\n   /home/u\n";
    assert_free(box_of_ours);
    assert_menu("  ┃\n  ┃  ❯ 1. Yes\n  ┃    2. No\n  ╹▀▀▀▀▀▀▀\n   /home/u\n");
}

#[test]
fn what_only_looks_like_a_secret_or_a_question() {
    for line in ["my-secret-project> ", "otp-27> ", "12k tokens:", "note: is it done? yes", "ok:"] {
        assert_eq!(at_end(&format!("output\n{line}")), None, "{line}");
    }
    // A remark, and the cursor on the line below it.
    for line in ["warning: what is this?", "Press any key to continue", "Enter a value:", ":"] {
        assert!(at_end(line).is_some(), "{line}");
        assert_eq!(find(&format!("{line}\n"), 1, None), None, "{line}");
    }
}

#[test]
fn answers_without_a_mark_under_a_question() {
    assert_menu("$ deploy\nRun this command?\n\n  1. Yes\n  2. No\n");
    assert_menu("│ Allow the edit? │\n│ 1) Allow once │\n│ 2) Reject │\n");
    // A list is no menu, and an answered one has something below it.
    assert_free("What is left?\n1. The parser\n2. Its tests\n");
    assert_free("Run this command?\n1. Yes\n2. No\n1\nran.\n$ ");
    assert_free("Steps:\n1. Allow the port\n2. Restart\n");
}

#[test]
fn named_answers_count_with_the_cursor_right_below_and_not_later() {
    let at = |screen: &str, row: usize| find(screen, row, None);
    let asked = "Allow command? [y/N]\n";
    assert!(matches!(at(asked, 1), Some(Obstacle::Question(_))));
    assert_eq!(at(asked, 2), None);
    assert_eq!(at("Do you want to proceed?\n", 1), None, "a remark, perhaps our own");
}
