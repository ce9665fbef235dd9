//! Capabilities: their numbers, Docker's default set, and sets as the kernel takes them.
//!
//! capabilities(7); the numbers are those of linux/capability.h, and a set is a
//! word with bit N for capability N, as capset(2) and /proc/self/status have it.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// Every capability, at the index that is its number.
pub const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What Docker leaves to a container.
pub const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// Returns the number of `capability`.
pub fn number(capability: Capability) -> u32 {
    // `ALL` has every variant: a test counts them.
    ALL.iter().position(|known| *known == capability).unwrap() as u32
}

/// Returns the word that stands for `set`.
pub fn bits(set: &Capabilities) -> u64 {
    set.iter().fold(0, |bits, capability| bits | 1 << number(*capability))
}

/// The five sets of a process, as words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// The most that an exec can give.
    pub bounding: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What a file's inheritable capabilities can keep.
    pub inheritable: u64,
    /// The most that can become effective.
    pub permitted: u64,
    /// What an ordinary exec keeps.
    pub ambient: u64,
}

impl From<&LinuxCapabilities> for Sets {
    fn from(sets: &LinuxCapabilities) -> Sets {
        let word = |set: &Option<Capabilities>| set.as_ref().map_or(0, bits);
        Sets {
            bounding: word(sets.bounding()),
            effective: word(sets.effective()),
            inheritable: word(sets.inheritable()),
            permitted: word(sets.permitted()),
            ambient: word(sets.ambient()),
        }
    }
}

/// Returns the sets that a process of `uid` starts with when the container has `set`.
///
/// Only uid 0 has them in effect: as anybody else a set-user-ID program may
/// still gain them. Nothing is inheritable or ambient, else files that carry
/// capabilities would hand them on (CVE-2022-24769).
pub fn of_user(uid: u32, set: &Capabilities) -> LinuxCapabilities {
    let held = if uid == 0 { set.clone() } else { Capabilities::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_kernels() {
        let table = [
            ("CHOWN", 0),
            ("SETPCAP", 8),
            ("NET_ADMIN", 12),
            ("SYS_MODULE", 16),
            ("SYS_ADMIN", 21),
            ("SYS_TIME", 25),
            ("MKNOD", 27),
            ("SETFCAP", 31),
            ("SYSLOG", 34),
            ("PERFMON", 38),
            ("BPF", 39),
            ("CHECKPOINT_RESTORE", 40),
        ];
        for (name, expected) in table {
            let capability: Capability = name.parse().unwrap();
            assert_eq!(number(capability), expected, "{name}");
        }
    }

    #[test]
    fn every_capability_has_one_number() {
        let all = Capabilities::from(ALL);
        assert_eq!(all.len(), ALL.len());
        assert_eq!(bits(&all), (1 << 41) - 1);
    }

    #[test]
    fn the_default_is_the_word_that_docker_shows() {
        assert_eq!(bits(&Capabilities::from(DEFAULT)), 0xa80425fb);
    }

    #[test]
    fn only_root_holds_what_the_container_may_have() {
        let set = Capabilities::from(DEFAULT);
        let root = Sets::from(&of_user(0, &set));
        let word = 0xa80425fb;
        let expected = Sets { bounding: word, effective: word, permitted: word, ..Sets::default() };
        assert_eq!(root, expected);
        let other = Sets::from(&of_user(1000, &set));
        assert_eq!(other, Sets { bounding: word, ..Sets::default() });
    }
}
