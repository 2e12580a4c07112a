//! `preload-node serve`.
//!
//! **Owns** the life of a node in this process: from the command line to the exit code.
//!
//! **How it works.** The configuration is read and checked, the log set up, the node started and its status server. Then it
//! waits for a signal, and takes both down again.
//!
//! **Invariants.** What an operator has to know is printed on stdout, a line at a time: what runs, where its data is, where
//! the status page is, and how a stop goes on. Everything else goes to the log.
//!
//! **Must not** read the data directory before it is locked.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use engine_fjall::FjallEngine;
use kvproto::metapb::Region;
use server::{
    DiskEngine, Node,
    config::{NodeConfig, change::Explicit, check::Section as _},
    status_server::StatusServer,
};

use crate::{
    cli::ServeArgs,
    configuration,
    error::{Error, Result},
    interrupt, logging, page, waiting,
};

/// How long a start waits for the regions to have leaders, before it says what there is.
const LEADERS_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode> {
    let (config, explicit) = configure(args)?;
    match &config.log.file {
        Some(path) => logging::to_file(path, config.log.level.0)?,
        None => logging::to_stderr(config.log.level.0)?,
    }
    interrupt::install()?;
    match config.engine.name.as_str() {
        #[cfg(feature = "rocksdb")]
        engine_rocks::RocksEngine::NAME => serve::<engine_rocks::RocksEngine>(config, explicit),
        // `check` has refused every other name.
        _ => serve::<FjallEngine>(config, explicit),
    }
}

/// The file's configuration, with what the command line says instead, and which keys either has set.
fn configure(args: &ServeArgs) -> Result<(NodeConfig, Explicit)> {
    let (mut config, file) = args.config.as_deref().map(configuration::read).transpose()?.unwrap_or_default();
    let mut explicit = Explicit { file, ..Explicit::default() };
    let mut set = |name: &str| _ = explicit.command_line.insert(name.to_owned());
    if let Some(data_dir) = &args.data_dir {
        config.node.data_dir.clone_from(data_dir);
        set("node.data-dir");
    }
    if let Some(stores) = args.stores {
        config.node.stores = stores;
        set("node.stores");
    }
    if let Some(status_addr) = args.status_addr {
        config.server.status_addr = status_addr;
        set("server.status-addr");
    }
    match config.server.problem() {
        Some(problem) => Err(Error::Config(vec![problem.message])),
        None => Ok((config, explicit)),
    }
}

fn serve<D: DiskEngine>(config: NodeConfig, explicit: Explicit) -> Result<ExitCode> {
    let shutdown_timeout = config.node.shutdown_timeout.0;
    say(&format!("preload-node {}, engine {}", env!("CARGO_PKG_VERSION"), D::NAME))?;
    let node: Arc<Node<D>> = Node::start(config, explicit)?;
    let status_server = StatusServer::start(node.clone(), page::ASSETS).inspect_err(|_| drop(node.stop()))?;
    let outcome = announce(&node, &status_server).and_then(|()| wait_for_signal());
    let stopped = stop(&node, status_server, shutdown_timeout);
    outcome.and(stopped)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what runs, as soon as its regions have leaders or that takes too long.
fn announce<D: DiskEngine>(node: &Node<D>, status_server: &StatusServer) -> Result<()> {
    let stores = node.members().len();
    say(&format!("{stores} stores, cluster {}, data in {}", node.cluster_id(), node.data_dir().display()))?;
    say(&format!("status page: http://{}/", status_server.address()))?;
    let all_led = || {
        let covers = node.placement().with(|placement| placement.directory().covers(&Region::default(), |_| true));
        covers.unwrap_or(false)
    };
    match waiting::within(LEADERS_WITHIN, "leaders", || all_led().then_some(())) {
        Ok(()) => {
            let regions = node.placement().with(|placement| placement.directory().regions().count()).unwrap_or(0);
            say(&format!("ready: {regions} regions, all of them have leaders"))
        }
        Err(Error::TimedOut { deadline, .. }) => say(&format!("not all regions have leaders after {deadline:?}")),
        // The signal is seen again.
        Err(_) => Ok(()),
    }
}

fn wait_for_signal() -> Result<()> {
    loop {
        match waiting::within(Duration::from_secs(3600), "a signal", || None::<()>) {
            Err(Error::Interrupted) => return Ok(()),
            Err(Error::TimedOut { .. }) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
}

fn stop<D: DiskEngine>(node: &Node<D>, status_server: StatusServer, timeout: Duration) -> Result<()> {
    say("stopping: new requests are refused, those on their way are waited for; another signal ends it at once")?;
    node.begin_to_stop();
    status_server.stop(timeout);
    say("stopping: stores step down and sync their data")?;
    node.stop()?;
    say("stopped")
}

/// Prints a line, at once: somebody may read it through a pipe.
fn say(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        // Whoever started it does not listen any more; that is no reason to stop.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(Error::io("print")),
    }
}
