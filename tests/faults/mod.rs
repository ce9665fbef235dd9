//! A machine that fails: whatever happens, what was there before is still there and valid.
//!
//! ```text
//! sweep     death, and each error, at each system call that changes something
//! order     what is on the disk when a result is printed
//! full      disks without space, and without inodes
//! power     disks that lose their power
//! writers   many at once, and a prune among them
//! ```
//!
//! [`layout`] is the judge of all of them.

pub mod layout;

mod full;
mod order;
mod power;
mod sweep;
mod writers;
