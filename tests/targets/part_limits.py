"""Sessions of a target and of an identity: refused past the limit, or in line, first come, first served."""

import contextlib
import subprocess
import threading
import time

from common import DATABASE, Cases, attempt, door, ends, pilot, session
from support import gateway, postgres, wire
from support.gateway import User
from support.machine import until

QUEUE_SECONDS = 1


def run(work, options):
    cases = Cases()
    with postgres.Server(work) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        few = limited(server, "few", sessions_max=3)
        line = limited(server, "line", sessions_max=2, queue_max=2, queue_timeout=f'"{QUEUE_SECONDS}s"')
        patient = limited(server, "patient", sessions_max=2, queue_max=2)
        crowd = limited(server, "crowd", sessions_max=4, queue_max=500)
        many = gateway.target_of(server, DATABASE, name="many")
        user, guest = pilot(), User("guest", ["pilot"], more={"sessions_max": 2})
        with door(work, [few, line, patient, crowd, many], [user, guest], options, limits={"sessions_per_identity_max": 100}) as lockgate:
            refusals(lockgate, user, "few", 3, "target.sessions_max", cases)
            refusals(lockgate, guest, "many", 2, "user.sessions_max", cases)
            lines(lockgate, user, cases)
            leavers(lockgate, user, cases)
            crowds(lockgate, server, user, 200 if options.full else 40, cases)
            reloaded(lockgate, user, cases)
            lockgate.deserted()
            over = lockgate.total("sessions_over_limit_total")
            cases.check(over > 0, f"{over} sessions over a limit were counted")
            cases.check(lockgate.total("sessions_waiting") == 0, "sessions wait though nobody is there")
        sessions = ends(lockgate)
        cases.check(all(one["outcome"] != "open" for one in sessions), "sessions without an end in the recording")
    return cases.result()


def limited(server, name, **more):
    target = gateway.target_of(server, DATABASE, name=name)
    target.more = more
    return target


def is_refused(refused, words):
    fields = getattr(refused, "fields", {})
    return fields.get("C") == "53300" and fields.get("S") == "FATAL" and words in fields.get("M", "")


def refusals(lockgate, user, target, most, key, cases):
    """One more than there may be is refused at once, says which key is in the way, and harms nobody."""
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(session(lockgate, user, target)) for _ in range(most)]
        begun = time.monotonic()
        opened, refused = attempt(lockgate, user, target)
        cases.check(opened is None and is_refused(refused, key), f"{target}: one too many got {opened} {refused!r}")
        cases.check(time.monotonic() - begun < QUEUE_SECONDS, f"{target}: refused after {time.monotonic() - begun:.2f} s")
        cases.check(all(one.simple("SELECT 1") == [[b"1"]] for one in inside), f"{target}: those inside were disturbed")
        inside.pop().close()
        again = until(f"{target}: a place is free again", lambda: attempt(lockgate, user, target)[0], 5)
        again.close()


# ----- in line -------------------------------------------------------------------------------------------------------


class Comer(threading.Thread):
    """A client that connects, and remembers when it was let in or what it was told."""

    def __init__(self, lockgate, user, target, order):
        super().__init__(daemon=True)
        self.lockgate, self.user, self.target, self.order = lockgate, user, target, order
        self.opened = self.refused = self.seconds = None
        self.start()

    def run(self):
        begun = time.monotonic()
        self.opened, self.refused = attempt(self.lockgate, self.user, self.target)
        self.seconds = time.monotonic() - begun
        self.order.append(self)


def lines(lockgate, user, cases):
    order = []
    with session(lockgate, user, "line") as first, session(lockgate, user, "line") as second:
        waiting = []
        for number in (1, 2):
            waiting.append(Comer(lockgate, user, "line", order))
            until("a client waits", lambda: lockgate.total("sessions_waiting") == number, 5)
        opened, refused = attempt(lockgate, user, "line")
        cases.check(opened is None and is_refused(refused, "target.queue_max"), f"past the line: {opened} {refused!r}")
        first.close()
        waiting[0].join(5)
        cases.check(order == waiting[:1] and waiting[0].opened is not None, f"not the first in line: {[one.refused for one in order]}")
        second.close()
        waiting[1].join(5)
        cases.check(order == waiting and waiting[1].opened is not None, f"the second in line: {waiting[1].refused!r}")
        late = Comer(lockgate, user, "line", order)
        late.join(10)
        good = is_refused(late.refused, "target.queue_timeout") and QUEUE_SECONDS * 0.9 < late.seconds < QUEUE_SECONDS + 1
        cases.check(good, f"who waited too long: {late.refused!r} after {late.seconds:.2f} s")
        for one in waiting:
            one.opened.close()


def leavers(lockgate, user, cases):
    """Whoever leaves the line is in nobody's way."""
    with session(lockgate, user, "patient") as first, session(lockgate, user, "patient"):
        leaver(lockgate, user)
        until("a client that left waits no more", lambda: lockgate.total("sessions_waiting") == 0, 5)
        first.close()
        again = until("its place is another's", lambda: attempt(lockgate, user, "patient")[0], 5)
        cases.check(again.simple("SELECT 1") == [[b"1"]], "whoever came behind one that left was not served")
        again.close()


def leaver(lockgate, user):
    """Waits in line and goes away without a word."""
    argv = ["psql", "-XAtq", "-c", "SELECT 1", "dbname=patient"]
    psql = subprocess.Popen(argv, env=lockgate.client_env(user), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until("the leaver waits", lambda: lockgate.total("sessions_waiting") == 1, 5)
    psql.kill()
    psql.wait()


# ----- many ----------------------------------------------------------------------------------------------------------


def crowds(lockgate, server, user, rounds, cases):
    """Far more clients than seats, on all workers: everybody's turn comes, and the server never has many more."""
    wrong, most, over = [], [0], threading.Event()

    def one():
        for _ in range(rounds // 4):
            # What a client calls itself reaches the server, so its backends can be told from the catalog's.
            opened, refused = attempt(lockgate, user, "crowd", application_name="crowd")
            if opened is None:
                wrong.append(repr(refused))
                continue
            with opened:
                if opened.simple("SELECT 1") != [[b"1"]]:
                    wrong.append("another answer")

    def watch():
        with wire.Session("127.0.0.1", server.port, server.superuser, server.password, DATABASE) as direct:
            counting = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = 'crowd'"
            while not over.is_set():
                most[0] = max(most[0], int(direct.simple(counting)[0][0]))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    clients = [threading.Thread(target=one, daemon=True) for _ in range(24)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(120)
    stuck = sum(client.is_alive() for client in clients)
    over.set()
    watching.join(5)
    cases.check(not wrong and not stuck, f"{len(wrong)} of a crowd were not served, {stuck} are stuck: {wrong[:3]}")
    # A backend lives some milliseconds longer than its connection.
    cases.check(0 < most[0] <= 8, f"{most[0]} connections to a server that may have 4")


def reloaded(lockgate, user, cases):
    """A limit that is raised by SIGHUP seats who waits; one that is lowered ends nobody."""
    order = []
    with session(lockgate, user, "line") as one, session(lockgate, user, "line") as two:
        comer = Comer(lockgate, user, "line", order)
        until("a client waits", lambda: lockgate.total("sessions_waiting") == 1, 5)
        reload(lockgate, "sessions_max = 2", "sessions_max = 3")
        comer.join(5)
        cases.check(comer.opened is not None, f"the limit was raised, and who waited was told {comer.refused!r}")
        reload(lockgate, "sessions_max = 3", "sessions_max = 1")
        cases.check(one.simple("SELECT 1") == two.simple("SELECT 1") == [[b"1"]], "the limit was lowered, and a session ended")
        if comer.opened:
            comer.opened.close()


def reload(lockgate, before, after):
    """Changes the target `line`, whose keys stand behind its name, and waits until that holds."""
    text = lockgate.config.read_text()
    head, tail = text.split('name = "line"', 1)
    lockgate.config.write_text(head + 'name = "line"' + tail.replace(before, after, 1))
    lockgate.reload()
