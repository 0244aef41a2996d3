//! The first panic of a thread, with its place.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics of all threads are noted, and told as before.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            FIRST.with_borrow_mut(|first| {
                first.get_or_insert_with(|| text(info));
            });
            before(info);
        }));
    });
}

/// The first panic of this thread since the last call.
pub(super) fn take() -> Option<String> {
    FIRST.take()
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let said = info.payload_as_str().unwrap_or("a panic without a text");
    match info.location() {
        Some(place) => format!("{said} at {}:{}", place.file(), place.line()),
        None => said.to_owned(),
    }
}
