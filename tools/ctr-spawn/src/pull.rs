//! Gets an image that is not here, when it is asked to.

use anyhow::Result;
use common::cli::{Found, Operand, pull};
use common::error;
use common::layout::Absent;
use common::store::Store;

use crate::options::Pull;

/// Returns the image that `operand` names; an image in a registry is pulled as `when` says.
pub fn find(operand: Operand, store: &Store, when: Pull) -> Result<Found> {
    if let (Pull::Always, Operand::Name(name) | Operand::Id(_, Some(name))) = (when, &operand) {
        return pull(name, &[], store)?.find_in_store(store);
    }
    match operand.find_in_store(store) {
        Err(err) if when == Pull::Missing => match error::find::<Absent>(&err) {
            Some(Absent(name)) => pull(name, &[], store)?.find_in_store(store),
            None => Err(err),
        },
        found => found,
    }
}
