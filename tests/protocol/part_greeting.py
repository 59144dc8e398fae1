"""The beginning of a session: versions and options that are negotiated, direct TLS, settings that the server reports."""

import re
import socket
import ssl
import struct
import subprocess

from cases import attempt, both, expect, recordings_verify
from support import gateway, postgres, wire
from support.authority import Authority
from support.gateway import Gateway, User
from support.machine import Trouble
from support.wire import Refused, text

DATABASE = "wire"
POLICY = """
policy everything for group "everyone" on target "wire" {
    allow * on *
}
"""
ENCODINGS = ("UTF8", "LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII")
UNSAFE_ENCODINGS = ("SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004")


class Stand:
    """A server, and a gateway with and without TLS in front of it."""

    def __init__(self, work, server, lockgate, user, authority):
        self.work, self.server, self.lockgate, self.user, self.authority = work, server, lockgate, user, authority

    def through(self, **more):
        return wire.Session("127.0.0.1", self.lockgate.port, self.user.name, self.user.password, DATABASE, **more)

    def directly(self, **more):
        return wire.Session("127.0.0.1", self.server.port, self.server.superuser, self.server.password, DATABASE, **more)

    def inside_tls(self, protocols, listener="tls", **more):
        """A session inside TLS that offers these ALPN protocols (None: the extension is not sent)."""
        context = ssl.create_default_context(cafile=self.authority.pem)
        if protocols is not None:
            context.set_alpn_protocols(protocols)
        return wire.Session(
            "127.0.0.1", self.lockgate.ports[listener], self.user.name, self.user.password, DATABASE, tls=context, **more
        )

    def major(self):
        return int(self.server.sql("SHOW server_version_num")) // 10000


def run(work, bin, options):
    authority = Authority(work / "authority", "servers")
    certificate, key = authority.certificate("gateway", subject="/CN=localhost", alternatives=["DNS:localhost", "IP:127.0.0.1"])
    with postgres.Server(work, bin=bin) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        user = User(server.superuser, ["everyone"])
        listeners = {"tls": {"tls": '"required"', "certificate": f'"{certificate}"', "key": f'"{key}"'}}
        target = gateway.target_of(server, DATABASE)
        with Gateway(work, [target], [user], {"wire": POLICY}, segment="4MiB", listeners=listeners, driver=options.driver) as lockgate:
            stand = Stand(work, server, lockgate, user, authority)
            done = attempt(CASES, stand)
            lockgate.deserted()
    return both(done, attempt([recordings_verify], lockgate))


def negotiated(stand, version, **options):
    with stand.through(version=version, **options) as session:
        expect(session.simple("SELECT 1"), [[b"1"]], f"a session of version {version}")
        return session.negotiated


def versions_are_negotiated_down(stand):
    for minor, answer in ((0, None), (2, None), (3, (2, [])), (9999, (2, []))):
        expect(negotiated(stand, (3, minor)), answer, f"what is answered to 3.{minor}")
    # PostgreSQL itself: 18 speaks 3.2, those before 3.0 only.
    newest = 2 if stand.major() >= 18 else 0
    with stand.directly(version=(3, 9999)) as session:
        expect(session.negotiated, (newest, []), "what the server answers to 3.9999")


def unknown_options_are_named(stand):
    options = {"_pq_.one": "1", "_pq_.two": "x"}
    expect(negotiated(stand, (3, 0), **options), (0, list(options)), "options with 3.0")
    expect(negotiated(stand, (3, 2), **options), (2, list(options)), "options with 3.2")
    with stand.directly(version=(3, 0), **options) as session:
        expect(session.negotiated[1], list(options), "options that the server names")


def other_protocols_are_refused(stand):
    for version in ((2, 0), (4, 0), (1, 1), (3000, 0)):
        try:
            stand.through(version=version).close()
        except Refused as refusal:
            expect(refusal.fields["C"], "0A000", f"protocol {version}")
        else:
            raise Trouble(f"protocol {version} was accepted")


def direct_tls_with_its_protocol_named(stand):
    for protocols in (["postgresql"], ["http/1.1", "postgresql"]):
        with stand.inside_tls(protocols, direct=True) as session:
            expect(session.socket.selected_alpn_protocol(), "postgresql", f"what was agreed of {protocols}")
            expect(session.simple("SELECT 1"), [[b"1"]], "a session with direct TLS")


def direct_tls_without_its_protocol_is_cut(stand):
    for protocols in (None, ["http/1.1"], ["postgres"], ["postgresql2"], ["h2", "http/1.1"]):
        try:
            stand.inside_tls(protocols, direct=True).close()
        except (OSError, EOFError):
            continue
        raise Trouble(f"direct TLS with ALPN {protocols} was let in")


def asked_for_tls_needs_no_protocol_and_takes_no_wrong_one(stand):
    for protocols in (None, ["postgresql"]):
        with stand.inside_tls(protocols) as session:
            expect(session.simple("SELECT 1"), [[b"1"]], f"TLS that was asked for, with ALPN {protocols}")
    try:
        stand.inside_tls(["http/1.1"]).close()
    except (OSError, EOFError):
        return
    raise Trouble("TLS with a wrong ALPN protocol was let in")


def direct_tls_of_libpq(stand):
    """libpq 17 and newer do it by themselves."""
    if stand.major() < 17:
        return
    words = f"host=127.0.0.1 port={stand.lockgate.ports['tls']} dbname={DATABASE} user={stand.user.name} sslrootcert={stand.authority.pem}"
    argv = [stand.server.program("psql"), "-X", "-A", "-t", "-w", "-d"]
    for more in ("sslmode=verify-full sslnegotiation=direct", "sslmode=verify-full channel_binding=require sslnegotiation=direct"):
        env = stand.server.env(PGPASSWORD=stand.user.password)
        done = subprocess.run([*argv, f"{words} {more}", "-c", "SELECT 1"], env=env, capture_output=True, text=True)
        expect((done.returncode, done.stdout.strip()), (0, "1"), f"psql with {more} ({done.stderr.strip()})")


def where_tls_is_off_a_handshake_is_no_start(stand):
    with socket.create_connection(("127.0.0.1", stand.lockgate.port), 10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100)
        got = connection.recv(4096)
        expect(got[:1] in (b"E", b""), True, f"the answer to a handshake ({got[:40]!r})")


def settings_are_reported_as_directly(stand):
    more = {"application_name": "greeting", "options": "-c DateStyle=SQL,DMY -c TimeZone=Asia/Kolkata -c IntervalStyle=iso_8601"}
    with stand.directly(**more) as direct, stand.through(**more) as through:
        expect(through.parameters, direct.parameters, "settings at the start")
        for command in (
            "SET application_name = 'other'",
            "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'",
            "BEGIN; SET LOCAL IntervalStyle = 'postgres_verbose'",
            "ROLLBACK",
            "RESET ALL",
            "SET standard_conforming_strings = off",
            "SET client_encoding = 'LATIN1'",
        ):
            for session in (direct, through):
                session.simple(command)
            expect(through.parameters, direct.parameters, f"settings after {command}")


def encodings_are_kept_and_unsafe_ones_refused(stand):
    for encoding in ENCODINGS:
        with stand.directly(client_encoding=encoding) as direct, stand.through(client_encoding=encoding) as through:
            expect(through.parameters["client_encoding"], direct.parameters["client_encoding"], f"client_encoding {encoding}")
    with stand.through(client_encoding="LATIN1") as session:
        expect(session.simple("SELECT U&'\\00e9'"), [[b"\xe9"]], "a letter in LATIN1")
    for encoding in UNSAFE_ENCODINGS:
        try:
            stand.through(client_encoding=encoding).close()
        except Refused as refusal:
            expect(refusal.fields["C"], "0A000", f"client_encoding {encoding} at the start")
        else:
            raise Trouble(f"client_encoding {encoding} was accepted at the start")
        with stand.through() as session:
            try:
                session.simple(f"SET client_encoding = '{encoding}'")
            except Refused as refusal:
                expect((refusal.fields["V"], refusal.fields["C"]), ("FATAL", "0A000"), f"SET client_encoding = {encoding}")
            except EOFError:
                pass
            else:
                raise Trouble(f"client_encoding {encoding} was accepted later")


def wrong_parameters_are_refused_as_the_server_does(stand):
    cases = (({"nonsense": "1"}, "42704"), ({"DateStyle": "nonsense"}, "22023"), ({"work_mem": "x"}, "22023"))
    # Again and again: the error and the end of the server's connection may come in one turn or in two.
    for more, code in cases * 20:
        for what, session in (("directly", stand.directly), ("through", stand.through)):
            try:
                session(**more).close()
            except Refused as refusal:
                expect((refusal.fields["V"], refusal.fields["C"]), ("FATAL", code), f"{more} {what}")
            else:
                raise Trouble(f"{more} was accepted {what}")


def a_key_is_as_long_as_its_version_says(stand):
    with stand.through(version=(3, 0)) as session:
        expect(len(session.key[1]), 4, "a key of 3.0")
    with stand.through(version=(3, 2)) as session:
        expect(len(session.key[1]), 32 if stand.major() >= 18 else 4, "a key of 3.2")
        expect(re.fullmatch(rb"\d+", str(session.key[0]).encode()) is not None, True, "a process id")
        asked = session.simple(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {session.key[0]}")
        expect(asked, [[b"1"]], "the process that the key names")


def half_a_start_is_no_session(stand):
    whole = struct.pack("!HH", 3, 0) + text("user") + text(stand.user.name) + text("database") + text(DATABASE)
    for body in (whole, whole + b"x\0", whole + text("k") + b"v", b"\0\3\0\0user", whole[:-1] + b"\0\0trailing"):
        with socket.create_connection(("127.0.0.1", stand.lockgate.port), 10) as connection:
            connection.sendall(struct.pack("!I", len(body) + 4) + body)
            got = connection.recv(4096)
            expect((got[:1], wire.fields(got[5:]).get("C")), (b"E", "08P01"), f"a malformed start {body[-12:]!r}")


CASES = (
    versions_are_negotiated_down,
    unknown_options_are_named,
    other_protocols_are_refused,
    direct_tls_with_its_protocol_named,
    direct_tls_without_its_protocol_is_cut,
    asked_for_tls_needs_no_protocol_and_takes_no_wrong_one,
    direct_tls_of_libpq,
    where_tls_is_off_a_handshake_is_no_start,
    settings_are_reported_as_directly,
    encodings_are_kept_and_unsafe_ones_refused,
    wrong_parameters_are_refused_as_the_server_does,
    a_key_is_as_long_as_its_version_says,
    half_a_start_is_no_session,
)
