//! What an error is about, and the way out of it.
//!
//! `anyhow` carries errors up to `cli::main`, which prints one line,
//! `tool: subject: what went wrong: cause`, and below it the hint if there is
//! one. Each link of the chain adds a noun that the reader needs.

use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::path::Path;

use anyhow::Error;

/// Adds the path that an error is about.
pub trait At<T> {
    /// Puts `path` before the error.
    fn at(self, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T, E: Into<Error>> At<T> for Result<T, E> {
    fn at(self, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|err| err.into().context(path.as_ref().display().to_string()))
    }
}

/// Adds what the user can do about an error.
pub trait Hint<T> {
    /// Prints `hint` on a line of its own below the error, unless the cause has one already.
    fn hint(self, hint: impl FnOnce() -> String) -> Result<T, Error>;

    /// The same, where there is something to be said of this error.
    fn hint_if(self, hint: impl FnOnce(&Error) -> Option<String>) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|err| {
            let err = err.into();
            if hint_of(&err).is_some() {
                return err;
            }
            Error::new(Advised { hint: hint(), error: err })
        })
    }

    fn hint_if(self, hint: impl FnOnce(&Error) -> Option<String>) -> Result<T, Error> {
        self.map_err(Into::into).or_else(|err| match hint(&err) {
            Some(text) => Err(err).hint(|| text),
            None => Err(err),
        })
    }
}

/// An error with advice: it reads as the error does.
struct Advised {
    hint: String,
    error: Error,
}

impl Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.error, f)
    }
}

impl Debug for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.error, f)
    }
}

impl StdError for Advised {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.chain().nth(1)
    }
}

/// Returns the advice that `error` carries.
pub fn hint_of(error: &Error) -> Option<&str> {
    find::<Advised>(error).map(|advised| advised.hint.as_str())
}

/// Returns the `T` that `error` is, was caused by, or has for context.
pub fn find<T: Display + Debug + Send + Sync + 'static>(error: &Error) -> Option<&T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    error.chain().find_map(|link| match link.downcast_ref::<Advised>() {
        Some(advised) => find(&advised.error),
        None => None,
    })
}

/// Returns the chain of `error` as one line, its control characters escaped, since names in it may be hostile.
pub fn line(error: &Error) -> String {
    let links: Vec<String> = error.chain().map(|link| visible(&words(link))).collect();
    links.join(": ")
}

/// Returns what one link of the chain says. Of an error of the system nix has words of its own; all others have these.
fn words(link: &(dyn StdError + 'static)) -> String {
    if let Some(advised) = link.downcast_ref::<Advised>() {
        return words(advised.error.as_ref());
    }
    match link.downcast_ref::<nix::errno::Errno>() {
        Some(errno) => std::io::Error::from(*errno).to_string(),
        None => link.to_string(),
    }
}

/// The most characters that are shown from the start of a message, and from its end: names in it may
/// be as long as a file is.
const LONG: usize = 500;

/// Returns `text` with its control characters escaped, and no longer than a message may be, so that it can go to a terminal.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(2 * LONG));
    let mut show = |text: &str| {
        text.chars()
            .for_each(|c| if is_odd(c) { out.extend(c.escape_default()) } else { out.push(c) })
    };
    let start = text.char_indices().nth(LONG).map(|(at, _)| at);
    let end = text.char_indices().rev().nth(LONG - 1).map(|(at, _)| at);
    match (start, end) {
        (Some(start), Some(end)) if start < end => {
            show(&text[..start]);
            show("...");
            show(&text[end..]);
        }
        _ => show(text),
    }
    out
}

/// Returns a stranger's text as one short line.
pub fn sanitised(text: &str, limit: usize) -> String {
    let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let one_line = one_line.trim();
    match one_line.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &one_line[..end]),
        None => one_line.into(),
    }
}

/// Returns whether a character does something to a terminal, other than to be seen.
pub fn is_odd(c: char) -> bool {
    // U+202A..2069 reorder the text around them, so that a terminal shows another name.
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A command line that is wrong: exit status 2, where other errors are 1.
#[derive(Debug)]
pub struct Usage(pub String);

impl Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Usage {}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_line_reads_from_subject_to_cause() {
        let err = Err::<(), _>(std::io::Error::from_raw_os_error(30))
            .at("/x")
            .context("app")
            .unwrap_err();
        assert_eq!(line(&err), "app: /x: Read-only file system (os error 30)");
    }

    #[test]
    fn an_error_of_the_system_reads_the_same_from_every_crate() {
        let text = "/x: Input/output error (os error 5)";
        let from: [Error; 3] = [
            std::io::Error::from_raw_os_error(5).into(),
            rustix::io::Errno::IO.into(),
            nix::errno::Errno::EIO.into(),
        ];
        for err in from {
            assert_eq!(line(&Err::<(), _>(err).at("/x").unwrap_err()), text);
        }
        let advised = Err::<(), _>(nix::errno::Errno::EIO).hint(|| "another disk".into());
        assert_eq!(line(&advised.unwrap_err()), "Input/output error (os error 5)");
    }

    #[test]
    fn a_hint_is_found_at_any_depth_and_is_no_link_of_the_chain() {
        let err =
            Err::<(), _>(anyhow!("no such image")).context("app").hint(|| "img-pull app".into());
        let err = err.context("above").hint(|| "a second one".into()).unwrap_err();
        assert_eq!(line(&err), "above: app: no such image");
        assert_eq!(hint_of(&err), Some("img-pull app"));
    }

    #[test]
    fn a_type_is_found_below_a_hint() {
        let err =
            Err::<(), _>(Usage("bad".into())).hint(|| "good".into()).context("tool").unwrap_err();
        assert_eq!(find::<Usage>(&err).map(|usage| usage.0.as_str()), Some("bad"));
    }

    #[test]
    fn names_cannot_fill_the_terminal() {
        let (start, end) = ("ä".repeat(LONG), "ö".repeat(LONG));
        assert_eq!(visible(&format!("{start}{end}")), format!("{start}{end}"));
        assert_eq!(visible(&format!("{start}x{end}")), format!("{start}...{end}"));
        assert_eq!(visible(""), "");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(line(&anyhow!("\x1b[31m\n\u{202e}x")), "\\u{1b}[31m\\n\\u{202e}x");
    }
}
