//! A named thread that handles the tasks of one queue, one after another.
//!
//! **Owns** the thread and the queue. [`Scheduler`]s, cheap to clone, put tasks in.
//!
//! **How it works.** The thread takes the next task, or waits for it until the next tick is due; a tick that is due is
//! handled before the next task, so a busy queue does not starve it.
//!
//! **Invariants.** A task that [`Scheduler::schedule`] accepted is run, unless the runnable panics. Scheduling never
//! blocks.
//!
//! **Must not** be stopped or dropped by its own runnable: a thread cannot join itself.

use std::{
    io,
    panic::resume_unwind,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use parking_lot::RwLock;

use crate::time::{Clock, MonotonicClock};

/// What the thread of a worker does. All methods are called on that thread.
pub trait Runnable<T> {
    fn run(&mut self, task: T);

    /// Called once per tick interval, late if a task took longer. Missed ticks are not made up for.
    fn on_timeout(&mut self) {}

    /// Called once, after the last task.
    fn shutdown(&mut self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The task would have exceeded the queue's capacity. Try again later.
    #[error("the worker's queue is full")]
    Full,
    /// The worker was stopped or its runnable panicked. Give up.
    #[error("the worker is stopped")]
    Stopped,
}

/// How to start a [`Worker`].
pub struct Builder {
    name: String,
    capacity: Option<usize>,
    tick_interval: Option<Duration>,
}

impl Builder {
    /// A worker with an unbounded queue and no ticks. `name` becomes the name of its thread.
    pub fn new(name: impl Into<String>) -> Self {
        Builder { name: name.into(), capacity: None, tick_interval: None }
    }

    /// Limits the tasks that wait; the one that runs does not count.
    pub fn capacity(mut self, tasks: usize) -> Self {
        self.capacity = Some(tasks);
        self
    }

    /// Calls [`Runnable::on_timeout`] at this interval.
    pub fn tick_interval(mut self, interval: Duration) -> Self {
        self.tick_interval = Some(interval);
        self
    }

    /// # Errors
    ///
    /// When the operating system refuses another thread.
    ///
    /// # Panics
    ///
    /// When the name contains a NUL byte.
    pub fn start<T, R>(self, runnable: R) -> io::Result<Worker<T>>
    where
        T: Send + 'static,
        R: Runnable<T> + Send + 'static,
    {
        let (sender, receiver) = match self.capacity {
            Some(tasks) => bounded(tasks),
            None => unbounded(),
        };
        let thread =
            thread::Builder::new().name(self.name).spawn(move || run_loop(&receiver, runnable, self.tick_interval))?;
        Ok(Worker { scheduler: Scheduler { sender: Arc::new(RwLock::new(Some(sender))) }, thread: Some(thread) })
    }
}

/// A running worker thread. Dropping it stops it like [`stop`](Self::stop), but swallows a panic of the runnable.
pub struct Worker<T> {
    scheduler: Scheduler<T>,
    /// `None` once joined.
    thread: Option<JoinHandle<()>>,
}

impl<T> Worker<T> {
    pub fn scheduler(&self) -> Scheduler<T> {
        self.scheduler.clone()
    }

    /// Refuses further tasks, waits until the queued ones have run, and joins the thread.
    ///
    /// # Panics
    ///
    /// With the runnable's panic, if it panicked.
    pub fn stop(mut self) {
        if let Err(panic) = self.join() {
            resume_unwind(panic);
        }
    }

    fn join(&mut self) -> thread::Result<()> {
        *self.scheduler.sender.write() = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        // The panic hook has reported it; a second panic here would abort a thread that unwinds.
        let _ = self.join();
    }
}

/// Puts tasks into the queue of a [`Worker`], from any thread.
pub struct Scheduler<T> {
    /// `None` once the worker was stopped. Taking the sender under the write lock, rather than setting a flag, makes
    /// stopping exact: what was sent is in the queue, and nothing is sent afterwards.
    sender: Arc<RwLock<Option<Sender<T>>>>,
}

impl<T> Scheduler<T> {
    /// Queues a task without blocking.
    ///
    /// # Errors
    ///
    /// The task is dropped when the queue is full or the worker stopped.
    pub fn schedule(&self, task: T) -> Result<(), ScheduleError> {
        let sender = self.sender.read();
        let sender = sender.as_ref().ok_or(ScheduleError::Stopped)?;
        sender.try_send(task).map_err(|err| match err {
            TrySendError::Full(_) => ScheduleError::Full,
            TrySendError::Disconnected(_) => ScheduleError::Stopped,
        })
    }
}

impl<T> Clone for Scheduler<T> {
    fn clone(&self) -> Self {
        Scheduler { sender: self.sender.clone() }
    }
}

fn run_loop<T>(receiver: &Receiver<T>, mut runnable: impl Runnable<T>, tick_interval: Option<Duration>) {
    let clock = MonotonicClock::new();
    // An interval beyond the end of time is no interval.
    let next_tick = || tick_interval.and_then(|interval| clock.now().checked_add(interval));
    let mut tick_at = next_tick();
    loop {
        if tick_at.is_some_and(|at| at <= clock.now()) {
            runnable.on_timeout();
            tick_at = next_tick();
        }
        let received = match tick_at {
            Some(at) => receiver.recv_timeout(at.saturating_sub(clock.now())),
            None => receiver.recv().map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(task) => runnable.run(task),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    runnable.shutdown();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Event {
        Ran(u64),
        TimedOut,
        ShutDown,
    }

    /// Reports what happens; waits for the gate before each task if there is one.
    struct Recorder {
        events: Sender<Event>,
        gate: Option<Receiver<()>>,
    }

    impl Runnable<u64> for Recorder {
        fn run(&mut self, task: u64) {
            if let Some(gate) = &self.gate {
                gate.recv().unwrap();
            }
            self.events.send(Event::Ran(task)).unwrap();
        }

        fn on_timeout(&mut self) {
            // The test may have gone after it saw enough ticks.
            let _ = self.events.send(Event::TimedOut);
        }

        fn shutdown(&mut self) {
            let _ = self.events.send(Event::ShutDown);
        }
    }

    #[test]
    fn stop_runs_the_queued_tasks_in_order_and_refuses_later_ones() {
        let (events, seen) = unbounded();
        let (open, gate) = unbounded();
        let gate = Some(gate);
        let worker = Builder::new("test").start(Recorder { events, gate }).unwrap();
        let scheduler = worker.scheduler();
        for task in 0..10 {
            scheduler.schedule(task).unwrap();
        }
        for _ in 0..10 {
            open.send(()).unwrap();
        }
        worker.stop();
        let expected: Vec<_> = (0..10).map(Event::Ran).chain([Event::ShutDown]).collect();
        assert_eq!(seen.iter().collect::<Vec<_>>(), expected);
        assert_eq!(scheduler.schedule(10), Err(ScheduleError::Stopped));
    }

    #[test]
    fn a_full_queue_refuses_tasks_without_blocking() {
        let (events, seen) = unbounded();
        let (open, gate) = unbounded();
        let gate = Some(gate);
        let worker = Builder::new("test").capacity(2).start(Recorder { events, gate }).unwrap();
        let scheduler = worker.scheduler();
        // At least two fit; a third does once the thread has taken the first.
        let accepted = (0..100).take_while(|task| scheduler.schedule(*task).is_ok()).count();
        assert!((2..=3).contains(&accepted), "{accepted}");
        for _ in 0..100 {
            open.send(()).unwrap();
        }
        worker.stop();
        assert!(seen.iter().count() > accepted);
    }

    #[test]
    fn ticks_come_while_the_queue_is_idle_and_while_it_is_busy() {
        let (events, seen) = unbounded();
        let worker = Builder::new("test")
            .tick_interval(Duration::from_millis(1))
            .start(Recorder { events, gate: None })
            .unwrap();
        assert_eq!(seen.recv().unwrap(), Event::TimedOut);

        let scheduler = worker.scheduler();
        let clock = MonotonicClock::new();
        let mut ran = 0;
        while ran == 0 || !seen.try_iter().any(|event| event == Event::TimedOut) {
            assert!(clock.now() < Duration::from_secs(30), "no tick while busy");
            scheduler.schedule(ran).unwrap();
            ran += 1;
        }
    }

    #[test]
    fn stop_passes_on_the_panic_of_the_runnable() {
        struct Panics;
        impl Runnable<()> for Panics {
            fn run(&mut self, (): ()) {
                panic!("broken runnable");
            }
        }
        let worker = Builder::new("test").start(Panics).unwrap();
        worker.scheduler().schedule(()).unwrap();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.stop()));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"broken runnable"));
    }
}
