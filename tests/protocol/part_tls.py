"""TLS on the wire: channel binding, clients' certificates, the gateway's own towards a server that demands one."""

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import subprocess
import threading

from cases import attempt, both, expect, recordings_verify, shown_sessions
from support import machine, postgres, wire
from support.authority import Authority
from support.gateway import Gateway, Target, User
from support.machine import Trouble
from support.wire import Refused, Scram

DATABASE = "wire"
POLICY = """
policy everything for group "everyone" on target "wire" {
    allow * on *
}
"""
PLUS = "SCRAM-SHA-256-PLUS"
END_POINT = b"p=tls-server-end-point,,"


class Stand:
    """A server that demands a certificate of the gateway, and a gateway with a listener of each kind."""

    def __init__(self, work):
        self.work = work
        self.clients = Authority(work / "clients", "clients")
        self.others = Authority(work / "others", "others")
        self.servers = Authority(work / "servers", "servers")
        self.pilot = User("pilot", ["everyone"])
        self.robot = User("robot", ["everyone"], password=None, certificate_name="robot@example.net")
        self.shown = {
            "pilot": self.clients.certificate("pilot"),
            "mate": self.clients.certificate("mate"),
            "expired": self.clients.certificate("expired", subject="/CN=pilot", days=(-20, -1)),
            "early": self.clients.certificate("early", subject="/CN=pilot", days=(2, 20)),
            "revoked": self.clients.certificate("revoked", subject="/CN=pilot"),
            "foreign": self.others.certificate("foreign", subject="/CN=pilot"),
            "robot": self.clients.certificate("robot", subject="/O=Example", alternatives=["email:robot@example.net"]),
            "twice": self.clients.certificate("twice", subject="/CN=pilot/CN=robot@example.net"),
        }
        self.crl = self.clients.revoked(self.shown["revoked"][0])
        self.front = self.servers.certificate("gateway", subject="/CN=localhost", alternatives=["DNS:localhost", "IP:127.0.0.1"])

    def listeners(self):
        own = {"tls": '"required"', "certificate": f'"{self.front[0]}"', "key": f'"{self.front[1]}"'}
        asks = {**own, "client_ca": f'"{self.clients.pem}"', "client_crl": f'"{self.crl}"'}
        return {
            "plain": own,
            "optional": {**asks, "client_certificate": '"optional"'},
            "required": {**asks, "client_certificate": '"required"'},
            "alone": {**asks, "client_certificate": '"required"', "auth": '"certificate"'},
            "email": {**asks, "client_certificate": '"required"', "auth": '"certificate"', "client_name": '"email"'},
            "selfmade": {**asks, "certificate": None, "key": None, "client_certificate": '"required"', "auth": '"certificate"'},
        }

    def psql(self, listener, user, shown=None, **more):
        """(exit, output, errors) of a psql that asks for one row; `shown` names what it shows."""
        certificate = {"sslcert": self.shown[shown][0], "sslkey": self.shown[shown][1]} if shown else {"sslcert": "/nonexistent"}
        settings = {
            "host": "127.0.0.1", "port": self.lockgate.ports[listener], "dbname": DATABASE, "user": user.name,
            "sslmode": "verify-full", "sslrootcert": self.servers.pem, **certificate, **more,
        }  # fmt: skip
        words = " ".join(f"{key}={value}" for key, value in settings.items())
        env = self.server.env(PGPASSWORD=user.password or "")
        done = subprocess.run(
            [self.server.program("psql"), "-X", "-A", "-t", "-w", "-d", words, "-c", "SELECT 1"], env=env, capture_output=True, text=True
        )
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def let_in(self, listener, user, shown=None, **more):
        expect(self.psql(listener, user, shown, **more), (0, "1", ""), f"psql at {listener} as {user.name} with {shown} {more}")

    def kept_out(self, listener, user, shown, words, **more):
        code, _, errors = self.psql(listener, user, shown, **more)
        expect(code, 2, f"psql at {listener} as {user.name} with {shown} {more}")
        if not re.search(words, errors):
            raise Trouble(f"psql at {listener} as {user.name} with {shown}: {words!r} was expected to be told, not {errors!r}")

    def session(self, listener, scram=None, **more):
        context = ssl.create_default_context(cafile=self.servers.pem)
        return wire.Session(
            "127.0.0.1", self.lockgate.ports[listener], self.pilot.name, self.pilot.password, DATABASE, tls=context, scram=scram, **more
        )

    def end_point(self):
        """What a client that sees the gateway's own certificate binds itself to."""
        pem = self.front[0].read_text()
        der = base64.b64decode("".join(pem.split("-----BEGIN CERTIFICATE-----")[1].split("-----END")[0].split()))
        return hashlib.sha256(der).digest()


def run(work, bin, options):
    stand = Stand(work)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(demanding_server(stand, bin))
        target = Target(DATABASE, server.port, DATABASE, "app", None, "verify-full", stand.servers.pem, shown=stand.gateways_own)
        listeners = {
            name: {key: value for key, value in settings.items() if value} for name, settings in stand.listeners().items()
        }
        gateway = Gateway(work, [target], [stand.pilot, stand.robot], {"wire": POLICY}, segment="4MiB", listeners=listeners, driver=options.driver)
        stand.server, stand.lockgate = server, stack.enter_context(gateway)
        done = attempt(CASES, stand)
        gateway.deserted()
    return both(done, attempt((logins_are_recorded, recordings_verify), stand.lockgate))


def demanding_server(stand, bin):
    """A server that lets nobody but its superuser in without a certificate that names the role."""
    own = stand.servers.certificate("server", subject="/CN=localhost", alternatives=["IP:127.0.0.1"])
    stand.gateways_own = stand.clients.certificate("app")
    files = {"ssl_cert_file": own[0], "ssl_key_file": own[1], "ssl_ca_file": stand.clients.pem}
    stand.work.joinpath("clients").chmod(0o755)
    stand.work.joinpath("servers").chmod(0o755)
    for path in files.values():
        machine.own(path)
    settings = {"ssl": "on", **{key: f"'{path}'" for key, path in files.items()}}
    hba = ["hostssl all app 127.0.0.1/32 cert clientcert=verify-full", "host all app 127.0.0.1/32 reject"]

    class Demanding(postgres.Server):
        def start(self):
            super().start()
            self.sql(f"CREATE ROLE app LOGIN; CREATE DATABASE {DATABASE} OWNER app")

    return Demanding(stand.work, bin=bin, settings=settings, hba=hba)


# ----- channel binding ------------------------------------------------------------------------------------------------


def psql_binds_itself_to_the_channel_or_not(stand):
    for binding in ("require", "prefer", "disable"):
        stand.let_in("plain", stand.pilot, channel_binding=binding)


def without_tls_there_is_nothing_to_bind_to(stand):
    words = f"host=127.0.0.1 port={stand.lockgate.port} dbname={DATABASE} user=pilot sslmode=disable"
    for binding, code in (("require", 2), ("prefer", 0), ("disable", 0)):
        argv = [stand.server.program("psql"), "-X", "-w", "-d", f"{words} channel_binding={binding}", "-c", "SELECT 1"]
        done = subprocess.run(argv, env=stand.server.env(PGPASSWORD=stand.pilot.password), capture_output=True, text=True)
        expect(done.returncode, code, f"psql without TLS, channel_binding={binding} ({done.stderr.strip()})")


def a_wrong_password_is_refused_with_binding_too(stand):
    stranger = User("pilot", [], password="guess")
    for binding in ("require", "disable"):
        stand.kept_out("plain", stranger, None, "password authentication failed", channel_binding=binding)


def plus(stand, header=END_POINT, channel=None):
    return Scram(stand.pilot.password, PLUS, header, stand.end_point() if channel is None else channel)


def plus_is_offered_inside_tls_and_only_there(stand):
    with stand.session("plain") as session:
        expect(session.offered, [PLUS, "SCRAM-SHA-256"], "mechanisms inside TLS")
    with wire.Session("127.0.0.1", stand.lockgate.port, "pilot", stand.pilot.password, DATABASE) as session:
        expect(session.offered, ["SCRAM-SHA-256"], "mechanisms without TLS")
    with stand.session("plain", plus(stand)) as session:
        expect(session.simple("SELECT 1"), [[b"1"]], "a session that is bound")


def claims_about_the_channel_that_do_not_fit_are_refused(stand):
    password = stand.pilot.password
    for what, scram, code in (
        ("another certificate", plus(stand, channel=b"\0" * 32), "28000"),
        ("no certificate", plus(stand, channel=b""), "28000"),
        ("another kind of binding", plus(stand, header=b"p=tls-unique,,"), "08P01"),
        ("-PLUS without binding", plus(stand, header=b"n,,", channel=b""), "08P01"),
        ("-PLUS and not offered", plus(stand, header=b"y,,", channel=b""), "28000"),
        ("binding without -PLUS", Scram(password, header=END_POINT, channel=stand.end_point()), "08P01"),
        ("a client that was told of no -PLUS", Scram(password, header=b"y,,"), "28000"),
        ("an unknown mechanism", Scram(password, "SCRAM-SHA-512"), "08P01"),
    ):
        try:
            stand.session("plain", scram).close()
        except Refused as refusal:
            expect(refusal.fields["C"], code, what)
        else:
            raise Trouble(f"{what}: it was let in")


def whoever_stands_between_is_found_out(stand):
    """Somebody ends the client's TLS and begins one of his own: no certificate is verified, and yet it fails."""
    between = Between(stand, stand.others.certificate("between", subject="/CN=localhost"))
    with between as port:
        code, _, errors = psql_at(stand, port, sslmode="require", channel_binding="require")
        expect((code, "channel binding check failed" in errors), (2, True), f"psql through somebody between ({errors})")
        # He cannot hide -PLUS either: the client says that it could, and is not believed.
    with Between(stand, stand.others.certificate("hider", subject="/CN=localhost"), hides=True) as port:
        code, _, errors = psql_at(stand, port, sslmode="require", channel_binding="prefer")
        expect((code, "negotiation error" in errors), (2, True), f"psql through somebody who hides -PLUS ({errors})")


def psql_at(stand, port, **more):
    words = f"host=127.0.0.1 port={port} dbname={DATABASE} user=pilot " + " ".join(f"{key}={value}" for key, value in more.items())
    argv = [stand.server.program("psql"), "-X", "-A", "-t", "-w", "-d", words, "-c", "SELECT 1"]
    done = subprocess.run(argv, env=stand.server.env(PGPASSWORD=stand.pilot.password), capture_output=True, text=True)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


class Between:
    """Ends TLS with whoever comes, and begins it anew with the gateway; may hide -PLUS from the client."""

    def __init__(self, stand, own, hides=False):
        self.stand, self.own, self.hides = stand, own, hides

    def __enter__(self):
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self.listening.getsockname()[1]

    def __exit__(self, *_):
        self.listening.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client):
        with contextlib.suppress(OSError, EOFError):
            request = client.recv(8)
            server = socket.create_connection(("127.0.0.1", self.stand.lockgate.ports["plain"]))
            server.sendall(request)
            client.sendall(server.recv(1))
            towards_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            towards_client.load_cert_chain(*self.own)
            towards_server = ssl._create_unverified_context()
            client, server = towards_client.wrap_socket(client, server_side=True), towards_server.wrap_socket(server)
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            self._copy(server, client, self.hides)

    def _copy(self, source, sink, hides):
        with contextlib.suppress(OSError):
            while got := source.recv(65536):
                sink.sendall(without_plus(got) if hides else got)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def without_plus(got):
    offered = PLUS.encode() + b"\0"
    if got[:1] != b"R" or offered not in got:
        return got
    return wire.message(b"R", got[5:].replace(offered, b""))


# ----- clients' certificates ------------------------------------------------------------------------------------------


def a_certificate_beside_the_password(stand):
    for listener in ("optional", "required"):
        stand.let_in(listener, stand.pilot, "pilot")
        stand.kept_out(listener, User("pilot", [], password="guess"), "pilot", "password authentication failed")


def no_certificate_is_enough_only_where_it_is_optional(stand):
    stand.let_in("optional", stand.pilot)
    for listener in ("required", "alone"):
        stand.kept_out(listener, stand.pilot, None, "connection requires a valid client certificate")


def a_certificate_alone(stand):
    nameless = User("pilot", [], password="guess")
    stand.let_in("alone", nameless, "pilot")
    stand.let_in("email", stand.robot, "robot")
    stand.let_in("selfmade", nameless, "pilot", sslmode="require", sslrootcert="/nonexistent")


def a_certificate_of_somebody_else_lets_nobody_in(stand):
    wrong = "certificate authentication failed for user"
    for listener in ("optional", "required", "alone"):
        stand.kept_out(listener, stand.pilot, "mate", f'{wrong} "pilot"')
    stand.kept_out("alone", User("mate", [], password="x"), "mate", f'{wrong} "mate"')
    stand.kept_out("alone", stand.robot, "robot", f'{wrong} "robot"')
    stand.kept_out("email", stand.pilot, "pilot", f'{wrong} "pilot"')
    stand.kept_out("alone", stand.pilot, "twice", f'{wrong} "pilot"')


def who_has_no_password_has_no_password(stand):
    for guess in ("", "guess", "robot"):
        stand.kept_out("plain", User("robot", [], password=guess), None, "password|no password supplied")


def invalid_certificates_end_the_handshake(stand):
    for shown, words in (
        ("expired", "certificate expired"),
        ("early", "bad certificate|certificate"),
        ("revoked", "certificate revoked"),
        ("foreign", "unknown ca"),
    ):
        for listener in ("optional", "required", "alone"):
            stand.kept_out(listener, stand.pilot, shown, words)


def where_none_is_asked_for_none_is_looked_at(stand):
    for shown in ("pilot", "mate", "expired", "foreign"):
        stand.let_in("plain", stand.pilot, shown)


def a_reload_brings_new_revocations(stand):
    stand.let_in("alone", stand.pilot, "pilot")
    stand.clients.revoked(stand.shown["pilot"][0])
    stand.lockgate.reload()
    stand.kept_out("alone", stand.pilot, "pilot", "certificate revoked")


CASES = (
    psql_binds_itself_to_the_channel_or_not,
    without_tls_there_is_nothing_to_bind_to,
    a_wrong_password_is_refused_with_binding_too,
    plus_is_offered_inside_tls_and_only_there,
    claims_about_the_channel_that_do_not_fit_are_refused,
    whoever_stands_between_is_found_out,
    a_certificate_beside_the_password,
    no_certificate_is_enough_only_where_it_is_optional,
    a_certificate_alone,
    a_certificate_of_somebody_else_lets_nobody_in,
    who_has_no_password_has_no_password,
    invalid_certificates_end_the_handshake,
    where_none_is_asked_for_none_is_looked_at,
    a_reload_brings_new_revocations,
)


def logins_are_recorded(lockgate):
    shown = shown_sessions(lockgate)
    for words in (
        "proven by scram-sha-256-plus",
        "proven by scram-sha-256\n",
        "proven by certificate\n",
        "proven by certificate and scram-sha-256-plus",
        "with tls, certificate of CN=pilot",
        "with tls, certificate of O=Example",
        'the certificate of "CN=mate" is not that of user "pilot"',
        "connection requires a valid client certificate",
    ):
        if words not in shown:
            raise Trouble(f"{words!r} is not in the recording")
