//! What the tools share, in floors. A module imports from no floor above its own.
//!
//! ```text
//! cli                        operands, result lines, --format, exit status: what all mains share
//! container  registry        a container's directory · the distribution API
//! bundle                     an image's config as a runtime spec
//! runtime                    runs one OCI runtime spec
//! used  facts                when images were used last · what is known of them for ever
//! store  snapshot  files     where things are on this host · layers, unpacked and mounted as one · what they have, unpacked or not
//! credentials                who the user is to registries: docker's and podman's files, and helpers
//! layout  archive  layer     OCI layout · layout <-> tar stream · layer tar <-> directory
//! overlay  tree  userns  passwd     mounts · trees of files · the ids of users, outside and inside
//! image digest reference platform path template human    plain values: parse, print, compare; no I/O
//! confine                    what a process gives up before it reads hostile bytes
//! error  sys                 what an error is about and the way out · the only file with unsafe
//! ```

pub mod archive;
pub mod bundle;
pub mod cli;
pub mod confine;
pub mod container;
pub mod credentials;
pub mod digest;
pub mod error;
pub mod facts;
pub mod files;
pub mod human;
pub mod image;
pub mod layer;
pub mod layout;
pub mod overlay;
pub mod passwd;
pub mod path;
pub mod platform;
pub mod reference;
#[cfg(feature = "registry")]
pub mod registry;
pub mod runtime;
pub mod snapshot;
pub mod store;
pub mod sys;
pub mod template;
pub mod tree;
pub mod used;
pub mod userns;
