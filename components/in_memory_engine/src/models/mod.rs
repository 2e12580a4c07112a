//! Small scenes, which a model checker plays in every order of steps, or in many.
//!
//! **How it works.** `loom` plays all orders, and lets a thread see any value that the memory model allows: for the atomics
//! of [`Delta`](crate::delta::Delta). `shuttle` plays random orders, one step at a time: for what is done under several
//! locks. A scene that fails prints how to replay it. `make test-models` plays them all.
//!
//! **Must not** copy what it checks: it is the crate's own code that runs, on the types of [`sync`](crate::sync).

#[cfg(feature = "loom")]
mod delta;
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
mod handover;
