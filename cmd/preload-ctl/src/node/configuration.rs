//! What is set: pinned ranges, the configuration, the log level, failpoints.

use serde_json::{Map, Value, json};

use super::{
    Context,
    api::{Config, ConfigEntry, Failpoints, Pins},
    cli::{ConfigCommand, FailCommand, RangeArgs},
    error::Result,
    keys::{Bytes, shown, to_hex},
    table,
};
use crate::{exit::Exit, text::wrapped};

const DOC_WIDTH: usize = 100;

fn range(args: &RangeArgs) -> Value {
    match args.region {
        Some(region) => json!({ "region": region }),
        None => {
            let hex = |key: &Option<Bytes>| key.as_ref().map(|key| to_hex(&key.0)).unwrap_or_default();
            json!({ "start_key": hex(&args.start), "end_key": hex(&args.end) })
        }
    }
}

pub(super) fn pin(context: &mut Context<'_>, args: &RangeArgs) -> Result<Exit> {
    let answer = context.client.post("/pins", range(args))?;
    let line = if answer["pinned"] == false { "it was pinned already" } else { "pinned, until it is unpinned" };
    context.say(&answer, line)
}

pub(super) fn unpin(context: &mut Context<'_>, args: &RangeArgs) -> Result<Exit> {
    let answer = context.client.delete("/pins", range(args))?;
    context.say(&answer, "not pinned any more")
}

pub(super) fn pins(context: &mut Context<'_>) -> Result<Exit> {
    let answer = context.client.get("/pins")?;
    let Pins { pins } = context.client.parse(&answer)?;
    context.show(&answer["pins"], |_, out| {
        let rows = pins.iter().map(|pin| {
            let regions: Vec<_> = pin.regions.iter().map(u64::to_string).collect();
            let key = |hex: &str, empty: &str| if hex.is_empty() { empty.to_owned() } else { shown(hex) };
            vec![key(&pin.start_key, "-∞"), key(&pin.end_key, "+∞"), pin.source.clone(), regions.join(",")]
        });
        Ok(table::write(out, &["START", "END", "SOURCE", "REGIONS"], rows.collect())?)
    })
}

pub(super) fn config(context: &mut Context<'_>, command: ConfigCommand) -> Result<Exit> {
    match command {
        ConfigCommand::Get { prefix } => config_get(context, &prefix.unwrap_or_default()),
        ConfigCommand::Set { changes } => {
            let names: Vec<_> = changes.iter().map(|(key, _)| key.clone()).collect();
            let answer = context.client.post("/config", Value::Object(changes.into_iter().collect::<Map<_, _>>()))?;
            let until_restart = answer["until_restart"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let until_restart: Vec<&str> = until_restart.collect();
            let mut line = format!("changed: {}", names.join(", "));
            if !until_restart.is_empty() {
                let those = until_restart.join(", ");
                line += &format!("\nuntil the node stops, since its configuration file sets them: {those}");
            }
            context.say(&answer, &line)
        }
    }
}

fn config_get(context: &mut Context<'_>, prefix: &str) -> Result<Exit> {
    let mut answer = context.client.get("/config")?;
    if let Some(entries) = answer["entries"].as_array_mut() {
        entries.retain(|entry| entry["key"].as_str().is_some_and(|key| key.starts_with(prefix)));
    }
    let Config { entries } = context.client.parse(&answer)?;
    context.show(&answer["entries"], |_, out| {
        if let [entry] = entries.as_slice() {
            return describe(entry, out);
        }
        let rows = entries.iter().map(|entry| {
            let online = if entry.online { "yes" } else { "restart" };
            vec![entry.key.clone(), plain(&entry.value), plain(&entry.default), entry.source.clone(), online.to_owned()]
        });
        Ok(table::write(out, &["KEY", "VALUE", "DEFAULT", "SOURCE", "ONLINE"], rows.collect())?)
    })?;
    Ok(if entries.is_empty() { Exit::Finding } else { Exit::Ok })
}

/// One key: with what it means.
fn describe(entry: &ConfigEntry, out: &mut dyn std::io::Write) -> Result<()> {
    let source = match entry.source.as_str() {
        "online" => ", changed while the node runs",
        "file" => ", from the configuration file",
        "command_line" => ", from the command line",
        _ => "",
    };
    writeln!(out, "{} = {}{source}", entry.key, plain(&entry.value))?;
    let online = if entry.online { "can be changed while the node runs" } else { "needs a restart to change" };
    writeln!(out, "default {}, {online}", plain(&entry.default))?;
    for paragraph in entry.doc.split("\n\n") {
        writeln!(out)?;
        wrapped(paragraph, DOC_WIDTH).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn log_level(context: &mut Context<'_>, level: Option<String>) -> Result<Exit> {
    let answer = match level {
        Some(level) => context.client.put("/log-level", json!({ "level": level }))?,
        None => context.client.get("/log-level")?,
    };
    let line = plain(&answer["level"]);
    context.say(&answer, &line)
}

pub(super) fn fail(context: &mut Context<'_>, command: FailCommand) -> Result<Exit> {
    match command {
        FailCommand::List => {
            let answer = context.client.get("/fail")?;
            let Failpoints { failpoints } = context.client.parse(&answer)?;
            context.show(&answer["failpoints"], |_, out| {
                let rows = failpoints.iter().map(|point| vec![point.name.clone(), point.actions.clone()]);
                Ok(table::write(out, &["NAME", "ACTIONS"], rows.collect())?)
            })
        }
        FailCommand::Set { name, actions } => {
            let answer = context.client.put(&path_of(&name)?, json!({ "actions": actions }))?;
            context.say(&answer, &format!("{name} = {actions}"))
        }
        FailCommand::Clear { name } => {
            let answer = context.client.delete(&path_of(&name)?, json!({}))?;
            context.say(&answer, &format!("{name} is cleared"))
        }
    }
}

/// The names of failpoints need no escapes in a path; others are refused.
fn path_of(name: &str) -> Result<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(super::Error::Usage(format!("{name:?} is no name of a failpoint, see fail_points/README.md")));
    }
    Ok(format!("/fail/{name}"))
}
