"""What psql does with a server: its backslash commands, its copies, its large objects, Ctrl-C."""

import re
import shutil
import subprocess
import time
import traceback

from support import terminal
from support.machine import say

CASES = []


def case(function):
    CASES.append(function)
    return function


class Client:
    """psql for one case: scripts, and a terminal."""

    def __init__(self, env, database, work):
        self.env, self.database, self.work = env, database, work
        self.program = shutil.which("psql")

    def script(self, text, *options, code=0):
        argv = [self.program, "-X", "-A", "-t", "-q", "-d", self.database, *options]
        done = subprocess.run(argv, env=self.env, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, f"exit {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def terminal(self):
        return terminal.Psql(self.program, self.env, self.database)


@case
def describes(psql):
    psql.script("CREATE TABLE IF NOT EXISTS described (a int PRIMARY KEY, b text DEFAULT 'x' CHECK (b <> ''))")
    shown = psql.script("\\d described", "-P", "tuples_only=off")
    assert "described_pkey" in shown and "'x'::text" in shown and "CHECK" in shown, shown
    for command in ("\\d", "\\d+ described", "\\dt", "\\dt+ *.*", "\\di", "\\dv", "\\df+ now", "\\dn+", "\\du", "\\l+", "\\dT", "\\dx", "\\dp", "\\sf now"):
        shown = psql.script(command)
        assert "ERROR" not in shown, (command, shown)


@case
def copies(psql):
    source, back = psql.work / "copy-in", psql.work / "copy-out"
    source.write_text("".join(f"{n}\trow {n}\n" for n in range(5000)))
    psql.script(
        f"CREATE TEMP TABLE t (a int, b text);\n\\copy t FROM '{source}'\n\\copy (SELECT * FROM t ORDER BY a) TO '{back}'\n"
    )
    assert source.read_text() == back.read_text()
    shown = psql.script("CREATE TEMP TABLE t (a int);\nCOPY t FROM STDIN;\n1\n2\n\\.\nSELECT sum(a) FROM t;\nCOPY t TO STDOUT;\n")
    assert shown.split() == ["3", "1", "2"], shown


@case
def watches(psql):
    with psql.terminal() as session:
        session.type("SELECT 'seen' \\watch 0.2")
        time.sleep(1.5)
        session.interrupt()
        shown = session.until_prompt()
    assert shown.count("seen") >= 3, shown


@case
def describes_results(psql):
    shown = psql.script("SELECT 1 AS a, 'x'::text AS b \\gdesc")
    assert shown.split() == ["a|integer", "b|text"], shown
    assert psql.script("SELECT 'SELECT ' || n FROM generate_series(1, 3) n \\gexec").split() == ["1", "2", "3"]
    assert psql.script("SELECT 7 AS seven \\gset\n\\echo :seven").split() == ["7"]


@case
def fetches_in_portions(psql):
    assert len(psql.script("SELECT n FROM generate_series(1, 10000) n", "-v", "FETCH_COUNT=100").split()) == 10000


@case
def cancels(psql):
    with psql.terminal() as session:
        pid = session.pid
        for _ in range(3):
            session.type("SELECT pg_sleep(30);")
            time.sleep(0.5)
            begun = time.monotonic()
            session.interrupt()
            shown = session.until_prompt()
            assert "canceling statement due to user request" in shown, shown
            assert time.monotonic() - begun < 5
        assert "(1 row)" in session.ask("SELECT 1;") and session.pid == pid
        assert session.quit() == 0


@case
def shows_transaction_status(psql):
    with psql.terminal() as session:
        session.ask("BEGIN;")
        assert session.prompt.endswith("*# ") or session.prompt.endswith("*> "), session.prompt
        session.ask("SELECT 1 / 0;")
        assert "!" in session.prompt, session.prompt
        assert "ROLLBACK" in session.ask("COMMIT;")


@case
def large_objects_by_function_calls(psql):
    source, back = psql.work / "object-in", psql.work / "object-out"
    source.write_bytes(bytes(range(256)) * 1000)
    shown = psql.script(f"\\lo_import '{source}'\n\\echo :LASTOID\n")
    oid = re.search(r"^\d+$", shown, re.MULTILINE)[0]
    psql.script(f"\\lo_export {oid} '{back}'\n\\lo_unlink {oid}\n")
    assert source.read_bytes() == back.read_bytes()


@case
def reconnects(psql):
    shown = psql.script("SELECT 1;\n\\c -\nSELECT 2;\n\\conninfo\n")
    assert "1" in shown and "2" in shown, shown


@case
def errors_have_their_fields(psql):
    shown = psql.script("\\set VERBOSITY verbose\nSELECT * FROM there_is_none;\nSELECT 1;\n")
    assert "42P01" in shown and "LINE 1" in shown and "parserOpenTable" in shown and shown.startswith("1\n"), shown


@case
def stops_at_the_first_error(psql):
    psql.script("SELECT 1 / 0; SELECT 1;", "-v", "ON_ERROR_STOP=1", code=3)


@case
def one_transaction_for_a_script(psql):
    psql.script("CREATE TABLE IF NOT EXISTS once (a int);")
    psql.script("INSERT INTO once VALUES (1);\nSELECT 1 / 0;\n", "-1", "-v", "ON_ERROR_STOP=1", code=3)
    assert psql.script("SELECT count(*) FROM once").strip() == "0"


def run(env, database, work, cases):
    passed, failed = 0, []
    for function in CASES:
        if cases and function.__name__ not in cases:
            continue
        try:
            function(Client({**env, "LC_ALL": "C", "PSQL_PAGER": ""}, database, work))
            passed += 1
        except Exception:
            failed.append(function.__name__)
            say(f"--- psql {function.__name__}\n{traceback.format_exc()}")
    if failed:
        say(f"failed: {' '.join(failed)}")
    say(f"{passed} passed, {len(failed)} failed")
    return not failed
