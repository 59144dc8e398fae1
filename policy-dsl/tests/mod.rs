//! Tests of the whole crate: meaning against known policies and a naive twin, messages, hostile texts, the page.

mod grammar;
mod hostile;
mod meaning;
mod messages;
mod naive;
mod property;

use crate::*;

/// Compiles one file that must compile.
#[track_caller]
pub(crate) fn compiled(text: &str) -> PolicySet {
    let source = Source { name: String::from("test.policy"), text: text.to_owned() };
    match compile(std::slice::from_ref(&source)) {
        Ok((set, _)) => set,
        Err(diagnostics) => {
            let told: Vec<String> = diagnostics.iter().map(|told| told.render(text)).collect();
            panic!("{}", told.join("\n"));
        }
    }
}

/// A program of rules alone, for one group on one target.
#[track_caller]
pub(crate) fn program(rules: &str) -> Program {
    let set = compiled(&format!("policy p for group \"g\" on target \"t\" {{\n{rules}\n}}"));
    set.program("u", &[String::from("g")], "t").expect("the policy applies")
}

/// Facts by their spelling, separated by `;`; a leading `!` says unbounded.
pub(crate) fn facts(spelled: &str) -> Facts {
    let pair = |text: &str| {
        let text = text.trim();
        let mut pair: Pair = text.trim_start_matches('!').parse().unwrap();
        pair.unbounded = text.starts_with('!');
        pair
    };
    let mut pairs: Vec<Pair> = spelled.split(';').filter(|text| !text.trim().is_empty()).map(pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    Facts { pairs, unknown: Vec::new() }
}

/// Random numbers that a seed repeats (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}
