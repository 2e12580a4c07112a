//! What threads share.
//!
//! **Owns** the choice of the atomics, locks and swappable pointers that this crate uses.
//!
//! **How it works.** They are those of std, `parking_lot` and `arc_swap`. With one of the features `loom` and `shuttle` they
//! are that model checker's instead, so that it sees each step and decides who makes the next one; `models` has what it
//! is given to check. `Arc` stays std's: counting references is not what is checked.
//!
//! **Must not** be gone past: what the checker does not see it does not interleave.

#[cfg(any(feature = "loom", feature = "shuttle"))]
mod checked;

#[cfg(any(feature = "loom", feature = "shuttle"))]
pub(crate) use checked::{ArcSwap, ArcSwapOption, AtomicBool, AtomicU64, AtomicUsize, Mutex, OnceLock, RwLock};
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub(crate) use {
    arc_swap::{ArcSwap, ArcSwapOption},
    parking_lot::{Mutex, RwLock},
    std::sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
};
