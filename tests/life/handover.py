"""Hand-over: who connects, cancels or asks meanwhile; sessions that stay behind; successors of another shape."""

import signal
import threading
import time

from processes import DATABASE, READ_ONLY, cancel_request, connects, denied, gone, must, one, refused, says, session
from support import machine
from support.machine import until


def generations(place):
    """Sessions live through one hand-over after the other, in the middle of their transactions."""
    with place.life("generations") as lockgate:
        lockgate.start()
        place.server.sql("CREATE TABLE lived (generation int)", DATABASE)
        sessions = []
        for generation in range(5):
            asked = session(lockgate)
            asked.simple("BEGIN")
            asked.simple(f"INSERT INTO lived VALUES ({generation})")
            sessions.append(asked)
            # And back again: the configuration is always the same.
            lockgate.hand_over()
        until("every process with a session drains", lambda: lockgate.figure("predecessors") == 5)
        for asked in sessions:
            asked.simple("COMMIT")
            asked.close()
        for process in lockgate.former:
            lockgate.ended(process)
        count = place.server.sql("SELECT count(*) FROM lived", DATABASE).split()
        must("5" in count, f"transactions were lost: {count}")
        place.server.sql("DROP TABLE lived", DATABASE)
        lockgate.end()


def cancel(place):
    """A cancel key is good whichever process knows it, and wherever the request lands."""
    with place.life("cancel", workers=3) as lockgate:
        lockgate.start()
        sessions = [session(lockgate) for _ in range(6)]
        for count in (1, 4):
            lockgate.edit(f"count = {lockgate.workers}", f"count = {count}")
            lockgate.workers = count
            lockgate.hand_over()
            sessions += [session(lockgate) for _ in range(6)]
        for number, asked in enumerate(sessions):
            sent_away(asked, lockgate.port, number)
        # A key that nobody has: the connection is closed all the same.
        cancel_request(lockgate.port, 1, b"none")
        for asked in sessions:
            must(one(asked.simple("SELECT 1")) == b"1", "a session did not survive its cancel")
            asked.close()
        for process in lockgate.former:
            lockgate.ended(process)
        until("nobody drains any more", lambda: lockgate.figure("predecessors") == 0)
        lockgate.end()


def sent_away(asked, port, number):
    begun = time.monotonic()
    late = threading.Timer(0.3, cancel_request, (port, *asked.key))
    late.start()
    refused(lambda: asked.simple("SELECT pg_sleep(25)"), "57014")
    late.join()
    took = time.monotonic() - begun
    must(took < 10, f"the cancel of session {number} took {took:.1f} s")


def shapes(place):
    """The successor's configuration may be another one: listeners come and go, the admin port stays or moves."""
    with place.life("shapes") as lockgate:
        lockgate.start()
        second, old = machine.free_port(), lockgate.port
        both = f'[[listener]]\nprotocol = "postgres"\nbind = "127.0.0.1:{second}"\ntls = "off"\n\n[[target]]'
        lockgate.edit("[[target]]", both)
        lockgate.hand_over()
        for port in (old, second):
            lockgate.port = port
            session(lockgate).close()
        lockgate.edit(f'bind = "127.0.0.1:{old}"\n', f'bind = "127.0.0.1:{machine.free_port()}"\n')
        admin, lockgate.admin = lockgate.admin, machine.free_port()
        lockgate.edit(f"127.0.0.1:{admin}", f"127.0.0.1:{lockgate.admin}")
        lockgate.hand_over()
        session(lockgate).close()
        until("ready on another port", lambda: lockgate.get("/readyz")[0] == 200)
        for port in (old, admin):
            until("what nobody wants is closed", lambda: not connects(port))
        lockgate.end()
    # Nothing serves: whoever is told to take over starts as ever.
    with place.life("alone") as lockgate:
        lockgate.write()
        lockgate.process = lockgate.launch("--take-over")
        until("ready", lambda: lockgate._ready())
        lockgate.kill_all()
        lockgate.process = lockgate.launch("--take-over")
        until("ready after a crash", lambda: lockgate._ready())
        lockgate.end()


def long_sessions(place):
    """Sessions of whoever has handed over: judged by reloaded policies, ended when their time is over, drained by SIGTERM."""
    with place.life("long", limits={"handover_timeout": '"3s"'}) as lockgate:
        lockgate.start()
        first, old = lockgate.process, session(lockgate)
        old.simple("CREATE TABLE scratch (id int)")
        guest = session(lockgate, 1)
        lockgate.hand_over()
        lockgate.policy(READ_ONLY)
        lockgate.edit('name = "guest"', 'name = "visitor"')
        lockgate.reload()
        message = until("the old process judges by the new policy", lambda: denied(old))
        must("not today" in message, message)
        until("who may no longer connect is ended there, too", lambda: gone(guest))
        until("at the deadline everybody goes", lambda: gone(old))
        lockgate.ended(first)
        second, idle = lockgate.process, session(lockgate)
        lockgate.hand_over()
        second.send_signal(signal.SIGTERM)
        until("SIGTERM ends who is idle", lambda: gone(idle), seconds=2)
        lockgate.ended(second)
        place.server.sql("DROP TABLE scratch", DATABASE)
        lockgate.end()




def killed_while_draining(place):
    """kill -9 of a process that has handed over ends its own sessions and nothing else; nothing of it is left behind."""
    with place.life("killed") as lockgate:
        lockgate.start()
        first, lost = lockgate.process, session(lockgate)
        must(one(lost.simple("SELECT 'before the kill'")) == b"before the kill", "the session does not work")
        lockgate.hand_over()
        with session(lockgate) as kept:
            until("the predecessor is known", lambda: lockgate.figure("predecessors") == 1)
            first.kill()
            first.wait()
            lockgate.former.remove(first)
            must(gone(lost), "a session outlives its process")
            until("nobody waits for the dead", lambda: lockgate.figure("predecessors") == 0)
            must(not list((lockgate.data / "run").glob("gateway-*.sock")), "its socket is left behind")
            lockgate.reload()
            must(not says(lockgate.process, "could not be told to reload"), "the dead are told to reload")
            must(one(kept.simple("SELECT 1")) == b"1", "a session of the other process was lost")
        # Its recording is closed by whoever comes next, and tells what the session did.
        lockgate.hand_over()
        lockgate.end()
        told = [lockgate.replay("show", session["session"])[1] for session in lockgate.sessions_recorded() if session["outcome"] == "crashed"]
        must(len(told) == 1 and "before the kill" in told[0], f"the recording of the one that was killed: {told}")


CASES = {
    "generations": generations,
    "cancel": cancel,
    "shapes": shapes,
    "long": long_sessions,
    "killed": killed_while_draining,
}
