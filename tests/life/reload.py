"""SIGHUP: what a reload changes, what it cannot change, and a configuration with mistakes, which changes nothing."""

import socket

from processes import DATABASE, READ_ONLY, connects, gone, must, one, refused, says, session
from support import machine
from support.machine import until


def reload(place):
    server = place.server
    with place.life("reload") as lockgate:
        lockgate.start()
        server.sql("CREATE TABLE kept (id int)", DATABASE)
        with session(lockgate) as open_, session(lockgate, 1) as guest:
            open_.simple("BEGIN")
            open_.simple("INSERT INTO kept VALUES (1)")
            lockgate.policy(READ_ONLY)
            lockgate.reload()
            message = refused(lambda: open_.simple("DROP TABLE kept"), "42501")
            must("not today" in message, message)
            open_.simple("ROLLBACK")
            broken(lockgate, open_)
            rotated(server, lockgate, open_)
            listeners(lockgate, open_)
            fixed(lockgate)
            lockgate.edit('name = "guest"', 'name = "visitor"')
            lockgate.reload()
            until("a user that is gone is gone", lambda: gone(guest))
            logged(lockgate, 'added user \\"visitor\\"')
            must(one(open_.simple("SELECT 7")) == b"7", "a session was lost by reloads")
        shown = lockgate.replay("show", "last")[1]
        must("7" in shown, "the recording does not show the session")
        lockgate.end()


def logged(lockgate, words):
    """The log is written behind what it tells of."""
    until(f"the log says {words}", lambda: says(lockgate.process, words))


def broken(lockgate, open_):
    """With any mistake nothing changes, and everybody can see that."""
    right = lockgate.config.read_text()
    lockgate.edit("[policy]", "[polcy]")
    lockgate.edit('name = "guest"', 'nmae = "guest"')
    lockgate.reload(well=False)
    for words in ("polcy", "nmae", "nothing has changed"):
        logged(lockgate, words)
    lockgate.config.write_text(right)
    policy = lockgate.folder / "policies" / "everything.policy"
    text = policy.read_text()
    policy.write_text(text.replace("allow * on *", "alow * on *"))
    lockgate.reload(well=False)
    logged(lockgate, "alow")
    message = refused(lambda: open_.simple("DROP TABLE kept"), "42501")
    must("not today" in message, f"something else holds now: {message}")
    with session(lockgate, 1) as guest:
        must(one(guest.simple("SELECT 7")) == b"7", "a user has gone")
    must(lockgate.figure("last_reload_successful") == 0, "/metrics does not tell")
    code, page = lockgate.get("/readyz")
    must(code == 200 and "the last reload was refused" in page, page)
    must(one(open_.simple("SELECT 1")) == b"1", "a session was lost")
    session(lockgate).close()
    policy.write_text(text)
    lockgate.reload()
    must(lockgate.figure("last_reload_successful") == 1, "/metrics still complains")


def rotated(server, lockgate, open_):
    """The target's password and a user's own are others: nobody is dropped, whoever comes needs the new ones."""
    server.sql(f"ALTER ROLE {server.superuser} PASSWORD 'another-1'")
    (lockgate.folder / "secrets" / f"target-{DATABASE}").write_text("another-1\n")
    lockgate.users[0].password = "another-2"
    (lockgate.folder / "secrets" / "user-pilot").write_text("another-2\n")
    lockgate.reload()
    session(lockgate).close()
    must(one(open_.simple("SELECT 1")) == b"1", "a session was lost")
    server.sql(f"ALTER ROLE {server.superuser} PASSWORD '{server.password}'", password="another-1")
    (lockgate.folder / "secrets" / f"target-{DATABASE}").write_text(server.password + "\n")
    lockgate.reload()


def listeners(lockgate, open_):
    old, new = lockgate.port, machine.free_port()
    lockgate.edit(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    lockgate.reload()
    until("the old listener is closed", lambda: not connects(old))
    lockgate.port = new
    session(lockgate).close()
    must(one(open_.simple("SELECT 1")) == b"1", "a session was lost with its listener")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lockgate.edit(f"127.0.0.1:{new}", f"127.0.0.1:{taken.getsockname()[1]}")
        lockgate.reload(well=False)
        session(lockgate).close()
        lockgate.edit(f"127.0.0.1:{taken.getsockname()[1]}", f"127.0.0.1:{new}")
    lockgate.reload()


def fixed(lockgate):
    before = lockgate.config.read_text()
    lockgate.edit("count = 2", "count = 3")
    lockgate.edit('data_dir = "var"', 'data_dir = "elsewhere"')
    lockgate.reload()
    for key in ("workers.count", "data_dir"):
        logged(lockgate, f'"key":"{key}"')
    must('"key":"workers.driver"' not in lockgate.log.read_text(), "what --driver says is taken for a change")
    must(not (lockgate.folder / "elsewhere").exists(), "another data_dir was begun")
    lockgate.config.write_text(before)


CASES = {"reload": reload}
