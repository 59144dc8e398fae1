"""What psycopg 3 does with a server, case by case: directly or through a gateway, the cases are the same.

Run by tests/drivers/run with libpq's variables set. PILOT_* names the user that may do everything. Where AGENT_* is
set too, a gateway stands in between, and that user is masked and refused as the policy beside this file says.
"""

import asyncio
import concurrent.futures
import datetime
import decimal
import os
import secrets
import sys
import threading
import time
import traceback
import uuid

import psycopg
from psycopg import errors, pq, rows, sql

CASES = []
WAIT_SECONDS = 10


class Skip(Exception):
    """This machine cannot run the case; the reason."""


def case(who):
    def note(function):
        CASES.append((who, function))
        return function

    return note


pilot, agent = case("PILOT"), case("AGENT")


def connect(who="PILOT", **options):
    options.setdefault("autocommit", True)
    user, password = os.environ[f"{who}_USER"], os.environ[f"{who}_PASSWORD"]
    return psycopg.connect(**{"user": user, "password": password, "connect_timeout": WAIT_SECONDS, **options})


def fails(error, what, *arguments, **options):
    """The error that a call must raise."""
    try:
        what(*arguments, **options)
    except error as raised:
        return raised
    raise AssertionError(f"{error.__name__} was to be raised")


def status(connection):
    return connection.info.transaction_status


VALUES = [
    (1, "int4"),
    (-(2**62), "int8"),
    (decimal.Decimal("12345678901234567890.123456789"), "numeric"),
    (1.5, "float8"),
    ("Grüße, 世界 🌍 'quoted' \\ back", "text"),
    ("", "text"),
    (b"\x00\x01\xfe\xff", "bytea"),
    (True, "bool"),
    (datetime.date(2026, 2, 28), "date"),
    (datetime.datetime(2026, 2, 28, 12, 30, 1, 5, datetime.timezone.utc), "timestamptz"),
    (datetime.timedelta(days=2, seconds=3), "interval"),
    (uuid.UUID("12345678-1234-5678-1234-567812345678"), "uuid"),
    ([1, 2, None], "int4[]"),
    (["a", None, "b,c"], "text[]"),
    (None, "text"),
]


@pilot
def simple_protocol(c):
    assert c.execute("SELECT 1, 'two', NULL").fetchone() == (1, "two", None)


@pilot
def several_statements_in_one_query(c):
    cursor = c.execute("SELECT 1; SELECT 2, 3; CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2); SELECT a FROM t")
    assert cursor.fetchall() == [(1,)] and cursor.nextset()
    assert cursor.fetchall() == [(2, 3)] and cursor.nextset()
    assert cursor.statusmessage == "CREATE TABLE" and cursor.nextset()
    assert cursor.rowcount == 2 and cursor.nextset()
    assert cursor.fetchall() == [(1,), (2,)] and not cursor.nextset()


@pilot
def error_in_several_statements_undoes_them(c):
    c.execute("CREATE TEMP TABLE t (a int)")
    fails(errors.DivisionByZero, c.execute, "INSERT INTO t VALUES (1); SELECT 1 / 0; INSERT INTO t VALUES (2)")
    assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pilot
def empty_queries(c):
    for text in ("", ";", "-- nothing", " ; ; "):
        assert c.execute(text).pgresult.status == pq.ExecStatus.EMPTY_QUERY, text
    assert c.execute("SELECT FROM generate_series(1, 3)").rowcount == 3


@pilot
def parameters_and_results_in_text_and_binary(c):
    for binary in (False, True):
        for value, type_ in VALUES:
            kind = "%b" if binary and value is not None else "%s"
            got = c.execute(f"SELECT {kind}::{type_}", (value,), binary=binary).fetchone()[0]
            assert got == value, (type_, binary, got)


@pilot
def prepared_and_executed_many_times(c):
    for n in range(1000):
        assert c.execute("SELECT %s::int4 + 1", (n,), prepare=True).fetchone() == (n + 1,)
    assert c.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] >= 1


@pilot
def prepared_by_itself_after_five(c):
    for n in range(20):
        assert c.execute("SELECT %s::text || 'x'", (str(n),)).fetchone() == (f"{n}x",)


@pilot
def prepared_statement_after_deallocate_all(c):
    c.pgconn.prepare(b"mine", b"SELECT $1::int4")
    assert c.pgconn.exec_prepared(b"mine", [b"7"]).get_value(0, 0) == b"7"
    c.execute("DEALLOCATE ALL")
    gone = c.pgconn.exec_prepared(b"mine", [b"7"])
    assert gone.status == pq.ExecStatus.FATAL_ERROR
    assert gone.error_field(pq.DiagnosticField.SQLSTATE) == b"26000"
    assert c.execute("SELECT 1").fetchone() == (1,)
    for _ in range(3):
        c.execute("SELECT %s::int4", (1,), prepare=True)
        c.execute("DISCARD ALL")
        assert c.execute("SELECT %s::int4", (2,), prepare=True).fetchone() == (2,)


@pilot
def prepared_in_sql(c):
    c.execute("PREPARE q (int) AS SELECT $1 * 2")
    assert c.execute("EXECUTE q (21)").fetchone() == (42,)
    c.execute("DEALLOCATE q")
    fails(errors.InvalidSqlStatementName, c.execute, "EXECUTE q (21)")


@pilot
def described_before_it_runs(c):
    c.pgconn.prepare(b"d", b"SELECT $1::int4 AS a, 'x'::text AS b")
    described = c.pgconn.describe_prepared(b"d")
    assert (described.nparams, described.param_type(0)) == (1, 23)
    assert [described.fname(n) for n in range(described.nfields)] == [b"a", b"b"]


@pilot
def pipeline(c):
    with c.pipeline():
        cursors = [c.execute("SELECT %s::int4", (n,)) for n in range(200)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(200))


@pilot
def error_in_a_pipeline(c):
    c.execute("CREATE TEMP TABLE t (a int)")

    def run():
        with c.pipeline():
            c.execute("INSERT INTO t VALUES (1)")
            c.execute("SELECT 1 / 0")
            c.execute("INSERT INTO t VALUES (2)")

    fails(errors.DivisionByZero, run)
    assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)
    with c.pipeline() as p:
        c.execute("INSERT INTO t VALUES (3)")
        p.sync()
        c.execute("INSERT INTO t VALUES (4)")
    assert c.execute("SELECT count(*) FROM t").fetchone() == (2,)


@pilot
def copy_out(c):
    with c.cursor() as cursor, cursor.copy("COPY (SELECT n, repeat('x', n % 7) FROM generate_series(1, 50000) n) TO STDOUT") as copy:
        got = list(copy.rows())
    assert len(got) == 50000 and got[12] == ("13", "x" * 6)
    with c.cursor() as cursor, cursor.copy("COPY (SELECT n::int4 FROM generate_series(1, 1000) n) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4"])
        assert [row[0] for row in copy.rows()] == list(range(1, 1001))


@pilot
def copy_in(c):
    c.execute("CREATE TEMP TABLE t (a int, b text)")
    with c.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        for n in range(50000):
            copy.write_row((n, f"row {n} \t \\ \n"))
    assert c.execute("SELECT count(*), sum(a), min(b) FROM t").fetchone() == (50000, 1249975000, "row 0 \t \\ \n")
    with c.cursor() as cursor, cursor.copy("COPY t FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        copy.write_row((7, None))
    assert c.execute("SELECT count(*) FROM t WHERE b IS NULL").fetchone() == (1,)


@pilot
def copy_in_given_up_and_refused(c):
    c.execute("CREATE TEMP TABLE t (a int)")

    def give_up():
        with c.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            copy.write_row((1,))
            raise KeyError

    fails((KeyError, errors.QueryCanceled), give_up)

    def refused():
        with c.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            for _ in range(10000):
                copy.write("no number\n")

    fails(errors.InvalidTextRepresentation, refused)
    assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pilot
def large_copy_in(c):
    c.execute("CREATE TEMP TABLE t (a text)")
    with c.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        for _ in range(64):
            copy.write(("y" * 999 + "\n") * 1000)
    assert c.execute("SELECT count(*), sum(length(a)) FROM t").fetchone() == (64000, 63936000)


@pilot
def server_side_cursors(c):
    with c.transaction(), c.cursor("named") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT n FROM generate_series(1, 1050) n")
        assert sum(row[0] for row in cursor) == 551775
    with c.transaction(), c.cursor("scrolling", scrollable=True) as cursor:
        cursor.execute("SELECT n FROM generate_series(1, 100) n")
        cursor.scroll(50)
        assert cursor.fetchone() == (51,)
        cursor.scroll(-10)
        assert cursor.fetchmany(2) == [(42,), (43,)]
    with c.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


@pilot
def one_row_at_a_time(c):
    assert sum(row[0] for row in c.cursor().stream("SELECT n FROM generate_series(1, %s) n", (20000,))) == 200010000


@pilot
def many_at_once_with_returning(c):
    c.execute("CREATE TEMP TABLE t (a int)")
    cursor = c.cursor()
    cursor.executemany("INSERT INTO t VALUES (%s) RETURNING a", [(n,) for n in range(300)], returning=True)
    got = []
    while True:
        got.append(cursor.fetchone()[0])
        if not cursor.nextset():
            break
    assert got == list(range(300))


@pilot
def notifications(c):
    channel = sql.Identifier("c" + secrets.token_hex(4))
    c.execute(sql.SQL("LISTEN {}").format(channel))
    with connect() as other:
        other.execute(sql.SQL("NOTIFY {}, 'hello'").format(channel))
    got = list(c.notifies(timeout=WAIT_SECONDS, stop_after=1))
    assert [notify.payload for notify in got] == ["hello"]


@pilot
def notices(c):
    seen = []
    c.add_notice_handler(lambda notice: seen.append((notice.severity, notice.message_primary)))
    c.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert seen == [("NOTICE", "one"), ("WARNING", "two")], seen


def _cancelled(c, cancel):
    timer = threading.Timer(0.3, cancel)
    timer.start()
    begun = time.monotonic()
    fails(errors.QueryCanceled, c.execute, "SELECT pg_sleep(30)")
    timer.join()
    assert time.monotonic() - begun < WAIT_SECONDS
    assert c.execute("SELECT 1").fetchone() == (1,)


@pilot
def cancel(c):
    _cancelled(c, c.cancel)


@pilot
def cancel_encrypted(c):
    if psycopg.capabilities.has_cancel_safe():
        _cancelled(c, c.cancel_safe)
    else:
        raise Skip("libpq is older than 17")


@pilot
def cancel_of_another_session_does_not_reach_this_one(c):
    with connect() as other:
        other.cancel()
        time.sleep(0.2)
        assert c.execute("SELECT pg_sleep(0.2), 1").fetchone()[1] == 1
        assert other.execute("SELECT 2").fetchone() == (2,)


@pilot
def process_id_is_the_servers(c):
    assert c.execute("SELECT pg_backend_pid()").fetchone() == (c.info.backend_pid,)


@pilot
def transaction_status_is_true(c):
    c.autocommit = False
    assert status(c) == pq.TransactionStatus.IDLE
    c.execute("SELECT 1")
    assert status(c) == pq.TransactionStatus.INTRANS
    fails(errors.UndefinedTable, c.execute, "SELECT * FROM there_is_none")
    assert status(c) == pq.TransactionStatus.INERROR
    fails(errors.InFailedSqlTransaction, c.execute, "SELECT 1")
    c.rollback()
    assert status(c) == pq.TransactionStatus.IDLE


@pilot
def savepoints(c):
    c.execute("CREATE TEMP TABLE t (a int)")
    with c.transaction():
        c.execute("INSERT INTO t VALUES (1)")

        def inner():
            with c.transaction():
                c.execute("INSERT INTO t VALUES (2)")
                c.execute("SELECT 1 / 0")

        fails(errors.DivisionByZero, inner)
        c.execute("INSERT INTO t VALUES (3)")
    assert c.execute("SELECT array_agg(a ORDER BY a) FROM t").fetchone() == ([1, 3],)


@pilot
def two_phases(c):
    c.autocommit = False
    xid = c.xid(1, secrets.token_hex(8), "b")
    c.tpc_begin(xid)
    c.execute("SELECT 1")
    c.tpc_prepare()
    with connect(autocommit=False) as other:
        assert any(found.gtrid == xid.gtrid for found in other.tpc_recover())
    c.tpc_rollback()


@pilot
def large_values_both_ways(c):
    text = "z" * (8 << 20)
    for binary in (False, True):
        assert c.execute("SELECT %s::text", (text,), binary=binary).fetchone() == (text,)
    assert c.execute(f"SELECT '{text}'").fetchone() == (text,)
    data = os.urandom(12 << 20)
    assert bytes(c.execute("SELECT %b::bytea", (data,), binary=True).fetchone()[0]) == data


@pilot
def a_large_result(c):
    cursor = c.execute("SELECT n, repeat('r', 90) FROM generate_series(1, 200000) n")
    assert sum(1 for _ in cursor) == 200000


@pilot
def as_many_columns_as_there_can_be(c):
    assert c.execute("SELECT " + ", ".join(str(n) for n in range(1600))).fetchone() == tuple(range(1600))
    got = c.execute("SELECT " + ", ".join("%s::int4" for _ in range(1000)), list(range(1000))).fetchone()
    assert got == tuple(range(1000))


@pilot
def settings_and_their_reports(c):
    c.execute("SET TIME ZONE 'Asia/Tokyo'")
    assert c.info.parameter_status("TimeZone") == "Asia/Tokyo"
    c.execute("SET application_name = 'conformance'")
    assert c.info.parameter_status("application_name") == "conformance"
    assert c.info.encoding == "utf-8" and c.info.server_version >= 140000


@pilot
def settings_at_start(_):
    with connect(options="-c search_path=pg_catalog -c statement_timeout=12345", application_name="at-start") as c:
        assert c.execute("SHOW statement_timeout").fetchone() == ("12345ms",)
        assert c.execute("SHOW search_path").fetchone() == ("pg_catalog",)
        assert c.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone() == ("at-start",)


@pilot
def the_newest_protocol(_):
    if pq.version() < 180000:
        raise Skip("libpq is older than 18")
    with connect(max_protocol_version="latest") as c:
        assert c.execute("SELECT 1").fetchone() == (1,)
        _cancelled(c, c.cancel_safe)


@pilot
def direct_tls(c):
    if not c.pgconn.ssl_in_use:
        return
    if pq.version() < 170000:
        raise Skip("libpq is older than 17")
    if "AGENT_USER" not in os.environ and c.info.server_version < 170000:
        return
    with connect(sslnegotiation="direct", sslmode="require") as direct:
        assert direct.execute("SELECT 1").fetchone() == (1,)


@pilot
def rows_as_dictionaries(c):
    assert c.cursor(row_factory=rows.dict_row).execute("SELECT 1 AS a, 2 AS b").fetchone() == {"a": 1, "b": 2}


@pilot
def binding_on_the_client(c):
    assert psycopg.ClientCursor(c).execute("SELECT %s, %s", (1, "it's")).fetchone() == (1, "it's")


@pilot
def raw_placeholders(c):
    assert psycopg.RawCursor(c).execute("SELECT $1::int4 + $2", (1, 2)).fetchone() == (3,)


@pilot
def asynchronous(_):
    async def run():
        user, password = os.environ["PILOT_USER"], os.environ["PILOT_PASSWORD"]
        async with await psycopg.AsyncConnection.connect(user=user, password=password, autocommit=True) as c:
            async with c.pipeline():
                cursors = [await c.execute("SELECT %s::int4", (n,)) for n in range(10)]
                return [(await cursor.fetchone())[0] for cursor in cursors]

    assert asyncio.run(run()) == list(range(10))


@pilot
def connect_and_leave_many_times(_):
    for _ in range(50):
        with connect() as c:
            assert c.execute("SELECT 1").fetchone() == (1,)


@pilot
def many_sessions_at_once(_):
    def one(n):
        with connect() as c:
            c.execute("SELECT set_config('a.b', %s, false)", (str(n),))
            return all(c.execute("SELECT current_setting('a.b')", prepare=k % 2 == 0).fetchone() == (str(n),) for k in range(50))

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert all(pool.map(one, range(40)))


@pilot
def the_server_ends_the_session(c):
    with connect() as other:
        other.execute("SELECT pg_terminate_backend(%s)", (c.info.backend_pid,))
    fails((errors.AdminShutdown, psycopg.OperationalError), c.execute, "SELECT 1")
    assert c.closed


@pilot
def a_wrong_password(_):
    raised = fails(psycopg.OperationalError, connect, password="wrong")
    assert "password authentication failed" in str(raised), raised


# ---------------------------------------------------------------------------
# A gateway only: who is masked and refused.

PEOPLE = "SELECT id, name, email, ssn, card, born FROM public.people"


def is_masked(row, text=False):
    """Whether the row of person n, read by the agent, is as the policy says."""
    n = int(row[0])
    assert row[1] == f"Person {n}", row
    assert row[2].endswith("@example.com") and f"person.{n}@" not in row[2], row
    assert row[3].endswith(f"{n:04}") and not row[3].startswith("900-12"), row
    assert "4111" not in row[4], row
    assert row[5] in (None, "\\N") if text else row[5] is None, row
    return True


@agent
def masked_in_the_simple_protocol(c):
    got = c.execute(PEOPLE).fetchall()
    assert len(got) == 50 and all(map(is_masked, got))


@agent
def masked_in_the_extended_protocol(c):
    for binary in (False, True):
        got = c.execute(f"{PEOPLE} WHERE id > %s", (10,), binary=binary).fetchall()
        assert len(got) == 40 and all(map(is_masked, got))


@agent
def masked_when_prepared_and_executed_many_times(c):
    for n in range(100):
        for binary in (False, True):
            assert is_masked(c.execute(f"{PEOPLE} WHERE id = %s", (1 + n % 50,), prepare=True, binary=binary).fetchone())


@agent
def masked_when_never_described(c):
    c.pgconn.prepare(b"never", f"{PEOPLE} WHERE id = $1".encode())
    for _ in range(10):
        result = c.pgconn.exec_prepared(b"never", [b"7"])
        assert is_masked([(result.get_value(0, n) or b"\\N").decode() for n in range(6)], text=True)


@agent
def masked_in_a_pipeline(c):
    with c.pipeline():
        cursors = [c.execute(f"{PEOPLE} WHERE id = %s", (n,)) for n in range(1, 51)]
        assert all(is_masked(cursor.fetchone()) for cursor in cursors)


@agent
def masked_in_cursors_of_the_server(c):
    with c.transaction(), c.cursor("named") as cursor:
        cursor.itersize = 7
        assert sum(is_masked(row) for row in cursor.execute(PEOPLE)) == 50


@agent
def masked_one_row_at_a_time(c):
    assert sum(is_masked(row) for row in c.cursor().stream(PEOPLE)) == 50


@agent
def masked_in_copy_or_refused(c):
    for options in ("", "(FORMAT csv)", "(FORMAT binary)"):
        try:
            with c.cursor() as cursor, cursor.copy(f"COPY public.people TO STDOUT {options}") as copy:
                got = b"".join(map(bytes, copy))
        except errors.InsufficientPrivilege:
            continue
        assert b"person.7@" not in got and b"900-12" not in got and b"4111" not in got, options
    assert c.execute("SELECT 1").fetchone() == (1,)


@agent
def what_is_not_protected_is_untouched(c):
    assert c.execute("SELECT body FROM public.notes WHERE id = 1").fetchone() == ("first",)
    assert c.execute("SELECT 'person.1@example.com', 900").fetchone() == ("person.1@example.com", 900)


@agent
def denied_and_the_session_goes_on(c):
    for prepare in (False, True):
        for _ in range(3):
            raised = fails(errors.InsufficientPrivilege, c.execute, "DROP TABLE public.people", prepare=prepare)
            assert "agents" in str(raised) and "schema changes go through migrations" in str(raised), raised
            assert status(c) == pq.TransactionStatus.IDLE
            assert c.execute("SELECT count(*) FROM public.people").fetchone() == (50,)


@agent
def denied_inside_a_transaction_is_a_rollback(c):
    note = secrets.token_hex(8)
    for prepare in (False, True):
        c.execute("BEGIN")
        c.execute("INSERT INTO public.notes (body) VALUES (%s)", (note,))
        fails(errors.InsufficientPrivilege, c.execute, "DROP TABLE public.people", prepare=prepare)
        assert status(c) == pq.TransactionStatus.INERROR
        fails(errors.InFailedSqlTransaction, c.execute, "SELECT 1")
        assert c.execute("COMMIT").statusmessage == "ROLLBACK"
        assert status(c) == pq.TransactionStatus.IDLE
    assert c.execute("SELECT count(*) FROM public.notes WHERE body = %s", (note,)).fetchone() == (0,)


@agent
def denied_after_a_savepoint(c):
    note = secrets.token_hex(8)
    c.execute("BEGIN")
    c.execute("INSERT INTO public.notes (body) VALUES (%s)", (note,))
    c.execute("SAVEPOINT s")
    fails(errors.InsufficientPrivilege, c.execute, "DROP TABLE public.people")
    c.execute("ROLLBACK TO s")
    assert c.execute("COMMIT").statusmessage == "COMMIT"
    assert c.execute("SELECT count(*) FROM public.notes WHERE body = %s", (note,)).fetchone() == (1,)


@agent
def denied_in_a_pipeline_leaves_no_trace(c):
    note = secrets.token_hex(8)

    def run():
        with c.pipeline():
            c.execute("INSERT INTO public.notes (body) VALUES (%s)", (note,))
            c.execute("DROP TABLE public.people")
            c.execute("INSERT INTO public.notes (body) VALUES (%s)", (note,))

    fails(errors.InsufficientPrivilege, run)
    assert c.execute("SELECT count(*) FROM public.notes WHERE body = %s", (note,)).fetchone() == (0,)


@agent
def denied_among_several_statements(c):
    note = secrets.token_hex(8)
    text = f"INSERT INTO public.notes (body) VALUES ('{note}'); DROP TABLE public.people; SELECT 1"
    fails(errors.InsufficientPrivilege, c.execute, text)
    assert c.execute("SELECT count(*) FROM public.notes WHERE body = %s", (note,)).fetchone() == (0,)


@agent
def what_no_rule_allows_is_denied(c):
    fails(errors.InsufficientPrivilege, c.execute, "UPDATE public.notes SET body = 'x' WHERE id = 1")
    fails(errors.InsufficientPrivilege, c.execute, "CREATE TABLE public.new (a int)")
    assert c.execute("SELECT body FROM public.notes WHERE id = 1").fetchone() == ("first",)


@agent
def too_long_a_statement(c):
    text = "SELECT '" + "q" * (17 << 20) + "'"
    assert fails(psycopg.Error, c.execute, text).sqlstate == "54000"
    assert fails(psycopg.Error, c.execute, text, prepare=True).sqlstate == "54000"
    assert c.execute("SELECT 1").fetchone() == (1,)


@agent
def strangers_are_turned_away(_):
    for options in ({"user": "stranger"}, {"dbname": "no_such_target"}, {"password": "wrong"}):
        raised = fails(psycopg.OperationalError, connect, "AGENT", **options)
        assert os.environ["AGENT_PASSWORD"] not in str(raised)
    raised = fails(psycopg.OperationalError, connect, "OUTSIDER")
    assert "permission" in str(raised) or "policy" in str(raised), raised


def main():
    passed, failed, skipped = 0, [], []
    only = sys.argv[1:]
    for who, function in CASES:
        if f"{who}_USER" not in os.environ or (only and function.__name__ not in only):
            continue
        try:
            with connect(who) as connection:
                function(connection)
            passed += 1
        except Skip as reason:
            skipped.append((function.__name__, reason))
        except Exception:
            failed.append(function.__name__)
            print(f"--- {function.__name__}\n{traceback.format_exc()}", flush=True)
    for name, reason in skipped:
        print(f"SKIPPED psycopg::{name}: {reason}")
    if failed:
        print(f"failed: {' '.join(failed)}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
