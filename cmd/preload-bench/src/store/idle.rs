//! What a restart takes, and what many regions cost while nothing happens.
//!
//! **Owns** the child process and what is read about it.
//!
//! **How it works.**
//! 1. A cluster is populated and closed, once for each side.
//! 2. For each sample the program starts itself with the hidden command `serve-cluster`. The child opens the cluster,
//!    prints [`OPENED`], asks each region for a linearizable read, and prints [`SERVING`] when all have answered.
//! 3. [`SETTLE`] later its processor time (`/proc/PID/stat`, which counts in ticks of 10 ms) is read twice, a sample apart,
//!    and then its resident memory (`VmRSS` in `/proc/PID/status`).
//! 4. The child's standard input is closed, and it ends.
//!
//! **Invariants.** The child does nothing but serve between 2 and 4: what is measured is the cluster.
//!
//! **Must not** go on when the child has another number of regions than it should.

use std::{
    collections::HashSet,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crossbeam_channel::unbounded;
use test_raftstore::{requests, wait};

use super::{
    ServeOptions,
    surroundings::{STORES, led_regions, populate, region_count, start},
};
use crate::{
    measure::{Samples, resident_bytes},
    report::{Case, Figure},
};

const OPENED: &str = "opened";
const SERVING: &str = "serving";

/// Until what the start has left to do is done.
const SETTLE: Duration = Duration::from_secs(2);

/// Of the kernel towards user space, on every architecture that Rust's standard library runs on.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn figures(regions: u32, sample: Duration, runs: u32) -> Vec<Figure> {
    let sides = [("first region", 1), ("many regions", regions)].map(|(name, regions)| {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        populate(&start(dir.path()), regions);
        (name, regions, dir)
    });
    let measured = sides.each_ref().map(|_| Vec::new());
    let measured = (0..runs).fold(measured, |mut measured, _| {
        for ((_, regions, dir), measured) in sides.iter().zip(&mut measured) {
            measured.push(Measured::of(dir.path(), *regions, sample));
        }
        measured
    });
    let samples = |value: fn(&Measured) -> f64| -> Vec<Samples> {
        let sides = sides.iter().zip(&measured);
        sides.map(|((side, ..), of)| Samples { side, nanos: of.iter().map(value).collect() }).collect()
    };
    let case = |name: String, unit| Case { bench: "raftstore", case: name.into(), unit };
    let name = |what| format!("{what}_{regions}_regions");

    let mut figures = case(name("restart_open"), "ms").compare(&samples(|of| of.opened.as_secs_f64() * 1000.0));
    figures.extend(case(name("restart_serve"), "ms").compare(&samples(|of| of.serving.as_secs_f64() * 1000.0)));
    // Not compared: one region alone is less than the kernel can count.
    let cpu = case(name("idle_cpu"), "% of a core");
    figures.extend(samples(|of| of.cpu * 100.0).into_iter().map(|samples| cpu.alone(samples.side, samples.nanos)));
    figures.extend(case(name("idle_memory"), "MiB").compare(&samples(|of| of.rss_bytes / f64::from(1 << 20))));
    let peers = f64::from(regions.saturating_sub(1).max(1)) * STORES as f64;
    if let [first, many] = &mut samples(|of| of.rss_bytes)[..] {
        for samples in [&mut *first, &mut *many] {
            samples.nanos.iter_mut().for_each(|bytes| *bytes /= peers);
        }
        figures.push(case(name("idle_memory_added"), "bytes/peer").added(many, first));
    }
    figures
}

/// One life of a child.
struct Measured {
    opened: Duration,
    serving: Duration,
    /// Share of one core.
    cpu: f64,
    rss_bytes: f64,
}

impl Measured {
    fn of(dir: &Path, regions: u32, sample: Duration) -> Self {
        let program = std::env::current_exe().expect("this program knows where it is");
        let started = now();
        let mut command = Command::new(program);
        command.arg("serve-cluster").arg("--dir").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program can be started again");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut expect = |line: String| {
            let printed = lines.next().and_then(Result::ok);
            assert_eq!(printed.as_deref(), Some(line.as_str()), "the child did not start");
            started.elapsed()
        };
        let opened = expect(OPENED.into());
        let serving = expect(format!("{SERVING} {regions}"));
        pause(SETTLE);
        let (cpu_before, begin) = (cpu_time(&child), now());
        pause(sample);
        let cpu = (cpu_time(&child) - cpu_before).as_secs_f64() / begin.elapsed().as_secs_f64();
        let rss_bytes = resident_bytes(child.id());
        drop(child.stdin.take());
        let status = child.wait().expect("it is a child");
        assert!(status.success(), "the child ended with {status}");
        Self { opened, serving, cpu, rss_bytes }
    }
}

/// The child: serves until its standard input ends.
pub(crate) fn serve(options: &ServeOptions) {
    let say = |line: &str| {
        let mut stdout = io::stdout().lock();
        // Fails only when the parent is gone; then the input ends as well.
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    };
    let cluster = start(&options.dir);
    say(OPENED);
    let regions = region_count(&cluster);
    let (answers, answered) = unbounded();
    let (mut asked, mut served) = (HashSet::new(), HashSet::new());
    wait::until("each region to answer a read", || {
        for (region_id, ok) in answered.try_iter() {
            if ok {
                served.insert(region_id);
            } else {
                asked.remove(&region_id);
            }
        }
        if served.len() == regions {
            return true;
        }
        for led in led_regions(&cluster) {
            let region_id = led.region.get_id();
            if asked.insert(region_id) {
                let answers = answers.clone();
                let callback = Box::new(move |result: raftstore::Result<_>| {
                    // Fails only when nobody waits any more.
                    let _ = answers.send((region_id, result.is_ok()));
                });
                let header = requests::header(&led.region);
                cluster.store(led.store_id).read(header, u64::MAX, callback).expect("the store runs");
            }
        }
        pause(Duration::from_millis(10)); // Looking at all peers is not free.
        false
    });
    say(&format!("{SERVING} {regions}"));
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

fn cpu_time(child: &Child) -> Duration {
    let path = format!("/proc/{}/stat", child.id());
    let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let ticks = cpu_ticks(&stat).unwrap_or_else(|| panic!("{path} is not as proc(5) has it: {stat}"));
    Duration::from_secs_f64(ticks as f64 / CLOCK_TICKS_PER_SECOND)
}

/// `utime` and `stime`. The second field, a name in parentheses, may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn pause(duration: Duration) {
    wait::within(duration, || None::<()>);
}

#[allow(clippy::disallowed_methods)] // Measuring time is what this crate is for.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a) S 1 2"), None);
    }
}
