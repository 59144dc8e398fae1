"""Full load, while the configuration is reloaded again and again and one process after the other takes over: no connection
is refused and no transaction fails. pgbench itself says so, by its exit and its counts."""

import json
import pathlib
import re
import signal
import subprocess
import time

from processes import DATABASE, EVERYTHING, READ_ONLY, must, one, says, session
from support import machine
from support.machine import Trouble, say, until

# Workers of the processes that take over from each other.
COUNTS = (3, 1, 4, 2)
RELOADS_BETWEEN = 4
STAY, COME = 64, 16


def pgbench(server, lockgate, seconds, *words):
    argv = [server.program("pgbench"), "-n", "-S", *words, "-T", str(seconds), DATABASE]
    env = lockgate.client_env(lockgate.users[0])
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, argv)), env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def judged(bench, what):
    out, err = bench.communicate()
    count = re.search(r"^number of transactions actually processed: (\d+)", out, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", out, re.MULTILINE)
    # `pgbench (15…)` is said on standard output; anything of an error is on the other.
    good = bench.returncode == 0 and count and int(count[1]) > 0 and (not failed or failed[1] == "0")
    if not good or re.search(r"error|aborted|refused|terminat", err):
        raise Trouble(f"pgbench {what}: exit {bench.returncode}\n{out[-1500:]}\n{err[-3000:]}")
    return int(count[1])


def load(place):
    """Sessions that stay, and sessions that come for one transaction and go."""
    endured(place, "load", "off")


def load_tls(place):
    endured(place, "load-tls", "required")


def endured(place, name, tls):
    limits = {"unauthenticated_per_address_max": 1000}
    with place.life(name, tls=tls, limits=limits) as lockgate:
        lockgate.start()
        benches = {
            f"-c {STAY}": pgbench(place.server, lockgate, place.seconds, "-c", STAY, "-j", 2),
            f"-C -c {COME}": pgbench(place.server, lockgate, place.seconds, "-C", "-c", COME, "-j", 2),
        }
        reloads, handed = changed_under(lockgate, benches, time.monotonic() + place.seconds - 3)
        counts = [judged(bench, what) for what, bench in benches.items()]
        must(handed >= 2 and reloads >= 2 * RELOADS_BETWEEN, f"only {handed} hand-overs and {reloads} reloads: nothing was tested")
        for process in lockgate.former:
            # Its sessions have left, so it has no reason to stay.
            lockgate.ended(process)
        lockgate.end()
        recorded(lockgate, sum(counts))
        say(f"  {reloads} reloads, {handed} hand-overs; {counts[0]} transactions in {STAY} sessions, {counts[1]} connections; none failed")


def changed_under(lockgate, benches, end):
    """Reloads and hands over until it is time; how often."""
    reloads, handed = 0, 0
    while time.monotonic() < end:
        for _ in range(RELOADS_BETWEEN):
            lockgate.policy(READ_ONLY if reloads % 2 else EVERYTHING)
            lockgate.reload()
            reloads += 1
        for what, bench in benches.items():
            if bench.poll() is not None:
                raise Trouble(f"it ended before its time, after {judged(bench, what)} transactions")
        if time.monotonic() < end:
            now = lockgate.config.read_text()
            lockgate.config.write_text(re.sub(r"count = \d+", f"count = {COUNTS[handed % len(COUNTS)]}", now))
            lockgate.hand_over()
            handed += 1
    return reloads, handed


def recorded(lockgate, transactions):
    """Whatever process a transaction went through, it is in a recording, and every session has its end there."""
    sessions = lockgate.sessions_recorded()
    commands = sum(session["commands"] for session in sessions)
    must(commands >= transactions, f"{transactions} transactions, and only {commands} commands are recorded")
    open_ = [session for session in sessions if session["outcome"] not in ("closed", "login failed")]
    must(not open_, f"without an end: {open_[:3]}")


def started_by_itself(place):
    """SIGUSR2: the process starts its own successor."""
    with place.life("usr2") as lockgate:
        lockgate.start()
        bench = pgbench(place.server, lockgate, 4, "-C", "-c", 4)
        first = lockgate.process
        with session(lockgate) as before:
            first.send_signal(signal.SIGUSR2)
            until("handed over", lambda: says(first, '"handed over;'))
            must(one(before.simple("SELECT 1")) == b"1", "a session did not survive")
            found = [json.loads(line) for line in first.log.read_text().splitlines() if '"handed over;' in line]
            successor = found[0]["pid"]
        judged(bench, "-C across SIGUSR2")
        lockgate.ended(first)
        with session(lockgate) as after:
            must(one(after.simple("SELECT 2")) == b"2", "the successor does not serve")
        machine.run(["kill", "-TERM", successor])
        until("the successor has ended", lambda: not pathlib.Path(f"/proc/{successor}").exists())
        code, shown = lockgate.replay("verify")
        must(code == 0, shown)


CASES = {"load": load, "load-tls": load_tls, "usr2": started_by_itself}
