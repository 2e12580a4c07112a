//! A listener follows what the plugin does.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Happening, core::Notice, test_support::*};

/// What the listener of a bench has been told, in a word each.
fn follow(bench: &Bench) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    bench.observer.set_listener(Arc::new(move |happening| {
        told.lock().push(match happening {
            Happening::Notice(Notice::Forwarded { region_id, from, .. }) => {
                format!("forwarded {region_id} from {}", from.store_id)
            }
            Happening::Notice(Notice::Warm { region_id, source, .. }) => format!("warm {region_id} {}", source.label()),
            Happening::Notice(Notice::Finished { region_id, label, .. }) => format!("finished {region_id} {label}"),
            Happening::Notice(other) => format!("{other:?}"),
            Happening::AnswerSent(answer) => format!("answer {} {}", answer.request.region_id, answer.body.label()),
            Happening::LoadStarted { region_id } => format!("load {region_id}"),
        });
    }));
    heard
}

#[test]
fn listener_hears_of_a_request_from_its_arrival_to_its_final_answer() {
    let bench = Bench::new();
    let heard = follow(&bench);
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(100);
    bench.cache.finish_loads();
    bench.millis(20);
    let heard = heard.lock().clone();
    for expected in
        ["forwarded 7 from 2", "answer 7 accepted", "load 7", "answer 7 warm", "finished 7 warm", "warm 7 request"]
    {
        assert_eq!(heard.iter().filter(|line| *line == expected).count(), 1, "{expected}: {heard:?}");
    }
}

#[test]
fn listener_is_told_by_the_worker_and_never_by_a_hook() {
    let bench = Bench::new();
    let heard = follow(&bench);
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.receive(&request(8));
    bench.destroy(&region(7));
    assert_eq!(*heard.lock(), [""; 0]);
    bench.observer.step();
    assert!(!heard.lock().is_empty());
}

/// It may ask the plugin, as a status page does.
#[test]
fn listener_holds_no_lock_of_the_plugin() {
    let bench = Bench::new();
    let seen = Arc::new(Mutex::new(None));
    let (observer, sees) = (bench.observer.clone(), seen.clone());
    bench.observer.set_listener(Arc::new(move |_| *sees.lock() = observer.region_status(7)));
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(20);
    assert!(seen.lock().as_ref().is_some_and(|status| status.waiting_requests == 1));
}
