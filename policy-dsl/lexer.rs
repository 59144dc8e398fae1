//! Text to tokens. Any text gives tokens: what fits nowhere becomes a [`TokenKind::Symbol`] for the parser.

use crate::diagnostic::{Diagnostics, Place};

/// A token's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Letters, digits, `_`, `$`, `*`: a keyword, a name, a number, a duration.
    Word,
    /// `"…"`, quotes included.
    Quoted,
    /// `{`
    Open,
    /// `}`
    Close,
    /// `,`
    Comma,
    /// `.`
    Dot,
    /// `=`
    Equals,
    /// `@`
    At,
    /// Any other character.
    Symbol,
    /// Behind the last one.
    End,
}

/// A token: a kind and a stretch of the source. Small, because a hostile file is all tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub kind: TokenKind,
    /// First on its line: where the parser finds its way again after a mistake.
    pub starts_line: bool,
    start: u32,
    end: u32,
}

impl Token {
    pub(crate) fn place(self, file: usize) -> Place {
        Place { file, start: self.start as usize, end: self.end as usize }
    }

    pub(crate) fn text(self, source: &str) -> &str {
        source.get(self.start as usize..self.end as usize).unwrap_or("")
    }

    /// A quoted text's content, escapes undone.
    pub(crate) fn content(self, source: &str) -> String {
        let inner = self.text(source);
        let inner = inner.strip_prefix('"').unwrap_or(inner);
        let inner = inner.strip_suffix('"').unwrap_or(inner);
        let mut out = String::with_capacity(inner.len());
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            out.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        out
    }
}

/// Cuts a source (at most 4 GiB; `compile` allows far less) into tokens; the last one is [`TokenKind::End`].
pub(crate) fn lex(file: usize, source: &str, diagnostics: &mut Diagnostics<'_>) -> Vec<Token> {
    let mut lexer = Lexer { file, source, at: 0, starts_line: true, diagnostics };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next();
        tokens.push(token);
        if token.kind == TokenKind::End {
            return tokens;
        }
    }
}

struct Lexer<'s, 'd, 'a> {
    file: usize,
    source: &'s str,
    at: usize,
    starts_line: bool,
    diagnostics: &'d mut Diagnostics<'a>,
}

impl Lexer<'_, '_, '_> {
    fn peek(&self) -> Option<char> {
        self.source.get(self.at..).and_then(|rest| rest.chars().next())
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while let Some(c) = self.peek().filter(|c| wanted(*c)) {
            self.at += c.len_utf8();
        }
    }

    fn next(&mut self) -> Token {
        self.skip_blanks();
        let start = self.at;
        let starts_line = std::mem::take(&mut self.starts_line);
        let kind = match self.peek() {
            None => TokenKind::End,
            Some('"') => self.quoted(),
            Some(c) if is_word(c) => {
                self.skip_while(is_word);
                TokenKind::Word
            }
            Some(c) => {
                self.at += c.len_utf8();
                mark(c)
            }
        };
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Token { kind, starts_line, start: offset(start), end: offset(self.at) }
    }

    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                '\n' => self.starts_line = true,
                '#' => {
                    self.skip_while(|c| c != '\n');
                    continue;
                }
                // A byte order mark is what some editors put first.
                ' ' | '\t' | '\r' | '\u{feff}' => {}
                _ => return,
            }
            self.at += c.len_utf8();
        }
    }

    fn quoted(&mut self) -> TokenKind {
        let start = self.at;
        self.at += 1;
        loop {
            self.skip_while(|c| !matches!(c, '"' | '\\') && !c.is_control());
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return TokenKind::Quoted;
                }
                Some('\\') => self.escape(),
                Some('\t') => self.at += 1,
                Some(c) if !matches!(c, '\n' | '\r') => self.control(c),
                _ => {
                    let place = Place { file: self.file, start, end: self.at };
                    let help = "end the text with `\"` on the same line";
                    self.diagnostics.error("P002", place, "the text has no end", help);
                    return TokenKind::Quoted;
                }
            }
        }
    }

    fn escape(&mut self) {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some('"' | '\\') => self.at += 1,
            _ => {
                let place = Place { file: self.file, start, end: self.at };
                let help = "write `\\\"` for a quote and `\\\\` for a backslash";
                self.diagnostics.error("P003", place, "a lone backslash in a text", help);
            }
        }
    }

    fn control(&mut self, c: char) {
        let start = self.at;
        self.at += c.len_utf8();
        let place = Place { file: self.file, start, end: self.at };
        let message = format!("control character U+{:04X} in a text", u32::from(c));
        self.diagnostics.error("P003", place, message, "remove it");
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '*')
}

fn mark(c: char) -> TokenKind {
    match c {
        '{' => TokenKind::Open,
        '}' => TokenKind::Close,
        ',' => TokenKind::Comma,
        '.' => TokenKind::Dot,
        '=' => TokenKind::Equals,
        '@' => TokenKind::At,
        _ => TokenKind::Symbol,
    }
}
