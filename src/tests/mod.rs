//! The plugin through its hooks, on fakes and virtual time.

mod faults;
mod following;
mod hostile;
mod model;
mod online_config;
mod operators_view;
mod pinning;
mod protocol;
mod transfers;
mod verdicts;
mod warming;
