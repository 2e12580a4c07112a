//! Requests that this store sent, or is about to send.
//!
//! **Owns** what the asking side remembers until it knows how the transfer ended.
//!
//! **How it works.**
//! 1. A leader that offers its leadership asks the target, if the region is warm here. When that is not known yet, the
//!    request waits for a probe of this store's cache.
//! 2. Until a final answer arrives the request is sent again, after a wait that doubles each time: it, or its answer, may
//!    have got lost, and a target that restarts forgets it. The target takes it for the same request.
//! 3. It ends when another peer leads the region: if that is the target, the last word tells whether the transfer was
//!    warm. Or it ends at its deadline: it is given up, and the transfer goes on as if nobody had asked. A target
//!    without the plugin never answers, and ends there.
//!
//! Requests have numbers, which answers repeat, so that an answer that was held up in the network is not taken for one to a
//! later request.
//!
//! **Invariants.** At most `max-in-flight-requests` are remembered, each until its deadline at most; at most one for a
//! region and target. A number is never given twice. The final answer stays the last word, whatever arrives after it.
//!
//! **Must not** take a target's word for anything but a metric and a log line: answers come from the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::action::{ColdReason, Notice, Outbox};
use crate::message::{Address, AnswerKind, PreloadAnswer};

/// In this order, so that the requests for a region, one for each target of its transfer, are neighbours.
type Key = (u64, Address);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum State {
    /// Whether the region is warm here is not known yet.
    Probing,
    Sent(Sent),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
struct Sent {
    number: u64,
    sends: u32,
    last_answer: Option<AnswerKind>,
}

impl Sent {
    fn is_answered(self) -> bool {
        self.last_answer.is_some_and(AnswerKind::is_final)
    }
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Request {
    deadline: Duration,
    /// When there is something to do next; `wake_at <= deadline`.
    wake_at: Duration,
    state: State,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Requests {
    requests: BTreeMap<Key, Request>,
    by_wake: BTreeSet<(Duration, Key)>,
    /// The number that was given last.
    number: u64,
}

/// What to do for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Send a request with this number.
    Send(u64),
    /// An earlier request to this target is still being answered, or waits for a probe.
    AlreadyAsked,
    AwaitProbe,
    Full,
}

/// A request that is due to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resend {
    pub(super) region_id: u64,
    pub(super) to: Address,
    pub(super) number: u64,
    /// How often it was sent so far.
    pub(super) sends: u32,
}

impl Requests {
    /// Numbers follow one another from somewhere that `seed` decides: a store that restarts had better begin elsewhere.
    pub(super) fn new(seed: u64) -> Self {
        Self { requests: BTreeMap::new(), by_wake: BTreeSet::new(), number: seed }
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.by_wake.first().map(|(at, _)| *at)
    }

    /// Remembers a request for `region_id` to `to`. Unless it is known that the region is warm here, a probe has to tell.
    pub(super) fn begin(
        &mut self,
        region_id: u64,
        to: Address,
        is_warm_here: bool,
        deadline: Duration,
        max: usize,
    ) -> Begin {
        let key = (region_id, to);
        if let Some(earlier) = self.requests.get(&key) {
            let is_replaced = match earlier.state {
                State::Sent(sent) => sent.is_answered(),
                State::Probing => is_warm_here,
            };
            if !is_replaced {
                return Begin::AlreadyAsked;
            }
            self.remove(key);
        }
        if self.requests.len() >= max {
            return Begin::Full;
        }
        let (state, begin) = if is_warm_here {
            let sent = self.new_sent();
            (State::Sent(sent), Begin::Send(sent.number))
        } else {
            (State::Probing, Begin::AwaitProbe)
        };
        self.requests.insert(key, Request { deadline, wake_at: deadline, state });
        self.by_wake.insert((deadline, key));
        begin
    }

    fn new_sent(&mut self) -> Sent {
        // Zero says that there is no number.
        self.number = self.number.wrapping_add(1).max(1);
        Sent { number: self.number, sends: 1, last_answer: None }
    }

    /// Whether a request for `region_id` waits for a probe.
    pub(super) fn awaits_probe(&self, region_id: u64) -> bool {
        self.of_region(region_id).any(|(_, request)| request.state == State::Probing)
    }

    /// A probe told whether the region is warm here; returns who waited for that, with the number of the request that is
    /// to be sent now, if any.
    pub(super) fn probed(&mut self, region_id: u64, is_warm_here: bool) -> Vec<(Address, Option<u64>)> {
        let probing = self.of_region(region_id).filter(|(_, request)| request.state == State::Probing);
        let keys: Vec<Key> = probing.map(|(key, _)| key).collect();
        let mut asked = Vec::with_capacity(keys.len());
        for key in keys {
            if is_warm_here {
                let sent = self.new_sent();
                if let Some(request) = self.requests.get_mut(&key) {
                    request.state = State::Sent(sent);
                }
                asked.push((key.1, Some(sent.number)));
            } else {
                self.remove(key);
                asked.push((key.1, None));
            }
        }
        asked
    }

    /// The request for `region_id` to `to` is to be sent again at `at`, unless something ends it before.
    pub(super) fn resend_at(&mut self, region_id: u64, to: Address, at: Duration) {
        let key = (region_id, to);
        if let Some(request) = self.requests.get_mut(&key) {
            self.by_wake.remove(&(request.wake_at, key));
            request.wake_at = at.min(request.deadline);
            self.by_wake.insert((request.wake_at, key));
        }
    }

    /// The request was sent once more.
    pub(super) fn sent_again(&mut self, region_id: u64, to: Address) {
        if let Some(Request { state: State::Sent(sent), .. }) = self.requests.get_mut(&(region_id, to)) {
            sent.sends = sent.sends.saturating_add(1);
        }
    }

    pub(super) fn answered(&mut self, answer: PreloadAnswer, outbox: &mut Outbox) {
        let PreloadAnswer { region_id, from, kind, number } = answer;
        match self.requests.get_mut(&(region_id, from)).map(|request| &mut request.state) {
            // Answers may overtake each other: the final one stays the last word.
            Some(State::Sent(sent)) if sent.number == number && !sent.is_answered() => {
                sent.last_answer = Some(kind);
                outbox.notice(Notice::AnswerReceived { region_id, from, kind });
            }
            _ => outbox.notice(Notice::AnswerUnexpected { region_id, from, kind }),
        }
    }

    /// The peer `leader_peer_id` leads the region now, on another store: the transfer is over, to whomever it went.
    pub(super) fn settle(&mut self, region_id: u64, leader_peer_id: u64, outbox: &mut Outbox) {
        let requests: Vec<(Key, Request)> = self.of_region(region_id).collect();
        for (key, request) in requests {
            self.remove(key);
            if key.1.peer_id != leader_peer_id {
                continue;
            }
            let reason = match request.state {
                State::Sent(Sent { last_answer: Some(AnswerKind::Warm), .. }) => None,
                State::Sent(Sent { last_answer: Some(kind), .. }) => Some(ColdReason::Answered(kind)),
                State::Sent(Sent { last_answer: None, .. }) => Some(ColdReason::NoAnswer),
                State::Probing => Some(ColdReason::NotCachedHere),
            };
            outbox.notice(match reason {
                None => Notice::TransferWarm { region_id, to: key.1 },
                Some(reason) => Notice::TransferCold { region_id, to: key.1, reason },
            });
        }
    }

    /// Gives up what is over at `now`, and returns a request that is due to be sent again; it is due at its deadline next.
    pub(super) fn take_due(&mut self, now: Duration, outbox: &mut Outbox) -> Option<Resend> {
        while let Some(&(at, key)) = self.by_wake.first() {
            if at > now {
                return None;
            }
            let Some(request) = self.requests.get(&key).copied().filter(|request| request.deadline > now) else {
                self.give_up(key, outbox);
                continue;
            };
            self.resend_at(key.0, key.1, request.deadline);
            match request.state {
                State::Sent(sent) if !sent.is_answered() => {
                    let (region_id, to) = key;
                    return Some(Resend { region_id, to, number: sent.number, sends: sent.sends });
                }
                State::Sent(_) | State::Probing => {}
            }
        }
        None
    }

    /// The interval may be shorter now: no wait goes on beyond `at`.
    pub(super) fn resend_all_before(&mut self, at: Duration) {
        let late: Vec<Key> =
            self.requests.iter().filter(|(_, request)| request.wake_at > at).map(|(key, _)| *key).collect();
        for (region_id, to) in late {
            self.resend_at(region_id, to, at);
        }
    }

    fn give_up(&mut self, key: Key, outbox: &mut Outbox) {
        let (region_id, to) = key;
        let Some(request) = self.remove(key) else { return };
        match request.state {
            State::Sent(sent) if !sent.is_answered() => {
                outbox.notice(Notice::AskExpired { region_id, to, sends: sent.sends, last_answer: sent.last_answer });
            }
            State::Sent(_) | State::Probing => {}
        }
    }

    fn of_region(&self, region_id: u64) -> impl Iterator<Item = (Key, Request)> + '_ {
        let all = Address { peer_id: u64::MAX, store_id: u64::MAX };
        let range = self.requests.range((region_id, Address::default())..=(region_id, all));
        range.map(|(key, request)| (*key, *request))
    }

    fn remove(&mut self, key: Key) -> Option<Request> {
        let request = self.requests.remove(&key)?;
        self.by_wake.remove(&(request.wake_at, key));
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Address = Address { peer_id: 72, store_id: 2 };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A request whose deadline is at 10 s, and its number.
    fn sent(requests: &mut Requests) -> u64 {
        match requests.begin(7, TO, true, secs(10), 9) {
            Begin::Send(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn giving_up_tells_how_often_it_was_sent_and_what_was_heard() {
        for heard in [None, Some(AnswerKind::Accepted)] {
            let (mut requests, mut outbox) = (Requests::new(1), Outbox::default());
            let number = sent(&mut requests);
            requests.resend_at(7, TO, secs(1));
            if let Some(kind) = heard {
                requests.answered(PreloadAnswer { region_id: 7, from: TO, kind, number }, &mut outbox);
            }
            let due = Resend { region_id: 7, to: TO, number, sends: 1 };
            assert_eq!(requests.take_due(secs(1), &mut outbox), Some(due));
            requests.sent_again(7, TO);
            assert_eq!((requests.take_due(secs(9), &mut outbox), requests.next_due()), (None, Some(secs(10))));
            assert_eq!(requests.take_due(secs(10), &mut outbox), None);
            let (notices, _) = outbox.take_notices();
            let is_told = matches!(notices.last(), Some(Notice::AskExpired { sends: 2, last_answer, .. }) if *last_answer == heard);
            assert!(is_told, "{notices:?}");
            assert_eq!((requests.len(), requests.by_wake.len()), (0, 0));
        }
    }

    #[test]
    fn number_is_never_zero_and_never_given_twice() {
        let mut requests = Requests::new(u64::MAX - 1);
        let numbers: BTreeSet<u64> = (0..4).map(|_| requests.new_sent().number).collect();
        assert!(numbers.len() == 4 && !numbers.contains(&0), "{numbers:?}");
    }

    #[test]
    fn transfer_that_is_over_ends_what_was_asked_of_others_too() {
        let (mut requests, mut outbox) = (Requests::new(1), Outbox::default());
        sent(&mut requests);
        let other = Address { peer_id: 73, store_id: 3 };
        requests.begin(7, other, true, secs(10), 9);
        requests.settle(7, 73, &mut outbox);
        assert_eq!(requests.len(), 0);
        let (notices, _) = outbox.take_notices();
        assert!(matches!(notices[..], [Notice::TransferCold { to, reason: ColdReason::NoAnswer, .. }] if to == other));
    }
}
