//! Here-documents: `RUN <<EOF`, `COPY <<-"EOF" /etc/motd`, several in one instruction.
//!
//! ```text
//! [N]<<[-]WORD      up to a line that is WORD
//!   N               the file descriptor, which only a shell looks at
//!   -               tabs at the start of the lines are dropped, WORD's too
//!   WORD            with a quote anywhere in it, no variable in the text is replaced
//! ```
//!
//! Only ADD, COPY and RUN have them, also as an ONBUILD trigger, and not in their
//! JSON form. A word must begin with them: `cat<<EOF` has none. Escapes in WORD
//! are backslashes whatever the directive `escape` says, as BuildKit has it.

use super::words::Lexer;
use crate::error::Result;

/// A here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, without its quotes; the name of the file that COPY makes of it.
    pub name: String,
    /// The file descriptor that a shell would give it.
    pub descriptor: u64,
    /// Whether variables in it are replaced by COPY and ADD: no part of the word was quoted.
    pub expand: bool,
    /// Whether tabs at the start of lines are dropped.
    pub chomp: bool,
    /// The lines, each with its newline, before any tab is dropped.
    pub content: String,
}

impl Heredoc {
    /// Reads what begins a here-document, if `word` is that; it has no content yet.
    pub fn begin(word: &str) -> Result<Option<Heredoc>> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (descriptor, rest) = word.split_at(digits);
        let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let lexer = Lexer::new('\\').keep_unset();
        let [name] = &lexer.expand(rest, &())?.words[..] else { return Ok(None) };
        let [raw] = &lexer.keep_quotes().expand(rest, &())?.words[..] else { return Ok(None) };
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        Ok(Some(Heredoc {
            name: name.clone(),
            descriptor: match descriptor {
                "" => 0,
                digits => digits.parse().unwrap_or(u64::MAX),
            },
            expand: quotes(name) == quotes(raw),
            chomp,
            content: String::new(),
        }))
    }

    /// Returns the here-documents that a line of an instruction begins, in order.
    pub fn all(line: &str) -> Result<Vec<Heredoc>> {
        let lexer = Lexer::new('\\').keep_quotes().keep_escapes().keep_unset();
        // A line that is no words, RUN echo it's, has none either.
        let words = lexer.expand(line, &()).map(|line| line.words).unwrap_or_default();
        words.iter().filter_map(|word| Heredoc::begin(word).transpose()).collect()
    }

    /// Returns whether `line`, without its newline, ends it.
    pub fn ends_at(&self, line: &[u8]) -> bool {
        let tabs = line.iter().take_while(|c| self.chomp && **c == b'\t').count();
        &line[tabs..] == self.name.as_bytes()
    }

    /// Returns what is in the file: the content, without the tabs that are dropped.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// Returns a line and its here-documents, as they were in the file.
pub fn with_heredocs(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    text
}
