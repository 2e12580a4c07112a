//! `preload-node serve` and `preload-node config` as their users have them: processes, files and HTTP.

mod access;
mod configuration;
mod endpoints;
mod hostile;
mod kill;
mod lifecycle;
mod monitoring;
mod support;
