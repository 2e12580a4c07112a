//! A backtrace inside a record.
//!
//! **Owns** how frames are read, and what may be concluded from them.
//!
//! **How it works.** A frame is a line `12: symbol`, with an optional next line `at file:line`. The frames of the panic
//! itself, of Rust's library and of the assertion's helpers say nothing about who called them; all others are *callers*.
//!
//! **Invariants.** "It came from elsewhere" is concluded from a backtrace that names callers and is whole: one whose
//! closing quote is there, or whose outermost frame is that of a thread.
//!
//! **Must not** conclude anything from frames that are missing or that have no names.

use super::record::Record;

/// More than any real stack has; a broken record may have any number.
const FRAMES_MAX: usize = 1_000;
/// The crates of Rust itself, and what stands between the assertion and its caller.
const MACHINERY: &[&str] = &[
    "std::",
    "core::",
    "alloc::",
    "<alloc::",
    "<core::",
    "<std::",
    "__rustc",
    "rust_begin_unwind",
    "backtrace::",
    "tikv_util::set_panic_hook",
    "tikv_util::logger::panic_hook",
    "keys::",
    "enc_start_key",
    "enc_end_key",
];
const MACHINERY_PLACES: &[&str] =
    &["/rustc/", "/library/std/", "/library/core/", "/library/alloc/", "components/keys/", "panic_hook.rs"];
/// Where every thread of a Rust program begins.
const OUTERMOST: &[&str] = &["__rust_begin_short_backtrace", "start_thread", "thread_start", "clone3", "lang_start"];

#[derive(Debug, PartialEq)]
pub(super) struct Frame {
    symbol: String,
    place: String,
}

impl Frame {
    /// Whether this is the function `name`, as a whole word: `load_region` is not `try_load_region`.
    pub(super) fn is_function(&self, name: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        self.symbol.match_indices(name).any(|(at, _)| {
            !self.symbol[..at].ends_with(is_word) && !self.symbol[at + name.len()..].starts_with(is_word)
        })
    }

    /// Whether `text` is part of the symbol or of the file.
    pub(super) fn mentions(&self, text: &str) -> bool {
        self.symbol.contains(text) || self.place.contains(text)
    }

    /// Without type parameters: `<in_memory_engine::Engine as Ext>::load_region`.
    pub(super) fn name(&self) -> &str {
        &self.symbol
    }

    fn is_caller(&self) -> bool {
        let symbol = self.symbol.as_str();
        // `<unknown>`, an address, or a closure that could be anyone's.
        let is_nameless = symbol.is_empty()
            || symbol.starts_with("0x")
            || symbol.starts_with('<') && !symbol.contains("::")
            || symbol.starts_with('{') && self.place.is_empty();
        let is_machinery = self.is_function("CacheRegion")
            || MACHINERY.iter().any(|start| symbol.starts_with(start))
            || MACHINERY_PLACES.iter().any(|part| self.place.contains(part))
            || OUTERMOST.iter().any(|name| self.is_function(name));
        !is_nameless && !is_machinery
    }
}

#[derive(Debug, Default)]
pub(super) struct Backtrace {
    pub(super) frames: Vec<Frame>,
    is_whole: bool,
}

impl Backtrace {
    pub(super) fn of(record: &Record) -> Backtrace {
        let (text, is_closed) = match record.field("backtrace") {
            // The quote was closed if something of the record could be read after it.
            Some(field) => (field, record.field("location").is_some() || record.field("thread_name").is_some()),
            None => (record.text.as_str(), false),
        };
        let frames = frames(text);
        let has_outermost = frames.iter().any(|frame| OUTERMOST.iter().any(|name| frame.is_function(name)));
        Backtrace { is_whole: is_closed || has_outermost, frames }
    }

    pub(super) fn callers(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.is_caller())
    }

    /// Whether it shows who ran into the panic, so that one may conclude that nobody else did.
    pub(super) fn is_usable(&self) -> bool {
        self.is_whole && self.callers().next().is_some()
    }
}

fn frames(text: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(place) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut().filter(|frame| frame.place.is_empty()) {
                place.clone_into(&mut frame.place);
            }
            continue;
        }
        let Some((number, symbol)) = line.split_once(':') else { continue };
        if frames.len() < FRAMES_MAX && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
            frames.push(Frame { symbol: symbol_name(symbol.trim()), place: String::new() });
        }
    }
    frames
}

/// The symbol without the address that some backtraces put before it, the hash of old symbols, and type parameters, whose
/// names would be mistaken for functions. The leading `<Type as Trait>` stays.
fn symbol_name(symbol: &str) -> String {
    let symbol = match symbol.split_once(" - ") {
        Some((address, rest)) if address.starts_with("0x") => rest,
        _ => symbol,
    };
    let mut name = String::with_capacity(symbol.len());
    let mut depth = 0_usize;
    for (at, c) in symbol.char_indices() {
        match c {
            '<' if at == 0 => name.push(c),
            '<' => depth += 1,
            '>' if symbol[..at].ends_with('-') => {}
            '>' if depth == 0 => name.push(c),
            '>' => depth -= 1,
            c if depth == 0 => name.push(c),
            _ => {}
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backtrace(text: &str, rest: &str) -> Backtrace {
        let line = format!(
            "[2024/12/23 15:03:27.079 +08:00] [FATAL] [lib.rs:480] [no] [backtrace={}{rest}",
            serde_json::to_string(text).unwrap()
        );
        Backtrace::of(&Record::parse(line.as_bytes()))
    }

    #[test]
    fn frames_have_a_name_and_a_place() {
        let text = "   0: keys::enc_start_key\n             at components/keys/src/lib.rs:1\n   1: <a::B<C> as d::E>::load_region::h0123\n  12: 0x55 - f<on_destroy_peer>\n";
        let frames = frames(text);
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].place, "components/keys/src/lib.rs:1");
        assert_eq!(frames[1].name(), "<a::B as d::E>::load_region::h0123");
        assert!(frames[1].is_function("load_region") && !frames[1].is_function("region"));
        assert_eq!(frames[2].name(), "f");
        assert!(!frames[2].is_function("on_destroy_peer"));
    }

    #[test]
    fn helper_frames_alone_show_nobody() {
        let helpers = "0: core::panicking::panic\n1: keys::enc_start_key\n2: engine_traits::CacheRegion::from_region\n3: <unknown>\n4: __rust_begin_short_backtrace";
        let rest = "] [location=x] [thread_name=y]";
        assert!(!backtrace(helpers, rest).is_usable());
        assert!(backtrace(&format!("{helpers}\n5: raftstore::f"), rest).is_usable());
        assert!(backtrace("0: on_role_change\n at components/hybrid_engine/src/x.rs:1", rest).is_usable());
    }

    #[test]
    fn cut_backtrace_shows_nobody_unless_it_reaches_the_threads_beginning() {
        assert!(!backtrace("0: raftstore::f", "").is_usable());
        assert!(backtrace("0: raftstore::f\n1: std::sys::backtrace::__rust_begin_short_backtrace", "").is_usable());
    }
}
