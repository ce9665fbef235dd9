//! What a source of ADD is: a path in the context, a URL, a Git repository.

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or a pattern.
    Path,
    /// What HTTP has there.
    Http,
    /// A Git repository: `https://host/repo.git#ref:dir`, `git@host:repo`, `ssh://` and `git://`.
    Git,
}

impl Source {
    /// Returns what `text` is.
    pub fn of(text: &str) -> Source {
        let letters = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        let (scheme, rest) = text.split_at(letters);
        let Some(rest) = rest.strip_prefix("://").filter(|_| !scheme.is_empty()) else {
            return if is_scp(text) { Source::Git } else { Source::Path };
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let is_url = port_is_number(host);
        match scheme.to_ascii_lowercase().as_str() {
            "ssh" | "git" if is_url => Source::Git,
            "http" | "https" if is_url && path.ends_with(".git") => Source::Git,
            // Only these spellings are looked for.
            _ if matches!(scheme, "http" | "https") => Source::Http,
            _ => Source::Path,
        }
    }
}

/// Returns whether what is behind the colon of `user@host:port` is a number or nothing.
fn port_is_number(host: &str) -> bool {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let host = host.rsplit_once(']').map_or(host, |(_, port)| port);
    host.split_once(':').is_none_or(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()))
}

/// Returns whether `text` is `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let part = |text: &str, more: &[char]| {
        let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(&c);
        !text.is_empty() && text.chars().all(fits)
    };
    part(user, &['-', '_']) && part(host, &['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_its_looks() {
        let table = [
            ("a", Source::Path),
            ("./a", Source::Path),
            ("a:b", Source::Path),
            ("a@b", Source::Path),
            ("github.com/a/b.git", Source::Path),
            ("http://h/a", Source::Http),
            ("https://h/a.tar.gz", Source::Http),
            ("https://h", Source::Http),
            ("https://h.git", Source::Http),
            ("https://h/a.git", Source::Git),
            ("https://h/a.git#main:dir", Source::Git),
            ("https://h/a.git?ref=x", Source::Git),
            ("https://h/a?b.git", Source::Http),
            ("HTTPS://h/a", Source::Path),
            ("HTTPS://h/a.git", Source::Git),
            ("git://h/a", Source::Git),
            ("ssh://git@h:22/a", Source::Git),
            ("ssh://h:x/a", Source::Path),
            ("git@h:a/b.git", Source::Git),
            ("git@h:a#main", Source::Git),
            ("g.it@h:a", Source::Path),
            ("@h:a", Source::Path),
            ("ftp://h/a", Source::Path),
            ("file:///a.git", Source::Path),
            ("://a", Source::Path),
            ("", Source::Path),
        ];
        for (text, expected) in table {
            assert_eq!(Source::of(text), expected, "{text}");
        }
    }
}
