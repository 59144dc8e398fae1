//! Tokens to tree. Every mistake is told, then reading goes on at the next statement; nothing recurses.

use std::sync::Arc;

use crate::diagnostic::{Diagnostics, Place, nearest, quoted};
use crate::lexer::{Token, TokenKind};
use crate::tree::{Name, Part, Path, PolicyTree, SetTree, Term, Tree};
use crate::vocabulary::kind_word;

mod rule;

/// Words that begin a statement of a file.
pub(crate) const TOP_WORDS: &[&str] = &["set", "policy"];
/// Words that begin a statement of a policy.
pub(crate) const RULE_WORDS: &[&str] = &["allow", "deny", "hold", "mask"];
/// Words that begin a part of a rule.
pub(crate) const CLAUSE_WORDS: &[&str] = &["on", "when", "because", "for", "within", "with"];
/// Statements of the language that are not carried out yet.
pub(crate) const LATER_TOP_WORDS: &[&str] = &["detector", "observe", "test"];
/// Statements of a policy that are not carried out yet.
pub(crate) const LATER_RULE_WORDS: &[&str] = &["limit", "filter", "observe"];
/// Masks that are not carried out yet.
pub(crate) const LATER_MASKS: &[&str] = &["pseudonym", "shift", "bucket", "format"];

/// Longest name of a policy or set, in bytes: rule names stay readable and below 120 characters.
const NAME_BYTES_MAX: usize = 60;
/// A mistake was told; whoever gets this goes on at the next statement.
struct Told;
type Parsed<T> = Result<T, Told>;

/// Reads one file's tokens into `tree`.
pub(crate) fn parse(
    file: usize,
    source: &str,
    tokens: &[Token],
    tree: &mut Tree,
    diagnostics: &mut Diagnostics<'_>,
) {
    let mut parser = Parser { file, source, tokens, at: 0, diagnostics };
    while parser.kind() != TokenKind::End && !parser.diagnostics.is_full() {
        if parser.statement(tree).is_err() {
            parser.skip_to_statement();
        }
    }
}

struct Parser<'s, 'd, 'a> {
    file: usize,
    source: &'s str,
    tokens: &'s [Token],
    at: usize,
    diagnostics: &'d mut Diagnostics<'a>,
}

/// Tokens.
impl<'s> Parser<'s, '_, '_> {
    fn token_at(&self, at: usize) -> Option<Token> {
        self.tokens.get(at).or(self.tokens.last()).copied()
    }
    fn kind_at(&self, at: usize) -> TokenKind {
        self.token_at(at).map_or(TokenKind::End, |token| token.kind)
    }
    fn kind(&self) -> TokenKind {
        self.kind_at(self.at)
    }
    fn text(&self) -> &'s str {
        self.token_at(self.at).map_or("", |token| token.text(self.source))
    }
    fn place(&self) -> Place {
        let none = Place { file: self.file, start: 0, end: 0 };
        self.token_at(self.at).map_or(none, |token| token.place(self.file))
    }
    /// The keyword that stands here, empty if none does.
    fn word(&self) -> &'s str {
        if self.kind() == TokenKind::Word { self.text() } else { "" }
    }
    fn starts_line(&self) -> bool {
        self.token_at(self.at).is_some_and(|token| token.starts_line)
    }
    fn advance(&mut self) {
        if self.kind() != TokenKind::End {
            self.at += 1;
        }
    }
    fn take(&mut self, kind: TokenKind) -> bool {
        let found = self.kind() == kind;
        if found {
            self.advance();
        }
        found
    }
    fn take_word(&mut self, word: &str) -> bool {
        let found = self.word() == word;
        if found {
            self.advance();
        }
        found
    }
    /// Where the last token taken stands.
    fn last_place(&self) -> Place {
        let none = Place { file: self.file, start: 0, end: 0 };
        self.at.checked_sub(1).and_then(|at| self.token_at(at)).map_or(none, |token| token.place(self.file))
    }
}

/// Mistakes.
impl Parser<'_, '_, '_> {
    fn fail<T>(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Parsed<T> {
        let place = self.place();
        self.diagnostics.error(code, place, message, help);
        Err(Told)
    }

    fn found(&self) -> String {
        match self.kind() {
            TokenKind::End => String::from("the end of the file"),
            _ => quoted(self.text()),
        }
    }

    fn expected<T>(&mut self, what: &str, help: &str) -> Parsed<T> {
        let message = format!("expected {what}, found {}", self.found());
        self.fail("P010", message, help)
    }

    fn expect(&mut self, kind: TokenKind, what: &str, help: &str) -> Parsed<()> {
        if self.take(kind) { Ok(()) } else { self.expected(what, help) }
    }

    fn unknown_word<T>(&mut self, what: &str, words: &[&'static str]) -> Parsed<T> {
        let help = match nearest(self.text(), words.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("write one of {}", listed(words)),
        };
        let message = format!("expected {what}, found {}", self.found());
        self.fail("P011", message, help)
    }

    fn not_yet<T>(&mut self, what: &str, help: &str) -> Parsed<T> {
        let help = if help.is_empty() {
            String::from("not supported yet: remove it")
        } else {
            format!("not supported yet: {help}")
        };
        self.fail("P040", format!("{what} cannot be carried out"), help)
    }

    /// Behind a mistake at the top: goes on at the next word that can only begin a statement.
    fn skip_to_statement(&mut self) {
        loop {
            self.advance();
            let begins = TOP_WORDS.contains(&self.word()) || LATER_TOP_WORDS.contains(&self.word());
            if self.kind() == TokenKind::End || begins && self.starts_line() {
                return;
            }
        }
    }

    /// Behind a mistake in a policy: goes on at the next rule, or behind the policy when `false` is returned.
    fn skip_to_rule(&mut self) -> bool {
        loop {
            let word = self.word();
            let begins = RULE_WORDS.contains(&word) || LATER_RULE_WORDS.contains(&word) && self.starts_line();
            if begins || self.kind() == TokenKind::Close {
                return true;
            }
            if self.kind() == TokenKind::End || self.starts_line() && word == "policy" {
                return false;
            }
            self.advance();
        }
    }

    /// Over `{ … }` with what is nested in it.
    fn skip_block(&mut self) {
        while !matches!(self.kind(), TokenKind::Open | TokenKind::End) {
            self.advance();
        }
        let mut depth = 0_usize;
        loop {
            match self.kind() {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth = depth.saturating_sub(1),
                TokenKind::End => return,
                _ => {}
            }
            self.advance();
            if depth == 0 {
                return;
            }
        }
    }
}

/// Statements of a file.
impl Parser<'_, '_, '_> {
    fn statement(&mut self, tree: &mut Tree) -> Parsed<()> {
        match self.word() {
            "set" => self.set(tree),
            "policy" => self.policy(tree),
            "detector" => self.not_yet("a detector", "mask columns by name instead"),
            "test" => {
                let told = self.not_yet("a test", "remove it, or keep it as a comment");
                self.skip_block();
                self.at -= usize::from(self.at > 0);
                told
            }
            "observe" => {
                let _ = self.not_yet::<()>("`observe`", "a policy is enforced or absent");
                self.advance();
                Ok(())
            }
            _ => self.unknown_word("a statement", TOP_WORDS),
        }
    }

    /// `set NAME = { TERM, … }`
    fn set(&mut self, tree: &mut Tree) -> Parsed<()> {
        self.advance();
        let name = self.name("a name for the set")?;
        let help = "a set is written `set name = { public.orders, sales.* }`";
        self.expect(TokenKind::Equals, "`=`", help)?;
        self.expect(TokenKind::Open, "`{`", help)?;
        // An empty set would make a rule that says something and means nothing.
        let mut terms = vec![self.term(help)?];
        while !self.take(TokenKind::Close) {
            if !self.take(TokenKind::Comma) {
                return self.missing_comma();
            }
            if self.kind() != TokenKind::Close {
                terms.push(self.term(help)?);
            }
        }
        tree.sets.push(SetTree { name, terms });
        Ok(())
    }

    fn missing_comma<T>(&mut self) -> Parsed<T> {
        let message = format!("expected `,` before {}", self.found());
        self.fail("P012", message, "put a comma between entries; a name with other characters goes in quotes")
    }

    /// A name of the author's own: of a set or a policy.
    fn name(&mut self, what: &str) -> Parsed<Name> {
        let text = self.word();
        let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if text.is_empty() || !fits || text.len() > NAME_BYTES_MAX {
            let help = format!("letters, digits and `_`, at most {NAME_BYTES_MAX}, without quotes");
            return self.expected(what, &help);
        }
        let name = Name { text: text.to_owned(), place: self.place() };
        self.advance();
        Ok(name)
    }

    /// `policy NAME for SUBJECT, … on target TARGET, … { … }`
    fn policy(&mut self, tree: &mut Tree) -> Parsed<()> {
        self.advance();
        let name = self.name("a name for the policy")?;
        let mut policy = PolicyTree {
            name,
            groups: Vec::new(),
            users: Vec::new(),
            targets: Vec::new(),
            rules: Vec::new(),
            masks: Vec::new(),
        };
        let header = self.header(&mut policy);
        if header.is_err() {
            // The rules are read for their own mistakes.
            while !matches!(self.kind(), TokenKind::Open | TokenKind::End) && self.word() != "policy" {
                self.advance();
            }
            if !self.take(TokenKind::Open) {
                return header;
            }
        }
        self.body(&mut policy)?;
        tree.policies.push(policy);
        Ok(())
    }

    fn header(&mut self, policy: &mut PolicyTree) -> Parsed<()> {
        let help = "a policy begins `policy name for group \"agents\" on target \"orders\" {`";
        if !self.take_word("for") {
            return self.expected("`for`", help);
        }
        self.subjects(policy)?;
        if !self.take_word("on") {
            return self.expected("`on target`", help);
        }
        if !self.take_word("target") {
            return self.expected("`target`", help);
        }
        loop {
            let target = self.quoted_or_star("a target in quotes, or `*`")?;
            policy.targets.push(target);
            if !self.take(TokenKind::Comma) {
                break;
            }
        }
        if self.word() == "observe" {
            let _ = self.not_yet::<()>("`observe`", "a policy is enforced or absent");
            self.advance();
        }
        self.expect(TokenKind::Open, "`{`", help)
    }

    /// `group "a", "b", user "c"`
    fn subjects(&mut self, policy: &mut PolicyTree) -> Parsed<()> {
        let mut groups = match self.word() {
            "group" => true,
            "user" => false,
            _ => return self.unknown_word("whom the policy is for", &["group", "user"]),
        };
        self.advance();
        loop {
            let name = self.quoted_or_star("a name in quotes, or `*`")?;
            if groups {
                policy.groups.push(name)
            } else {
                policy.users.push(name)
            }
            if !self.take(TokenKind::Comma) {
                return Ok(());
            }
            if matches!(self.word(), "group" | "user") {
                groups = self.word() == "group";
                self.advance();
            }
        }
    }

    fn quoted_or_star(&mut self, what: &str) -> Parsed<String> {
        if self.take_word("*") {
            return Ok(String::from("*"));
        }
        let text = self.quoted(what)?;
        if text.is_empty() {
            self.at -= 1;
            return self.expected(what, "a name is not empty");
        }
        Ok(text)
    }

    fn quoted(&mut self, what: &str) -> Parsed<String> {
        match self.token_at(self.at) {
            Some(token) if token.kind == TokenKind::Quoted => {
                self.advance();
                Ok(token.content(self.source))
            }
            _ => {
                let help = match self.word() {
                    "" => String::from("put it in double quotes"),
                    word => format!("write `\"{word}\"`"),
                };
                self.expected(what, &help)
            }
        }
    }

    fn body(&mut self, policy: &mut PolicyTree) -> Parsed<()> {
        loop {
            if self.take(TokenKind::Close) {
                return Ok(());
            }
            if self.diagnostics.is_full() {
                return Err(Told);
            }
            if self.kind() == TokenKind::End {
                return self.expected("a rule or `}`", "end the policy with `}`");
            }
            let told = self.rule(policy).is_err();
            if told && !self.skip_to_rule() {
                return if self.kind() == TokenKind::End { Err(Told) } else { Ok(()) };
            }
        }
    }
}

/// Lists and names.
impl Parser<'_, '_, '_> {
    /// `TERM, TERM`
    pub(super) fn terms(&mut self) -> Parsed<Vec<Term>> {
        let help = "write a name such as `public.orders`, a set such as `@ledger`, or `*`";
        let mut terms = Vec::new();
        loop {
            terms.push(self.term(help)?);
            if !self.take(TokenKind::Comma) {
                return Ok(terms);
            }
        }
    }

    /// `@set`, `role x`, or a dotted name.
    pub(super) fn term(&mut self, help: &str) -> Parsed<Term> {
        if self.take(TokenKind::At) {
            return Ok(Term::Set(self.name("the name of a set")?));
        }
        let start = self.place();
        let kind = self.kind_prefix()?;
        let mut parts = vec![self.part(help)?];
        while self.take(TokenKind::Dot) {
            parts.push(self.part(help)?);
        }
        let place = start.to(self.last_place());
        if parts.len() > 3 || kind.is_some() && parts.len() > 1 {
            let help = "a table is `schema.name`, a column `schema.table.column`, other things `role name`";
            self.diagnostics.error("P025", place, "the name has too many parts", help);
            return Err(Told);
        }
        Ok(Term::Path(Arc::new(Path { kind, parts, place })))
    }

    /// The kind in `role x`; a name that happens to be a kind's word needs quotes, or a schema.
    fn kind_prefix(&mut self) -> Parsed<Option<&'static str>> {
        let next = self.token_at(self.at + 1);
        let Some(kind) = kind_word(self.word()).filter(|_| self.kind_at(self.at + 1) != TokenKind::Dot)
        else {
            return Ok(None);
        };
        let named = match next.map(|token| (token.kind, token.text(self.source))) {
            Some((TokenKind::Quoted, _)) => true,
            Some((TokenKind::Word, word)) => !is_reserved(word),
            _ => false,
        };
        if !named {
            let help = format!("write `{kind} *` for every one; a name that is `{kind}` goes in quotes");
            return self.fail("P025", format!("which {kind}?"), help);
        }
        self.advance();
        Ok(Some(kind))
    }

    fn part(&mut self, help: &str) -> Parsed<Part> {
        let (kind, place) = (self.kind(), self.place());
        let part = match kind {
            TokenKind::Quoted => Part { text: self.quoted("a name")?, quoted: true },
            // Behind a dot a keyword is a name like any other.
            TokenKind::Word
                if self.kind_at(self.at.wrapping_sub(1)) == TokenKind::Dot || !is_reserved(self.text()) =>
            {
                let text = self.text().to_owned();
                self.advance();
                Part { text, quoted: false }
            }
            TokenKind::Word => {
                let help = format!("a name that is also a keyword goes in quotes: `\"{}\"`", self.text());
                return self.expected("a name", &help);
            }
            _ => return self.expected("a name", help),
        };
        if part.text.is_empty() {
            self.diagnostics.error("P025", place, "the name is empty", help);
            return Err(Told);
        }
        Ok(part)
    }
}

/// Words that are no names unless quoted: without this, a rule would run on into the next.
pub(crate) fn is_reserved(word: &str) -> bool {
    RULE_WORDS.contains(&word)
        || CLAUSE_WORDS.contains(&word)
        || matches!(word, "limit" | "filter" | "observe" | "policy")
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
