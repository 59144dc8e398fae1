//! What is asked of a target's system catalogs: the rows of which a [`Catalog`](super::Catalog) is built.

use super::CatalogQuery;

/// The place of each answer in [`QUERIES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Session,
    Path,
    #[expect(dead_code, reason = "its answer only says that the path is empty now")]
    Pin,
    Schemas,
    Relations,
    Columns,
    Inherits,
    Functions,
    Operators,
    Casts,
    Types,
    DomainChecks,
    Expressions,
    Triggers,
    Rules,
    Views,
    ForeignKeys,
    EventTriggers,
}

/// In the order of [`Answer`]. Names in expressions and views come out qualified, because `pin` empties the path.
pub(super) const QUERIES: &[CatalogQuery] = &[
    CatalogQuery {
        name: "session",
        sql: "SELECT current_setting('server_version_num')::text, current_database()::text, current_user::text, \
              coalesce((SELECT (r.rolsuper OR r.rolbypassrls)::text FROM pg_catalog.pg_roles r \
              WHERE r.rolname = current_user), 'false')",
    },
    // A default set for the role or the database counts for sessions that begin from now on; what this connection
    // was started with may be older.
    CatalogQuery {
        name: "path",
        sql: "SELECT s.setting::text FROM (\
              SELECT 1 + (d.setdatabase = 0)::int + 2 * (d.setrole = 0)::int AS place, \
              substring(c.one FROM 13) AS setting \
              FROM pg_catalog.pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) AS c (one) \
              WHERE d.setdatabase IN (0, (SELECT b.oid FROM pg_catalog.pg_database b \
              WHERE b.datname = current_database())) \
              AND d.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)) \
              AND c.one LIKE 'search\\_path=%' \
              UNION ALL SELECT 9, CASE WHEN g.source IN ('database', 'user', 'database user') THEN g.boot_val \
              ELSE g.reset_val END FROM pg_catalog.pg_settings g WHERE g.name = 'search_path') s \
              ORDER BY s.place LIMIT 1",
    },
    CatalogQuery { name: "pin", sql: "SELECT set_config('search_path', 'pg_catalog', true)::text" },
    CatalogQuery {
        name: "schemas",
        sql: "SELECT n.oid::text, n.nspname::text, has_schema_privilege(n.oid, 'USAGE')::text \
              FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast|temp_|toast_temp_)'",
    },
    CatalogQuery {
        name: "relations",
        sql: "SELECT c.oid::text, c.relnamespace::text, c.relname::text, c.relkind::text, c.reltype::text, \
              c.relrowsecurity::text, coalesce(i.indrelid, 0)::text FROM pg_class c \
              JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid \
              WHERE n.nspname !~ '^pg_(toast|temp_|toast_temp_)'",
    },
    CatalogQuery {
        name: "columns",
        sql: "SELECT a.attrelid::text, a.attnum::text, a.attname::text, a.atttypid::text FROM pg_attribute a \
              JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
              WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') \
              AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)' ORDER BY a.attrelid, a.attnum",
    },
    CatalogQuery { name: "inherits", sql: "SELECT i.inhrelid::text, i.inhparent::text FROM pg_inherits i" },
    CatalogQuery {
        name: "functions",
        sql: "SELECT p.oid::text, p.pronamespace::text, p.proname::text, p.provolatile::text, p.prokind::text, \
              p.pronargs::text, p.pronargdefaults::text, (p.provariadic <> 0)::text, p.proargtypes::text, \
              p.prorettype::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
              WHERE n.nspname !~ '^pg_(toast|temp_|toast_temp_)'",
    },
    CatalogQuery {
        name: "operators",
        sql: "SELECT n.nspname::text, o.oprname::text, p.oid::text, o.oprleft::text, o.oprright::text FROM pg_operator o \
              JOIN pg_namespace n ON n.oid = o.oprnamespace LEFT JOIN pg_proc p ON p.oid = o.oprcode",
    },
    // `I/O` and binary casts call nothing of the user's.
    CatalogQuery {
        name: "casts",
        sql: "SELECT c.castsource::text, c.casttarget::text, c.castcontext::text, c.castfunc::text \
              FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc JOIN pg_namespace n ON n.oid = p.pronamespace \
              WHERE n.nspname <> 'pg_catalog'",
    },
    CatalogQuery {
        name: "types",
        sql: "SELECT t.oid::text, t.typnamespace::text, t.typname::text, t.typtype::text, t.typbasetype::text, \
              t.typelem::text, t.typrelid::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
              WHERE n.nspname !~ '^pg_(toast|temp_|toast_temp_)'",
    },
    CatalogQuery {
        name: "domain_checks",
        sql: "SELECT k.contypid::text, pg_get_constraintdef(k.oid) FROM pg_constraint k \
              WHERE k.contypid <> 0 AND k.contype = 'c'",
    },
    // Kinds: d default, g generated, c check, i index, p partition key, r row security, u an index or a constraint
    // that calls support functions or operators which are not PostgreSQL's own.
    CatalogQuery {
        name: "expressions",
        sql: "SELECT d.adrelid::text, CASE WHEN a.attgenerated = '' THEN 'd' ELSE 'g' END, d.adnum::text, \
              pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d \
              JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
              UNION ALL SELECT k.conrelid::text, 'c', '0', pg_get_constraintdef(k.oid) FROM pg_constraint k \
              WHERE k.conrelid <> 0 AND k.contype = 'c' \
              UNION ALL SELECT i.indrelid::text, 'i', '0', pg_get_expr(i.indexprs, i.indrelid) FROM pg_index i \
              WHERE i.indexprs IS NOT NULL AND i.indrelid >= 16384 \
              UNION ALL SELECT i.indrelid::text, 'i', '0', pg_get_expr(i.indpred, i.indrelid) FROM pg_index i \
              WHERE i.indpred IS NOT NULL AND i.indrelid >= 16384 \
              UNION ALL SELECT t.partrelid::text, 'p', '0', pg_get_expr(t.partexprs, t.partrelid) \
              FROM pg_partitioned_table t WHERE t.partexprs IS NOT NULL \
              UNION ALL SELECT y.polrelid::text, 'r', '0', e.one FROM pg_policy y CROSS JOIN LATERAL (VALUES \
              (pg_get_expr(y.polqual, y.polrelid)), (pg_get_expr(y.polwithcheck, y.polrelid))) AS e (one) \
              WHERE e.one IS NOT NULL \
              UNION ALL SELECT DISTINCT i.indrelid::text, 'u', '0', o.opcname::text FROM pg_index i \
              CROSS JOIN LATERAL unnest(i.indclass) AS u (one) JOIN pg_opclass o ON o.oid = u.one \
              JOIN pg_amproc s ON s.amprocfamily = o.opcfamily JOIN pg_proc p ON p.oid = s.amproc \
              JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname NOT IN ('internal', 'c') \
              UNION ALL SELECT DISTINCT k.conrelid::text, 'u', '0', k.conname::text FROM pg_constraint k \
              CROSS JOIN LATERAL unnest(k.conexclop) AS u (one) JOIN pg_operator o ON o.oid = u.one \
              JOIN pg_proc p ON p.oid = o.oprcode JOIN pg_language l ON l.oid = p.prolang \
              WHERE l.lanname NOT IN ('internal', 'c')",
    },
    CatalogQuery {
        name: "triggers",
        sql: "SELECT t.tgrelid::text, t.tgname::text, t.tgtype::text, t.tgattr::text, \
              (n.nspname = 'pg_catalog')::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
              JOIN pg_namespace n ON n.oid = p.pronamespace WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'",
    },
    CatalogQuery {
        name: "rules",
        sql: "SELECT r.ev_class::text, r.ev_type::text, r.rulename::text FROM pg_rewrite r \
              WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D' AND r.ev_class >= 16384",
    },
    CatalogQuery {
        name: "views",
        sql: "SELECT c.oid::text, pg_get_viewdef(c.oid) FROM pg_class c \
              JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') \
              AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_)'",
    },
    CatalogQuery {
        name: "foreign_keys",
        sql: "SELECT k.conrelid::text, k.confrelid::text, k.confdeltype::text, k.confupdtype::text, \
              k.conkey::text, k.confkey::text FROM pg_constraint k WHERE k.contype = 'f'",
    },
    CatalogQuery {
        name: "event_triggers",
        sql: "SELECT e.evtname::text FROM pg_event_trigger e WHERE e.evtenabled <> 'D'",
    },
];

/// Row versions (`xmin`) and identities of everything that [`QUERIES`] reads, summed per system catalog: any DDL
/// makes new row versions. Temporary tables are left out, or every session's would count.
pub(super) const FINGERPRINT: &str = "SELECT concat_ws('/', \
    (SELECT concat(count(*), ',', sum(c.xmin::text::int8 * (1 + c.oid::int8 % 8191))) FROM pg_catalog.pg_class c \
     WHERE c.relpersistence <> 't'), \
    (SELECT concat(count(*), ',', sum(a.xmin::text::int8 * (1 + a.attrelid::int8 % 8191) + a.attnum)) \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
     WHERE c.relpersistence <> 't'), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_namespace x \
     WHERE x.nspname !~ '^pg_(toast_)?temp_'), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_proc x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_operator x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_cast x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_type x \
     WHERE x.typtype NOT IN ('c', 'b')), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_constraint x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_attrdef x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_policy x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_trigger x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_rewrite x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.oid::int8 % 8191))) FROM pg_catalog.pg_event_trigger x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.indexrelid::int8 % 8191))) FROM pg_catalog.pg_index x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.inhrelid::int8 % 8191 + x.inhparent::int8 % 127))) \
     FROM pg_catalog.pg_inherits x), \
    (SELECT concat(count(*), ',', sum(x.xmin::text::int8 * (1 + x.setrole::int8 % 8191))) \
     FROM pg_catalog.pg_db_role_setting x), \
    (SELECT concat(rolname, ',', rolsuper, ',', rolbypassrls) FROM pg_catalog.pg_roles WHERE rolname = current_user))";
