"""The server's side of a connection dies in every state of the conversation."""

import contextlib
import itertools
import re
import select
import socket
import struct
import time

from common import DATABASE, TOLD_SECONDS_MAX, Cases, attempt, door, ends, pilot, session, transcript
from proxy import Proxy
from support import gateway, machine, postgres, wire
from support.machine import until
from support.wire import message, text

FLUSH, SYNC = message(b"H"), message(b"S")


def parse(query, name=""):
    return message(b"P", text(name) + text(query) + b"\0\0")


def quick(query):
    """Parse, Bind, Describe, Execute."""
    return parse(query) + message(b"B", b"\0\0" + b"\0" * 6) + message(b"D", b"P\0") + message(b"E", b"\0" + b"\0" * 4)


def query(sql):
    return message(b"Q", text(sql))


def opened_portal(query):
    return parse(query) + message(b"B", b"portal\0\0" + b"\0" * 6)


def execute_portal(rows):
    return message(b"E", b"portal\0" + struct.pack("!I", rows))


# What a client sends; each answer is waited for before the next is sent, up to ReadyForQuery or, for ..., nothing.
CONVERSATIONS = {
    "query": [query("SELECT n, repeat('x', 50) FROM generate_series(1, 3) n; SELECT 2")],
    "extended": [quick("SELECT n FROM generate_series(1, 3) n") + message(b"C", b"S\0") + SYNC],
    "pipeline": [quick("SELECT 1") + SYNC + quick("SELECT 1/0") + quick("SELECT 2") + SYNC + quick("SELECT 3") + SYNC],
    "transaction": [query("BEGIN"), query("SELECT 1/0"), query("ROLLBACK")],
    "suspended portal": [
        query("BEGIN"),
        opened_portal("SELECT n FROM generate_series(1, 3) n") + execute_portal(1) + SYNC,
        execute_portal(1) + SYNC,
        execute_portal(0) + SYNC,
    ],
    "copy out": [query("COPY (SELECT repeat('y', 40) FROM generate_series(1, 3)) TO STDOUT")],
    "copy in": [query("CREATE TEMP TABLE c (t text)"), query("COPY c FROM STDIN") + message(b"d", b"a\n") + message(b"c")],
    "function call": [message(b"F", struct.pack("!IHHH", 1598, 0, 0, 0))],  # random()
}


def run(work, options):
    cases = Cases()
    with postgres.Server(work) as server, Proxy(server.port) as proxy:
        server.sql(f"CREATE DATABASE {DATABASE}")
        user = pilot()
        target = gateway.target_of(server, DATABASE)
        target.more = {"address": f'"127.0.0.1:{proxy.port}"'}
        with door(work, [target], [user], options, limits={"connect_timeout": '"1s"'}) as lockgate:
            told = bytes_cut(lockgate, user, proxy, cases, options)
            told += now(lockgate, user, proxy, cases)
            lockgate.deserted()
            probed(lockgate, user, proxy, cases)
        recorded(lockgate, told, cases, options)
    addresses(work, options, cases)
    return cases.result()


# ----- at a byte -----------------------------------------------------------------------------------------------------


def bytes_cut(lockgate, user, proxy, cases, options):
    """How many sessions died."""
    died = 0
    for name, sends in CONVERSATIONS.items():
        plan = proxy.arm("never")
        play(lockgate, user, sends)
        until("the connection ends", plan.died.is_set, 5)
        places = spots(plan.down, options.full)
        for behind, how in cuts(places, options.full):
            plan = proxy.arm(how, behind)
            got, error, at = play(lockgate, user, sends)
            case = f"{name}, {how} behind byte {behind} of {len(plan.down)}"
            if not plan.died.wait(1) or plan.at is None:
                # The conversation was shorter this time: the server sent fewer bytes.
                cases.check(behind > len(plan.down), f"{case}: nothing died")
                continue
            died += 1
            cases.check(*verdict(case, got, error, at - plan.at))
    return died


def spots(down, full):
    """Where to cut: at the end of each of the server's messages, one byte behind it, and in its middle."""
    ends_, at = [0], 0
    while at + 5 <= len(down):
        at += 1 + struct.unpack("!I", down[at + 1 : at + 5])[0]
        ends_.append(at)
    last = ends_[-1]
    found = {end for end in ends_ if 0 < end < last}
    found |= {end + 1 for end in ends_ if end < last}
    found |= {(a + b) // 2 for a, b in itertools.pairwise(ends_)}
    if full:
        found |= set(range(1, last, 7))
    # In a start-up of a dozen ParameterStatus messages, three stand for all.
    parameters = [at for at in found if down[at : at + 1] == b"S" and at + 1 < last]
    return sorted(found - set(parameters[3:] if not full else []) - {0})


def cuts(places, full):
    """Each place by both ways; in a sample a dozen places, the ways in turn."""
    if full:
        return list(itertools.product(places, ("fin", "rst")))
    step = max(1, len(places) // 12)
    return list(zip(places[::step], itertools.cycle(("fin", "rst"))))


def play(lockgate, user, sends):
    """(what came behind ReadyForQuery, the refusal before it, when it was over)."""
    opened, refused = attempt(lockgate, user)
    if refused:
        return b"", refused, time.monotonic()
    got = b""
    with opened:
        opened.socket.settimeout(5)
        try:
            for send in sends:
                opened.socket.sendall(send)
                got, over = read_on(opened, got, send.count(SYNC) or 1)
                if over:
                    return got, None, time.monotonic()
            opened.socket.sendall(message(b"X"))
        except OSError:
            pass
        rest = drain(opened)
        return got + rest, None, time.monotonic()


def read_on(opened, got, readies):
    """Reads up to so many ReadyForQuery more, or to the end of the stream."""
    wanted = ready_count(got) + readies
    while ready_count(got) < wanted:
        # Through the session's buffer: what came right behind the last answer stands there.
        data = opened.stream.read1(1 << 16)
        if not data:
            return got, True
        got += data
    return got, False


def drain(opened):
    rest = b""
    try:
        while data := opened.stream.read1(1 << 16):
            rest += data
    except OSError:
        pass
    return rest


def messages(got):
    """Whole messages, and what stands behind them."""
    found, at = [], 0
    while at + 5 <= len(got):
        end = at + 1 + struct.unpack("!I", got[at + 1 : at + 5])[0]
        if end > len(got):
            break
        found.append((got[at : at + 1], got[at + 5 : end]))
        at = end
    return found, got[at:]


def ready_count(got):
    return sum(kind == b"Z" for kind, _ in messages(got)[0])


def verdict(case, got, refused, seconds):
    """(all is well, what is not) of one death."""
    if seconds > TOLD_SECONDS_MAX:
        return False, f"{case}: told after {seconds:.2f} s"
    if refused is not None:
        good = isinstance(refused, wire.Refused) and refused.fields["C"] == "08001" and refused.fields["S"] == "FATAL"
        return good, f"{case}: log-in ended with {refused!r}"
    whole, cut = messages(got)
    fatal = [wire.fields(body) for kind, body in whole if kind == b"E" and wire.fields(body)["S"] == "FATAL"]
    if cut:
        return not fatal, f"{case}: an error behind half a message"
    good = len(fatal) == 1 and whole[-1][0] == b"E" and fatal[0]["C"] == "08006"
    return good, f"{case}: the last messages are {whole[-3:]}"


# ----- at a moment ---------------------------------------------------------------------------------------------------


def now(lockgate, user, proxy, cases):
    """The server dies while something goes on. How many sessions died."""
    died = 0
    for how in ("fin", "rst"):
        for name, begin in MOMENTS.items():
            plan = proxy.arm(how)
            with session(lockgate, user) as opened:
                opened.socket.settimeout(5)
                begin(lockgate, opened)
                plan.die()
                died += 1
                got = drain(opened)
                cases.check(*verdict(f"{name}, {how}", got, None, time.monotonic() - plan.at))
    return died


def settled(lockgate, opened):
    opened.simple("SELECT 1")


def in_transaction(lockgate, opened):
    opened.simple("BEGIN")


def in_failed_transaction(lockgate, opened):
    opened.simple("BEGIN")
    try:
        opened.simple("SELECT 1/0")
    except wire.Refused:
        pass


def running(lockgate, opened):
    opened.socket.sendall(query("SELECT pg_sleep(20)"))
    time.sleep(0.05)


def parsed(lockgate, opened):
    opened.socket.sendall(parse("SELECT 1") + FLUSH)
    opened.read()


def suspended(lockgate, opened):
    opened.simple("BEGIN")
    opened.socket.sendall(opened_portal("SELECT generate_series(1, 3)") + execute_portal(1) + FLUSH)
    while opened.read()[0] != b"s":
        pass


def in_pipeline(lockgate, opened):
    opened.socket.sendall(quick("SELECT pg_sleep(20)") + SYNC + quick("SELECT 1") + SYNC)
    # ParseComplete, BindComplete, RowDescription may come or not; nothing else does.
    time.sleep(0.05)
    while select.select([opened.socket], [], [], 0)[0]:
        opened.socket.recv(1 << 16)


def copying_in(lockgate, opened):
    opened.simple("CREATE TEMP TABLE c (t text)")
    opened.socket.sendall(query("COPY c FROM STDIN"))
    opened.read()
    opened.socket.sendall(message(b"d", b"a\n") * 1000)
    time.sleep(0.02)


def listening(lockgate, opened):
    opened.simple("LISTEN c")


def refused_stand_in(lockgate, opened):
    """A function call of what does not exist: its error comes, and the session goes on."""
    opened.socket.sendall(parse("SELECT nothing_such") + SYNC)
    while opened.read()[0] != b"Z":
        pass


MOMENTS = {
    "idle": settled,
    "listening": listening,
    "in a transaction": in_transaction,
    "in a failed transaction": in_failed_transaction,
    "a query runs": running,
    "parsed and flushed": parsed,
    "a portal is suspended": suspended,
    "a pipeline runs": in_pipeline,
    "COPY data goes in": copying_in,
    "behind an error": refused_stand_in,
}


def probed(lockgate, user, proxy, cases):
    """A server that falls silent is found by the kernel's probes: the timer runs on an idle upstream connection."""
    with session(lockgate, user) as opened:
        opened.simple("SELECT 1")
        time.sleep(0.1)
        with open("/proc/net/tcp") as table:
            rows = [line.split() for line in table.readlines()[1:]]
        # Remote port; state 01 is established; timer 02 is keep-alive, in hundredths of a second.
        to_server = [row for row in rows if int(row[2].split(":")[1], 16) == proxy.port and row[3] == "01"]
        timers = [row[5].split(":") for row in to_server]
        # The catalog's own is asked something once a second: it needs no probes.
        good = [left for kind, left in timers if kind == "02" and int(left, 16) <= 2000]
        cases.check(len(good) == len(timers) - 1 == 1, f"idle connections to a server are not probed: {timers}")


# ----- what is recorded ----------------------------------------------------------------------------------------------


def recorded(lockgate, told, cases, options):
    sessions = ends(lockgate)
    lost = [one for one in sessions if LOST.search(one["reason"])]
    cases.check(len(lost) == told, f"{told} sessions lost their server, and {len(lost)} say so in the recording")
    cases.check(all(one["outcome"] != "open" for one in sessions), "sessions without an end in the recording")
    # Those in which a command ran say what became of it.
    read = lost if options.full else lost[:: max(1, len(lost) // 20)]
    endless = [one["session"] for one in read if "has no end" in transcript(lockgate, one["session"])]
    cases.check(not endless, f"commands without an end in {endless[:5]}")


LOST = re.compile("the target closed the connection unexpectedly|the connection to the target broke|cannot be reached")


# ----- addresses -----------------------------------------------------------------------------------------------------


def addresses(work, options, cases):
    """Servers that refuse, accept and say nothing, or whose backlog is full: alone, and with one behind that serves."""
    folder = work / "addresses"
    folder.mkdir()
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        full = stack.enter_context(clogged(stack))
        ports = {"refusing": machine.free_port(), "mute": mute.getsockname()[1], "full": full.getsockname()[1]}
        server = stack.enter_context(postgres.Server(folder))
        server.sql(f"CREATE DATABASE {DATABASE}")
        user, relays = pilot(), {name: stack.enter_context(Proxy(server.port)) for name in ("refusing", "mute")}
        # Alone behind a proxy that turns bad when the target is known; with another from the beginning.
        hosts = {f"{name}_alone": [relay.port] for name, relay in relays.items()}
        hosts |= {f"{name}_first": [port, server.port] for name, port in ports.items()}
        hosts |= {"never": [ports["refusing"]]}
        targets = [at_ports(server, name, of) for name, of in hosts.items()]
        lockgate = stack.enter_context(door(folder, targets, [user], options, limits={"connect_timeout": '"1s"'}))
        known = [target.name for target in targets if target.name != "never"]
        for name in known:
            until(f"target {name} is known", lambda: is_known(lockgate, user, name), 30)
        relays["refusing"].shut()
        relays["mute"].hush()
        for name in known:
            reached(lockgate, user, name, cases)
        never(lockgate, user, cases)
        lockgate.deserted()
        ends(lockgate)


def clogged(stack):
    """A listener that accepts nobody and whose backlog is full: who connects hears nothing at all."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    for _ in range(3):
        one = stack.enter_context(socket.socket())
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    return full


def at_ports(server, name, ports):
    target = gateway.target_of(server, DATABASE, name=name)
    target.more = {"address": str([f"127.0.0.1:{port}" for port in ports]).replace("'", '"')}
    return target


def is_known(lockgate, user, name):
    opened, refused = attempt(lockgate, user, name)
    if opened:
        opened.close()
        return True
    return "has not been reached" not in str(refused)


def reached(lockgate, user, name, cases):
    begun = time.monotonic()
    opened, refused = attempt(lockgate, user, name)
    seconds = time.monotonic() - begun
    # limits.connect_timeout, for an address that says nothing.
    in_time = seconds < TOLD_SECONDS_MAX if name.startswith("refusing") else 0.9 < seconds < 1 + TOLD_SECONDS_MAX
    if name.endswith("alone"):
        good = isinstance(refused, wire.Refused) and refused.fields["C"] == "08001" and refused.fields["S"] == "FATAL"
    else:
        good = opened is not None and opened.simple("SELECT 1") == [[b"1"]]
    cases.check(good and in_time, f"{name}: {opened} {refused!r} after {seconds:.2f} s")
    if opened:
        opened.close()


def never(lockgate, user, cases):
    """A target that has been down all the time keeps nobody from the others."""
    opened, refused = attempt(lockgate, user, "never")
    good = opened is None and isinstance(refused, wire.Refused) and refused.fields["C"] == "08001"
    cases.check(good, f"never: {opened} {refused!r}")
    status, page = lockgate.get("/readyz")
    cases.check(status == 200 and "never" in page, f"/readyz with one target down: {status} {page}")
