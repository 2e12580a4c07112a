//! The configuration of a node.
//!
//! # What it owns
//! The sections, the table of all keys with their documentation, and which keys can be changed while the node runs.
//!
//! # How it works
//! [`NodeConfig`] is what a file says, section by section; each section is a struct with serde, here or in the crate that
//! it configures. [`check`] reads a file and says all that is wrong with it, [`change`] a change while the node runs. [`render`] prints it with comments. [`docs`]
//! are the doc comments of the structs' fields, which the build script collects.
//!
//! # Invariants
//! What [`check`] accepts can be honoured: all sections are in their ranges, alone and together.
//!
//! # What it must not do
//! Correct a value, or read a file that it was not given.

pub mod change;
pub mod check;
pub mod docs;
pub mod render;
mod sections;

use in_memory_engine::RegionCacheEngineConfig;
use serde::{Deserialize, Serialize};

pub use self::sections::{
    EngineConfig, LogLevel, LogSection, NodeSection, PlacementSection, SecuritySection, ServerSection,
};

/// All sections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeConfig {
    pub node: NodeSection,
    pub server: ServerSection,
    pub security: SecuritySection,
    pub log: LogSection,
    pub raftstore: raftstore::store::Config,
    pub preload: preload_observer::Config,
    pub in_memory_engine: RegionCacheEngineConfig,
    pub placement: PlacementSection,
    pub engine: EngineConfig,
}

/// Whether a key can be changed while the node runs. Its documentation says so as well.
pub fn is_online(section: &str, key: &str) -> bool {
    match section {
        "preload" => true,
        "in-memory-engine" => !in_memory_engine::ONLY_AT_START.contains(&key),
        _ => (section, key) == ("log", "level"),
    }
}
