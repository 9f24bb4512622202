//! Catches panics of the router while a run is played, without a word on standard error.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    static IS_PLAYING: Cell<bool> = const { Cell::new(false) };
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Calls `play`. A panic on this thread meanwhile is caught; what it said is returned.
pub(crate) fn catch<T>(play: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(
            move |info| {
                if IS_PLAYING.get() { remember(info) } else { usual(info) }
            },
        ));
    });
    let was_playing = IS_PLAYING.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(play));
    IS_PLAYING.set(was_playing);
    result.map_err(|_| MESSAGE.take().unwrap_or_else(|| "a panic without words".to_owned()))
}

fn remember(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let words = payload.downcast_ref::<&str>().copied();
    let words = words.or(payload.downcast_ref::<String>().map(String::as_str));
    let words = words.unwrap_or("a panic without words");
    let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
    MESSAGE.set(Some(format!("{words}{}", place.unwrap_or_default())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_words_and_place() {
        let words = catch(|| panic!("number {}", 7)).expect_err("it panicked");
        assert!(words.starts_with("number 7 (") && words.contains("panics.rs"), "{words}");
        assert_eq!(catch(|| 3), Ok(3));
    }
}
