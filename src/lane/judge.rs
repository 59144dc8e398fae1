//! Judging: facts of a command against a program, with what was judged before at hand.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use foldhash::fast::FixedState;
use lockgate_facts::postgres::{Cache, Understood};
use lockgate_policy_dsl::{Decision, Facts, Program};
use lockgate_recording::{Record, Ruling as Recorded};

use crate::postgres::Descriptions;

/// Rulings kept. Then the oldest makes room for each that comes: to forget all in one go would
/// keep every session of the worker waiting for tens of milliseconds.
const RULINGS_MAX: usize = 16_384;

/// Rulings that are remembered to have been asked for.
const ASKED: usize = 1024;

/// Effects that an error's detail lists.
const EFFECTS_SHOWN_MAX: usize = 12;

/// What a worker owns and lends to every call of a lane: facts and rulings of commands seen before.
pub struct Judge {
    /// Facts of statements seen before.
    pub facts: Cache,
    /// Keys are the gateway's own numbers and addresses: no seed is needed against collisions.
    rulings: HashMap<Key, Rc<Ruling>, FixedState>,
    /// Those that were asked for lately, each in its place until another one needs that. What is asked for but once, as
    /// most that was never seen before, is not kept.
    asked: Box<[Key]>,
    /// In the order in which they came.
    order: VecDeque<Key>,
    /// Of results.
    pub(crate) descriptions: Descriptions,
}

/// A program's number, and that of what was understood.
type Key = (u64, u64);

/// What policy said of a command, in the words that go to the client and to the record.
#[derive(Debug)]
pub(crate) struct Ruling {
    pub(crate) decision: Recorded,
    pub(crate) rule: String,
    pub(crate) reason: String,
    pub(crate) effects: Vec<String>,
}

impl Judge {
    /// A judge that remembers facts of up to `facts_bytes_max` bytes.
    pub fn new(facts_bytes_max: usize) -> Judge {
        Judge {
            facts: Cache::new(facts_bytes_max),
            rulings: HashMap::default(),
            asked: vec![(0, 0); ASKED].into(),
            order: VecDeque::new(),
            descriptions: Descriptions::default(),
        }
    }

    /// Judges what was understood of a command.
    pub(crate) fn rule(&mut self, program: &Program, understood: &Rc<Understood>) -> Rc<Ruling> {
        let key = (program.id(), understood.serial.0);
        if let Some(ruling) = self.rulings.get(&key) {
            return Rc::clone(ruling);
        }
        let ruling = Rc::new(Ruling::of(program, &understood.facts));
        let place = usize::try_from(understood.serial.0 % ASKED as u64).unwrap_or(0);
        match self.asked.get_mut(place) {
            Some(asked) if *asked == key => {}
            Some(asked) => {
                *asked = key;
                return ruling;
            }
            None => return ruling,
        }
        if self.order.len() >= RULINGS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.rulings.remove(&oldest);
        }
        self.rulings.insert(key, Rc::clone(&ruling));
        self.order.push_back(key);
        ruling
    }
}

impl Ruling {
    /// Judges facts that no cache holds.
    pub(crate) fn of(program: &Program, facts: &Facts) -> Ruling {
        let verdict = program.judge(facts);
        let (decision, reason) = match verdict.decision {
            Decision::Allow => (Recorded::Allow, verdict.reason.to_string()),
            Decision::Deny => (Recorded::Deny, verdict.reason.to_string()),
            Decision::Hold { group, .. } => (
                Recorded::Hold,
                format!(
                    "{} (approval by \"{group}\" cannot be asked for yet, so it is refused)",
                    verdict.reason
                ),
            ),
        };
        let effects = facts.pairs.iter().map(ToString::to_string).collect();
        Ruling { decision, rule: verdict.rule.to_string(), reason, effects }
    }

    /// A refusal by a limit, not by policy.
    pub(crate) fn limit(reason: &str) -> Ruling {
        let rule = String::from("limit");
        Ruling { decision: Recorded::Refuse, rule, reason: reason.to_owned(), effects: Vec::new() }
    }

    /// Rows of a cursor whose DECLARE was judged.
    pub(crate) fn judged_before() -> Ruling {
        let (rule, reason) = (String::from("declared cursor"), String::from("its DECLARE was allowed"));
        Ruling { decision: Recorded::Allow, rule, reason, effects: Vec::new() }
    }

    /// A refusal that policy implies without a rule of its own saying so.
    pub(crate) fn refusal(&self, rule: &str, reason: String) -> Ruling {
        Ruling { decision: Recorded::Deny, rule: rule.to_owned(), reason, effects: self.effects.clone() }
    }

    /// What goes into the record.
    pub(crate) fn record(&self, command: u64, epoch: u64) -> Record<'_> {
        let effects = self.effects.iter().map(String::as_str).collect();
        Record::Verdict {
            command,
            ruling: self.decision,
            rule: &self.rule,
            reason: &self.reason,
            epoch,
            effects,
        }
    }

    /// SQLSTATE of the refusal.
    pub(crate) fn sqlstate(&self) -> &'static str {
        match self.decision {
            Recorded::Refuse => "54000",
            Recorded::Allow | Recorded::Deny | Recorded::Hold => "42501",
        }
    }

    /// The first line that the client reads.
    pub(crate) fn message(&self) -> String {
        match self.decision {
            Recorded::Refuse => self.reason.clone(),
            Recorded::Allow | Recorded::Deny | Recorded::Hold => {
                format!("Lockgate refused this command by rule \"{}\": {}", self.rule, self.reason)
            }
        }
    }

    /// What the command would do.
    pub(crate) fn detail(&self) -> String {
        if self.effects.is_empty() {
            return String::new();
        }
        let mut shown =
            self.effects.iter().take(EFFECTS_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        if self.effects.len() > EFFECTS_SHOWN_MAX {
            shown.push_str(", …");
        }
        format!("It would: {shown}.")
    }

    /// The command may pass.
    pub(crate) fn allows(&self) -> bool {
        self.decision == Recorded::Allow
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("rulings", &self.rulings.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use lockgate_policy_dsl::{Source, compile};

    fn program() -> Program {
        let text = String::from("policy p for group \"g\" on target \"t\" { allow * on * }");
        let (set, _) = compile(&[Source { name: String::from("p"), text }]).expect("it compiles");
        set.program("u", &[String::from("g")], "t").expect("it applies")
    }

    #[test]
    fn the_oldest_ruling_makes_room() {
        let (mut judge, program) = (Judge::new(0), program());
        let first = Rc::new(Understood::default());
        drop(judge.rule(&program, &first));
        let ruling = Rc::downgrade(&judge.rule(&program, &first));
        let is_known = |judge: &mut Judge| ruling.ptr_eq(&Rc::downgrade(&judge.rule(&program, &first)));
        assert!(is_known(&mut judge));
        let others: Vec<_> = (1..RULINGS_MAX).map(|_| Rc::new(Understood::default())).collect();
        let mut twice = |facts: &Rc<Understood>| {
            (0..2).map(|_| judge.rule(&program, facts)).for_each(drop);
        };
        others.iter().for_each(&mut twice);
        assert!(is_known(&mut judge), "there is room for as many");
        drop(judge.rule(&program, &Rc::new(Understood::default())));
        assert!(is_known(&mut judge), "what is asked for once takes no room");
        let last = Rc::new(Understood::default());
        (0..2).map(|_| judge.rule(&program, &last)).for_each(drop);
        assert_eq!((judge.rulings.len(), judge.order.len()), (RULINGS_MAX, RULINGS_MAX));
        assert!(ruling.upgrade().is_none(), "it is gone");
        assert!(!is_known(&mut judge));
    }
}
