//! The challenge of a 401 response: `WWW-Authenticate`, RFC 9110, section 11.6.1.
//!
//! ```text
//! Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="..."
//! Basic realm="registry", charset="UTF-8"
//! ```
//!
//! The text is a stranger's. What does not follow the grammar ends the list;
//! it is never guessed at.

/// Longer headers are not read.
const LIMIT: usize = 16 << 10;

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// `basic`, `bearer`, ..., in lower case.
    pub scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the parameter of this name, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads one header; it may hold several challenges.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > LIMIT {
        return challenges;
    }
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else { return challenges };
        // `name = value` belongs to the scheme before it; a word alone is the next scheme.
        match (after.trim_start_matches([' ', '\t']).strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else {
                    return challenges;
                };
                let name = word.to_ascii_lowercase();
                // RFC 9110, section 11.2: a name occurs once. The first counts.
                if challenge.get(&name).is_none() {
                    challenge.params.push((name, value));
                }
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                let scheme = word.to_ascii_lowercase();
                challenges.push(Challenge { scheme, params: Vec::new() });
                rest = token68(after).unwrap_or(after);
            }
        }
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let end = text.bytes().position(|b| !ok(b)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Skips the one datum that a scheme may have in place of parameters: `Negotiate YII==`.
fn token68(text: &str) -> Option<&str> {
    let datum = text.strip_prefix(' ')?.trim_start_matches(' ');
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
    let end = datum.bytes().position(|b| !ok(b)).unwrap_or(datum.len());
    let after = datum[end..].trim_start_matches('=');
    (end > 0 && (after.is_empty() || after.starts_with(','))).then_some(after)
}

fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read_as_registries_send_them() {
        let hub = parse(
            "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
             scope=\"repository:library/app:pull,push\"",
        );
        assert_eq!(hub.len(), 1);
        assert_eq!(hub[0].scheme, "bearer");
        assert_eq!(hub[0].get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(hub[0].get("scope"), Some("repository:library/app:pull,push"));
        assert_eq!(hub[0].get("error"), None);

        let two = parse("Basic realm=\"a \\\"b\\\", c\" , BEARER Realm = x , service=y");
        assert_eq!(two.len(), 2);
        assert_eq!(two[0].get("realm"), Some("a \"b\", c"));
        assert_eq!((two[1].scheme.as_str(), two[1].get("realm")), ("bearer", Some("x")));

        let other = parse("Negotiate YII+/a==, Basic realm=x");
        assert_eq!(other.len(), 2);
        assert_eq!(other[1].get("realm"), Some("x"));
        assert_eq!(parse("Basic"), [Challenge { scheme: "basic".into(), params: vec![] }]);
    }

    #[test]
    fn what_breaks_the_grammar_ends_the_list() {
        for bad in ["", ",,", "=x", "\"", "Bearer realm=\"open", "Bearer realm=\"open\\"] {
            assert!(parse(bad).iter().all(|challenge| challenge.params.is_empty()), "{bad:?}");
        }
        assert_eq!(parse("Bearer realm=a,realm=b")[0].get("realm"), Some("a"));
        assert!(parse(&"x, ".repeat(LIMIT)).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            parse(&text);
        }

        #[test]
        fn what_is_quoted_comes_back(value in "[^\u{0}-\u{1f}]{0,60}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let read = parse(&format!("Bearer realm=\"{quoted}\", service=s"));
            prop_assert_eq!(read[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(read[0].get("service"), Some("s"));
        }
    }
}
