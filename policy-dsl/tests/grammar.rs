//! The page says what the parser does.

use crate::parser::{CLAUSE_WORDS, LATER_MASKS, LATER_RULE_WORDS, LATER_TOP_WORDS, RULE_WORDS, TOP_WORDS};
use crate::shipped::SHIPPED;
use crate::{Effect, KINDS};

const PAGE: &str = include_str!("../GRAMMAR.md");
const PARSER: &str = concat!(include_str!("../parser.rs"), include_str!("../parser/rule.rs"));
const SOURCES: [&str; 4] =
    [PARSER, include_str!("../lexer.rs"), include_str!("../check.rs"), include_str!("../diagnostic.rs")];

/// The EBNF blocks without their comments.
fn grammar() -> String {
    let blocks = PAGE.split("```ebnf\n").skip(1).filter_map(|block| block.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.split("(*").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_word_of_the_parser_stands_on_the_page() {
    let grammar = grammar();
    for word in [TOP_WORDS, RULE_WORDS, CLAUSE_WORDS].concat() {
        assert!(grammar.contains(&format!("\"{word}\"")), "{word}");
    }
    let later = PAGE.split("## Not supported yet").nth(1).unwrap();
    for word in [LATER_TOP_WORDS, LATER_RULE_WORDS, LATER_MASKS].concat() {
        assert!(later.contains(&format!("`{word}`")), "{word}");
    }
    let words = Effect::ALL.iter().map(|effect| effect.word()).chain(KINDS.iter().copied());
    for word in words.chain(SHIPPED.iter().flat_map(|set| set.words.iter().copied())) {
        assert!(PAGE.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn every_word_on_the_page_is_the_parsers() {
    let grammar = grammar();
    // The tokens' own rules hold single quotes.
    let grammar = grammar.split("file ").nth(1).unwrap();
    let words = grammar.split('"').skip(1).step_by(2);
    let words = words.filter(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_lowercase()));
    let mut seen = 0;
    for word in words {
        assert!(PARSER.contains(&format!("\"{word}\"")) || word == "write", "{word}");
        seen += 1;
    }
    assert!(seen > 20);
}

#[test]
fn every_code_stands_on_the_page_and_in_the_sources() {
    let is_code = |word: &str| {
        word.len() == 4 && word.strip_prefix('P').is_some_and(|number| number.parse::<u16>().is_ok())
    };
    let in_sources: std::collections::BTreeSet<&str> =
        SOURCES.iter().flat_map(|text| text.split('"')).filter(|word| is_code(word)).collect();
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let on_page: std::collections::BTreeSet<&str> = rows.filter(|word| is_code(word)).collect();
    assert_eq!(in_sources, on_page);
}
