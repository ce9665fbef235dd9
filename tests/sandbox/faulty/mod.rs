//! A registry that does to its client whatever a test wants done.
//!
//! ```text
//! message   what was asked, and a reply: right, or wrong at any place one can think of
//! server    sends replies on a port of its own, over TCP or TLS, and logs what was asked
//! content   an image in memory, and how a registry that is well answers for it
//! shelf     what such a registry does with what is pushed
//! tls       certificates that are good, and others
//! net       a network with names, addresses and nobody else on it
//! fault     a row of a table: what happens, and what must come of it
//! ```
//!
//! The unit tests of common's client look at its decisions, one at a time, with
//! a smaller server of their own. Here a program is run as a user runs it, and
//! what is looked at is what it leaves behind: the image and nothing but the image,
//! or an error and no name; and who has seen the password.
//!
pub mod content;
pub mod fault;
pub mod message;
pub mod net;
pub mod server;
pub mod shelf;
pub mod tls;
