//! Text to nodes.

use std::str::CharIndices;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Number;

use super::functions::FUNCTIONS;
use super::value::Value;
use super::{Expr, Node, Pipeline};

/// How deep blocks and parentheses may nest, so that no template overflows the stack.
const DEPTH: usize = 64;

/// A piece of an action.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `.A.B`, `.`
    Field(Vec<String>),
    /// `$x.A`, `$`
    Variable(String, Vec<String>),
    Literal(Value),
    Open,
    /// `)`, and the fields of what it closes.
    Close(Vec<String>),
    Pipe,
    Comma,
    Declare,
    Assign,
}

/// Text, or the tokens between `{{` and `}}`.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>> {
    let pieces = split(text)?;
    let mut parser = Parser { pieces: pieces.into_iter() };
    match parser.block(0, false)? {
        (nodes, None) => Ok(nodes),
        (_, Some(end)) => bail!("unexpected {{{{{}}}}}", end.keyword),
    }
}

/// Cuts the text into pieces; `{{-` and `-}}` take the blanks beside them away.
fn split(mut text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut trim = false;
    loop {
        let (before, action) = match text.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (text, None),
        };
        let mut before = if trim { before.trim_start() } else { before };
        let Some(mut action) = action else {
            pieces.push(Piece::Text(before.into()));
            return Ok(pieces);
        };
        if let Some(rest) =
            action.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace))
        {
            (before, action) = (before.trim_end(), rest);
        }
        pieces.push(Piece::Text(before.into()));
        let (tokens, rest, trims) = lex(action)?;
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens));
        }
        (text, trim) = (rest, trims);
    }
}

/// Reads the tokens of an action, up to its end; returns what follows, and whether blanks there go.
///
/// A comment has no tokens.
fn lex(action: &str) -> Result<(Option<Vec<Token>>, &str, bool)> {
    if let Some(comment) = action.trim_start().strip_prefix("/*") {
        let (_, rest) = comment.split_once("*/").context("a comment without its end")?;
        return match (rest.strip_prefix("}}"), rest.trim_start().strip_prefix("-}}")) {
            (Some(rest), _) => Ok((None, rest, false)),
            (None, Some(rest)) => Ok((None, rest, true)),
            (None, None) => bail!("a comment ends right before }}}}"),
        };
    }
    let mut tokens = Vec::new();
    let mut rest = action;
    loop {
        let trimmed = rest.trim_start();
        let blank = trimmed.len() < rest.len();
        rest = trimmed;
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((Some(tokens), after, false));
        }
        if blank && let Some(after) = rest.strip_prefix("-}}") {
            return Ok((Some(tokens), after, true));
        }
        let Some(first) = rest.chars().next() else { bail!("{{{{ without }}}}") };
        let token;
        (token, rest) = match first {
            '"' => {
                let (text, after) = quoted(rest, '"')?;
                (Token::Literal(text.into()), after)
            }
            '`' => {
                let (raw, after) = rest[1..].split_once('`').context("` without its end")?;
                (Token::Literal(raw.into()), after)
            }
            '\'' => {
                let (quoted, after) = quoted(rest, '\'')?;
                let mut chars = quoted.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => (Token::Literal((c as usize).into()), after),
                    _ => bail!("'{quoted}': not one character; a string has double quotes"),
                }
            }
            '(' => (Token::Open, &rest[1..]),
            ')' => {
                let (fields, after) = fields(&rest[1..])?;
                (Token::Close(fields), after)
            }
            '|' => (Token::Pipe, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            ':' if rest.starts_with(":=") => (Token::Declare, &rest[2..]),
            '=' => (Token::Assign, &rest[1..]),
            '$' => {
                let (name, after) = word(&rest[1..]);
                let (fields, after) = fields(after)?;
                (Token::Variable(name.into(), fields), after)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => match word(&rest[1..]) {
                ("", after) => (Token::Field(Vec::new()), after),
                _ => {
                    let (fields, after) = fields(rest)?;
                    (Token::Field(fields), after)
                }
            },
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => number(rest)?,
            c if c.is_alphabetic() || c == '_' => {
                let (name, after) = word(rest);
                let token = match name {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Nil),
                    name => Token::Word(name.into()),
                };
                (token, after)
            }
            c => bail!("unexpected {c:?} in a template"),
        };
        tokens.push(token);
    }
}

/// Reads `.A.B`.
fn fields(mut text: &str) -> Result<(Vec<String>, &str)> {
    let mut fields = Vec::new();
    while let Some(rest) = text.strip_prefix('.') {
        let (name, after) = word(rest);
        ensure!(!name.is_empty(), "a dot without a field's name");
        fields.push(name.into());
        text = after;
    }
    Ok((fields, text))
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// Reads a number as Go writes it: `42`, `-1_000`, `0x2a`, `0b1`, `0o7`, `07`, `.5`, `1e3`.
fn number(text: &str) -> Result<(Token, &str)> {
    let end =
        text.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '+' | '_'));
    let (digits, after) = text.split_at(end.unwrap_or(text.len()));
    let plain = digits.replace('_', "").to_ascii_lowercase();
    let (sign, magnitude) = match plain.strip_prefix('-') {
        Some(magnitude) => ("-", magnitude),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let whole = |digits: &str, radix| match digits.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        true => i64::from_str_radix(&format!("{sign}{digits}"), radix).ok(),
        false => None, // a second sign
    };
    let is_number = magnitude.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = match magnitude.get(..2) {
        Some("0x") => whole(&magnitude[2..], 16).map(Number::from),
        Some("0b") => whole(&magnitude[2..], 2).map(Number::from),
        Some("0o") => whole(&magnitude[2..], 8).map(Number::from),
        _ if magnitude.bytes().all(|b| b.is_ascii_digit()) => {
            let octal = magnitude.len() > 1 && magnitude.starts_with('0');
            whole(magnitude, if octal { 8 } else { 10 }).map(Number::from)
        }
        _ if is_number => plain.parse().ok().and_then(Number::from_f64),
        _ => None,
    };
    let value = value.with_context(|| format!("{digits}: not a number"))?;
    Ok((Token::Literal(Value::Number(value)), after))
}

/// Reads what stands between two marks, with Go's escapes.
fn quoted(text: &str, mark: char) -> Result<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    chars.next();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == mark => return Ok((out, &text[at + 1..])),
            '\n' => break,
            '\\' => out.push(escape(&mut chars, mark)?),
            c => out.push(c),
        }
    }
    bail!("{mark} without its end")
}

/// Reads an escape, after its backslash.
fn escape(chars: &mut CharIndices, mark: char) -> Result<char> {
    let (_, escape) = chars.next().with_context(|| format!("{mark} without its end"))?;
    let mut code = |radix, first: Option<char>, digits: usize| {
        let digits: String =
            first.into_iter().chain(chars.by_ref().take(digits).map(|(_, c)| c)).collect();
        let plain = !digits.starts_with('+');
        let code = u32::from_str_radix(&digits, radix).ok().filter(|_| plain);
        let code = code.and_then(char::from_u32);
        code.with_context(|| format!("\\{escape}: not followed by the number of a character"))
    };
    Ok(match escape {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        '\\' => '\\',
        c if c == mark => c,
        'x' => code(16, None, 2)?,
        'u' => code(16, None, 4)?,
        'U' => code(16, None, 8)?,
        '0'..='7' => code(8, Some(escape), 2)?,
        _ => bail!("\\{escape}: unknown escape"),
    })
}

/// `else` or `end`, which closes a block.
struct End {
    keyword: &'static str,
    /// What follows `else`: `if x`, `with x`.
    rest: Vec<Token>,
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
}

impl Parser {
    /// Reads nodes up to what closes the block, or the end of the text.
    fn block(&mut self, depth: usize, in_range: bool) -> Result<(Vec<Node>, Option<End>)> {
        ensure!(depth < DEPTH, "blocks nest deeper than {DEPTH}");
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let mut tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let mut rest = || tokens.split_off(1);
            nodes.push(match keyword.as_str() {
                "end" => return Ok((nodes, Some(End { keyword: "end", rest: rest() }))),
                "else" => return Ok((nodes, Some(End { keyword: "else", rest: rest() }))),
                "if" | "with" | "range" => self.branch(&keyword, rest(), depth + 1, in_range)?,
                "break" if in_range => Node::Break,
                "continue" if in_range => Node::Continue,
                "break" | "continue" => bail!("{{{{{keyword}}}}} outside {{{{range}}}}"),
                "define" | "template" | "block" => bail!("{{{{{keyword}}}}} is not supported"),
                _ => Node::Print(pipeline(&tokens)?),
            });
        }
        Ok((nodes, None))
    }

    /// Reads `if`, `with` or `range`, after that word.
    fn branch(
        &mut self,
        keyword: &str,
        head: Vec<Token>,
        depth: usize,
        in_range: bool,
    ) -> Result<Node> {
        let head = pipeline(&head)?;
        let in_body = in_range || keyword == "range";
        let (then, end) = self.block(depth, in_body)?;
        let end = end.with_context(|| format!("{{{{{keyword}}}}} without {{{{end}}}}"))?;
        let otherwise = match (end.keyword, end.rest.first()) {
            ("end", _) => Vec::new(),
            (_, Some(Token::Word(word))) if word == keyword && keyword != "range" => {
                // {{else if x}} needs no {{end}} of its own.
                vec![self.branch(&word.clone(), end.rest[1..].to_vec(), depth + 1, in_range)?]
            }
            (_, Some(_)) => bail!("{{{{else}}}} of {{{{{keyword}}}}} takes nothing else"),
            (_, None) => match self.block(depth, in_range)? {
                (nodes, Some(End { keyword: "end", .. })) => nodes,
                (_, Some(_)) => bail!("{{{{else}}}} twice"),
                (_, None) => bail!("{{{{{keyword}}}}} without {{{{end}}}}"),
            },
        };
        Ok(match keyword {
            "if" => Node::If { condition: head, then, otherwise },
            "with" => Node::With { value: head, then, otherwise },
            _ => Node::Range { over: head, body: then, otherwise },
        })
    }
}

/// Reads a whole action as a pipeline.
fn pipeline(tokens: &[Token]) -> Result<Pipeline> {
    let (pipeline, rest) = commands(tokens, 0)?;
    match rest {
        [] => Ok(pipeline),
        [token, ..] => bail!("unexpected {} in a template", name(token)),
    }
}

/// Reads commands up to the end or a closing parenthesis.
fn commands(mut tokens: &[Token], depth: usize) -> Result<(Pipeline, &[Token])> {
    ensure!(depth < DEPTH, "parentheses nest deeper than {DEPTH}");
    let mut pipeline = Pipeline { variables: Vec::new(), declares: false, commands: Vec::new() };
    let variable = |token: &Token| match token {
        Token::Variable(name, fields) if fields.is_empty() && !name.is_empty() => {
            Some(name.clone())
        }
        _ => None,
    };
    match tokens {
        [a, sign @ (Token::Declare | Token::Assign), rest @ ..] => {
            pipeline.variables = vec![variable(a).context("only a $variable can be assigned")?];
            (pipeline.declares, tokens) = (*sign == Token::Declare, rest);
        }
        [a, Token::Comma, b, sign @ (Token::Declare | Token::Assign), rest @ ..] => {
            let both = [variable(a), variable(b)];
            pipeline.variables = both
                .into_iter()
                .collect::<Option<_>>()
                .context("only a $variable can be assigned")?;
            (pipeline.declares, tokens) = (*sign == Token::Declare, rest);
        }
        _ => {}
    }
    let mut command = Vec::new();
    loop {
        let (token, rest) = match tokens {
            [token, rest @ ..] if !matches!(token, Token::Close(_)) => (token, rest),
            _ => {
                ensure!(!command.is_empty(), "an action or a command is empty");
                ensure!(!matches!(command[0], Expr::Literal(Value::Nil)), "nil is not a command");
                pipeline.commands.push(command);
                return Ok((pipeline, tokens));
            }
        };
        tokens = rest;
        command.push(match token {
            Token::Pipe => {
                ensure!(!command.is_empty(), "a command is empty");
                pipeline.commands.push(std::mem::take(&mut command));
                continue;
            }
            Token::Literal(value) => Expr::Literal(value.clone()),
            Token::Field(fields) => Expr::Field(fields.clone()),
            Token::Variable(name, fields) => Expr::Variable(name.clone(), fields.clone()),
            Token::Word(name) if FUNCTIONS.contains(&name.as_str()) => Expr::Function(name.clone()),
            Token::Word(name) => bail!("function {name:?} is not defined"),
            Token::Open => {
                let (nested, after) = commands(tokens, depth + 1)?;
                let [Token::Close(fields), after @ ..] = after else { bail!("( without )") };
                tokens = after;
                Expr::Nested(nested, fields.clone())
            }
            token => bail!("unexpected {} in a template", name(token)),
        });
    }
}

fn name(token: &Token) -> &'static str {
    match token {
        Token::Close(_) => ")",
        Token::Comma => ",",
        Token::Declare => ":=",
        Token::Assign => "=",
        _ => "operand",
    }
}
