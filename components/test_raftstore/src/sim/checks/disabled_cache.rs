//! With the plugin registered, a store with the cache engine disabled behaves as one without the plugin.
//!
//! Source: DESIGN §4, I7. The same seed is run without a cache twice, with the plugin and without it: what the host does
//! must be the same, to the microsecond. What plugins say to each other is said aside and compared with nothing.
//!
//! The plugin that is not told that the engine is disabled finds out (`src/observer.rs`), and may hold a transfer back for
//! as long as that takes if its target was asked for a preload. So then clients ask for none; the plugins themselves
//! never do, since nothing is warm.

use super::{Checked, Violation};
use crate::sim::{plan::Setup, trace::Trace};

const NAME: &str = "disabled-cache (I7)";

/// `run` runs the seed as told, recorded if it is to be.
pub(in crate::sim) fn check(run: impl Fn(Setup, bool) -> Checked<Trace>) -> Checked {
    let hash = |setup| Ok::<_, Violation>(run(setup, false)?.host_hash());
    if hash(Setup::CacheDisabled)? == hash(Setup::NoPlugin)? {
        return Ok(());
    }
    let lines = |setup| {
        let lines = run(setup, true)?.take_lines();
        Ok::<_, Violation>(lines.into_iter().filter(|line| !line.is_aside).map(|line| line.text).collect::<Vec<_>>())
    };
    let (with, without) = (lines(Setup::CacheDisabled)?, lines(Setup::NoPlugin)?);
    let differs = |at: &usize| with.get(*at) != without.get(*at);
    let at = (0..with.len().max(without.len())).find(differs).unwrap_or_default();
    let what = format!("with the plugin: {:?}, without: {:?}", with.get(at), without.get(at));
    Err(Violation::new(NAME, what))
}
