//! Statements and their whole set of pairs.

use crate::check::check;

#[track_caller]
fn all(cases: &[(&str, &str)]) {
    cases.iter().for_each(|(sql, expected)| check(sql, expected));
}

#[test]
fn reading() {
    all(&[
        ("SELECT 1", ""),
        ("SELECT id FROM orders", "read public.orders"),
        ("TABLE orders", "read public.orders"),
        (
            "SELECT (SELECT max(id) FROM orders), ARRAY(SELECT id FROM staging)",
            "read public.orders; read public.staging",
        ),
        ("SELECT 1 WHERE EXISTS (SELECT FROM orders)", "read public.orders"),
        ("SELECT id FROM orders TABLESAMPLE system (1)", "read public.orders"),
        (
            "SELECT id FROM orders TABLESAMPLE bernoulli ((SELECT 1 FROM staging))",
            "read public.orders; read public.staging",
        ),
        (
            "SELECT 1 FROM orders WINDOW w AS (ORDER BY (SELECT 1 FROM staging))",
            "read public.orders; read public.staging",
        ),
        (
            "SELECT count(*) FILTER (WHERE (SELECT true FROM staging)) FROM orders",
            "read public.orders; read public.staging",
        ),
        ("SELECT * FROM pg_tables", "read pg_catalog.pg_tables"),
        ("SELECT * FROM customer_cards", "read public.customer_cards"),
        ("SELECT last_value FROM order_seq", "read public.order_seq"),
        ("SELECT 1 FROM other.public.orders", "read ?.orders"),
        ("SELECT 1 FROM nowhere.orders", "read ?.orders"),
        ("VALUES (1), ((SELECT 2 FROM orders))", "read public.orders"),
        (
            "SELECT a FROM (VALUES (1)) v (a) GROUP BY CUBE (a) HAVING (SELECT true FROM orders)",
            "read public.orders",
        ),
        ("SELECT xmlelement(name a, (SELECT 1 FROM orders))", "read public.orders"),
        (
            "SELECT id FROM orders FETCH FIRST (SELECT 1 FROM staging) ROWS ONLY",
            "read public.orders; read public.staging",
        ),
        (
            "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n FROM t) SEARCH DEPTH FIRST BY n SET o SELECT * FROM t",
            "",
        ),
        ("WITH t AS (SELECT 1) SELECT 1 FROM (SELECT 1 FROM t) s, LATERAL (SELECT 1 FROM t) l", ""),
        ("SELECT id FROM orders FOR NO KEY UPDATE", "read public.orders; lock public.orders"),
        ("SELECT 1 FROM (SELECT id FROM orders) s FOR SHARE", "read public.orders; lock public.orders"),
        (
            "SELECT 1 FROM orders o, staging s FOR UPDATE OF s",
            "read public.orders; read public.staging; lock public.staging",
        ),
        (
            "SELECT id FROM customer_names FOR UPDATE",
            "read public.customer_names; read public.customers; lock public.customer_names; lock public.customers",
        ),
        (
            "SELECT id FROM customers_vip FOR UPDATE",
            "read public.customers_vip; read public.customers; lock public.customers_vip; lock public.customers",
        ),
        ("SELECT * INTO TEMP t FROM orders", "create pg_temp.t; read public.orders"),
        ("SELECT 1 INTO sales.t", "create sales.t"),
    ]);
}

#[test]
fn writing() {
    all(&[
        ("DELETE FROM staging WHERE now() > '2020-01-01'", "delete public.staging"),
        ("DELETE FROM staging WHERE name = 'x'", "delete public.staging; read public.staging"),
        ("DELETE FROM staging s WHERE s.id = 1", "delete public.staging; read public.staging"),
        (
            "DELETE FROM staging s USING orders o WHERE o.total > 1",
            "delete public.staging; read public.orders",
        ),
        ("DELETE FROM staging RETURNING 1", "delete public.staging"),
        ("DELETE FROM staging RETURNING staging", "delete public.staging; read public.staging"),
        ("DELETE FROM staging WHERE ctid = '(0,1)'", "delete public.staging; read public.staging"),
        ("UPDATE staging SET note = name", "update public.staging; read public.staging"),
        ("UPDATE staging SET note = upper('x')", "update public.staging"),
        ("UPDATE staging SET (name, note) = ROW('a', 'b')", "update public.staging"),
        ("INSERT INTO staging DEFAULT VALUES", "insert public.staging"),
        (
            "INSERT INTO staging (id) VALUES ((SELECT max(id) FROM orders))",
            "insert public.staging; read public.orders",
        ),
        ("INSERT INTO staging (id) VALUES (1) RETURNING id", "insert public.staging; read public.staging"),
        ("INSERT INTO orders (id, customer_id) VALUES (1, 1)", "insert public.orders"),
        (
            "INSERT INTO orders (id, customer_id) VALUES (DEFAULT, 1)",
            "insert public.orders; call pg_catalog.nextval; update public.order_seq",
        ),
        ("INSERT INTO sales.notes (id) VALUES (1) ON CONFLICT DO NOTHING", "insert sales.notes"),
        (
            "INSERT INTO sales.notes (id) VALUES (1) ON CONFLICT (id) DO NOTHING",
            "insert sales.notes; read sales.notes",
        ),
        ("INSERT INTO events_2024 (id) VALUES (1)", "insert public.events_2024; insert public.events"),
        ("UPDATE households SET label = 'x'", "update public.households"),
        (
            "DELETE FROM billing.payments",
            "delete billing.payments; delete billing.refunds; read billing.refunds",
        ),
        ("UPDATE customers SET name = 'x'", "update public.customers; unknown"),
        ("UPDATE customers SET born = NULL", "update public.customers"),
        ("UPDATE customers_vip SET tier = 1", "update public.customers_vip; update public.customers"),
        ("TRUNCATE billing.payments CASCADE", "truncate billing.payments; truncate billing.refunds"),
        ("TRUNCATE nowhere", "truncate ?.nowhere"),
        ("UPDATE pg_class SET relname = 'x'", "update pg_catalog.pg_class; unknown"),
        (
            "MERGE INTO staging USING orders o ON true WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
            "merge public.staging; insert public.staging; read public.orders",
        ),
        (
            "MERGE INTO staging USING (SELECT 1) x ON true WHEN MATCHED THEN DO NOTHING",
            "merge public.staging",
        ),
        (
            "WITH orders AS (SELECT 1 AS id) UPDATE staging SET id = orders.id FROM orders",
            "update public.staging",
        ),
        (
            "UPDATE open_orders SET total = 1",
            "update public.open_orders; update public.orders; read public.orders; unknown",
        ),
        ("EXPLAIN UPDATE staging SET id = 1", "read public.staging"),
        (
            "EXPLAIN (ANALYZE FALSE) INSERT INTO staging SELECT id FROM orders",
            "read public.staging; read public.orders",
        ),
        (
            "EXPLAIN ANALYZE INSERT INTO staging (id) SELECT id FROM orders",
            "insert public.staging; read public.orders",
        ),
        ("EXPLAIN CREATE TABLE t AS SELECT id FROM orders", "read public.orders"),
        ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT id FROM orders", "create public.t; read public.orders"),
        ("EXPLAIN SELECT wipe(), nextval('order_seq')", ""),
    ]);
}

#[test]
fn calling() {
    all(&[
        ("SELECT pg_catalog.lower('x'), clock_timestamp(), random()", ""),
        ("SELECT public.lower('x')", "call ?.lower; unknown"),
        ("SELECT nowhere('x')", "call ?.nowhere; unknown"),
        ("SELECT wipe()", "call public.wipe; unknown"),
        ("SELECT 1 FROM wipe_count() WITH ORDINALITY", "call public.wipe_count; unknown"),
        ("SELECT currval('order_seq')", ""),
        (
            "SELECT nextval('public.order_seq'), setval('\"order_seq\"', 1)",
            "call pg_catalog.nextval; call pg_catalog.setval; update public.order_seq",
        ),
        ("SELECT nextval('or' || 'der_seq')", "call pg_catalog.nextval; unknown"),
        ("SELECT nextval('gone')", "call pg_catalog.nextval; update ?.gone"),
        ("SELECT set_config('Role', 'x', false)", "call pg_catalog.set_config; impersonate x"),
        (
            "SELECT set_config(is_local => false, new_value => 'x', setting_name => 'role')",
            "call pg_catalog.set_config; unknown",
        ),
        (
            "SELECT lo_get(5), lo_put(6, 0, 'x')",
            "call pg_catalog.lo_get; call pg_catalog.lo_put; read large_object 5; update large_object 6",
        ),
        ("SELECT pg_ls_waldir()", "call pg_catalog.pg_ls_waldir; read_file *"),
        ("SELECT pg_notify('a' || 'b', '')", "call pg_catalog.pg_notify; notify *"),
        (
            "SELECT pg_create_physical_replication_slot('x')",
            "call pg_catalog.pg_create_physical_replication_slot; replicate",
        ),
        ("SELECT ts_rewrite('a'::tsquery, 'SELECT 1')", "call pg_catalog.ts_rewrite; unknown"),
        ("SELECT ts_rewrite('a'::tsquery, 'a'::tsquery, 'b'::tsquery)", ""),
        ("SELECT pg_reload_conf()", "call pg_catalog.pg_reload_conf"),
        ("SELECT 1 OPERATOR(public.~>>) 2", "call public.op_wipe; unknown"),
        ("SELECT 1 ~>> ANY (ARRAY[2])", "call public.op_wipe; unknown"),
        ("SELECT 1 ORDER BY 1 USING ~>>", "call public.op_wipe; unknown"),
        ("SELECT 1 WHERE 1 ~>> ALL (SELECT 2)", "call public.op_wipe; unknown"),
        ("SELECT 5::public.checked_int", "call public.check_and_log; unknown"),
        ("SELECT '{5}'::checked_int[]", "call public.check_and_log; unknown"),
        ("SELECT checked_int(5)", "call public.check_and_log; unknown"),
        ("SELECT * FROM json_to_record('{}') AS t (a checked_int)", "call public.check_and_log; unknown"),
        ("SELECT 'a@b'::email_address", ""),
        ("SELECT domain_in('5', 'checked_int'::regtype, -1)", "call pg_catalog.domain_in; unknown"),
        ("SELECT (o).erase FROM orders o", "read public.orders; call public.erase; unknown"),
        (
            "SELECT id FROM orders TABLESAMPLE ext.system_rows (1)",
            "read public.orders; call ext.system_rows; unknown",
        ),
        ("SELECT json_value('{}', '$.a')", "unknown"),
        ("SELECT * FROM json_table('[]', '$' COLUMNS (a int))", "unknown"),
        ("SELECT json_object('a': 1)", "unknown"),
        ("SELECT json_object('{a,1}')", ""),
        ("CALL nothing()", "call public.nothing; unknown"),
        ("DO $$ BEGIN END $$", "unknown"),
    ]);
}

#[test]
fn utilities() {
    all(&[
        ("BEGIN; SAVEPOINT a; RELEASE a; COMMIT", "transaction"),
        ("PREPARE TRANSACTION 'x'", "transaction"),
        ("SET work_mem = '1MB'", "set work_mem"),
        ("SET TIME ZONE 'UTC'", "set timezone"),
        ("RESET ALL", "set *"),
        ("SHOW work_mem", ""),
        ("SET SESSION AUTHORIZATION DEFAULT", "impersonate none"),
        ("SET client_encoding = 'SJIS'", "set client_encoding; unknown"),
        ("SET NAMES 'UTF8'", "set client_encoding"),
        ("LISTEN a; NOTIFY b; UNLISTEN *", "listen a; notify b; listen *"),
        ("LOCK orders, nowhere", "lock public.orders; lock ?.nowhere"),
        ("LOAD 'x'", "execute_program x"),
        ("VACUUM", "maintain"),
        (
            "VACUUM (FULL) orders, customers_vip",
            "maintain public.orders; maintain public.customers_vip; maintain public.customers",
        ),
        ("REINDEX INDEX orders_pkey", "maintain public.orders_pkey; maintain public.orders"),
        ("REINDEX SCHEMA sales", "maintain sales.*"),
        ("CLUSTER", "maintain"),
        ("COPY staging TO '/tmp/x'", "copy_out public.staging; read public.staging; write_file /tmp/x"),
        ("COPY (SELECT 1 FROM nowhere) TO STDOUT", "copy_out ?.nowhere; read ?.nowhere"),
        ("DISCARD TEMP", "drop pg_temp.*"),
        ("SET CONSTRAINTS ALL DEFERRED", "set constraints"),
    ]);
}

#[test]
fn structure() {
    all(&[
        ("CREATE TABLE t (id int DEFAULT wipe_count() CHECK (id > 0))", "create public.t"),
        ("CREATE UNLOGGED TABLE sales.t (LIKE orders)", "create sales.t; read public.orders"),
        (
            "CREATE TABLE e PARTITION OF events FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
            "create public.e; alter public.events",
        ),
        ("CREATE TEMP TABLE t AS SELECT id FROM orders", "create pg_temp.t; read public.orders"),
        (
            "CREATE VIEW v AS SELECT wipe() FROM orders",
            "create public.v; read public.orders; call public.wipe; unknown",
        ),
        ("CREATE SEQUENCE s", "create public.s"),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'lib', 'sym'",
            "create public.f; execute_program lib",
        ),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'x'", "create public.f; unknown"),
        (
            "CREATE INDEX ON staging (name)",
            "create public.staging_name_idx; alter public.staging; read public.staging",
        ),
        (
            "ALTER TABLE staging ADD CHECK (wipe_count() > 0)",
            "alter public.staging; call public.wipe_count; unknown",
        ),
        (
            "ALTER TABLE staging ADD FOREIGN KEY (id) REFERENCES orders",
            "alter public.staging; alter public.orders",
        ),
        ("ALTER TABLE events ATTACH PARTITION staging DEFAULT", "alter public.events; alter public.staging"),
        ("ALTER TABLE staging ALTER id SET DEFAULT wipe_count()", "alter public.staging"),
        ("ALTER TABLE staging RENAME COLUMN id TO key", "alter public.staging"),
        ("ALTER TABLE nowhere ADD COLUMN a int", "alter ?.nowhere"),
        (
            "ALTER INDEX orders_pkey RENAME TO x",
            "alter public.orders_pkey; alter public.orders; create public.x",
        ),
        ("ALTER SEQUENCE order_seq RESTART", "alter public.order_seq"),
        ("ALTER FUNCTION wipe() SET SCHEMA sales", "alter public.wipe; create sales.wipe"),
        ("ALTER TYPE order_status RENAME TO st", "alter public.order_status; create public.st"),
        ("ALTER SCHEMA sales RENAME TO s2", "alter schema sales; create schema s2"),
        ("DROP INDEX orders_pkey", "drop public.orders_pkey; alter public.orders"),
        ("DROP FUNCTION wipe()", "drop public.wipe"),
        ("DROP FUNCTION nowhere()", "drop ?.nowhere"),
        ("DROP TRIGGER orders_changed ON orders", "alter public.orders"),
        ("DROP RULE r ON sales.inbox", "alter sales.inbox"),
        ("DROP TYPE address", "drop public.address"),
        ("DROP SCHEMA sales, billing", "drop schema sales; drop schema billing"),
        ("DROP VIEW customer_names CASCADE", "drop public.customer_names; unknown"),
        ("DROP TABLE customers_vip", "drop public.customers_vip; drop public.customers"),
        ("DROP EXTENSION hstore", "drop extension hstore"),
        ("DROP OWNED BY corpus_reader", "drop *.*; unknown"),
        ("COMMENT ON TABLE orders IS 'x'", "alter public.orders"),
        ("COMMENT ON SCHEMA sales IS 'x'", "alter schema sales"),
        (
            "CREATE ROLE a; ALTER ROLE b; DROP ROLE c, d",
            "create role a; alter role b; drop role c; drop role d",
        ),
        ("GRANT a, b TO c", "grant role a; grant role b"),
        ("REVOKE a FROM c", "revoke role a"),
        ("GRANT EXECUTE ON FUNCTION wipe() TO c", "grant public.wipe"),
        ("GRANT USAGE ON SCHEMA sales TO c", "grant schema sales"),
        ("GRANT ALL ON DATABASE corpus TO c", "grant database corpus"),
        ("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA sales TO c", "grant sales.*"),
        ("GRANT SELECT ON LARGE OBJECT 5 TO c", "grant large_object 5"),
        ("ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM a", "revoke schema *"),
        ("CREATE POLICY p ON orders USING (wipe() IS NULL)", "alter public.orders"),
        ("CREATE STATISTICS st ON id, name FROM staging", "create public.st; alter public.staging"),
        ("CREATE DATABASE d; DROP DATABASE d", "create database d; drop database d"),
        ("ALTER SYSTEM RESET ALL", "alter system *"),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", "create subscription s; unknown"),
        ("CREATE PUBLICATION p FOR TABLE orders", "create publication p"),
        ("CREATE FOREIGN TABLE f (id int) SERVER s", "unknown"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER s INTO sales", "create sales.*; unknown"),
        ("CREATE CAST (int AS text) WITH INOUT", "create cast *"),
        ("SECURITY LABEL ON TABLE orders IS 'x'", "alter public.orders"),
    ]);
}

#[test]
fn unbounded_is_told() {
    let unbounded = |sql: &str| crate::check::understand(sql).facts.pairs.iter().any(|pair| pair.unbounded);
    for sql in [
        "DELETE FROM staging",
        "UPDATE staging SET id = 1",
        "TRUNCATE staging",
        "DELETE FROM customer_names",
        "WITH x AS (DELETE FROM staging) SELECT 1",
    ] {
        assert!(unbounded(sql), "{sql}");
    }
    for sql in [
        "DELETE FROM staging WHERE id = 1",
        "UPDATE staging SET id = 1 WHERE true",
        "INSERT INTO staging VALUES (1)",
    ] {
        assert!(!unbounded(sql), "{sql}");
    }
}

/// How long a miss and a hit take: run alone, with this crate optimised, and read.
#[test]
#[ignore = "a measurement"]
fn cost() {
    use lockgate_facts::postgres::{Cache, Reading};
    let long = format!("SELECT id FROM orders WHERE id IN (1{})", ", 12345678".repeat(59_000));
    for sql in ["SELECT 1", "SELECT id, total FROM orders WHERE customer_id = $1 ORDER BY id", &long] {
        let (catalog, reading) = (crate::check::catalog(), Reading::new());
        let rounds = if sql.len() > 1000 { 50 } else { 20_000 };
        let mut none = Cache::new(0);
        let start = std::time::Instant::now();
        (0..rounds).for_each(|_| drop(none.understand(sql.as_bytes(), catalog, &reading)));
        let miss = start.elapsed() / rounds;
        let mut cache = Cache::new(16 << 20);
        cache.understand(sql.as_bytes(), catalog, &reading);
        let start = std::time::Instant::now();
        (0..rounds).for_each(|_| drop(cache.understand(sql.as_bytes(), catalog, &reading)));
        println!("{} bytes: miss {miss:?}, hit {:?}", sql.len(), start.elapsed() / rounds);
    }
}
