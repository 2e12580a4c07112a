//! What every engine and every log store promises, as test cases.
//!
//! # What it owns
//! The cases, each a function named by the behaviour that it checks, in [`kv`] and [`log`].
//!
//! # How it works
//! 1. An engine's tests implement [`KvFactory`] (or [`LogFactory`]) with a fresh directory per value.
//! 2. [`kv_engine_conformance!`](crate::kv_engine_conformance) makes one `#[test]` of each case, with a factory each.
//!
//! # Invariants
//! - A case uses only the traits, so that it says the same of every engine.
//!
//! # What it must not do
//! Check what a power failure leaves: no real disk can be asked to fail. The in-memory engines have own tests for it.

use std::path::{Path, PathBuf};

use engine_traits::{KvEngine, LogStore, Result};

pub mod kv;
pub mod log;

/// How the suite gets at a [`KvEngine`].
pub trait KvFactory {
    type Engine: KvEngine;

    /// Opens the engine at `path`, creating it when there is none. Each path is opened only once at a time.
    fn open(&self, path: &Path) -> Result<Self::Engine>;

    /// A directory for the test; it exists when the engine uses real files.
    fn dir(&self) -> PathBuf;
}

/// How the suite gets at a [`LogStore`].
pub trait LogFactory {
    type Store: LogStore;

    /// Opens the store at `path`, creating it when there is none. Each path is opened only once at a time.
    fn open(&self, path: &Path) -> Result<Self::Store>;

    /// A directory for the test; it exists when the store uses real files.
    fn dir(&self) -> PathBuf;
}

/// Makes a `#[test]` of each case for [`KvEngine`]s; the argument is an expression that makes a new
/// [`KvFactory`](crate::conformance::KvFactory).
#[macro_export]
macro_rules! kv_engine_conformance {
    ($factory:expr) => {
        $crate::conformance_tests!(kv, $factory;
            values_are_put_read_and_deleted_in_each_family
            families_do_not_share_keys
            empty_values_and_odd_keys_are_kept
            keys_that_no_engine_stores_are_refused_and_nothing_is_written
            an_empty_batch_is_written
            a_batch_spans_families
            the_last_mutation_of_a_key_in_a_batch_wins
            delete_range_is_half_open
            delete_range_covers_earlier_puts_of_its_batch_only
            delete_range_of_an_empty_or_inverted_range_does_nothing
            delete_range_stays_in_its_family
            a_replaced_range_holds_the_records_and_nothing_else
            many_records_replace_many_records
            a_replaced_range_is_there_after_reopening_and_can_be_written_to
            records_that_end_with_an_error_change_nothing
            a_snapshot_does_not_see_later_writes
            a_cursor_does_not_see_later_writes
            a_snapshot_outlives_its_engine_handle
            a_new_cursor_is_not_valid
            cursors_stay_within_their_bounds
            cursors_over_empty_or_inverted_bounds_find_nothing
            seek_finds_the_first_key_at_or_after
            seek_for_prev_finds_the_last_key_at_or_before
            a_cursor_changes_direction_at_any_key
            a_cursor_that_ran_off_an_end_stays_invalid_until_it_is_positioned
            keys_longer_than_any_stored_one_can_be_sought
            engine_equals_a_sorted_map
            what_was_synced_is_there_after_reopening
            what_was_written_is_there_after_reopening
            a_checkpoint_opens_and_holds_what_was_written_before
            a_checkpoint_refuses_an_existing_path
            readers_see_whole_batches_while_others_write
            delete_ranges_and_puts_of_two_threads_do_not_mix
        );
    };
}

/// Makes a `#[test]` of each case for [`LogStore`]s; the argument is an expression that makes a new
/// [`LogFactory`](crate::conformance::LogFactory).
#[macro_export]
macro_rules! log_store_conformance {
    ($factory:expr) => {
        $crate::conformance_tests!(log, $factory;
            a_new_store_is_empty
            entries_come_back_as_they_were_appended
            entries_are_cut_by_size_but_at_least_one_comes
            missing_entries_are_named
            appending_over_entries_drops_the_conflicting_suffix
            appending_below_the_log_replaces_it
            appending_with_a_gap_is_refused_and_nothing_is_written
            compaction_drops_the_entries_below
            compaction_of_the_whole_log_leaves_room_for_any_entry
            clearing_a_log_keeps_the_rest_of_the_region
            cleaning_drops_all_of_a_region
            operations_of_a_batch_apply_in_order
            regions_are_those_with_a_raft_state
            the_store_ident_is_kept_and_is_no_region
            a_pending_snapshot_is_kept_until_it_is_forgotten
            a_pending_snapshot_may_be_large
            an_empty_batch_is_written
            all_of_it_is_there_after_reopening
            a_cleared_log_can_grow_again_after_reopening
            log_store_equals_a_model
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($suite:ident, $factory:expr; $($case:ident)+) => {
        mod conformance {
            #[allow(unused_imports)] // Whether the expression needs them is the caller's business.
            use super::*;

            $(
                #[test]
                fn $case() {
                    $crate::conformance::$suite::$case(&$factory);
                }
            )+
        }
    };
}
