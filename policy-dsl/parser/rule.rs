//! Statements of a policy: rules and masks.

use std::sync::Arc;

use super::{CLAUSE_WORDS, LATER_MASKS, LATER_RULE_WORDS, Parsed, Parser, RULE_WORDS, Told, is_reserved};
use crate::diagnostic::nearest;
use crate::lexer::TokenKind;
use crate::tree::{Approval, MaskTree, Part, Path, PolicyTree, RuleTree, Term, Verb};
use crate::verdict::MaskKind;
use crate::vocabulary::{Effect, kind_word};

/// Longest `because`, in bytes: it becomes part of a driver's error message.
const REASON_BYTES_MAX: usize = 500;
/// Longest hold, in seconds: a week.
const HOLD_S_MAX: u32 = 7 * 86_400;

/// Statements of a policy.
impl Parser<'_, '_, '_> {
    pub(super) fn rule(&mut self, policy: &mut PolicyTree) -> Parsed<()> {
        let verb = match self.word() {
            "allow" => Verb::Allow,
            "deny" => Verb::Deny,
            "hold" => Verb::Hold,
            "mask" => return self.mask(policy),
            "limit" => return self.later("a limit", "rows, bytes and rates are not counted"),
            "filter" => return self.later("a row filter", "deny the table, or mask its columns"),
            "observe" => return self.later("`observe`", "a policy is enforced or absent"),
            _ => return self.unknown_word("a rule or `}`", RULE_WORDS),
        };
        let place = self.place();
        self.advance();
        let effects = self.effects()?;
        let mut rule =
            RuleTree { verb, place, effects, objects: None, unbounded: false, because: None, approval: None };
        if self.begins_object() {
            rule.objects = Some(self.bare_objects(&rule)?);
        }
        while self.clause(&mut rule)? {}
        rule.place = place.to(self.last_place());
        if verb == Verb::Hold && rule.approval.is_none() {
            let help = "end the rule with `for group \"dba\" within 15m`";
            let message = "a hold does not say who decides, and until when";
            self.diagnostics.error("P014", rule.place, message, help);
            return Err(Told);
        }
        policy.rules.push(rule);
        Ok(())
    }

    fn later<T>(&mut self, what: &str, help: &str) -> Parsed<T> {
        let told = self.not_yet(what, help);
        self.advance();
        told
    }

    /// `read, write, @changes` or `*`
    fn effects(&mut self) -> Parsed<Vec<Term>> {
        let help = "write an effect such as `read`, a set such as `@changes`, or `*`";
        let mut terms = Vec::new();
        loop {
            let is_effect = self.kind() == TokenKind::At
                || self.kind() == TokenKind::Word && !CLAUSE_WORDS.contains(&self.text());
            if !is_effect {
                return self.expected("an effect", help);
            }
            terms.push(self.effect(help)?);
            if !self.take(TokenKind::Comma) {
                return Ok(terms);
            }
        }
    }

    fn effect(&mut self, help: &str) -> Parsed<Term> {
        if self.kind() == TokenKind::At {
            return self.term(help);
        }
        let part = Part { text: self.text().to_owned(), quoted: false };
        let place = self.place();
        self.advance();
        Ok(Term::Path(Arc::new(Path { kind: None, parts: vec![part], place })))
    }

    /// Whether a name stands here that is no keyword of a rule.
    fn begins_object(&self) -> bool {
        match self.kind() {
            TokenKind::Quoted | TokenKind::At => true,
            // On a line of its own it is more likely a misspelt rule.
            TokenKind::Word => !is_reserved(self.text()) && !self.starts_line(),
            _ => false,
        }
    }

    /// `deny call pg_read_file, "dblink*"`: after a single effect `on` may be left out.
    fn bare_objects(&mut self, rule: &RuleTree) -> Parsed<Vec<Term>> {
        let is_effect = self.word().parse::<Effect>().is_ok() || self.word() == "write";
        if rule.effects.len() > 1 || is_effect || self.word() == "*" {
            let message = format!("expected `,` or `on` before {}", self.found());
            let help = "effects are separated by commas, and `on` stands before the objects";
            return self.fail("P012", message, help);
        }
        // No name is followed by a text, but a misspelt `because` is.
        let next = self.kind_at(self.at + 1);
        if next == TokenKind::Quoted && kind_word(self.word()).is_none() && self.kind() == TokenKind::Word {
            return self.unknown_word("a part of a rule", CLAUSE_WORDS);
        }
        self.terms()
    }

    fn clause(&mut self, rule: &mut RuleTree) -> Parsed<bool> {
        let word = self.word();
        let again = match word {
            "on" => rule.objects.is_some(),
            "when" => rule.unbounded,
            "because" => rule.because.is_some(),
            "for" => rule.approval.is_some(),
            "with" | "within" => return self.misplaced(word),
            _ => return self.end_of_rule(),
        };
        if again {
            let message = format!("`{word}` stands twice in one rule");
            return self.fail("P013", message, "write one rule for each");
        }
        match word {
            "on" => {
                self.advance();
                rule.objects = Some(self.terms()?);
            }
            "when" => self.condition(rule)?,
            "because" => rule.because = Some(self.because()?),
            _ => rule.approval = Some(self.approval(rule.verb)?),
        }
        Ok(true)
    }

    fn misplaced<T>(&mut self, word: &str) -> Parsed<T> {
        let help = match word {
            "with" => "only `mask` has `with`",
            _ => "`within` stands behind `for group \"…\"`",
        };
        self.fail("P010", format!("`{word}` does not belong here"), help)
    }

    /// A rule ends where the next one begins.
    fn end_of_rule(&mut self) -> Parsed<bool> {
        let word = self.word();
        if self.kind() == TokenKind::Close || RULE_WORDS.contains(&word) || LATER_RULE_WORDS.contains(&word) {
            return Ok(false);
        }
        if self.starts_line() && self.kind() == TokenKind::Word {
            return Ok(false);
        }
        if self.kind() == TokenKind::Word {
            return self.unknown_word("a part of a rule", CLAUSE_WORDS);
        }
        let help = match self.kind() {
            TokenKind::End => "end the policy with `}`",
            _ => "a name with other characters goes in quotes",
        };
        self.expected("the next rule or `}`", help)
    }

    fn condition(&mut self, rule: &mut RuleTree) -> Parsed<()> {
        self.advance();
        if self.word() != "unbounded" {
            let help = "the only condition so far is `when unbounded`";
            return match nearest(self.word(), ["unbounded"].into_iter()) {
                Some(_) if !self.word().is_empty() => self.unknown_word("a condition", &["unbounded"]),
                _ => self.not_yet("this condition", help),
            };
        }
        self.advance();
        rule.unbounded = true;
        Ok(())
    }

    fn because(&mut self) -> Parsed<String> {
        self.advance();
        let reason = self.quoted("the reason in quotes")?;
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
            self.at -= 1;
            let message = format!("a reason has 1 to {REASON_BYTES_MAX} bytes, this one {}", reason.len());
            return self.fail("P031", message, "say in one sentence what the person refused can do");
        }
        Ok(reason)
    }

    /// `for group "dba" within 15m`
    fn approval(&mut self, verb: Verb) -> Parsed<Approval> {
        if verb != Verb::Hold {
            let message = format!("`{}` has no `for`", verb.word());
            let help = "only `hold` waits for a group; whom a policy is for stands in its first line";
            return self.fail("P014", message, help);
        }
        self.advance();
        let help = "write `for group \"dba\" within 15m`";
        if !self.take_word("group") {
            return self.expected("`group`", help);
        }
        let group = self.quoted("a group in quotes")?;
        if group.is_empty() {
            self.at -= 1;
            return self.expected("a group in quotes", "a name is not empty");
        }
        if !self.take_word("within") {
            return self.expected("`within`", help);
        }
        let within_s = self.duration()?;
        Ok(Approval { group, within_s })
    }

    /// `90s`, `15m`, `4h`, `2d`
    fn duration(&mut self) -> Parsed<u32> {
        let text = self.word();
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit_s = match text.strip_prefix(digits) {
            Some("s") => 1,
            Some("m") => 60,
            Some("h") => 3_600,
            Some("d") => 86_400,
            _ => 0,
        };
        let seconds = digits.replace('_', "").parse::<u32>().ok().and_then(|n| n.checked_mul(unit_s));
        match seconds.filter(|seconds| (1..=HOLD_S_MAX).contains(seconds)) {
            Some(seconds) => {
                self.advance();
                Ok(seconds)
            }
            None => {
                let message = format!("expected a time of at most a week, found {}", self.found());
                self.fail("P031", message, "write `90s`, `15m`, `4h` or `2d`")
            }
        }
    }
}

/// Masks.
impl Parser<'_, '_, '_> {
    /// `mask COLUMNS with MASK`
    fn mask(&mut self, policy: &mut PolicyTree) -> Parsed<()> {
        self.advance();
        if self.word() == "found" && self.kind_at(self.at + 1) != TokenKind::Dot {
            return self.later("`mask found`", "mask columns by name instead");
        }
        let columns = self.terms()?;
        if !self.take_word("with") {
            return self.expected("`with`", "write `mask public.customers.ssn with redact`");
        }
        let mask = self.mask_kind()?;
        self.end_of_rule()?;
        policy.masks.push(MaskTree { columns, mask });
        Ok(())
    }

    fn mask_kind(&mut self) -> Parsed<MaskKind> {
        let mask = match self.word() {
            "null" => MaskKind::Null,
            "redact" => MaskKind::Redact,
            "keep" => {
                self.advance();
                return self.mask_keep();
            }
            word if LATER_MASKS.contains(&word) => {
                let what = format!("the mask `{word}`");
                return self.not_yet(&what, "use `redact` or `null`");
            }
            _ => return self.unknown_word("a mask", &["null", "redact", "keep"]),
        };
        self.advance();
        Ok(mask)
    }

    fn mask_keep(&mut self) -> Parsed<MaskKind> {
        if self.take_word("domain") {
            return Ok(MaskKind::KeepDomain);
        }
        if !self.take_word("last") {
            return self.unknown_word("what to keep", &["last", "domain"]);
        }
        match self.word().parse::<u8>() {
            Ok(count) if count > 0 => {
                self.advance();
                Ok(MaskKind::KeepLast(count))
            }
            _ => {
                let message = format!("expected how many characters to keep, found {}", self.found());
                self.fail("P031", message, "write a number from 1 to 255, as in `keep last 4`")
            }
        }
    }
}
