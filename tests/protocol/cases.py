"""What the parts share: cases that are tried one after the other, and what they expect."""

import re
import subprocess

from support.machine import Trouble, say
from support.wire import Refused


def attempt(cases, subject):
    """(cases passed, names of those that failed)."""
    failed = []
    for case in cases:
        try:
            case(subject)
        except (Trouble, Refused, OSError, EOFError, subprocess.TimeoutExpired) as trouble:
            failed.append(case.__name__)
            say(f"--- {case.__name__}: {trouble!r}")
    return len(cases) - len(failed), failed


def both(one, other):
    """Two results of attempts as one."""
    return one[0] + other[0], one[1] + other[1]


def expect(got, wanted, what):
    if got != wanted:
        raise Trouble(f"{what}: {wanted!r} was expected, {got!r} came")


def recordings_verify(lockgate):
    code, shown = lockgate.replay("verify")
    expect(code, 0, f"lockgate-replay verify ({shown[-300:]})")


def shown_sessions(lockgate):
    """Every recorded session as lockgate-replay shows it."""
    code, listed = lockgate.replay("list")
    expect(code, 0, f"lockgate-replay list ({listed[-300:]})")
    return "".join(lockgate.replay("show", session)[1] for session in sorted(set(re.findall(r"\b[0-9a-f]{16}\b", listed))))
