//! The ordinary user that tests run as when they are started by root.

use std::process::Command;
use std::sync::OnceLock;

use nix::unistd;

/// The user's name. useradd gives it subordinate ids, as it gives them to people.
const NAME: &str = "tare-test";

/// Somebody of whom no file says anything, so that there are no subordinate ids.
const STRANGER: u32 = 54321;

/// Somebody without privilege.
#[derive(Clone)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub name: &'static str,
}

impl User {
    /// Returns the user that the tests share, who is added to the machine if absent.
    pub fn of_tests() -> User {
        static USER: OnceLock<User> = OnceLock::new();
        USER.get_or_init(|| {
            if unistd::User::from_name(NAME).unwrap().is_none() {
                let args = ["--no-create-home", "--shell", "/usr/sbin/nologin", NAME];
                let added = Command::new("useradd").args(args).output().expect("useradd");
                // Status 9: another run of the tests was faster.
                assert!(matches!(added.status.code(), Some(0 | 9)), "useradd: {added:?}");
            }
            let user = unistd::User::from_name(NAME).unwrap().expect("useradd added the user");
            User { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: NAME }
        })
        .clone()
    }

    /// Returns a user who has one id and no more.
    pub fn stranger() -> User {
        User { uid: STRANGER, gid: STRANGER, name: "stranger" }
    }
}
