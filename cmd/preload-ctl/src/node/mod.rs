//! Commands that are carried out by a node, over its status server.
//!
//! **Owns** which command asks for what, and what is printed.
//!
//! **How it works.** A command is one or a few requests of docs/http-api.md. With `--json` the node's answer is printed as it
//! is, in one line; else as text, with keys as people type them.
//!
//! **Invariants.** An error, and an answer that is a no, has an exit code of its own, see [`crate::exit`].
//!
//! **Must not** know more of a node than that document says.

mod api;
mod cli;
mod client;
mod configuration;
mod error;
mod keys;
mod operators;
mod preload;
mod regions;
mod rows;
mod table;
mod watch;

use std::io::Write;

use serde_json::{Value, json};

use self::{cli::CacheCommand, client::Client, error::Result};
pub(crate) use self::{
    cli::{NodeArgs, NodeCommand},
    error::Error,
};
use crate::exit::Exit;

/// What every command gets: the node, where to print to, and how.
struct Context<'a> {
    client: Client,
    out: &'a mut dyn Write,
    json: bool,
}

impl Context<'_> {
    /// With `--json` the answer, else what `text` makes of it.
    fn show(&mut self, answer: &Value, text: impl FnOnce(&Client, &mut dyn Write) -> Result<()>) -> Result<Exit> {
        if self.json {
            writeln!(self.out, "{answer}")?;
        } else {
            text(&self.client, self.out)?;
        }
        Ok(Exit::Ok)
    }

    /// The same, with one line of text.
    fn say(&mut self, answer: &Value, line: &str) -> Result<Exit> {
        self.show(answer, |_, out| Ok(writeln!(out, "{line}")?))
    }
}

/// Carries a command out, prints to `out`, and says what the exit code is.
///
/// # Errors
///
/// When the node cannot be reached or refuses; see [`Error::exit`].
pub(crate) fn run(args: &NodeArgs, command: NodeCommand, json: bool, out: &mut dyn Write) -> Result<Exit> {
    let client = Client::new(&args.addr, args.token_file.as_deref(), args.timeout)?;
    let mut context = Context { client, out, json };
    let context = &mut context;
    match command {
        NodeCommand::Status => regions::status(context),
        NodeCommand::Stores => regions::stores(context),
        NodeCommand::Regions { store } => regions::regions(context, store),
        NodeCommand::Region { region } => regions::region(context, region),
        NodeCommand::Put { key, value } => rows::put(context, &key, &value),
        NodeCommand::Get { key, ts } => rows::get(context, &key, ts),
        NodeCommand::Delete { key } => rows::delete(context, &key),
        NodeCommand::Scan { start, end, limit, ts, reverse } => {
            rows::scan(context, &rows::Scan { start, end, limit, ts, reverse })
        }
        NodeCommand::Split { region, key } => operators::split(context, region, key.as_ref()),
        NodeCommand::Merge { region, target } => operators::merge(context, region, target),
        NodeCommand::TransferLeader(args) => operators::on_store(context, "transfer-leader", &args),
        NodeCommand::AddPeer(args) => operators::on_store(context, "add-peer", &args),
        NodeCommand::RemovePeer(args) => operators::on_store(context, "remove-peer", &args),
        NodeCommand::EvictLeaders { store, end } => operators::evict_leaders(context, store, end),
        NodeCommand::Preload(args) => preload::preload(context, &args),
        NodeCommand::Pin(range) => configuration::pin(context, &range),
        NodeCommand::Unpin(range) => configuration::unpin(context, &range),
        NodeCommand::Pins => configuration::pins(context),
        NodeCommand::Cache { command: None } => regions::caches(context),
        NodeCommand::Cache { command: Some(CacheCommand::Evict(args)) } => {
            let answer =
                context.client.post(&format!("/regions/{}/evict", args.region), json!({ "store": args.store }))?;
            let was_there = answer["evicted"].as_bool() != Some(false);
            let done = if was_there { "is evicted from" } else { "is not in" };
            context.say(&answer, &format!("region {} {done} the cache of store {}", args.region, args.store))?;
            Ok(if was_there { Exit::Ok } else { Exit::Finding })
        }
        NodeCommand::Config { command } => configuration::config(context, command),
        NodeCommand::LogLevel { level } => configuration::log_level(context, level),
        NodeCommand::Fail { command } => configuration::fail(context, command),
        NodeCommand::Watch { region, history, events } => {
            watch::watch(context, &watch::Options { region, history, events })
        }
    }
}
