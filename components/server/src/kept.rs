//! What was changed while the node ran, for its next start.
//!
//! # What it owns
//! `online.json` in the data directory: the configuration that was changed online, and the ranges that were pinned by hand.
//!
//! # How it works
//! The file is read at start and replaced with each change. The configuration file goes first: what it sets is neither kept
//! nor taken from here, so that who edits it sees the effect.
//!
//! # Invariants
//! A change is durable before anybody is told that it was made. The file is replaced as a whole.
//!
//! # What it must not do
//! Leave out what it does not understand: a node that comes up with other settings than it went down with is worse than one
//! that says why it does not come up.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use preload_observer::PinnedRange;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data_dir::{DataDirError, replace_file};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Content {
    /// By `section.key`.
    config: BTreeMap<String, Value>,
    pinned: Vec<PinnedRange>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    content: Content,
}

impl Kept {
    /// Reads the file, which need not exist.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub(crate) fn open(path: PathBuf) -> Result<Self, DataDirError> {
        let content = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| DataDirError::Malformed { path: path.clone(), source: source.into() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(source) => return Err(DataDirError::Io { doing: "read", path, source }),
        };
        Ok(Self { path, content })
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// What was changed online, by `section.key`.
    pub(crate) fn config(&self) -> &BTreeMap<String, Value> {
        &self.content.config
    }

    /// What was pinned by hand.
    pub(crate) fn pinned(&self) -> &[PinnedRange] {
        &self.content.pinned
    }

    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn keep_config(&mut self, config: BTreeMap<String, Value>) -> Result<(), DataDirError> {
        self.replace(Content { config, ..self.content.clone() })
    }

    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn keep_pinned(&mut self, pinned: Vec<PinnedRange>) -> Result<(), DataDirError> {
        self.replace(Content { pinned, ..self.content.clone() })
    }

    fn replace(&mut self, content: Content) -> Result<(), DataDirError> {
        if content == self.content {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&content).map_err(io::Error::other);
        text.and_then(|text| replace_file(&self.path, &(text + "\n"))).map_err(|source| DataDirError::Io {
            doing: "write",
            path: self.path.clone(),
            source,
        })?;
        self.content = content;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_is_there_when_the_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("online.json");
        let mut kept = Kept::open(path.clone()).unwrap();
        assert!(kept.config().is_empty() && kept.pinned().is_empty());
        let config = BTreeMap::from([("preload.warmup-timeout".to_owned(), json!("5s"))]);
        let pinned = vec![PinnedRange::of_keys(b"a", b"\xff\0"), PinnedRange::of_keys(b"", b"")];
        kept.keep_config(config.clone()).unwrap();
        kept.keep_pinned(pinned.clone()).unwrap();
        let again = Kept::open(path.clone()).unwrap();
        assert_eq!((again.config(), again.pinned()), (&config, pinned.as_slice()));
        kept.keep_config(BTreeMap::new()).unwrap();
        let again = Kept::open(path).unwrap();
        assert_eq!((again.config().len(), again.pinned().len()), (0, 2));
    }

    #[test]
    fn what_cannot_be_written_is_not_kept_and_what_cannot_be_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/online.json");
        let mut kept = Kept::open(path).unwrap();
        let error = kept.keep_pinned(vec![PinnedRange::of_keys(b"a", b"b")]).unwrap_err();
        assert!(error.to_string().contains("online.json"), "{error}");
        assert!(kept.pinned().is_empty());

        let path = dir.path().join("online.json");
        for text in ["", "{\"config\": {", "{\"configs\": {}}", "{\"pinned\": [{\"start-key\": 1}]}", "\u{0}\u{0}"] {
            fs::write(&path, text).unwrap();
            let error = Kept::open(path.clone()).unwrap_err();
            assert!(matches!(error, DataDirError::Malformed { .. }), "{text}: {error}");
        }
    }
}
