//! Wire types with TiKV's field numbers, and the only way to decode bytes that come from outside.
//!
//! The messages are generated at build time from `proto/*.proto` (see `build.rs`); Raft's own (`eraftpb`) come from
//! the `raft-proto` crate. Accessors are rust-protobuf 2 style and spelled as TiKV's generator spells them.
//!
//! Bytes from the network or from disk go through [`decode`]. Calling `merge_from_bytes` on them is a fault: see
//! [`wire`] for the reason.

pub mod wire;

pub use raft_proto::eraftpb;
pub use wire::{DecodeError, decode};

macro_rules! generated {
    ($($name:ident),+) => {$(
        #[allow(warnings, clippy::all, rustdoc::all)] // Generated code is its generator's business.
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    )+};
}

generated!(errorpb, metapb, raft_cmdpb, raft_serverpb);

#[cfg(test)]
mod tests;
