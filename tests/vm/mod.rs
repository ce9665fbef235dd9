//! In a virtual machine: its plug pulled, cgroup version 2 alone, and Linux 6.1.

mod guest;
mod machine;
mod plug;
