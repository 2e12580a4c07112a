//! The documentation of all keys, in the order in which they are printed.

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDoc {
    pub section: &'static str,
    pub key: &'static str,
    /// As in the source: lines, and an empty one between paragraphs.
    pub doc: &'static str,
}

impl KeyDoc {
    /// `section.key`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// All keys.
pub const KEYS: &[KeyDoc] = include!(concat!(env!("OUT_DIR"), "/config_docs.rs"));
