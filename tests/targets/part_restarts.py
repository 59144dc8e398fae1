"""A real server is down when the gateway starts, and is stopped in every way and started again under load."""

import contextlib
import os
import signal
import subprocess
import threading
import time

from common import DATABASE, Cases, attempt, door, ends, pilot, transcript
from support import gateway, machine, postgres, wire
from support.machine import until

# What a client may be told while its server stops, is down and starts: the server's own words, or the gateway's of them.
STOPPING = {"57P01", "57P02", "57P03", "08001", "08006"}
# From the server's answering until every client is served: control looks for it once a second.
BACK_SECONDS_MAX = 5
CLIENTS = 6


def run(work, options):
    cases = Cases()
    with postgres.Server(work) as server, contextlib.ExitStack() as stack:
        server.sql(f"CREATE DATABASE {DATABASE}")
        server.sql("CREATE TABLE kept (client int, n int, PRIMARY KEY (client, n))", DATABASE)
        machine.run([server.program("pgbench"), "-i", "-q", DATABASE], what="pgbench -i", env=server.client_env())
        folder = work / "late"
        folder.mkdir()
        folder.chmod(0o755)
        late = stack.enter_context(postgres.Server(folder))
        late.sql(f"CREATE DATABASE {DATABASE}")
        late.stop()
        user = pilot()
        targets = [gateway.target_of(server, DATABASE), gateway.target_of(late, DATABASE, name="late")]
        lockgate = stack.enter_context(door(work, targets, [user], options))
        down_at_start(lockgate, user, late, cases)
        for name, stop in STOPS.items() if options.full else list(STOPS.items())[:3]:
            restarted(lockgate, user, server, name, stop, cases)
        pgbenched(lockgate, user, server, cases)
        lockgate.deserted()
        lockgate.stop()
        sessions = ends(lockgate)
        cases.check(all(one["outcome"] != "open" for one in sessions), "sessions without an end in the recording")
        lost = [one["session"] for one in sessions if "the target" in one["reason"]]
        endless = [one for one in lost if "has no end" in transcript(lockgate, one)]
        cases.check(lost and not endless, f"of {len(lost)} sessions that lost their server, commands without an end in {endless[:5]}")
    return cases.result()


def down_at_start(lockgate, user, late, cases):
    """The gateway serves others, says what is wrong, and serves the target once it is there."""
    opened, refused = attempt(lockgate, user, "late")
    good = opened is None and getattr(refused, "fields", {}).get("C") == "08001"
    cases.check(good, f"a target that has been down from the start: {opened} {refused!r}")
    opened, refused = attempt(lockgate, user)
    cases.check(opened is not None, f"a target beside one that is down: {refused!r}")
    if opened:
        opened.close()
    status, page = lockgate.get("/readyz")
    cases.check(status == 200 and "late" in page, f"/readyz with one target down: {status} {page}")
    late.again()
    served = until("the target is served", lambda: attempt(lockgate, user, "late")[0], BACK_SECONDS_MAX)
    cases.check(served.simple("SELECT 1") == [[b"1"]], "the late target does not serve")
    served.close()
    until("/readyz has no more to say", lambda: "late" not in lockgate.get("/readyz")[1], BACK_SECONDS_MAX)


# ----- ways to stop --------------------------------------------------------------------------------------------------


def fast(server):
    server.process.send_signal(signal.SIGINT)


def killed(server):
    """The first process alone: the others find out and leave."""
    server.process.kill()


def crashed(server):
    """One server process of a session dies: all others are ended, and the server starts anew by itself."""
    pid = server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'client' LIMIT 1", DATABASE)
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(int(pid), signal.SIGKILL)


def immediate(server):
    server.process.send_signal(signal.SIGQUIT)


def terminated(server):
    """Every session is ended; the server stays."""
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'client'", DATABASE)


STOPS = {"fast": fast, "killed": killed, "crashed": crashed, "immediate": immediate, "terminated": terminated}
STAYS = {"crashed", "terminated"}


class Client(threading.Thread):
    """Writes rows for ever, and connects again whenever its session ends."""

    def __init__(self, lockgate, user, number, over):
        super().__init__(daemon=True)
        self.lockgate, self.user, self.number, self.over = lockgate, user, number, over
        # Rows that were acknowledged; what it was told; when it was last served.
        self.acknowledged, self.told, self.served = [], [], 0.0
        self.start()

    def run(self):
        n = 0
        while not self.over.is_set():
            opened, refused = attempt(self.lockgate, self.user, application_name="client")
            if opened is None:
                self.told.append(code_of(refused))
                time.sleep(0.02)
                continue
            with opened:
                try:
                    while not self.over.is_set():
                        n += 1
                        opened.simple(f"INSERT INTO kept VALUES ({self.number}, {n})")
                        self.acknowledged.append(n)
                        self.served = time.monotonic()
                    opened.socket.sendall(wire.message(b"X"))
                except (wire.Refused, OSError, EOFError) as error:
                    self.told.append(code_of(error))


def code_of(error):
    return error.fields["C"] if isinstance(error, wire.Refused) else repr(error)


def restarted(lockgate, user, server, name, stop, cases):
    server.sql("TRUNCATE kept", DATABASE)
    over = threading.Event()
    clients = [Client(lockgate, user, number, over) for number in range(CLIENTS)]
    until("all clients are served", lambda: all(client.acknowledged for client in clients), 10)
    stop(server)
    if name not in STAYS:
        server.process.wait(60)
        time.sleep(0.2)
        again(server)
    until("the server answers", lambda: answers(server), 60)
    back = time.monotonic()
    until(f"{name}: everybody is served again", lambda: all(client.served > back for client in clients), 60)
    seconds = time.monotonic() - back
    over.set()
    for client in clients:
        client.join(10)
    told = {code for client in clients for code in client.told}
    cases.check(seconds < BACK_SECONDS_MAX, f"{name}: served again after {seconds:.1f} s")
    cases.check(told and told <= STOPPING, f"{name}: clients were told {sorted(told)}")
    kept = set(server.sql("SELECT client, n FROM kept", DATABASE).splitlines())
    lost = [f"{client.number}|{n}" for client in clients for n in client.acknowledged if f"{client.number}|{n}" not in kept]
    # The server's own files survive its processes, fsync or not.
    cases.check(not lost, f"{name}: {len(lost)} acknowledged rows are lost: {lost[:3]}")


def again(server):
    """Starts it where it was; what a killed one has left behind must go first."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return server.again()
        except machine.Trouble:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def answers(server):
    try:
        return server.sql("SELECT 1") == "1"
    except machine.Trouble:
        return False


def pgbenched(lockgate, user, server, cases):
    """pgbench says of a restart through the gateway what it says of one directly: its sessions were lost. Afterwards it
    runs as if nothing had been."""
    argv = [server.program("pgbench"), "-n", "-c", "4", "-j", "2", "-S"]
    env = lockgate.client_env(user, PGDATABASE=DATABASE)
    running = subprocess.Popen([*argv, "-T", "30"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(1)
    fast(server)
    words, _ = running.communicate(timeout=60)
    cases.check(running.returncode == 2 and "terminating connection" in words, f"pgbench: exit {running.returncode}: {words[-500:]}")
    server.process.wait(60)
    again(server)
    until("the server answers", lambda: answers(server), 60)
    until("a session is served", lambda: probe(lockgate, user), BACK_SECONDS_MAX)
    done = subprocess.run([*argv, "-t", "200"], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    cases.check(done.returncode == 0 and "800/800" in done.stdout, f"pgbench afterwards: {done.stdout[-300:]}{done.stderr[-300:]}")


def probe(lockgate, user):
    opened, _ = attempt(lockgate, user)
    if opened:
        opened.close()
    return opened
