// What users of pgjdbc use, each feature a test: prints `ok NAME`, or `FAILED NAME: why`. Its server is where libpq's
// variables PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE say; it works in the schema `jdbc`.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLXML;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.Executors;
import javax.sql.PooledConnection;
import javax.sql.XAConnection;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;
import org.postgresql.ds.PGConnectionPoolDataSource;
import org.postgresql.ds.PGSimpleDataSource;
import org.postgresql.ds.common.BaseDataSource;
import org.postgresql.geometric.PGpoint;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PGInterval;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;
import org.postgresql.xa.PGXADataSource;

public class Jdbc {
    interface Test {
        void run() throws Exception;
    }

    static final Map<String, Test> TESTS = new LinkedHashMap<>();

    public static void main(String[] words) throws Exception {
        for (String mode : new String[] {"simple", "extendedForPrepared", "extended", "extendedCacheEverything"}) {
            TESTS.put("queries, " + mode, () -> queries(mode));
            TESTS.put("a failed statement and what follows, " + mode, () -> afterAnError(mode));
            TESTS.put("batch, " + mode, () -> batch(mode));
        }
        TESTS.put("types as text", () -> types("prepareThreshold", "0", "binaryTransfer", "false"));
        TESTS.put("types in binary", () -> types("prepareThreshold", "-1", "binaryTransfer", "true"));
        TESTS.put("a statement becomes a prepared one", Jdbc::threshold);
        TESTS.put("a prepared statement survives a changed table", Jdbc::changedTable);
        TESTS.put("rewritten batch", Jdbc::rewrittenBatch);
        TESTS.put("batch that fails in the middle", Jdbc::failingBatch);
        TESTS.put("many statements in one string", Jdbc::manyStatements);
        TESTS.put("generated keys", Jdbc::generatedKeys);
        TESTS.put("cursor by fetch size", Jdbc::cursor);
        TESTS.put("updatable result", Jdbc::updatable);
        TESTS.put("function, procedure and refcursor", Jdbc::calls);
        TESTS.put("transaction and isolation", Jdbc::transactions);
        TESTS.put("savepoints", Jdbc::savepoints);
        TESTS.put("autosave", Jdbc::autosave);
        TESTS.put("two-phase commit", Jdbc::twoPhase);
        TESTS.put("an error's fields", Jdbc::errorFields);
        TESTS.put("warnings", Jdbc::warnings);
        TESTS.put("cancel and query timeout", Jdbc::cancel);
        TESTS.put("COPY in and out", Jdbc::copy);
        TESTS.put("COPY that is cancelled or fails", Jdbc::copyFails);
        TESTS.put("LISTEN and NOTIFY", Jdbc::notifications);
        TESTS.put("large objects", Jdbc::largeObjects);
        TESTS.put("metadata", Jdbc::metadata);
        TESTS.put("a row of 8 MiB both ways", Jdbc::large);
        TESTS.put("start-up parameters", Jdbc::startup);
        TESTS.put("wrong password", Jdbc::wrongPassword);
        TESTS.put("TLS modes", Jdbc::tlsModes);
        TESTS.put("data source and pooled connections", Jdbc::pools);
        TESTS.put("eight threads", Jdbc::threads);
        TESTS.put("aborted and invalid connections", Jdbc::aborted);
        try (Connection db = open(); Statement sql = db.createStatement()) {
            sql.execute("DROP SCHEMA IF EXISTS jdbc CASCADE; CREATE SCHEMA jdbc");
        }
        int failed = 0;
        for (Map.Entry<String, Test> test : TESTS.entrySet()) {
            if (words.length > 0 && Arrays.stream(words).noneMatch(test.getKey()::contains)) {
                continue;
            }
            try {
                test.getValue().run();
                System.out.println("ok " + test.getKey());
            } catch (Throwable why) {
                failed++;
                System.out.println("FAILED " + test.getKey() + ": " + String.valueOf(why).replace('\n', ' '));
                why.printStackTrace();
            }
        }
        System.exit(failed == 0 ? 0 : 1);
    }

    // ------------------------------------------------------------------ queries

    static void queries(String mode) throws Exception {
        try (Connection db = open("preferQueryMode", mode)) {
            try (PreparedStatement ask = db.prepareStatement("SELECT n, 'row ' || n FROM generate_series(1, ?) n WHERE n % ? = 0")) {
                for (int round = 0; round < 8; round++) {
                    ask.setInt(1, 20);
                    ask.setInt(2, 5);
                    check("5=row 5;10=row 10;15=row 15;20=row 20;", rows(ask.executeQuery()));
                }
            }
            check("1=null;", rows(db.createStatement().executeQuery("SELECT 1, NULL")));
            check("", rows(db.createStatement().executeQuery("SELECT 1, 2 WHERE false")));
            check(false, db.createStatement().execute(""));
        }
    }

    static void afterAnError(String mode) throws Exception {
        try (Connection db = open("preferQueryMode", mode)) {
            check("42P01", state(() -> db.createStatement().executeQuery("SELECT * FROM jdbc.nowhere")));
            check("22012", state(() -> db.createStatement().executeQuery("SELECT 1 / (n - 3) FROM generate_series(1, 9) n")));
            check("1", one(db, "SELECT 1"));
            db.setAutoCommit(false);
            check("22012", state(() -> one(db, "SELECT 1 / 0")));
            check("25P02", state(() -> one(db, "SELECT 1")));
            db.rollback();
            check("2", one(db, "SELECT 2"));
        }
    }

    static void batch(String mode) throws Exception {
        try (Connection db = open("preferQueryMode", mode)) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.batch; CREATE TABLE jdbc.batch (n int, t text)");
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO jdbc.batch VALUES (?, ?)")) {
                for (int n = 0; n < 1000; n++) {
                    insert.setInt(1, n);
                    insert.setString(2, "text " + n);
                    insert.addBatch();
                }
                check(1000, Arrays.stream(insert.executeBatch()).sum());
            }
            try (Statement many = db.createStatement()) {
                many.addBatch("UPDATE jdbc.batch SET t = 'x' WHERE n < 10");
                many.addBatch("DELETE FROM jdbc.batch WHERE n >= 900");
                check("[10, 100]", Arrays.toString(many.executeBatch()));
            }
            check("900", one(db, "SELECT count(*) FROM jdbc.batch"));
        }
    }

    static void types(String... settings) throws Exception {
        try (Connection db = open(settings)) {
            Object[] values = {
                (short) 7, 42, 1L << 40, 1.5f, Math.PI, new BigDecimal("12345678901234567890.123456789"), true, "grüße, 世界",
                UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), LocalDate.of(2024, 2, 29),
                LocalDateTime.of(1969, 7, 20, 20, 17, 40, 123456000), OffsetDateTime.of(2001, 9, 9, 1, 46, 40, 0, ZoneOffset.UTC),
            };
            String[] kinds = {"int2", "int4", "int8", "float4", "float8", "numeric", "bool", "text", "uuid", "date", "timestamp", "timestamptz"};
            for (int round = 0; round < 3; round++) {
                for (int i = 0; i < kinds.length; i++) {
                    try (PreparedStatement ask = db.prepareStatement("SELECT ?::" + kinds[i])) {
                        ask.setObject(1, values[i]);
                        ResultSet got = ask.executeQuery();
                        got.next();
                        boolean small = values[i] instanceof Short;
                        check(small ? (Object) 7 : values[i], small ? got.getObject(1) : got.getObject(1, values[i].getClass()));
                        ask.setNull(1, Types.OTHER);
                        got = ask.executeQuery();
                        got.next();
                        check(null, got.getObject(1));
                    }
                }
                otherTypes(db);
            }
        }
    }

    static void otherTypes(Connection db) throws Exception {
        try (PreparedStatement ask = db.prepareStatement("SELECT ?::bytea, ?::int4[], ?::text[], ?::jsonb, ?::point, ?::interval, ?::xml")) {
            byte[] bytes = new byte[512];
            for (int i = 0; i < bytes.length; i++) {
                bytes[i] = (byte) i;
            }
            ask.setBytes(1, bytes);
            ask.setArray(2, db.createArrayOf("int4", new Object[] {1, null, 3}));
            ask.setArray(3, db.createArrayOf("text", new Object[] {"a,b", "c\"d", null, ""}));
            PGobject json = new PGobject();
            json.setType("jsonb");
            json.setValue("{\"a\": [1, 2]}");
            ask.setObject(4, json);
            ask.setObject(5, new PGpoint(1.5, -2));
            ask.setObject(6, new PGInterval("1 year 2 mons 3 days 04:05:06.7"));
            SQLXML xml = db.createSQLXML();
            xml.setString("<a>b</a>");
            ask.setSQLXML(7, xml);
            ResultSet got = ask.executeQuery();
            got.next();
            check(true, Arrays.equals(bytes, got.getBytes(1)));
            check("[1, null, 3]", Arrays.toString((Object[]) got.getArray(2).getArray()));
            check("[a,b, c\"d, null, ]", Arrays.toString((Object[]) got.getArray(3).getArray()));
            check("{\"a\": [1, 2]}", got.getString(4));
            check(new PGpoint(1.5, -2), got.getObject(5));
            check(new PGInterval("1 year 2 mons 3 days 04:05:06.7"), got.getObject(6));
            check("<a>b</a>", got.getSQLXML(7).getString());
        }
    }

    static void threshold() throws Exception {
        try (Connection db = open("prepareThreshold", "3")) {
            try (PreparedStatement ask = db.prepareStatement("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE ?")) {
                ask.setString(1, "SELECT count(*) FROM pg_prepared_statements%");
                String seen = "";
                for (int round = 0; round < 6; round++) {
                    seen += rows(ask.executeQuery());
                }
                check("0;0;1;1;1;1;", seen);
                check(true, ask.unwrap(PGStatement.class).isUseServerPrepare());
            }
            // More statements than the driver keeps: it closes the oldest ones.
            for (int n = 0; n < 400; n++) {
                for (int round = 0; round < 3; round++) {
                    check(String.valueOf(n), one(db, "SELECT " + n));
                }
            }
        }
    }

    static void changedTable() throws Exception {
        try (Connection db = open("prepareThreshold", "1")) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.changed; CREATE TABLE jdbc.changed AS SELECT 1 AS n");
            try (PreparedStatement ask = db.prepareStatement("SELECT * FROM jdbc.changed")) {
                check("1;", rows(ask.executeQuery()));
                check("1;", rows(ask.executeQuery()));
                db.createStatement().execute("ALTER TABLE jdbc.changed ADD COLUMN t text DEFAULT 'new'");
                check("1=new;", rows(ask.executeQuery()));
            }
            db.createStatement().execute("DEALLOCATE ALL");
            check("1=new;", rows(db.prepareStatement("SELECT * FROM jdbc.changed").executeQuery()));
        }
    }

    static void rewrittenBatch() throws Exception {
        try (Connection db = open("reWriteBatchedInserts", "true")) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.rewritten; CREATE TABLE jdbc.rewritten (n int)");
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO jdbc.rewritten VALUES (?)")) {
                for (int n = 0; n < 5000; n++) {
                    insert.setInt(1, n);
                    insert.addBatch();
                }
                check(5000, insert.executeBatch().length);
            }
            check("5000=12497500", row(db, "SELECT count(*), sum(n) FROM jdbc.rewritten"));
        }
    }

    static void failingBatch() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.failing; CREATE TABLE jdbc.failing (n int CHECK (n <> 300))");
            db.setAutoCommit(false);
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO jdbc.failing VALUES (?)")) {
                for (int n = 0; n < 600; n++) {
                    insert.setInt(1, n);
                    insert.addBatch();
                }
                insert.executeBatch();
                throw new IllegalStateException("the batch did not fail");
            } catch (BatchUpdateException failed) {
                check("23514", failed.getSQLState());
                check(600, failed.getUpdateCounts().length);
            }
            db.rollback();
            check("0", one(db, "SELECT count(*) FROM jdbc.failing"));
        }
    }

    static void manyStatements() throws Exception {
        try (Connection db = open(); Statement sql = db.createStatement()) {
            String seen = "";
            boolean rows = sql.execute("CREATE TEMP TABLE many (n int); INSERT INTO many VALUES (1), (2); SELECT n FROM many; SELECT 'x'");
            while (rows || sql.getUpdateCount() != -1) {
                seen += rows ? rows(sql.getResultSet()) : sql.getUpdateCount() + "|";
                rows = sql.getMoreResults();
            }
            check("0|2|1;2;x;", seen);
        }
    }

    static void generatedKeys() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute(
                "DROP TABLE IF EXISTS jdbc.keys; CREATE TABLE jdbc.keys (id int GENERATED ALWAYS AS IDENTITY, t text DEFAULT 'd')");
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO jdbc.keys (t) VALUES (?), (?)", Statement.RETURN_GENERATED_KEYS)) {
                insert.setString(1, "a");
                insert.setString(2, "b");
                check(2, insert.executeUpdate());
                check("1=a;2=b;", rows(insert.getGeneratedKeys()));
            }
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO jdbc.keys (t) VALUES (?)", new String[] {"id"})) {
                for (int n = 0; n < 3; n++) {
                    insert.setString(1, "c");
                    insert.addBatch();
                }
                insert.executeBatch();
                check("3;4;5;", rows(insert.getGeneratedKeys()));
            }
        }
    }

    static void cursor() throws Exception {
        for (String mode : new String[] {"extended", "extendedCacheEverything"}) {
            try (Connection db = open("preferQueryMode", mode, "defaultRowFetchSize", "50")) {
                db.setAutoCommit(false);
                try (PreparedStatement ask = db.prepareStatement("SELECT n FROM generate_series(1, 1234) n")) {
                    for (int round = 0; round < 3; round++) {
                        long sum = 0;
                        ResultSet got = ask.executeQuery();
                        while (got.next()) {
                            sum += got.getInt(1);
                            if (got.getInt(1) % 100 == 0) {
                                // Another statement while the portal is suspended.
                                check("7", one(db, "SELECT 7"));
                            }
                        }
                        check(1234L * 1235 / 2, sum);
                    }
                    ask.executeQuery().next();
                }
                db.commit();
                try (Statement some = db.createStatement()) {
                    some.setMaxRows(10);
                    check("1;2;3;4;5;6;7;8;9;10;", rows(some.executeQuery("SELECT generate_series(1, 100)")));
                }
                db.rollback();
            }
        }
    }

    static void updatable() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.upd; CREATE TABLE jdbc.upd (id int PRIMARY KEY, t text);"
                + " INSERT INTO jdbc.upd VALUES (1, 'a'), (2, 'b'), (3, 'c')");
            Statement sql = db.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
            ResultSet got = sql.executeQuery("SELECT id, t FROM jdbc.upd ORDER BY id");
            check(true, got.absolute(2));
            got.updateString(2, "B");
            got.updateRow();
            got.last();
            got.deleteRow();
            got.moveToInsertRow();
            got.updateInt(1, 9);
            got.updateString(2, "i");
            got.insertRow();
            check("1=a;2=B;9=i;", rows(db.createStatement().executeQuery("SELECT id, t FROM jdbc.upd ORDER BY id")));
        }
    }

    static void calls() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("CREATE OR REPLACE FUNCTION jdbc.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';"
                + " CREATE OR REPLACE PROCEDURE jdbc.put(a int, INOUT b int) LANGUAGE plpgsql AS 'BEGIN b := a + b; END';"
                + " CREATE OR REPLACE FUNCTION jdbc.rows() RETURNS refcursor LANGUAGE plpgsql AS"
                + " 'DECLARE c refcursor; BEGIN OPEN c FOR SELECT generate_series(1, 5); RETURN c; END'");
            try (CallableStatement call = db.prepareCall("{? = call jdbc.twice(?)}")) {
                call.registerOutParameter(1, Types.INTEGER);
                call.setInt(2, 21);
                call.execute();
                check(42, call.getInt(1));
            }
            try (CallableStatement call = db.prepareCall("call jdbc.put(?, ?)")) {
                call.setInt(1, 1);
                call.setInt(2, 2);
                call.registerOutParameter(2, Types.INTEGER);
                call.execute();
                check(3, call.getInt(2));
            }
            db.setAutoCommit(false);
            try (CallableStatement call = db.prepareCall("{? = call jdbc.rows()}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.execute();
                check("1;2;3;4;5;", rows((ResultSet) call.getObject(1)));
            }
            db.rollback();
        }
    }

    // ------------------------------------------------------------------ transactions

    static void transactions() throws Exception {
        try (Connection db = open(); Connection other = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.tx; CREATE TABLE jdbc.tx (n int)");
            db.setAutoCommit(false);
            db.createStatement().execute("INSERT INTO jdbc.tx VALUES (1)");
            check("0", one(other, "SELECT count(*) FROM jdbc.tx"));
            db.commit();
            check("1", one(other, "SELECT count(*) FROM jdbc.tx"));
            db.createStatement().execute("INSERT INTO jdbc.tx VALUES (2)");
            db.rollback();
            check("1", one(db, "SELECT count(*) FROM jdbc.tx"));
            db.commit();
            db.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            check("serializable", one(db, "SHOW transaction_isolation"));
            db.commit();
            db.setReadOnly(true);
            check("25006", state(() -> db.createStatement().execute("INSERT INTO jdbc.tx VALUES (3)")));
            db.rollback();
        }
    }

    static void savepoints() throws Exception {
        try (Connection db = open()) {
            db.setAutoCommit(false);
            db.createStatement().execute("CREATE TEMP TABLE sp (n int)");
            Savepoint named = db.setSavepoint("a name with \"quotes\"");
            db.createStatement().execute("INSERT INTO sp VALUES (1)");
            Savepoint unnamed = db.setSavepoint();
            check("22012", state(() -> one(db, "SELECT 1 / 0")));
            db.rollback(unnamed);
            check("1", one(db, "SELECT count(*) FROM sp"));
            db.rollback(named);
            check("0", one(db, "SELECT count(*) FROM sp"));
            db.releaseSavepoint(named);
            db.commit();
        }
    }

    static void autosave() throws Exception {
        for (String mode : new String[] {"always", "conservative"}) {
            try (Connection db = open("autosave", mode)) {
                db.setAutoCommit(false);
                db.createStatement().execute("CREATE TEMP TABLE saved (n int)");
                db.createStatement().execute("INSERT INTO saved VALUES (1)");
                check("42P01", state(() -> one(db, "SELECT * FROM jdbc.nowhere")));
                check(mode.equals("always") ? "1" : "25P02", mode.equals("always")
                    ? one(db, "SELECT count(*) FROM saved")
                    : state(() -> one(db, "SELECT count(*) FROM saved")));
                db.rollback();
            }
        }
    }

    static void twoPhase() throws Exception {
        PGXADataSource source = new PGXADataSource();
        point(source);
        XAConnection xa = source.getXAConnection();
        try (Connection db = xa.getConnection()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.xa; CREATE TABLE jdbc.xa (n int)");
            for (boolean commit : new boolean[] {true, false}) {
                Xid id = xid((byte) (commit ? 1 : 2));
                XAResource resource = xa.getXAResource();
                resource.start(id, XAResource.TMNOFLAGS);
                db.createStatement().execute("INSERT INTO jdbc.xa VALUES (1)");
                resource.end(id, XAResource.TMSUCCESS);
                check(XAResource.XA_OK, resource.prepare(id));
                check(1, resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length);
                if (commit) {
                    resource.commit(id, false);
                } else {
                    resource.rollback(id);
                }
            }
            check("1", one(db, "SELECT count(*) FROM jdbc.xa"));
        } finally {
            xa.close();
        }
    }

    static Xid xid(byte mark) {
        return new Xid() {
            public int getFormatId() {
                return 4711;
            }

            public byte[] getGlobalTransactionId() {
                return new byte[] {mark, 1, 2};
            }

            public byte[] getBranchQualifier() {
                return new byte[] {mark};
            }
        };
    }

    // ------------------------------------------------------------------ errors, cancel

    static void errorFields() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.strict;"
                + " CREATE TABLE jdbc.strict (id int CONSTRAINT strict_key PRIMARY KEY, t varchar(3) NOT NULL); INSERT INTO jdbc.strict VALUES (1, 'a')");
            ServerErrorMessage error = error(() -> db.createStatement().execute("INSERT INTO jdbc.strict VALUES (1, 'b')"));
            check("23505/jdbc/strict/strict_key", String.join("/", error.getSQLState(), error.getSchema(), error.getTable(), error.getConstraint()));
            check("Key (id)=(1) already exists.", error.getDetail());
            error = error(() -> db.createStatement().execute("INSERT INTO jdbc.strict VALUES (2, NULL)"));
            check("23502/t", error.getSQLState() + "/" + error.getColumn());
            error = error(() -> one(db, "SELECT missing FROM jdbc.strict"));
            check("42703/8/ERROR/parse_relation.c", String.join("/", error.getSQLState(), String.valueOf(error.getPosition()), error.getSeverity(), error.getFile()));
            error = error(() -> db.createStatement().execute("DO $$ BEGIN RAISE 'm' USING DETAIL = 'd', HINT = 'h', ERRCODE = 'XX123'; END $$"));
            check("XX123/m/d/h", String.join("/", error.getSQLState(), error.getMessage(), error.getDetail(), error.getHint()));
            check("PL/pgSQL function inline_code_block line 1 at RAISE", error.getWhere());
        }
    }

    static void warnings() throws Exception {
        try (Connection db = open(); Statement sql = db.createStatement()) {
            sql.execute("DO $$ BEGIN RAISE NOTICE 'first'; RAISE WARNING 'second'; END $$");
            check("first", sql.getWarnings().getMessage());
            check("second", sql.getWarnings().getNextWarning().getMessage());
        }
    }

    static void cancel() throws Exception {
        try (Connection db = open(); Statement sql = db.createStatement()) {
            Thread other = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    sql.cancel();
                } catch (Exception ignored) {
                    // The statement then ends by itself, and the check fails.
                }
            });
            other.start();
            check("57014", state(() -> sql.execute("SELECT pg_sleep(20)")));
            other.join();
            check("1", one(db, "SELECT 1"));
            sql.setQueryTimeout(1);
            check("57014", state(() -> sql.execute("SELECT pg_sleep(20)")));
            check("2", one(db, "SELECT 2"));
        }
    }

    // ------------------------------------------------------------------ COPY, notifications, large objects

    static void copy() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.copied; CREATE TABLE jdbc.copied (n int, t text)");
            CopyManager copies = db.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 20_000; n++) {
                lines.append(n).append(",line ").append(n).append('\n');
            }
            check(20_000L, copies.copyIn("COPY jdbc.copied FROM STDIN (FORMAT csv)", new StringReader(lines.toString())));
            StringWriter text = new StringWriter();
            check(20_000L, copies.copyOut("COPY (SELECT * FROM jdbc.copied ORDER BY n) TO STDOUT (FORMAT csv)", text));
            check(true, text.toString().equals(lines.toString()));
            ByteArrayOutputStream binary = new ByteArrayOutputStream();
            copies.copyOut("COPY jdbc.copied TO STDOUT (FORMAT binary)", binary);
            check("PGCOPY", new String(binary.toByteArray(), 0, 6, StandardCharsets.US_ASCII));
            check(20_000L, copies.copyIn("COPY jdbc.copied FROM STDIN (FORMAT binary)", new ByteArrayInputStream(binary.toByteArray())));
            check("40000", one(db, "SELECT count(*) FROM jdbc.copied"));
        }
    }

    static void copyFails() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.refused; CREATE TABLE jdbc.refused (n int)");
            CopyManager copies = db.unwrap(PGConnection.class).getCopyAPI();
            check("22P02", state(() -> copies.copyIn("COPY jdbc.refused FROM STDIN", new StringReader("1\nx\n"))));
            check("1", one(db, "SELECT 1"));
            org.postgresql.copy.CopyIn in = copies.copyIn("COPY jdbc.refused FROM STDIN");
            in.writeToCopy("1\n".getBytes(StandardCharsets.US_ASCII), 0, 2);
            in.cancelCopy();
            check("0", one(db, "SELECT count(*) FROM jdbc.refused"));
            // A COPY TO is not cancelled here: 42.5.5 is out of step after that, directly too.
            check("2", one(db, "SELECT 2"));
        }
    }

    static void notifications() throws Exception {
        try (Connection db = open(); Connection other = open()) {
            db.createStatement().execute("LISTEN news");
            other.createStatement().execute("NOTIFY news, 'one'");
            PGNotification[] got = db.unwrap(PGConnection.class).getNotifications(10_000);
            check("news/one", got[0].getName() + "/" + got[0].getParameter());
            check(other.unwrap(PGConnection.class).getBackendPID(), got[0].getPID());
            db.createStatement().execute("NOTIFY news, 'mine'");
            check("mine", db.unwrap(PGConnection.class).getNotifications(10_000)[0].getParameter());
        }
    }

    static void largeObjects() throws Exception {
        try (Connection db = open()) {
            db.setAutoCommit(false);
            // By function calls, the oldest messages of the protocol.
            LargeObjectManager objects = db.unwrap(PGConnection.class).getLargeObjectAPI();
            long id = objects.createLO();
            byte[] bytes = new byte[300_000];
            Arrays.fill(bytes, (byte) 'x');
            try (LargeObject object = objects.open(id, LargeObjectManager.READWRITE)) {
                object.write(bytes);
                object.seek(10);
                check(5, object.read(5).length);
                check(300_000, object.size());
            }
            objects.delete(id);
            check("42704", state(() -> objects.open(id)));
            db.rollback();
        }
    }

    // ------------------------------------------------------------------ the rest

    static void metadata() throws Exception {
        try (Connection db = open()) {
            db.createStatement().execute("DROP TABLE IF EXISTS jdbc.child, jdbc.parent; CREATE TABLE jdbc.parent (id int PRIMARY KEY, t varchar(20));"
                + " CREATE TABLE jdbc.child (id int PRIMARY KEY, parent int REFERENCES jdbc.parent); CREATE INDEX ON jdbc.child (parent)");
            DatabaseMetaData about = db.getMetaData();
            check("PostgreSQL", about.getDatabaseProductName());
            ResultSet columns = about.getColumns(null, "jdbc", "parent", "%");
            String seen = "";
            while (columns.next()) {
                seen += columns.getString("COLUMN_NAME") + " " + columns.getString("TYPE_NAME") + " " + columns.getInt("COLUMN_SIZE") + ";";
            }
            check("id int4 10;t varchar 20;", seen);
            ResultSet keys = about.getImportedKeys(null, "jdbc", "child");
            check(true, keys.next());
            check("parent", keys.getString("PKTABLE_NAME"));
            check(true, about.getIndexInfo(null, "jdbc", "child", false, false).next());
            check(true, about.getProcedures(null, null, "pg_backend%").getMetaData().getColumnCount() > 0);
            check(true, about.getTypeInfo().next());
            try (PreparedStatement ask = db.prepareStatement("SELECT id, t AS label FROM jdbc.parent WHERE id = ?")) {
                ResultSetMetaData result = ask.getMetaData();
                check("label/t/parent/varchar", String.join("/", result.getColumnLabel(2), ((org.postgresql.PGResultSetMetaData) result).getBaseColumnName(2),
                    result.getTableName(2), result.getColumnTypeName(2)));
                check("int4", ask.getParameterMetaData().getParameterTypeName(1));
            }
        }
    }

    static void large() throws Exception {
        try (Connection db = open(); PreparedStatement ask = db.prepareStatement("SELECT ?::bytea || '\\x01'::bytea, md5(?)")) {
            byte[] bytes = new byte[8 << 20];
            Arrays.fill(bytes, (byte) 7);
            ask.setBytes(1, bytes);
            ask.setBytes(2, bytes);
            ResultSet got = ask.executeQuery();
            got.next();
            check(bytes.length + 1, got.getBytes(1).length);
            check(32, got.getString(2).length());
        }
    }

    static void startup() throws Exception {
        try (Connection db = open("ApplicationName", "a name of ours", "options", "-c work_mem=5MB", "currentSchema", "jdbc,public")) {
            check("a name of ours=5MB=jdbc,public", row(db, "SELECT current_setting('application_name'), current_setting('work_mem'), current_setting('search_path')"));
            check("a name of ours", db.unwrap(PGConnection.class).getParameterStatus("application_name"));
            db.setClientInfo("ApplicationName", "another");
            check("another", one(db, "SHOW application_name"));
            check("UTF8", db.unwrap(PGConnection.class).getParameterStatus("client_encoding"));
        }
    }

    static void wrongPassword() throws Exception {
        check("28P01", state(() -> open("password", "not this one").close()));
        check("28P01", state(() -> open("user", "nobody at all").close()));
    }

    static void tlsModes() throws Exception {
        boolean on = !"disable".equals(variable("PGSSLMODE"));
        for (String mode : new String[] {"allow", "prefer"}) {
            open("sslmode", mode).close();
        }
        check(on ? null : "08004", state(() -> open("sslmode", "require").close()));
        // Nobody vouches for a test's certificate.
        check(on ? "08006" : "08004", state(() -> open("sslmode", "verify-full").close()));
    }

    static void pools() throws Exception {
        PGSimpleDataSource simple = new PGSimpleDataSource();
        point(simple);
        try (Connection db = simple.getConnection()) {
            check("1", one(db, "SELECT 1"));
        }
        PGConnectionPoolDataSource source = new PGConnectionPoolDataSource();
        point(source);
        PooledConnection pooled = source.getPooledConnection();
        String first = null;
        for (int round = 0; round < 5; round++) {
            try (Connection db = pooled.getConnection()) {
                String pid = one(db, "SELECT pg_backend_pid()");
                check(first == null ? pid : first, pid);
                first = pid;
            }
        }
        pooled.close();
    }

    static void threads() throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        var done = new java.util.ArrayList<java.util.concurrent.Future<Integer>>();
        for (int thread = 0; thread < 8; thread++) {
            int mine = thread;
            done.add(pool.submit(() -> {
                int right = 0;
                for (int session = 0; session < 5; session++) {
                    try (Connection db = open()) {
                        for (int n = 0; n < 40; n++) {
                            right += one(db, "SELECT " + (mine * 1000 + n)).equals(String.valueOf(mine * 1000 + n)) ? 1 : 0;
                        }
                    }
                }
                return right;
            }));
        }
        for (var one : done) {
            check(200, one.get());
        }
        pool.shutdown();
    }

    static void aborted() throws Exception {
        Connection db = open();
        check(true, db.isValid(5));
        String pid = one(db, "SELECT pg_backend_pid()");
        try (Connection other = open()) {
            check("t", one(other, "SELECT pg_terminate_backend(" + pid + ")"));
        }
        check("57P01", state(() -> one(db, "SELECT 1")));
        check(false, db.isValid(5));
        Connection gone = open();
        gone.abort(Runnable::run);
        check(true, gone.isClosed());
        Connection slow = open();
        slow.setNetworkTimeout(Runnable::run, 500);
        check("08006", state(() -> one(slow, "SELECT pg_sleep(20)")));
    }

    // ------------------------------------------------------------------ helpers

    static String variable(String name) {
        return Objects.requireNonNull(System.getenv(name), name);
    }

    static Connection open(String... settings) throws SQLException {
        Properties all = new Properties();
        all.setProperty("user", variable("PGUSER"));
        all.setProperty("password", variable("PGPASSWORD"));
        all.setProperty("sslmode", variable("PGSSLMODE"));
        for (int i = 0; i < settings.length; i += 2) {
            all.setProperty(settings[i], settings[i + 1]);
        }
        return DriverManager.getConnection("jdbc:postgresql://" + variable("PGHOST") + ":" + variable("PGPORT") + "/" + variable("PGDATABASE"), all);
    }

    static void point(BaseDataSource source) {
        source.setServerNames(new String[] {variable("PGHOST")});
        source.setPortNumbers(new int[] {Integer.parseInt(variable("PGPORT"))});
        source.setDatabaseName(variable("PGDATABASE"));
        source.setUser(variable("PGUSER"));
        source.setPassword(variable("PGPASSWORD"));
        source.setSslMode(variable("PGSSLMODE"));
    }

    static String rows(ResultSet got) throws SQLException {
        StringBuilder all = new StringBuilder();
        while (got.next()) {
            all.append(line(got)).append(';');
        }
        return all.toString();
    }

    static String line(ResultSet got) throws SQLException {
        StringBuilder all = new StringBuilder();
        for (int column = 1; column <= got.getMetaData().getColumnCount(); column++) {
            all.append(column > 1 ? "=" : "").append(got.getString(column));
        }
        return all.toString();
    }

    static String row(Connection db, String text) throws SQLException {
        try (PreparedStatement ask = db.prepareStatement(text)) {
            ResultSet got = ask.executeQuery();
            got.next();
            return line(got);
        }
    }

    static String one(Connection db, String text) throws SQLException {
        return row(db, text);
    }

    /** SQLSTATE of the error that this ends with; null if it ends well. */
    static String state(Test test) throws Exception {
        try {
            test.run();
            return null;
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static ServerErrorMessage error(Test test) throws Exception {
        try {
            test.run();
        } catch (PSQLException error) {
            return error.getServerErrorMessage();
        }
        throw new IllegalStateException("it did not fail");
    }

    static void check(Object expected, Object got) {
        if (!Objects.equals(expected, got)) {
            throw new IllegalStateException("expected " + expected + ", got " + got);
        }
    }
}
