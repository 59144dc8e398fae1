"""Runs every stage of ./test, one after the other, and says at the end what failed and what was skipped."""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from support import machine  # noqa: E402
from support.machine import ROOT, Trouble, say  # noqa: E402

DRIVERS = ("io_uring", "epoll")
# Of isolationtester's schedule: one or two of each thing that sessions do to one another.
SPECS = (
    *("async-notify", "deadlock-simple", "fk-deadlock", "timeouts", "nowait", "skip-locked", "read-write-unique", "horizons"),
    *("insert-conflict-do-update", "lock-update-delete", "merge-update", "multixact-no-deadlock", "partition-key-update-1"),
    *("reindex-concurrently", "tuplelock-conflict", "vacuum-conflict"),
)

LOGS = machine.CACHE / "logs"
TAIL_LINES = 80
SKIPPED = re.compile(r"^\s*SKIPPED (?P<name>[^\s:]+(?:::[^\s:]+)*): (?P<reason>.+)$", re.MULTILINE)
# Lines of a stage's log that are worth a person's reading even when all is well. (A test that runs in a process of
# its own ends with `1 passed`: the runner's summary counts it.)
CLOSING = re.compile(
    r"^\s*(Summary \[.*|test result: (?!ok\. [01] passed).*|\d+ passed, \d+ failed.*|[a-z]+: \d+ passed, \d+ failed.*"
    r"|fuzz \w+: .*|\d+ kills, .*|\s*(direct|lockgate): \d+ of .*|\w+, \w+, (no )?TLS: .*|Every step was as told\.|\| .*)$"
)
PACKAGES = (
    ("build-essential", "libclang-dev", "openssl", "perl", "flex", "bison", "bzip2")
    + ("postgresql", "postgresql-contrib", "pgbouncer", "haproxy", "python3-venv")
)


@dataclasses.dataclass
class Stage:
    """One or more commands; `full` are those of --full where they differ. `env` comes on top of cargo's."""

    name: str
    what: str
    quick: list
    full: list | None = None
    env: dict | None = None
    needs: str | None = None


def script(*words):
    return [sys.executable, *map(str, words)]


def bench(*words):
    tool = machine.target_folder() / "release/lockgate-bench"
    return [tool, "report", "--out", LOGS / "bench", *words]


def cargo_tests():
    """Nextest where the machine has it; documentation tests and ignored tests are seen to either way."""
    if shutil.which("cargo-nextest", path=machine.cargo_env()["PATH"]):
        run = ["cargo", "nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--success-output=final"]
        return [run, ["cargo", "test", "--workspace", "--locked", "--doc", "--quiet"], script(HERE / "all.py", "--list-ignored")]
    return [["cargo", "test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"]]


def stages():
    deny = ["cargo", "deny", "--locked", "--workspace", "check", "licenses", "bans", "sources"]
    fuzz_lock = ["cargo", "tree", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--depth", "0"]
    return [
        Stage("format", "cargo fmt", [["cargo", "fmt", "--all", "--check"]]),
        Stage("clippy", "no warning", [["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]]),
        Stage("tests", "Rust's tests", cargo_tests()),
        Stage(
            "docs",
            "the API's documentation",
            [["cargo", "doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]],
            env={"RUSTDOCFLAGS": "-D warnings -A rustdoc::private-intra-doc-links"},
        ),
        Stage("dependencies", "licences, bans, sources, lock files", [deny, fuzz_lock]),
        Stage("release", "the release build", machine.RELEASE),
        Stage(
            "instructions",
            "instructions of the hot paths beside the baseline",
            [script(HERE / "instructions", "--prove"), script(HERE / "instructions")],
            needs="release",
        ),
        Stage("demo", "./demo --once", [script(HERE / "demo.py", "--once")], needs="release"),
        Stage("drivers", "psycopg 3, psql, pgbench, with and without TLS", [script(HERE / "drivers/run")], needs="release"),
        Stage(
            "suites",
            "drivers' own suites, directly and through",
            [script(HERE / "drivers/suites", "--sample")],
            full=[script(HERE / "drivers/suites", "--driver", "io_uring", "--driver", "epoll")],
            needs="release",
        ),
        Stage(
            "protocol",
            "random sequences of messages, directly and through",
            [script(HERE / "protocol/run", "--seeds", 300)]
            + [script(HERE / "protocol/run", "wire", "greeting", "tls", "replication", "--server", "newest", "--driver", "epoll")],
            full=[script(HERE / "protocol/run", "--seeds", 10000, "--driver", driver) for driver in DRIVERS],
            needs="release",
        ),
        Stage(
            "regress",
            "PostgreSQL's regression suite, isolationtester, libpq_pipeline: newest server, and 15",
            [
                script(HERE / "regress/run", "--sample", "--tls", "--driver", *DRIVERS),
                script(HERE / "regress/run", "--major", 15, "--driver", "io_uring"),
                script(HERE / "regress/run", "--suite", "isolation", *SPECS, "--driver", "epoll"),
            ]
            + [script(HERE / "regress/run", "--suite", "pipeline", "--major", major, "--driver", *DRIVERS) for major in (18, 15)],
            full=[
                script(HERE / "regress/run", "--suite", suite, "--major", major, "--driver", *DRIVERS, "--both")
                for suite in ("regress", "isolation", "pipeline")
                for major in (18, 15)
            ],
            needs="release",
        ),
        Stage(
            "kill9",
            "kill -9 under load",
            [script(HERE / "kill9", "--kills", 5)],
            full=[script(HERE / "kill9", "--kills", 100)],
            needs="release",
        ),
        Stage(
            "life",
            "reload, hand-over, drain, health",
            [script(HERE / "life/run", "--seconds", 10)]
            + [script(HERE / "life/run", "--seconds", 10, "--driver", "epoll", "load-tls", "generations", "cancel")],
            full=[script(HERE / "life/run", "--seconds", 300, "--driver", driver) for driver in DRIVERS],
            needs="release",
        ),
        Stage(
            "targets",
            "targets that fail, fail over, or are full",
            [script(HERE / "targets/run")],
            full=[script(HERE / "targets/run", "--full", "--driver", driver) for driver in DRIVERS],
            needs="release",
        ),
        Stage(
            "hostile",
            "hostile peers, while others go about their work",
            [script(HERE / "hostile/run")],
            full=[script(HERE / "hostile/run", "--full", "--driver", driver) for driver in DRIVERS],
            needs="release",
        ),
        Stage(
            "churn",
            "sessions that come and go",
            [script(HERE / "churn")],
            full=[script(HERE / "churn", "--sessions", 1_000_000), script(HERE / "churn", "--driver", "epoll")],
            needs="release",
        ),
        Stage(
            "epoll",
            "where io_uring is forbidden, and by readiness",
            [script(HERE / "forbidden")]
            + [script(HERE / "drivers/run", "--tls", "on", "--driver", "epoll", part) for part in ("psql", "pgbench")]
            + [script(HERE / "kill9", "--kills", 2, "--driver", "epoll")],
            full=[script(HERE / "forbidden"), script(HERE / "drivers/run", "--driver", "epoll")]
            + [script(HERE / "kill9", "--kills", 100, "--driver", "epoll")],
            needs="release",
        ),
        Stage("fuzz", "every fuzz target", [script(HERE / "fuzz", "--seconds", 15)], full=[script(HERE / "fuzz", "--seconds", 600)]),
        Stage(
            "mutations",
            "a million mutated messages each way (with --full)",
            [],
            full=[["cargo", "test", "--release", "--locked", "-p", "lockgate-lane", "--lib", "mutated"]],
            env={"LOCKGATE_MUTATIONS": "1000000"},
        ),
        Stage(
            "simulator",
            "ten thousand seeds of each kind (with --full)",
            [],
            full=[["cargo", "test", "--release", "--locked", "-p", "lockgate-worker", "--lib", "sim::"]],
            env={"LOCKGATE_SEEDS": "10000"},
        ),
        Stage(
            "bench",
            "beside the server alone, PgBouncer, HAProxy and a bare relay: a sample",
            [*machine.RELEASE, bench("--quick", "--strict")],
            full=[*machine.RELEASE, bench()],
            needs="release",
        ),
    ]


def run(stage, commands, env):
    """Runs a stage's commands into its log; returns whether all went well."""
    log_path = LOGS / f"{stage.name}.log"
    with open(log_path, "w") as log:
        for argv in commands:
            log.write(f"$ {' '.join(map(str, argv))}\n")
            log.flush()
            done = subprocess.run(
                list(map(str, argv)), cwd=ROOT, env={**env, **(stage.env or {})}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            log.write(f"exit {done.returncode}\n")
            if done.returncode != 0:
                return False
    return True


def report(stage, good, seconds):
    log = (LOGS / f"{stage.name}.log").read_text(errors="replace").splitlines()
    if good:
        for line in log:
            if CLOSING.match(line):
                say(f"   {line.strip()}")
    else:
        say("\n".join(f"   {line}" for line in log[-TAIL_LINES:]))
        say(f"   the whole of it: {LOGS / stage.name}.log")
    say(f"── {stage.name}: {'ok' if good else 'FAILED'} after {seconds:.0f} s")


def skips_allowed():
    lines = (HERE / "skips.txt").read_text().splitlines()
    return {line.rsplit(": ", 1)[0].strip() for line in lines if line.strip() and not line.startswith("#")}


def skipped_in(names):
    found = {}
    for name in names:
        text = (LOGS / f"{name}.log").read_text(errors="replace")
        found |= {match["name"]: match["reason"] for match in SKIPPED.finditer(text)}
    return found


def list_ignored():
    """Prints the Rust tests that are marked to be ignored, as skips."""
    argv = ["cargo", "nextest", "list", "--workspace", "--locked", "--run-ignored", "ignored-only", "--message-format", "oneline"]
    done = subprocess.run(argv, cwd=ROOT, env=machine.cargo_env(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.strip():
            print(f"SKIPPED {'::'.join(line.split())}: marked #[ignore]")
    return done.returncode


def arguments(all_stages):
    names = ", ".join(f"{stage.name} ({stage.what})" for stage in all_stages)
    parser = argparse.ArgumentParser(prog="test", description=f"{__doc__} Stages: {names}.")
    parser.add_argument("--full", action="store_true", help="everything, at length")
    parser.add_argument("--list-ignored", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("stages", nargs="*", help="only these stages")
    options = parser.parse_args()
    unknown = set(options.stages) - {stage.name for stage in all_stages}
    if unknown:
        parser.error(f"there is no stage {', '.join(sorted(unknown))}")
    return options


def main():
    if "--list-ignored" in sys.argv:
        return list_ignored()
    begun = time.monotonic()
    machine.need(*PACKAGES)
    all_stages = stages()
    options = arguments(all_stages)
    LOGS.mkdir(parents=True, exist_ok=True)
    env = machine.cargo_env()
    good, failed, ran = [], [], []
    for stage in all_stages:
        commands = stage.full if options.full and stage.full else stage.quick
        if not commands or (options.stages and stage.name not in options.stages):
            continue
        if stage.needs in failed:
            say(f"── {stage.name}: FAILED, because {stage.needs} did")
            failed.append(stage.name)
            continue
        if stage.name == "dependencies":
            machine.cargo_tool("cargo-deny", env)
        say(f"── {stage.name}: {stage.what}")
        started = time.monotonic()
        well = run(stage, commands, env)
        report(stage, well, time.monotonic() - started)
        (good if well else failed).append(stage.name)
        ran.append(stage.name)
    return end(good, failed, ran, begun)


def end(good, failed, ran, begun):
    allowed, found = skips_allowed(), skipped_in(ran)
    for name, reason in sorted(found.items()):
        say(f"skipped: {name}: {reason}" + ("" if name in allowed else "  (NOT on the list tests/skips.txt)"))
    surplus = [name for name in found if name not in allowed]
    if failed:
        say(f"failed: {' '.join(failed)}")
    if surplus:
        say(f"{len(surplus)} skipped that may not be: install what they need, or put them on tests/skips.txt with the reason")
    say(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    say(f"stages: {len(good)} passed, {len(failed) + bool(surplus)} failed")
    return 1 if failed or surplus else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        say(f"test: {trouble}")
        sys.exit(2)
