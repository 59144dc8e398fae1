"""Replication through the gateway: pg_receivewal, pg_basebackup, pg_recvlogical, allowed, denied, and under masks."""

import contextlib
import re
import signal
import struct
import subprocess
import time

from cases import attempt, both, expect, recordings_verify
from support import gateway, postgres, wire
from support.gateway import Gateway, User
from support.machine import Trouble
from support.wire import Refused, message, text

DATABASE = "wire"
# The database that pg_basebackup and pg_receivewal name, whatever they are told.
PHYSICAL = "replication"
POLICY = """
policy everything_TARGET for group "everyone" on target "TARGET" {
    allow * on *
}
policy few_TARGET for group "some" on target "TARGET" {
    allow transaction
    allow set on *
    allow read on pg_catalog.*
}
policy slots_TARGET for group "slots" on target "TARGET" {
    allow replicate
    allow set on *
    allow create, drop on replication_slot allowed
}
policy all_but_one_TARGET for group "careful" on target "TARGET" {
    allow * on *
    deny read on public.secret because "nobody reads it"
}
policy masked_TARGET for group "masked" on target "TARGET" {
    allow * on *
    mask public.secret.word with redact
}
"""
WITHDRAWN = 'policy withdrawn_TARGET for group "everyone" on target "TARGET" {\n    deny replicate because "not any more"\n}\n'
COPY_SECONDS_MAX = 30


class Stand:
    """A server that replicates, and a gateway in front of it."""

    def __init__(self, work, server, lockgate, users):
        self.work, self.server, self.lockgate = work, server, lockgate
        self.users = {user.name: user for user in users}

    def session(self, user, replication="database", **more):
        user = self.users[user]
        return wire.Session("127.0.0.1", self.lockgate.port, user.name, user.password, DATABASE, replication=replication, **more)

    def command(self, program, user, *words):
        words = [self.server.program(program), "-w", "-d", f"dbname={DATABASE}", *map(str, words)]
        return words, self.server.env(**self.lockgate.client_env(self.users[user]))

    def run(self, program, user, *words):
        argv, env = self.command(program, user, *words)
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)


def run(work, bin, options):
    settings = {"wal_level": "logical", "max_wal_senders": "10", "max_replication_slots": "10"}
    with postgres.Server(work, bin=bin, settings=settings, initdb=["--wal-segsize=1"]) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        server.sql("CREATE TABLE secret (id int PRIMARY KEY, word text); INSERT INTO secret VALUES (1, 'xyzzy')", DATABASE)
        groups = {"pilot": "everyone", "agent": "some", "keeper": "slots", "careful": "careful", "masked": "masked"}
        users = [User(name, [group]) for name, group in groups.items()]
        targets = [gateway.target_of(server, DATABASE, name) for name in (DATABASE, PHYSICAL)]
        policies = {target.name: POLICY.replace("TARGET", target.name) for target in targets}
        with Gateway(work, targets, users, policies, segment="4MiB", driver=options.driver) as lockgate:
            stand = Stand(work, server, lockgate, users)
            done = attempt(CASES, stand)
            lockgate.deserted()
    return both(done, attempt([recordings_verify], lockgate))


def well(done, what):
    expect(done.returncode, 0, f"{what} ({done.stderr.strip()[-600:]})")


def is_refused(done, words, what):
    if done.returncode == 0 or words not in done.stderr:
        raise Trouble(f"{what}: exit {done.returncode}, {words!r} was expected in {done.stderr.strip()[-600:]!r}")


# ----- PostgreSQL's own programs --------------------------------------------------------------------------------------


def a_base_backup_with_its_wal_restores(stand):
    folder = stand.work / "backup"
    well(stand.run("pg_basebackup", "pilot", "-D", folder, "--wal-method=stream", "--checkpoint=fast"), "pg_basebackup -X stream")
    expect((folder / "PG_VERSION").exists() and (folder / "backup_manifest").exists(), True, "the backup's files")
    verified = subprocess.run(
        [stand.server.program("pg_verifybackup"), folder], env=stand.server.env(), capture_output=True, text=True, timeout=120
    )
    well(verified, "pg_verifybackup")


def a_base_backup_as_tar_fetches_its_wal(stand):
    folder = stand.work / "tar"
    well(stand.run("pg_basebackup", "pilot", "-D", folder, "-F", "tar", "-X", "fetch", "--checkpoint=fast"), "pg_basebackup -F tar -X fetch")
    expect((folder / "base.tar").stat().st_size > 1 << 20, True, "base.tar")


@contextlib.contextmanager
def receiving(stand, program, *words):
    argv, env = stand.command(program, "pilot", *words)
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def eventually(what, condition, process=None):
    deadline = time.monotonic() + COPY_SECONDS_MAX
    while not condition():
        if process is not None and process.poll() is not None:
            raise Trouble(f"{what}: the program ended with exit {process.returncode}: {process.stderr.read()[-400:]}")
        if time.monotonic() > deadline:
            raise Trouble(f"{what}: not within {COPY_SECONDS_MAX} s")
        time.sleep(0.05)


def ended_well(process, what):
    process.send_signal(signal.SIGINT)
    try:
        process.wait(COPY_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise Trouble(f"{what} does not end after SIGINT") from None
    expect(process.returncode, 0, f"{what} after SIGINT")


def wal_streams_to_pg_receivewal_until_it_says_goodbye(stand):
    folder = stand.work / "wal"
    folder.mkdir()
    well(stand.run("pg_receivewal", "pilot", "-S", "physical", "--create-slot"), "pg_receivewal --create-slot")
    with receiving(stand, "pg_receivewal", "-D", folder, "-S", "physical", "-n", "--synchronous") as process:
        stand.server.sql("SELECT pg_switch_wal()")
        for number in range(3):
            stand.server.sql(f"INSERT INTO secret SELECT g, 'w' FROM generate_series({number * 20000 + 10}, {number * 20000 + 20000}) g", DATABASE)
            stand.server.sql("SELECT pg_switch_wal()")
        whole = lambda: [path for path in folder.iterdir() if re.fullmatch("[0-9A-F]{24}", path.name)]
        eventually("three segments of WAL", lambda: len(whole()) >= 3, process)
        ended_well(process, "pg_receivewal")
    well(stand.run("pg_receivewal", "pilot", "-S", "physical", "--drop-slot"), "pg_receivewal --drop-slot")


def changes_stream_to_pg_recvlogical(stand):
    sink = stand.work / "changes"
    well(stand.run("pg_recvlogical", "pilot", "-S", "logical", "-P", "test_decoding", "--create-slot"), "pg_recvlogical --create-slot")
    with receiving(stand, "pg_recvlogical", "-S", "logical", "--start", "-f", sink, "-F", "1", "-s", "1") as process:
        stand.server.sql("INSERT INTO secret VALUES (-1, 'streamed')", DATABASE)
        eventually("the change", lambda: sink.exists() and "streamed" in sink.read_text(), process)
        ended_well(process, "pg_recvlogical")
    well(stand.run("pg_recvlogical", "pilot", "-S", "logical", "--drop-slot"), "pg_recvlogical --drop-slot")


def what_policy_does_not_allow_does_not_begin(stand):
    folder = stand.work / "denied"
    for program, words in (
        ("pg_basebackup", ["-D", folder, "--checkpoint=fast"]),
        ("pg_receivewal", ["-D", stand.work]),
        ("pg_recvlogical", ["-S", "denied", "--create-slot"]),
    ):
        is_refused(stand.run(program, "agent", *words), "Lockgate refused", f"{program} without replicate")
    is_refused(stand.run("pg_recvlogical", "keeper", "-S", "denied", "--create-slot"), "Lockgate refused", "another slot")
    well(stand.run("pg_receivewal", "keeper", "-S", "allowed", "--create-slot"), "the slot that is allowed")
    is_refused(stand.run("pg_receivewal", "keeper", "-D", stand.work, "-S", "allowed", "-n"), "Lockgate refused", "a stream without read")
    well(stand.run("pg_receivewal", "keeper", "-S", "allowed", "--drop-slot"), "the slot that is allowed, dropped")
    is_refused(stand.run("pg_basebackup", "careful", "-D", folder, "--checkpoint=fast"), "nobody reads it", "a backup of what is denied")
    expect(stand.server.sql("SELECT count(*) FROM pg_replication_slots"), "0", "slots that were left behind")


def under_a_mask_nothing_streams(stand):
    folder = stand.work / "unmasked"
    is_refused(stand.run("pg_basebackup", "masked", "-D", folder, "--checkpoint=fast"), "would leave unmasked", "pg_basebackup")
    well(stand.run("pg_recvlogical", "pilot", "-S", "masked", "-P", "test_decoding", "--create-slot"), "a slot")
    done = stand.run("pg_recvlogical", "masked", "-S", "masked", "--start", "-f", "-", "-n")
    is_refused(done, "would leave unmasked", "pg_recvlogical")
    expect("xyzzy" in done.stdout, False, "an unmasked word in what came")
    is_refused(stand.run("pg_receivewal", "masked", "-D", stand.work, "-n"), "would leave unmasked", "pg_receivewal")
    well(stand.run("pg_recvlogical", "pilot", "-S", "masked", "--drop-slot"), "the slot dropped")


# ----- on the wire ----------------------------------------------------------------------------------------------------


def sql_and_replication_share_a_session(stand):
    with stand.session("pilot") as session:
        for _ in range(2):
            expect(len(session.simple("IDENTIFY_SYSTEM")[0]), 4, "columns of IDENTIFY_SYSTEM")
            expect(session.simple("SHOW server_encoding"), [[b"UTF8"]], "SHOW")
            expect(session.simple("SELECT word FROM secret WHERE id = 1"), [[b"xyzzy"]], "SQL on a replication connection")
        for wrong, code in (("IDENTIFY_SYSTEM x", "42601"), ("identify_system", "42601")):
            session.socket.sendall(message(b"Q", text(wrong)))
            refused(session, code, wrong)
        session.socket.sendall(message(b"P", b"\0" + text("SELECT 1") + b"\0\0") + message(b"S"))
        refused(session, "08P01", "the extended protocol on a replication connection")
        expect(session.simple("SELECT 1"), [[b"1"]], "the session after all that")


def refusals_leave_the_session_in_step(stand):
    with stand.session("keeper", replication="true") as session:
        for command in ("BASE_BACKUP", "START_REPLICATION 0/0", "CREATE_REPLICATION_SLOT x PHYSICAL", "TABLE secret"):
            session.socket.sendall(message(b"Q", text(command)))
            refused(session, "42501", command)
            expect(len(session.simple("IDENTIFY_SYSTEM")[0]), 4, f"IDENTIFY_SYSTEM after {command}")


def refused(session, code, what):
    try:
        session._rows()
    except Refused as refusal:
        expect(refusal.fields["C"], code, what)
    else:
        raise Trouble(f"{what}: nothing was refused")


def streaming(stand, session):
    (row,) = session.simple("IDENTIFY_SYSTEM")
    session.socket.sendall(message(b"Q", text(f"START_REPLICATION PHYSICAL {row[2].decode()}")))
    expect(session.read()[0], b"W", "the answer to START_REPLICATION")


def after_a_stream_the_session_goes_on(stand):
    with stand.session("pilot", replication="true") as session:
        for _ in range(2):
            streaming(stand, session)
            status = struct.pack("!cQQQQB", b"r", 1, 1, 1, 0, 1)
            session.socket.sendall(message(b"d", status))
            kind, body = session.read()
            expect(kind, b"d", "what comes while it streams")
            session.socket.sendall(message(b"c"))
            while kind == b"d":
                kind, body = session.read()
            expect(kind, b"c", "the end of the stream")
            expect(session._rows(), [], "what follows the stream")
            expect(len(session.simple("IDENTIFY_SYSTEM")[0]), 4, "the session after its stream")


def a_command_inside_a_stream_ends_the_session(stand):
    with stand.session("pilot", replication="true") as session:
        streaming(stand, session)
        session.socket.sendall(message(b"Q", text("IDENTIFY_SYSTEM")))
        kind, body = b"d", b""
        while kind == b"d":
            kind, body = session.read()
        expect((kind, wire.fields(body)["C"]), (b"E", "08P01"), "a Query inside a stream")


def a_stream_ends_when_policy_no_longer_allows_it(stand):
    with stand.session("pilot", replication="true") as session:
        streaming(stand, session)
        withdrawn = stand.lockgate.folder / "policies" / "withdrawn.policy"
        withdrawn.write_text(WITHDRAWN.replace("TARGET", DATABASE))
        stand.lockgate.process.send_signal(signal.SIGHUP)
        kind, body, deadline = b"d", b"", time.monotonic() + COPY_SECONDS_MAX
        while kind == b"d":
            if time.monotonic() > deadline:
                raise Trouble("the stream goes on")
            stand.server.sql("SELECT pg_switch_wal()")
            kind, body = session.read()
        said = wire.fields(body)
        expect((kind, said.get("V"), said.get("C")), (b"E", "FATAL", "42501"), "the end of a stream that is no longer allowed")
        expect("not any more" in said["M"], True, f"the reason in {said['M']!r}")


CASES = (
    a_base_backup_with_its_wal_restores,
    a_base_backup_as_tar_fetches_its_wal,
    wal_streams_to_pg_receivewal_until_it_says_goodbye,
    changes_stream_to_pg_recvlogical,
    what_policy_does_not_allow_does_not_begin,
    under_a_mask_nothing_streams,
    sql_and_replication_share_a_session,
    refusals_leave_the_session_in_step,
    after_a_stream_the_session_goes_on,
    a_command_inside_a_stream_ends_the_session,
    # The last: the policy stays withdrawn.
    a_stream_ends_when_policy_no_longer_allows_it,
)
