//! Errors of observers.

use std::error::Error as StdError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An observer refuses what it was asked about.
    #[error("an observer refused: {0}")]
    Other(#[from] Box<dyn StdError + Send + Sync>),
}

pub type Result<T> = std::result::Result<T, Error>;
