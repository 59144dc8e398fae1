"""What the parts share: gateways, sessions, and the record of what happened to them."""

import json

from support import wire
from support.gateway import Gateway, User
from support.machine import Trouble

DATABASE = "orders"
# From the death of the server's side until the client knows.
TOLD_SECONDS_MAX = 1.0


class Cases:
    """Counts cases and keeps what is wrong."""

    def __init__(self):
        self.passed, self.failed = 0, []

    def check(self, good, what):
        if good:
            self.passed += 1
        else:
            self.failed.append(what)

    def result(self):
        return self.passed, self.failed


def pilot():
    return User("pilot", ["pilot"])


def door(work, targets, users, options, **more):
    """A gateway on those targets that allows everything."""
    policy = 'policy everything for group "pilot" on target * {\n    allow * on *\n}\n'
    return Gateway(work, targets, users, {"everything": policy}, driver=options.driver, segment="4MiB", **more)


def session(lockgate, user, database=DATABASE, **parameters):
    return wire.Session("127.0.0.1", lockgate.port, user.name, user.password, database, **parameters)


def attempt(lockgate, user, database=DATABASE, **parameters):
    """(a session, None) or (None, why there is none)."""
    try:
        return session(lockgate, user, database, **parameters), None
    except (wire.Refused, OSError, EOFError) as error:
        return None, error


def ends(lockgate):
    """Every recorded session: its JSON from lockgate-replay. The recording must verify."""
    code, shown = lockgate.replay("verify")
    if code != 0:
        raise Trouble(f"the recording does not verify:\n{shown[-2000:]}")
    code, shown = lockgate.replay("list", "--json")
    if code != 0:
        raise Trouble(f"lockgate-replay list: {shown[-2000:]}")
    return [json.loads(line) for line in shown.splitlines()]


def transcript(lockgate, session):
    code, shown = lockgate.replay("show", session)
    if code != 0:
        raise Trouble(f"lockgate-replay show {session}: {shown[-2000:]}")
    return shown
