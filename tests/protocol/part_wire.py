"""What a session must bear on the wire: cancel across workers, words of an idle server, large objects, limits, sizes."""

import re
import struct
import subprocess

from cases import attempt, both, expect, recordings_verify, shown_sessions
from support import gateway, postgres, wire
from support.gateway import Gateway, User
from support.machine import Trouble, say
from support.wire import Refused, message, text

WORKERS = 4
# So many that all cancel requests land on their sessions' own workers once in 4^12 runs.
SLEEPERS = 12
DATABASE = "wire"
POLICY = """
policy everything for group "everyone" on target "wire" {
    allow * on *
}
policy few for group "some" on target "wire" {
    allow transaction
    allow read on pg_catalog.*
}
"""
# Longer than `statement_bytes_max`.
TOO_LONG = "SELECT '" + "x" * (17 << 20) + "'"
BIG = 300_000_000
# What a gateway may grow by while a message of BIG bytes streams through it, in KiB.
GROWTH_KIB_MAX = 48 << 10
COLUMNS = 1664
PARAMETERS = 65535


class Stand:
    """A server and a gateway in front of it."""

    def __init__(self, work, server, lockgate, users):
        self.work, self.server, self.lockgate = work, server, lockgate
        self.everyone, self.some = users

    def session(self, **more):
        return wire.Session("127.0.0.1", self.lockgate.port, self.everyone.name, self.everyone.password, DATABASE, **more)

    def cancel(self, process_id, secret):
        wire.cancel("127.0.0.1", self.lockgate.port, process_id, secret)

    def sleeping(self, process_id):
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {process_id} AND wait_event = 'PgSleep'"
        return self.server.sql(asked) == "1"

    def psql(self, user, *commands):
        argv = [self.server.program("psql"), "-X", "-q", "-A", "-t", "-d", DATABASE]
        argv += [word for command in commands for word in ("-c", command)]
        return subprocess.run(argv, env=self.server.env(**self.lockgate.client_env(user)), capture_output=True, text=True)

    def memory_kib(self, key):
        status = open(f"/proc/{self.lockgate.process.pid}/status").read()
        return int(re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)[1])


def run(work, bin, options):
    with postgres.Server(work, bin=bin) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        server.sql("CREATE TABLE big (t text); ALTER TABLE big ALTER t SET STORAGE EXTERNAL", DATABASE)
        users = [User("pilot", ["everyone"]), User("agent", ["some"])]
        with Gateway(work, [gateway.target_of(server, DATABASE)], users, {"wire": POLICY}, workers=WORKERS, driver=options.driver) as lockgate:
            stand = Stand(work, server, lockgate, users)
            done = attempt(CASES, stand)
            lockgate.deserted()
    return both(done, attempt((refusals_are_recorded, recordings_verify), lockgate))


def refused(session, code, what):
    """Reads up to ReadyForQuery; the one error in it must be this."""
    try:
        session._rows()
    except Refused as refusal:
        expect(refusal.fields["C"], code, what)
    else:
        raise Trouble(f"{what}: nothing was refused")


def asleep(stand, session):
    session.socket.sendall(message(b"Q", text("SELECT pg_sleep(25)")))
    for _ in range(100):
        if stand.sleeping(session.key[0]):
            return
    raise Trouble("pg_sleep does not sleep")


def cancels(stand, version, key_bytes):
    sessions = [stand.session(version=version) for _ in range(SLEEPERS)]
    for session in sessions:
        expect(len(session.key[1]), key_bytes, "bytes of a cancel key")
    owners = {struct.unpack("!I", session.key[1][:4])[0] % WORKERS for session in sessions}
    if len(owners) < 2:
        raise Trouble(f"all sessions are of worker {owners}")
    for session in sessions:
        asleep(stand, session)
    for session in sessions:
        stand.cancel(*session.key)
        refused(session, "57014", "a cancelled pg_sleep")
        expect(session.simple("SELECT 1"), [[b"1"]], "the session after its cancel")
        session.close()


def a_cancel_finds_its_session_on_any_worker(stand):
    cancels(stand, (3, 0), 4)


def a_cancel_with_a_long_key_finds_its_session_on_any_worker(stand):
    # A server that knows protocol 3.0 only makes the session one of 3.0.
    version = int(stand.server.sql("SHOW server_version_num"))
    cancels(stand, (3, 2), 32 if version >= 180000 else 4)


def a_wrong_key_and_a_foreign_process_cancel_nothing(stand):
    for version in ((3, 0), (3, 2)):
        with stand.session(version=version) as session, stand.session(version=version) as other:
            asleep(stand, session)
            process_id, secret = session.key
            wrong = secret[:-1] + bytes([secret[-1] ^ 1])
            for guess in ((process_id, wrong), (process_id, secret + b"\0"), (process_id, other.key[1])):
                stand.cancel(*guess)
            stand.cancel(other.key[0], secret)
            stand.cancel(process_id + 100_000, secret)
            if not stand.sleeping(process_id):
                raise Trouble("a key that is not the session's cancelled its command")
            stand.cancel(process_id, secret)
            refused(session, "57014", "the right key after the wrong ones")


def a_notification_reaches_an_idle_session(stand):
    with stand.session() as session:
        session.simple("LISTEN ch")
        stand.server.sql("NOTIFY ch, 'hello'", DATABASE)
        kind, body = session.read()
        expect((kind, body[4:]), (b"A", text("ch") + text("hello")), "what comes to an idle session")
        expect(session.simple("SELECT 1"), [[b"1"]], "the session after a notification")


def fatal(session, code):
    kind, body = session.read()
    expect(kind, b"E", "what comes to an idle session")
    said = wire.fields(body)
    expect((said["V"], said["C"]), ("FATAL", code), "what the server says at its end")
    try:
        kind, _ = session.read()
    except EOFError:
        return
    raise Trouble(f"a message {kind} behind the last")


def a_terminated_servers_last_words_reach_an_idle_session(stand):
    with stand.session() as session:
        stand.server.sql(f"SELECT pg_terminate_backend({session.key[0]})")
        fatal(session, "57P01")


def an_idle_timeouts_last_words_reach_the_client(stand):
    with stand.session() as session:
        session.simple("SET idle_session_timeout = '200ms'")
        fatal(session, "57P05")


def large_objects_go_in_and_out(stand):
    source, sink = stand.work / "in.bin", stand.work / "out.bin"
    source.write_bytes(bytes(range(256)) * 4000)
    done = stand.psql(stand.everyone, f"\\lo_import {source}", f"\\lo_export :LASTOID {sink}")
    expect(done.returncode, 0, f"\\lo_import and \\lo_export ({done.stderr.strip()})")
    expect(sink.read_bytes() == source.read_bytes(), True, "the large object is what went in")


def large_objects_are_denied_where_policy_denies_them(stand):
    count = "SELECT count(*) FROM pg_largeobject_metadata"
    before = stand.server.sql(count, DATABASE)
    done = stand.psql(stand.some, f"\\lo_import {stand.work / 'in.bin'}")
    expect("Lockgate refused" in done.stderr, True, f"\\lo_import is refused ({done.stderr.strip()})")
    expect(stand.server.sql(count, DATABASE), before, "large objects behind a refused \\lo_import")
    known = stand.server.sql("SELECT min(oid) FROM pg_largeobject_metadata", DATABASE)
    sink = stand.work / "stolen.bin"
    done = stand.psql(stand.some, f"\\lo_export {known} {sink}")
    expect("Lockgate refused" in done.stderr, True, f"\\lo_export is refused ({done.stderr.strip()})")
    expect(sink.exists() and sink.stat().st_size > 0, False, "a refused \\lo_export wrote something")


def a_statement_that_is_too_long_is_refused_and_the_session_goes_on(stand):
    with stand.session() as session:
        session.socket.sendall(message(b"Q", text(TOO_LONG)) + message(b"Q", text("SELECT 2")))
        refused(session, "54000", "a Query that is too long")
        expect((session._rows(), session.status), ([[b"2"]], b"I"), "what was sent behind it")
        session.simple("BEGIN")
        session.socket.sendall(message(b"Q", text(TOO_LONG)))
        refused(session, "54000", "a Query that is too long, in a transaction")
        expect(session.status, b"E", "the transaction")
        session.simple("ROLLBACK")
        expect((session.extended("SELECT 3"), session.status), ([[b"3"]], b"I"), "the session after its transaction")


def a_parse_that_is_too_long_fails_its_pipeline_and_no_more(stand):
    with stand.session() as session:
        one = message(b"B", b"\0\0" + b"\0" * 6) + message(b"E", b"\0" + b"\0" * 4)
        parse = lambda sql: message(b"P", b"\0" + text(sql) + b"\0\0")
        session.socket.sendall(parse("SELECT 1") + one + message(b"H") + parse(TOO_LONG) + one + message(b"S"))
        session.socket.sendall(parse("SELECT 2") + one + message(b"S"))
        refused(session, "54000", "a Parse that is too long")
        expect((session._rows(), session.status), ([[b"2"]], b"I"), "the pipeline behind it")


def streamed(stand, what, action):
    before = stand.memory_kib("VmRSS")
    action()
    growth = max(stand.memory_kib("VmHWM"), stand.memory_kib("VmRSS")) - before
    if growth > GROWTH_KIB_MAX:
        raise Trouble(f"{what} of {BIG} bytes made the gateway grow by {growth} KiB")
    say(f"  {what} of {BIG} bytes: the gateway grew by {max(growth, 0)} KiB at most")


def big_messages_stream_through(stand):
    with stand.session() as session:
        streamed(stand, "a DataRow", lambda: expect(len(session.simple(f"SELECT repeat('x', {BIG})")[0][0]), BIG, "bytes of a cell"))
        streamed(stand, "a CopyData to the server", lambda: copied_in(session))
        expect(session.simple("SELECT length(t) FROM big"), [[str(BIG).encode()]], "what COPY brought")
        streamed(stand, "a CopyData to the client", lambda: copied_out(session))
        session.simple("TRUNCATE big")


def copied_in(session):
    session.socket.sendall(message(b"Q", text("COPY big FROM STDIN")))
    expect(session.read()[0], b"G", "the answer to COPY")
    session.socket.sendall(message(b"d", b"x" * BIG + b"\n"))
    session.socket.sendall(message(b"c"))
    session._rows()


def copied_out(session):
    session.socket.sendall(message(b"Q", text("COPY big TO STDOUT")))
    expect(session.read()[0], b"H", "the answer to COPY")
    kind, body = session.read()
    expect((kind, len(body)), (b"d", BIG + 1), "the line")
    session._rows()


def as_many_columns_as_a_server_can(stand):
    columns = ", ".join(str(number) for number in range(COLUMNS))
    wanted = [[str(number).encode() for number in range(COLUMNS)]]
    with stand.session() as session:
        expect(session.simple(f"SELECT {columns}") == wanted, True, "all columns, simple")
        expect(session.extended(f"SELECT {columns}") == wanted, True, "all columns, extended")


def as_many_parameters_as_a_bind_can(stand):
    places = ", ".join(f"${number}" for number in range(1, PARAMETERS + 1))
    values = b"".join(struct.pack("!i", 1) + b"1" for _ in range(PARAMETERS))
    with stand.session() as session:
        session.socket.sendall(
            message(b"P", b"\0" + text(f"SELECT array_length(ARRAY[{places}]::int[], 1)") + b"\0\0")
            + message(b"B", b"\0\0" + struct.pack("!HH", 0, PARAMETERS) + values + b"\0\0")
            + message(b"E", b"\0" + b"\0" * 4)
            + message(b"S")
        )
        expect(session._rows(), [[str(PARAMETERS).encode()]], "all parameters")


CASES = (
    a_cancel_finds_its_session_on_any_worker,
    a_cancel_with_a_long_key_finds_its_session_on_any_worker,
    a_wrong_key_and_a_foreign_process_cancel_nothing,
    a_notification_reaches_an_idle_session,
    a_terminated_servers_last_words_reach_an_idle_session,
    an_idle_timeouts_last_words_reach_the_client,
    large_objects_go_in_and_out,
    large_objects_are_denied_where_policy_denies_them,
    big_messages_stream_through,
    a_statement_that_is_too_long_is_refused_and_the_session_goes_on,
    a_parse_that_is_too_long_fails_its_pipeline_and_no_more,
    as_many_columns_as_a_server_can,
    as_many_parameters_as_a_bind_can,
)


def refusals_are_recorded(lockgate):
    """The three commands that were too long, as refusals and not as denials."""
    shown = shown_sessions(lockgate)
    expect((shown.count("REFUSED  by limit"), shown.count("ERROR 54000")), (3, 3), "refusals for length, in the recording")
