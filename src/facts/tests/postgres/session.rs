//! What a lane must know to follow a session: changes, flags, and statements within statements.

use crate::check::{catalog, check, check_as, spelled, understand, understand_as};
use lockgate_facts::postgres::{Cache, Catalog, Change, Overlay, Reading, SearchPath};
use std::sync::Arc;

fn path(names: &[&str]) -> Reading {
    let path = names.iter().map(|name| Arc::from(*name)).collect();
    Reading { search_path: SearchPath::Known(path), ..Reading::new() }
}

/// Changes of a string, in short.
fn changes(sql: &str) -> Vec<String> {
    let short = |change: &Change| match change {
        Change::Prepare { name, statement } => format!("prepare {name}: {}", spelled(statement).join("; ")),
        Change::Declare { name, statement } => format!("declare {name}: {}", spelled(statement).join("; ")),
        Change::Touched(_) => "touched".to_owned(),
        other => format!("{other:?}"),
    };
    understand(sql).changes.iter().map(short).collect()
}

#[test]
fn changes_come_in_order() {
    let cases: &[(&str, &[&str])] = &[
        (
            "PREPARE p AS DELETE FROM orders WHERE id = 1; EXECUTE p",
            &["prepare p: delete public.orders; read public.orders", "Execute { name: \"p\" }"],
        ),
        ("DEALLOCATE p; DEALLOCATE ALL", &["Deallocate { name: Some(\"p\") }", "Deallocate { name: None }"]),
        (
            "DECLARE c CURSOR FOR SELECT 1; FETCH 2 FROM c; MOVE c; CLOSE c; CLOSE ALL",
            &[
                "declare c: ",
                "Fetch { name: \"c\" }",
                "Fetch { name: \"c\" }",
                "ClosePortal { name: Some(\"c\") }",
                "ClosePortal { name: None }",
            ],
        ),
        ("SET search_path = a, \"B c\"", &["SearchPath(Known([\"a\", \"B c\"]))"]),
        ("SET SCHEMA 'x'", &["SearchPath(Known([\"x\"]))"]),
        ("SET LOCAL search_path = a", &["SearchPath(Unknown)"]),
        ("SELECT set_config('search_path', 'a', true)", &["SearchPath(Unknown)"]),
        ("RESET search_path", &["SearchPathReset"]),
        ("RESET ALL", &["SearchPathReset"]),
        ("DISCARD ALL", &["DiscardAll", "SearchPathReset"]),
        ("SET standard_conforming_strings = off", &["ReadingUnknown"]),
        ("SET Standard_Conforming_Strings = off", &["ReadingUnknown"]),
        ("SET ROLE corpus_writer", &["SearchPath(Unknown)"]),
        ("BEGIN; ROLLBACK; COMMIT", &["Rollback"]),
        ("CREATE TABLE x (id int)", &["touched"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(changes(sql), *expected, "{sql}");
    }
}

#[test]
fn copy_flags_are_exact() {
    let cases = [
        ("COPY staging FROM STDIN", true, false),
        ("COPY staging TO STDOUT", false, true),
        ("COPY (SELECT 1) TO STDOUT", false, true),
        ("COPY staging FROM '/tmp/x'", false, false),
        ("COPY staging TO PROGRAM 'cat'", false, false),
        ("COPY staging FROM PROGRAM 'cat'", false, false),
        ("SELECT 1; COPY staging FROM STDIN; COPY staging TO STDOUT", true, true),
        ("SELECT 'COPY staging FROM STDIN'", false, false),
    ];
    for (sql, copies_in, copies_out) in cases {
        let understood = understand(sql);
        assert_eq!((understood.copies_in, understood.copies_out), (copies_in, copies_out), "{sql}");
    }
}

#[test]
fn statements_are_counted() {
    for (sql, count) in [("", 0), (" ; ;", 0), ("-- x", 0), ("SELECT 1", 1), ("SELECT 1; SELECT 2;", 2)] {
        assert_eq!(understand(sql).statements, count, "{sql}");
    }
}

#[test]
fn names_follow_the_path() {
    check_as("DELETE FROM customers", &path(&["shadow", "public"]), "delete shadow.customers");
    check_as("DELETE FROM customers", &path(&["nowhere", "public"]), "delete public.customers");
    check_as("DELETE FROM customers", &path(&["nowhere"]), "delete ?.customers");
    check_as("SELECT lower('X'), 1 = 1", &path(&["shadow"]), "");
    check_as("SELECT lower('X')", &path(&["shadow", "pg_catalog"]), "call shadow.lower; unknown");
    check("SET search_path = shadow; DELETE FROM customers", "set search_path; delete shadow.customers");
    check(
        "SET search_path = shadow; ROLLBACK; DELETE FROM customers",
        "set search_path; transaction; delete ?.customers",
    );
}

#[test]
fn an_unknown_path_resolves_nothing_but_the_built_in() {
    let reading = Reading { search_path: SearchPath::Unknown, ..Reading::new() };
    check_as("SELECT length('x'), 1 + 1", &reading, "");
    check_as("SELECT count(*) FROM orders", &reading, "read ?.orders");
    check_as("SELECT count(*) FROM public.orders", &reading, "read public.orders");
    // Another schema has an equals sign as well.
    assert!(spelled(&understand_as(b"SELECT 1 = 1", &reading)).contains(&"unknown".to_owned()));
}

#[test]
fn what_a_session_made_hides_what_the_catalog_says() {
    let mut overlay = Overlay::default();
    for change in
        &understand("CREATE TEMP TABLE staging (id int); CREATE TEMP VIEW notes AS SELECT 1").changes
    {
        if let Change::Touched(touched) = change {
            overlay = overlay.with(touched);
        }
    }
    let reading = Reading { overlay, ..Reading::new() };
    // The temporary table may be gone again (a rollback): both are meant.
    check_as("DELETE FROM staging", &reading, "delete pg_temp.staging; delete public.staging");
    check_as("DELETE FROM public.staging", &reading, "delete public.staging");
    check_as("SELECT FROM notes", &reading, "read ?.notes; unknown");
    check(
        "CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = f); SELECT 1 = 1",
        "create public.=; call ?.=; unknown",
    );
    check(
        "ALTER TABLE staging RENAME TO old; DELETE FROM staging",
        "alter public.staging; create public.old; delete ?.staging; unknown",
    );
}

#[test]
fn function_calls_go_by_oid() {
    let mut cache = Cache::new(1 << 20);
    assert_eq!(spelled(&cache.function_call(0, catalog())), ["unknown"]);
    // lower(text), pg_terminate_backend(int, bigint), lo_creat(int).
    assert!(spelled(&cache.function_call(870, catalog())).is_empty());
    assert_eq!(spelled(&cache.function_call(2096, catalog())), ["call pg_catalog.pg_terminate_backend"]);
    assert_eq!(
        spelled(&cache.function_call(957, catalog())),
        ["call pg_catalog.lo_creat", "create large_object"]
    );
}

#[test]
fn the_cache_keeps_catalogs_and_readings_apart() {
    let mut cache = Cache::new(1 << 20);
    let sql = b"DELETE FROM customers";
    let empty = Arc::new(Catalog::empty());
    let first = cache.understand(sql, catalog(), &Reading::new());
    assert_eq!((cache.hits(), cache.misses()), (0, 1));
    let again = cache.understand(sql, catalog(), &Reading::new());
    assert_eq!((cache.hits(), cache.misses()), (1, 1));
    assert!(std::rc::Rc::ptr_eq(&first, &again));
    assert_eq!(spelled(&cache.understand(sql, &empty, &Reading::new())), ["delete ?.customers"]);
    assert_eq!(spelled(&cache.understand(sql, catalog(), &path(&["shadow"]))), ["delete shadow.customers"]);
    assert_eq!((cache.hits(), cache.misses()), (1, 3));
}

#[test]
fn the_cache_stays_in_its_bounds() {
    let mut cache = Cache::new(64 << 10);
    for number in 0..2000 {
        let sql = format!("SELECT id AS n{number} FROM orders");
        for _ in 0..=number % 2 {
            cache.understand(sql.as_bytes(), catalog(), &Reading::new());
            assert!(cache.bytes() <= 64 << 10, "{} bytes", cache.bytes());
        }
    }
    cache.understand(&[b' '; 1 << 20], catalog(), &Reading::new());
    assert!(cache.bytes() <= 64 << 10, "one that does not fit is not kept");
    cache.understand(b"SELECT id AS n1999 FROM orders", catalog(), &Reading::new());
    assert_eq!(cache.hits(), 1001);
}

#[test]
fn what_comes_again_is_kept_and_what_does_not_goes() {
    let mut cache = Cache::new(1 << 20);
    let mut ask = |number: u32| {
        let sql = format!("SELECT id AS n{number} FROM orders");
        let hits = cache.hits();
        cache.understand(sql.as_bytes(), catalog(), &Reading::new());
        (cache.hits() > hits, cache.bytes())
    };
    assert!(!ask(0).0);
    assert!(ask(0).0, "a newcomer is known");
    assert!(!ask(1).0);
    let filled = (1000..2000).map(|number| ask(number).1).last();
    assert!(filled < Some(64 << 10), "{filled:?} bytes of a thousand that came once");
    assert!(ask(0).0, "what came twice is there");
    assert!(!ask(1).0, "what came once has gone");
    assert!((2000..3000).all(|number| !ask(number).0));
    assert!(ask(1).0, "but it came again not long after, so it was kept");
}

#[test]
fn a_generation_goes_a_few_entries_at_a_time() {
    let mut cache = Cache::new(192 << 10);
    let mut bytes = 0;
    for number in 0..4000 {
        let sql = format!("SELECT id AS n{number} FROM orders");
        for _ in 0..2 {
            cache.understand(sql.as_bytes(), catalog(), &Reading::new());
        }
        assert!(cache.bytes() + (4 << 10) > bytes, "{bytes} bytes fell to {} at {number}", cache.bytes());
        bytes = cache.bytes();
    }
    assert!(bytes > 60 << 10, "a whole generation at least");
}

#[test]
fn columns_come_with_those_of_children() {
    let all = catalog().column("public", "customers", "email");
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(catalog().column("public", "customers_vip", "email").len(), 1);
    assert_eq!(catalog().column("public", "events", "kind").len(), 4);
    assert!(catalog().column("public", "customers", "nothing").is_empty());
    assert!(catalog().column("nowhere", "customers", "email").is_empty());
}
