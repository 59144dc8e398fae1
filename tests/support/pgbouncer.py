"""PgBouncer in session pooling, in a gateway's place: to compare with, and to prove that a comparison can fail."""

import contextlib
import os
import subprocess

from . import machine, postgres
from .machine import Trouble


class PgBouncer:
    """One running PgBouncer in front of one database, reached as the server's superuser."""

    def __init__(self, folder, server, database, pool_size=100):
        machine.need("pgbouncer")
        self.folder = folder / "pgbouncer"
        self.server = server
        self.database = database
        self.pool_size = pool_size
        self.port = None
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def _ini(self):
        # With the password in the user list PgBouncer does SCRAM on both legs, as a gateway would.
        return f"""[databases]
{self.database} = host=127.0.0.1 port={self.server.port} dbname={self.database}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self.folder}/users.txt
pool_mode = session
server_reset_query =
default_pool_size = {self.pool_size}
max_client_conn = 2000
ignore_startup_parameters = extra_float_digits,options
log_connections = 0
log_disconnections = 0
logfile = {self.folder}/log
"""

    def start(self):
        self.folder.mkdir()
        self.port = machine.free_port()
        (self.folder / "users.txt").write_text(f'"{self.server.superuser}" "{self.server.password}"\n')
        (self.folder / "pgbouncer.ini").write_text(self._ini())
        for path in (self.folder, *self.folder.iterdir()):
            machine.own(path)
        argv = machine.as_server_user([machine.pgbouncer(), self.folder / "pgbouncer.ini"])
        self.process = subprocess.Popen(
            argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if not postgres.answers(self.port) or self.process.poll() is not None:
            log = self.folder / "log"
            raise Trouble(f"PgBouncer does not start:\n{log.read_text() if log.exists() else 'it wrote no log'}")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


@contextlib.contextmanager
def door(server, work, database):
    """(port, password, environment) to come in by."""
    with PgBouncer(work, server, database) as pooler:
        yield pooler.port, server.password, {**os.environ, "PGSSLMODE": "disable"}
