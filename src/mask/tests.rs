//! Tests of the whole crate: what each mask makes of a value, framing, cuts, hostile rows.

use super::fuzzing::cells;
use super::*;

const TEXT: u32 = 25;
const INT4: u32 = 23;
const CITEXT: u32 = 16_400;

fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = Vec::new();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(*value);
            }
        }
    }
    let mut message = vec![b'D'];
    message.extend(i32::try_from(body.len() + 6).unwrap().to_be_bytes());
    message.extend(i16::try_from(values.len()).unwrap().to_be_bytes());
    message.extend(body);
    message
}

fn rule(mask: Mask) -> Rule {
    Rule { name: "agents/mask".into(), place: "public.customers.ssn".into(), mask }
}

fn shape(attribute: i16, type_oid: u32, format: u8) -> ColumnShape {
    ColumnShape { table_oid: 1000, attribute, type_oid, format }
}

/// A plan for columns of which those with a mask are protected.
fn counts(plan: &mut Plan) -> Vec<(Rule, u64)> {
    let mut counts = Vec::new();
    plan.take_counts(|rule, cells| counts.push((rule.clone(), cells)));
    counts
}

fn plan(columns: &[(Option<Mask>, u32, u8)]) -> Option<Plan> {
    let mut masks = ColumnMasks::default();
    let mut shapes = Vec::new();
    for (attribute, (mask, type_oid, format)) in (1..).zip(columns) {
        shapes.push(shape(attribute, *type_oid, *format));
        if let Some(mask) = mask {
            masks.add(1000, attribute, rule(*mask));
        }
    }
    Plan::new(&masks, &shapes)
}

/// Masks one cell between two others, both ways; they must agree.
fn masked(mask: Mask, type_oid: u32, format: u8, value: &[u8]) -> Option<Vec<u8>> {
    let mut plan = plan(&[(None, TEXT, 0), (Some(mask), type_oid, format), (None, INT4, 1)]).unwrap();
    let message = row(&[Some(b"before"), Some(value), None]);
    let mut out = b"kept".to_vec();
    plan.mask_row(&message, &mut out).unwrap();
    let out = out.strip_prefix(b"kept").unwrap();
    let mut placed = message.clone();
    match plan.mask_row_in_place(&mut placed).unwrap() {
        InPlace::Masked => {
            assert_eq!(placed, out);
            assert_eq!(counts(&mut plan), [(rule(mask), 2)]);
        }
        InPlace::LengthChanges => {
            assert_eq!(placed, message);
            assert_eq!(counts(&mut plan), [(rule(mask), 1)]);
        }
    }
    let mut cells = cells(out).expect("framed");
    assert_eq!(cells[0].as_deref(), Some(&b"before"[..]));
    assert_eq!(cells[2], None);
    cells.swap_remove(1)
}

#[track_caller]
fn check(mask: Mask, value: &str, expected: &str) {
    let got = masked(mask, TEXT, 0, value.as_bytes()).expect("not null");
    assert_eq!(String::from_utf8(got).unwrap(), expected, "{mask:?} of {value:?}");
    assert_eq!(masked(mask, TEXT, 1, value.as_bytes()).as_deref(), Some(expected.as_bytes()), "binary");
}

#[test]
fn keep_last() {
    let cases = [
        (4, "123-45-6789", "***-**-6789"),
        (4, "4111 1111 1111 1234", "**** **** **** 1234"),
        (4, "12-34", "*****"),
        (4, "1234", "****"),
        (4, "12345", "*2345"),
        (2, "a-b-c-", "*-b-c-"),
        (4, "", ""),
        (4, "!!!!!!", "******"),
        (0, "ab-c", "**-*"),
        (0, "---", "***"),
        (255, "secret", "******"),
        (3, "Grüße", "**üße"),
        (2, "Grüße", "***ße"),
        (1, "Grüße", "****e"),
        (2, "日本語です", "***です"),
        (2, "日本、語です", "****です"),
        (2, "a\u{1f600}bcd", "***cd"),
        (5, "Grüße", "*****"),
    ];
    for (kept, value, expected) in cases {
        check(Mask::KeepLast(kept), value, expected);
    }
}

#[test]
fn keep_domain() {
    let cases = [
        ("jane.doe@example.com", "****.***@example.com"),
        ("jane+tag@example.co.uk", "****+***@example.co.uk"),
        ("no address", "**********"),
        ("@example.com", "************"),
        ("..@example.com", "**************"),
        ("jane@", "*****"),
        ("a@b@example.com", "*@*@example.com"),
        ("jane@example.com, ssn 123", "*************************"),
        ("jürgen@bücher.example", "******@bücher.example"),
        ("x@y", "*@y"),
        ("", ""),
    ];
    for (value, expected) in cases {
        check(Mask::KeepDomain, value, expected);
    }
}

#[test]
fn redact() {
    for value in ["", "a", "0123456789", "a much longer value than the mask"] {
        check(Mask::Redact, value, "[REDACTED]");
    }
}

#[test]
fn bytes_in_another_encoding_show_nothing() {
    // ISO 8859-1, and half a character.
    for (value, expected) in [(&b"Stra\xdfe 1234"[..], &b"***********"[..]), (b"\xe6\x97", b"**")] {
        assert_eq!(masked(Mask::KeepLast(4), TEXT, 0, value).as_deref(), Some(expected));
    }
}

#[test]
fn types_that_cannot_carry_a_mask_become_null() {
    let all = [Mask::KeepLast(4), Mask::KeepDomain, Mask::Redact, Mask::Null];
    // bool, bytea, "char", int8, int4, json, xml, text[], date, timestamptz, numeric, uuid, record, jsonb
    for type_oid in [16, 17, 18, 20, 23, 114, 142, 1009, 1082, 1184, 1700, 2950, 2249, 3802] {
        for mask in all {
            for format in [0, 1] {
                assert_eq!(masked(mask, type_oid, format, b"123456789"), None, "{type_oid} {mask:?}");
            }
        }
    }
    assert_eq!(masked(Mask::Null, TEXT, 0, b"123456789"), None);
    assert_eq!(masked(Mask::Redact, CITEXT, 0, b"x").as_deref(), Some(&b"[REDACTED]"[..]));
    assert_eq!(masked(Mask::Redact, CITEXT, 1, b"x"), None);
}

#[test]
fn null_stays_null_and_is_not_counted() {
    let mut plan = plan(&[(Some(Mask::Redact), TEXT, 0)]).unwrap();
    let message = row(&[None]);
    let mut out = Vec::new();
    plan.mask_row(&message, &mut out).unwrap();
    assert_eq!(out, message);
    assert_eq!(plan.mask_row_in_place(&mut out), Ok(InPlace::Masked));
    assert_eq!(out, message);
    assert_eq!(counts(&mut plan), []);
}

#[test]
fn nothing_protected_means_no_plan() {
    assert!(plan(&[(None, TEXT, 0), (None, INT4, 1)]).is_none());
    assert!(plan(&[]).is_none());
    // A computed column has no table: it never matches a rule.
    let mut masks = ColumnMasks::default();
    masks.add(1000, 1, rule(Mask::Null));
    let computed = ColumnShape { table_oid: 0, attribute: 0, type_oid: TEXT, format: 0 };
    assert!(Plan::new(&masks, &[computed]).is_none());
}

#[test]
fn a_whole_row_of_a_protected_table_becomes_null() {
    let mut masks = ColumnMasks::default();
    masks.add(1000, 1, rule(Mask::KeepLast(4)));
    let mut plan = Plan::new(&masks, &[shape(0, 20_000, 0)]).expect("protected");
    let mut out = Vec::new();
    plan.mask_row(&row(&[Some(b"(1,secret)")]), &mut out).unwrap();
    assert_eq!(cells(&out).unwrap(), [None]);
    assert!(!plan.is_streamable());
}

#[test]
fn the_strongest_mask_wins() {
    let ascending = [
        Mask::KeepLast(255),
        Mask::KeepLast(4),
        Mask::KeepLast(1),
        Mask::KeepDomain,
        Mask::Redact,
        Mask::Null,
    ];
    for pair in ascending.windows(2) {
        assert!(pair[0] < pair[1], "{pair:?}");
        for order in [[pair[0], pair[1]], [pair[1], pair[0]]] {
            let mut masks = ColumnMasks::default();
            order.iter().for_each(|mask| masks.add(1, 1, rule(*mask)));
            assert_eq!(masks.rules[&(1, 1)].mask, pair[1]);
        }
    }
}

#[test]
fn counts_are_joined_by_rule_and_reset() {
    let mut masks = ColumnMasks::default();
    masks.add(1000, 1, rule(Mask::Redact));
    let mut plan = Plan::new(&masks, &[shape(1, TEXT, 0), shape(1, TEXT, 1)]).unwrap();
    let message = row(&[Some(b"a"), Some(b"b")]);
    plan.mask_row(&message, &mut Vec::new()).unwrap();
    plan.mask_row(&message, &mut Vec::new()).unwrap();
    assert_eq!(counts(&mut plan), [(rule(Mask::Redact), 4)]);
    assert_eq!(counts(&mut plan), []);
}

#[track_caller]
fn check_broken(message: &[u8], what: &str) {
    let mut plan = plan(&[(None, TEXT, 0), (Some(Mask::KeepLast(1)), TEXT, 0)]).unwrap();
    let mut out = b"kept".to_vec();
    assert_eq!(plan.mask_row(message, &mut out), Err(BrokenRow), "{what}");
    assert_eq!(out, b"kept", "{what}");
    let mut placed = message.to_vec();
    assert_eq!(plan.mask_row_in_place(&mut placed), Err(BrokenRow), "{what}");
    assert_eq!(placed, message, "{what}");
    assert_eq!(counts(&mut plan), [], "{what}");
}

#[test]
fn a_row_that_contradicts_itself_is_refused() {
    let good = row(&[Some(b"first"), Some(b"second")]);
    for cut in 0..good.len() {
        check_broken(&good[..cut], "cut");
    }
    check_broken(&[&good[..], b"x"].concat(), "a byte too many");
    check_broken(&row(&[Some(b"first")]), "a column too few");
    check_broken(&row(&[Some(b"a"), Some(b"b"), None]), "a column too many");
    for (at, byte, what) in [
        (0, b'C', "another message"),
        (1, 0xff, "negative length"),
        (4, 0xff, "length too long"),
        (5, 0xff, "negative count"),
        (7, 0x80, "negative cell"),
        (10, 0xff, "first cell beyond the end"),
        (10, 4, "first cell too short"),
        (19, 7, "last cell beyond the end"),
        (19, 5, "bytes behind the last cell"),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        check_broken(&bad, what);
    }
}

/// What a stream comes to when it is fed in pieces that end at `cuts`.
fn streamed(plan: &mut Plan, message: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize), StreamError> {
    let mut masker = StreamMasker::new();
    let (mut out, mut start) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([message.len()]) {
        let mut piece = message[start..end].to_vec();
        let progress = masker.feed(plan, &mut piece)?;
        out.extend(piece);
        if let StreamProgress::Done(bytes) = progress {
            return Ok((out, start + bytes));
        }
        start = end;
    }
    Ok((out, usize::MAX))
}

#[test]
fn a_stream_cut_anywhere_is_masked_the_same() {
    let columns = [
        (None, TEXT, 0),
        (Some(Mask::KeepLast(4)), TEXT, 0),
        (Some(Mask::Null), CITEXT, 0),
        (None, INT4, 1),
        (Some(Mask::Redact), TEXT, 1),
    ];
    let values: [Option<&[u8]>; 5] =
        [Some(b"plain"), Some("Grüße 1".as_bytes()), Some(b"gone"), Some(&[0, 0, 0, 7]), None];
    let message = row(&values);
    let expected = row(&[Some(b"plain"), Some(b"*********"), Some(b"****"), Some(&[0, 0, 0, 7]), None]);
    let bytes = message.len();
    let mut plan = plan(&columns).unwrap();
    assert!(plan.is_streamable());
    for first in 0..=bytes {
        for second in first..=bytes {
            let got = streamed(&mut plan, &message, &[first, second]);
            assert_eq!(got, Ok((expected.clone(), bytes)), "{first} {second}");
            assert_eq!(counts(&mut plan).iter().map(|(_, cells)| cells).sum::<u64>(), 2);
        }
    }
    let every: Vec<usize> = (1..bytes).collect();
    assert_eq!(streamed(&mut plan, &message, &every), Ok((expected.clone(), bytes)));
    let two = [&message[..], &message[..]].concat();
    assert_eq!(streamed(&mut plan, &two, &[]), Ok(([&expected[..], &message[..]].concat(), bytes)));
}

#[test]
fn a_stream_refuses_what_it_cannot_mask() {
    let mut of_int = plan(&[(Some(Mask::KeepLast(4)), INT4, 0)]).unwrap();
    assert!(!of_int.is_streamable());
    assert_eq!(streamed(&mut of_int, &row(&[Some(b"12345")]), &[]), Err(StreamError::NotMaskable));
    assert_eq!(streamed(&mut of_int, &row(&[None]), &[]).map(|(out, _)| out), Ok(row(&[None])));
    let mut of_text = plan(&[(Some(Mask::Null), TEXT, 0)]).unwrap();
    let good = row(&[Some(b"12345")]);
    for (at, byte) in [(0, b'C'), (1, 0xff), (6, 2), (10, 6), (10, 4), (7, 0x80)] {
        let mut bad = good.clone();
        bad[at] = byte;
        for cut in 0..bad.len() {
            assert_eq!(streamed(&mut of_text, &bad, &[cut]), Err(StreamError::Broken), "{at} {cut}");
        }
    }
}

#[test]
fn a_failed_stream_stays_failed() {
    let mut plan = plan(&[(Some(Mask::Null), TEXT, 0)]).unwrap();
    let mut masker = StreamMasker::new();
    assert_eq!(masker.feed(&mut plan, &mut [b'C'; 7]), Err(StreamError::Broken));
    assert_eq!(masker.feed(&mut plan, &mut row(&[None])), Err(StreamError::Broken));
}

/// A small generator (SplitMix64), so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    fn value(&mut self) -> Option<Vec<u8>> {
        let alphabet = ["a", "B", "7", "-", "@", ".", " ", "ß", "日", "\u{301}", "\u{1f600}", "*", "\0"];
        let text: String = (0..self.below(24)).map(|_| self.pick(&alphabet)).collect();
        match self.below(8) {
            0 => None,
            1 => Some((0..self.below(16)).map(|_| self.next().to_be_bytes()[0]).collect()),
            _ => Some(text.into_bytes()),
        }
    }
}

#[test]
fn whatever_the_row_framing_stays_and_no_value_shows() {
    let masks = [Mask::KeepLast(4), Mask::KeepLast(1), Mask::KeepDomain, Mask::Redact, Mask::Null];
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let columns: Vec<(Option<Mask>, u32, u8)> = (0..=random.below(6))
            .map(|_| {
                let mask = (random.below(2) == 0).then(|| random.pick(&masks));
                (mask, random.pick(&[TEXT, INT4, CITEXT, 1042, 3802]), random.pick(&[0, 1]))
            })
            .collect();
        let Some(mut plan) = plan(&columns) else { continue };
        let values: Vec<Option<Vec<u8>>> = columns.iter().map(|_| random.value()).collect();
        let message = row(&values.iter().map(|value| value.as_deref()).collect::<Vec<_>>());
        let mut out = Vec::new();
        plan.mask_row(&message, &mut out).unwrap();
        let mut placed = message.clone();
        if plan.mask_row_in_place(&mut placed) == Ok(InPlace::Masked) {
            assert_eq!(placed, out, "seed {seed}");
        }
        let got = cells(&out).unwrap_or_else(|| panic!("seed {seed}: not framed"));
        for ((value, got), (mask, _, _)) in values.iter().zip(&got).zip(&columns) {
            check_cell(*mask, value.as_deref(), got.as_deref(), seed);
        }
        check_stream(&mut plan, &message, &mut random);
    }
}

fn check_cell(mask: Option<Mask>, value: Option<&[u8]>, got: Option<&[u8]>, seed: u64) {
    let (Some(_), Some(value)) = (mask, value) else {
        assert_eq!(value, got, "seed {seed}");
        return;
    };
    let Some(got) = got else { return };
    assert!(std::str::from_utf8(got).is_ok(), "seed {seed}");
    let all_stars = value.iter().all(|byte| *byte == b'*');
    let shows = value.len() >= 6 && got.windows(value.len()).any(|window| window == value);
    assert!(all_stars || !shows, "seed {seed}: {value:?} in {got:?}");
}

fn check_stream(plan: &mut Plan, message: &[u8], random: &mut Random) {
    let whole = streamed(plan, message, &[]);
    let mut cuts = [random.below(message.len()), random.below(message.len())];
    cuts.sort_unstable();
    assert_eq!(streamed(plan, message, &cuts), whole);
    assert!(whole.is_ok() || !plan.is_streamable());
}

#[test]
fn fuzz_bodies_hold_on_mutated_rows() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let values: Vec<Option<Vec<u8>>> = (0..random.below(5)).map(|_| random.value()).collect();
        let message = row(&values.iter().map(|value| value.as_deref()).collect::<Vec<_>>());
        let mut input = vec![u8::try_from(values.len()).unwrap()];
        input.extend(values.iter().map(|_| random.next().to_be_bytes()[0]));
        input.extend(message);
        for _ in 0..random.below(3) {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        fuzzing::rows(&input);
    }
}
