//! The races for a minute each, and what takes numbers to go wrong.

use super::races::{Effort, files, kernels_directories, many, patient, volume};

const LONG: Effort = Effort { seconds: 60, rounds: 1000 };

#[test]
fn a_volume_that_changes_leads_nowhere_else_for_a_minute() {
    volume(&patient(false), LONG);
    volume(&patient(true), LONG);
}

#[test]
fn what_is_written_to_the_kernel_goes_nowhere_else_for_a_minute() {
    kernels_directories(&patient(false), LONG);
    kernels_directories(&patient(true), LONG);
}

#[test]
fn files_that_change_lead_nowhere_else_for_a_minute() {
    files(&patient(false), LONG);
    files(&patient(true), LONG);
}

#[test]
fn a_thousand_containers_leave_nothing() {
    many(&patient(false), 1000);
    many(&patient(true), 1000);
}

#[test]
fn ten_thousand_orphans_are_reaped() {
    super::ends::orphans(&patient(false), 10_000);
    super::ends::orphans(&patient(true), 10_000);
}

#[test]
fn a_start_that_fails_anywhere_leaves_nothing() {
    // Not as an ordinary user: strace takes the privilege from newuidmap.
    super::ends::failures(&patient(false), |count| (1..=count).collect());
}
