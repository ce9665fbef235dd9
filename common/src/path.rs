//! Paths as text: `a/./b/../c` is `a/c`.

/// Returns the shortest path that names the same: Go's path.Clean.
///
/// It is text that is changed. What `..` behind a symbolic link would be is not asked.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    match (rooted, path.is_empty()) {
        (true, _) => format!("/{path}"),
        (false, true) => ".".into(),
        (false, false) => path,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_as_short_as_can_be() {
        let table = [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//", "/"),
            ("a", "a"),
            ("a/", "a"),
            ("a//b", "a/b"),
            ("./a/.", "a"),
            ("a/..", "."),
            ("a/../..", ".."),
            ("../a", "../a"),
            ("../../a/../b", "../../b"),
            ("/..", "/"),
            ("/../a", "/a"),
            ("/a/../../b", "/b"),
            ("a/b/../c/./d", "a/c/d"),
            ("...", "..."),
            ("!/a", "!/a"),
            ("!a/..", "."),
        ];
        for (path, expected) in table {
            assert_eq!(clean(path), expected, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_clean_stays_so(path in "[a./]{0,16}") {
            let once = clean(&path);
            prop_assert_eq!(clean(&once), once.clone());
            prop_assert_eq!(once.starts_with('/'), path.starts_with('/'));
            prop_assert!(!once.contains("//") && !once.contains("/./"));
        }
    }
}
