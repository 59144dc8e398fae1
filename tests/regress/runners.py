"""How each of PostgreSQL's own suites is run against a port: pg_regress, isolationtester, libpq_pipeline."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import typing

from support import machine
from support.machine import Trouble, say

HERE = pathlib.Path(__file__).resolve().parent
# `ok 1 - boolean 56 ms` since PostgreSQL 16, `test boolean ... ok 56 ms` before.
OUTCOMES = (
    re.compile(r"^(?P<failed>not )?ok \d+\s+[-+] (?P<test>\S+)", re.MULTILINE),
    re.compile(r"^(?:test | {5})(?P<test>\S+)\s+\.\.\. (?:ok|(?P<failed>FAILED))\b", re.MULTILINE),
)
RUN_SECONDS_MAX = 540
PARALLEL_MAX = 20
# Of libpq_pipeline: rows that its tests of large results ask for, and seconds for one test.
PIPELINE_ROWS = 700
PIPELINE_SECONDS_MAX = 60


class Runner(typing.NamedTuple):
    database: str
    run: typing.Callable
    """(kit, work, server, environment, options) → {test: passed}"""


def regress(kit, work, server, env, options):
    """pg_regress in a copy of the suite that the server can read and write."""
    folder = _own_copy(kit.regress, work)
    shutil.copy2(HERE / "sample_schedule", folder)
    which = ["test_setup", *options.tests] if options.tests else ["--schedule=parallel_schedule"]
    if options.sample:
        which = ["--schedule=sample_schedule"]
    argv = [folder / "pg_regress", "--dlpath=.", f"--max-concurrent-tests={PARALLEL_MAX}", *which]
    return _pg_regress(argv, folder, server, env, options)


def isolation(kit, work, server, env, options):
    """isolationtester over its schedule, and the specs that need prepared transactions."""
    folder = _own_copy(kit.isolation, work)
    which = options.tests or ["--schedule=isolation_schedule", "prepared-transactions", "prepared-transactions-cic"]
    return _pg_regress([folder / "pg_isolation_regress", *which], folder, server, env, options)


def _own_copy(suite, work):
    folder = work / "suite"
    shutil.copytree(suite, folder)
    for path in (folder, *folder.rglob("*")):
        machine.own(path)
    return folder


def _pg_regress(argv, folder, server, env, options):
    argv += ["--inputdir=.", "--outputdir=out", f"--bindir={server.bin}", "--use-existing"]
    argv += [f"--dbname={RUNNERS[options.suite].database}", "--host=127.0.0.1", f"--port={env['PGPORT']}", f"--user={server.superuser}"]
    (folder / "out").mkdir()
    machine.own(folder / "out")
    printed, code = _watched(machine.as_server_user(argv), folder, env, folder.parent / "pg_regress.log")
    shutil.copytree(folder / "out", options.results, ignore=shutil.ignore_patterns("testtablespace*"))
    (options.results / "printed").write_text(printed)
    results = {found["test"]: not found["failed"] for outcome in OUTCOMES for found in outcome.finditer(printed)}
    if not results:
        raise Trouble(f"{argv[0]} ran no test (exit {code}):\n{printed[-2000:]}")
    return results


def _watched(argv, folder, env, path):
    """Runs it and returns what it printed and its exit; what hangs is ended, and its tests count as failed."""
    with open(path, "w+") as log:
        process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(RUN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        log.seek(0)
        printed = log.read()
    if code == -signal.SIGKILL:
        say(f"  ended after {RUN_SECONDS_MAX} s without an end of its own; it was at:\n    {printed.splitlines()[-1:]}")
    return printed, code


def pipeline(kit, work, server, env, options):
    """Every test of libpq_pipeline, as its own driver in Perl runs them; where it keeps a trace, that too is compared."""
    (options.results / "results").mkdir(parents=True)
    newest = int(kit.version.split(".")[0]) >= 18
    latest = " max_protocol_version=latest" if newest else ""
    conninfo = f"host=127.0.0.1 dbname=pipeline user={server.superuser}"
    names = machine.run([kit.pipeline / "libpq_pipeline", "tests"], env=env).split()
    results = {name: _pipeline_test(kit, name, name, conninfo + latest, env, options) for name in options.tests or names}
    if newest and "cancel" in results:
        results["cancel-3.0"] = _pipeline_test(kit, "cancel", "cancel-3.0", f"{conninfo} max_protocol_version=3.0", env, options)
    return results


def _pipeline_test(kit, test, name, conninfo, env, options):
    expected = kit.pipeline / "traces" / f"{name}.trace"
    trace = options.results / "results" / f"{name}.trace"
    argv = [kit.pipeline / "libpq_pipeline", "-r", str(PIPELINE_ROWS), *(["-t", trace] if expected.exists() else []), test, conninfo]
    try:
        done = subprocess.run(
            list(map(str, argv)), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PIPELINE_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        _differs(options, name, f"did not end within {PIPELINE_SECONDS_MAX} s")
        return False
    (options.results / "results" / f"{name}.out").write_text(f"exit {done.returncode}\n{done.stderr}")
    if done.returncode != 0:
        _differs(options, name, f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
        return False
    if expected.exists() and trace.read_text() != expected.read_text():
        _differs(options, name, subprocess.run(["diff", "-u", expected, trace], capture_output=True, text=True).stdout)
        return False
    return True


def _differs(options, name, text):
    with open(options.results / "regression.diffs", "a") as diffs:
        diffs.write(f"{name}: {text}\n")


def output(results, test):
    """What a test printed."""
    path = results / "results" / f"{test}.out"
    return path.read_text(errors="replace") if path.exists() else None


def differences(results):
    """From the expected output."""
    path = results / "regression.diffs"
    return path.read_text(errors="replace") if path.exists() else ""


RUNNERS = {
    "regress": Runner("regression", regress),
    "isolation": Runner("isolation_regression", isolation),
    "pipeline": Runner("pipeline", pipeline),
}
