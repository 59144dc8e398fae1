"""A target with two addresses, a primary's and its standby's: which of both takes sessions, before, while and after the
standby takes the primary's place. What libpq says of the same two is what must come."""

import contextlib
import signal
import subprocess
import time

from common import DATABASE, TOLD_SECONDS_MAX, Cases, attempt, door, ends, pilot, session
from support import gateway, postgres, wire
from support.machine import until

ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
# How soon sessions find the promoted server: promoting takes it some hundred milliseconds.
FOUND_SECONDS_MAX = 15


def run(work, options):
    cases = Cases()
    with postgres.Server(work) as primary, contextlib.ExitStack() as stack:
        primary.sql(f"CREATE DATABASE {DATABASE}")
        primary.sql("CREATE DATABASE quiet")
        primary.sql("ALTER DATABASE quiet SET default_transaction_read_only = on")
        folder = work / "standby"
        folder.mkdir()
        folder.chmod(0o755)
        standby = primary.copy(folder)
        stack.callback(standby.stop)
        until("the standby has all", lambda: "quiet" in databases(standby), 30)
        user = pilot()
        targets = [pair(primary, standby, attrs, order) for attrs in ATTRS for order in ("there", "back")]
        targets += [pair(primary, standby, attrs, "there", "quiet") for attrs in ("read-write", "read-only")]
        with door(work, targets, [user], options, limits={"connect_timeout": '"5s"'}) as lockgate:
            before(lockgate, user, targets, cases)
            takeover(lockgate, user, primary, standby, cases)
            lockgate.deserted()
        sessions = ends(lockgate)
        cases.check(all(one["outcome"] != "open" for one in sessions), "sessions without an end in the recording")
    return cases.result()


def databases(server):
    return server.sql("SELECT datname FROM pg_database").split()


def pair(primary, standby, attrs, order, database=DATABASE):
    ports = [primary.port, standby.port] if order == "there" else [standby.port, primary.port]
    target = gateway.target_of(primary, database, name=f"{attrs}_{order}_{database}")
    addresses = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    target.more = {"address": f"[{addresses}]", "target_session_attrs": f'"{attrs}"'}
    target.ports, target.attrs, target.server = ports, attrs, primary
    return target


def before(lockgate, user, targets, cases):
    """Through Lockgate as by libpq itself."""
    for target in targets:
        told = until(f"target {target.name} is known", lambda: through(lockgate, user, target), 30)
        expected = directly(target)
        cases.check(told == expected, f"{target.name}: {told} through Lockgate, {expected} directly")


def through(lockgate, user, target):
    opened, refused = attempt(lockgate, user, target.name)
    if opened is None:
        text = refused.fields["M"] if isinstance(refused, wire.Refused) else repr(refused)
        return None if "has not been reached" in text and target.database != "quiet" else shape(text)
    with opened:
        return port_of(opened)


def port_of(opened):
    return opened.simple("SELECT setting FROM pg_settings WHERE name = 'port'")[0][0].decode()


def directly(target):
    hosts = ",".join("127.0.0.1" for _ in target.ports)
    ports = ",".join(map(str, target.ports))
    where = f"host={hosts} port={ports} dbname={target.database} target_session_attrs={target.attrs}"
    argv = [target.server.program("psql"), "-XAtq", "-c", "SELECT setting FROM pg_settings WHERE name = 'port'", where]
    done = subprocess.run(argv, env=target.server.client_env(), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else shape(done.stderr)


def shape(text):
    """What of an error both say."""
    for words in ("session is read-only", "session is not read-only", "server is in hot standby mode", "server is not in hot standby mode"):
        if words in text:
            return f"refused: {words}"
    # Nobody connects to a target whose catalog none of its servers would show.
    return "refused: session is read-only" if "has not been reached" in text else text


# ----- the primary dies ----------------------------------------------------------------------------------------------


def takeover(lockgate, user, primary, standby, cases):
    writes, reads = f"read-write_there_{DATABASE}", f"standby_there_{DATABASE}"
    with session(lockgate, user, writes) as busy, session(lockgate, user, reads) as reader:
        busy.simple("BEGIN")
        reader.simple("SELECT 1")
        primary.process.send_signal(signal.SIGQUIT)
        primary.process.wait(30)
        begun = time.monotonic()
        code = lost(busy)
        cases.check(code in ("57P01", "57P02", "08006"), f"a session of the dead primary was told {code}")
        cases.check(time.monotonic() - begun < TOLD_SECONDS_MAX, f"told after {time.monotonic() - begun:.2f} s")
        cases.check(reader.simple("SELECT 1") == [[b"1"]], "a session of the standby was disturbed")
        opened, refused = attempt(lockgate, user, writes)
        good = opened is None and isinstance(refused, wire.Refused) and refused.fields["C"] == "08001"
        cases.check(good and "read-only" in str(refused), f"read-write with a standby alone: {opened} {refused!r}")
        for name in ("any", "read-only", "prefer-standby"):
            serves(lockgate, user, f"{name}_there_{DATABASE}", standby, cases)
        standby.sql("SELECT pg_promote()")
        for name in ("read-write", "primary", "any", "prefer-standby"):
            until(f"{name} finds the new primary", lambda: attempt_port(lockgate, user, f"{name}_there_{DATABASE}") == str(standby.port), FOUND_SECONDS_MAX)
            serves(lockgate, user, f"{name}_there_{DATABASE}", standby, cases)
        with session(lockgate, user, writes) as writer:
            writer.simple("CREATE TABLE written (n int)")
            cases.check(writer.simple("INSERT INTO written VALUES (1) RETURNING n") == [[b"1"]], "the new primary takes no rows")
        opened, refused = attempt(lockgate, user, reads)
        good = isinstance(refused, wire.Refused) and "server is not in hot standby mode" in str(refused)
        cases.check(opened is None and good, f"standby with a primary alone: {opened} {refused!r}")


def lost(busy):
    """The SQLSTATE that a session ends with."""
    try:
        busy.simple("SELECT 1")
    except wire.Refused as refused:
        return refused.fields["C"]
    except (EOFError, OSError) as error:
        return repr(error)
    return "nothing"


def attempt_port(lockgate, user, name):
    opened, _ = attempt(lockgate, user, name)
    if opened:
        with opened:
            return port_of(opened)
    return None


def serves(lockgate, user, name, server, cases):
    port = attempt_port(lockgate, user, name)
    cases.check(port == str(server.port), f"{name}: served by {port}, not {server.port}")
