//! What this store adds to the gauges of its process.
//!
//! **Owns** the numbers that this plugin has last shown.
//!
//! **How it works.** A gauge is moved by the difference to what was shown before, so that the stores of one process add up
//! instead of overwriting each other. What a plugin has shown goes with it.
//!
//! **Invariants.** A gauge is the sum of the shares in it.
//!
//! **Must not** be copied: two would take the same share away.

use prometheus::IntGauge;

use crate::{
    core::{IntentState, RegionState, Source, Status},
    metrics::{Metrics, metrics},
};

#[derive(Debug, Default)]
pub(crate) struct GaugeShare {
    shown: Status,
}

impl GaugeShare {
    pub(crate) fn show(&mut self, metrics: &Metrics, status: Status) {
        let was = std::mem::replace(&mut self.shown, status);
        let shift = |gauge: &IntGauge, number: &dyn Fn(&Status) -> usize| {
            let as_i64 = |status| i64::try_from(number(status)).unwrap_or(i64::MAX);
            gauge.add(as_i64(&status).saturating_sub(as_i64(&was)));
        };
        shift(&metrics.parked_requests, &|status| status.parked_requests);
        shift(&metrics.in_flight_requests, &|status| status.in_flight_requests);
        shift(&metrics.queued_messages, &|status| status.queued_messages);
        for state in RegionState::ALL {
            shift(&metrics.regions.with_label_values(&[state.label()]), &|status| status.census.regions(state));
        }
        for source in Source::ALL {
            for state in IntentState::ALL {
                let gauge = metrics.intents.with_label_values(&[source.label(), state.label()]);
                shift(&gauge, &|status| status.census.intents(source, state));
            }
        }
    }
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        if let Some(metrics) = metrics() {
            self.show(metrics, Status::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(requests: usize) -> Status {
        Status { parked_requests: requests, ..Status::default() }
    }

    #[test]
    fn stores_of_one_process_add_up() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (mut one, mut other) = (GaugeShare::default(), GaugeShare::default());
        one.show(&metrics, parked(3));
        other.show(&metrics, parked(4));
        assert_eq!(metrics.parked_requests.get(), 7);
        one.show(&metrics, parked(1));
        assert_eq!(metrics.parked_requests.get(), 5);
        one.show(&metrics, Status::default());
        other.show(&metrics, Status::default());
        assert_eq!(metrics.parked_requests.get(), 0);
    }
}
