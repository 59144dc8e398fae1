"""The demonstration: an agent's session through Lockgate, every step shown and checked, replayed and verified."""

import argparse
import pathlib
import re
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from support import gateway, machine, postgres, terminal  # noqa: E402
from support.machine import Trouble, say  # noqa: E402

POLICY = machine.ROOT / "policies" / "orders-agents.policy"
AGENT = "agent-7"
GROUP = "ai-agents"
TARGET = "orders"

# All of it is made up: names of nobody, domains for examples, numbers that no issuer gave out.
CUSTOMERS = (
    ("Ada Example", "ada.example@example.com", "900-12-3456", "4111111111111111"),
    ("Bruno Sample", "bruno@sample.example.org", "900-65-4321", "5555555555554444"),
    ("Chiyo Specimen", "c.specimen@example.net", "900-45-6789", "378282246310005"),
)
SCHEMA = """
CREATE TABLE public.customers (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text NOT NULL, ssn text NOT NULL, card text NOT NULL
);
CREATE SCHEMA sales;
CREATE TABLE sales.orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id int REFERENCES public.customers, total numeric(10, 2), state text NOT NULL
);
CREATE TABLE sales.notes (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int REFERENCES sales.orders, body text NOT NULL
);
"""
ORDERS = 40


class NotAsTold(Exception):
    """A step that did not show what it should."""


class Story:
    """Numbers the steps, shows what happens, and stops at the first that is not as told."""

    def __init__(self):
        self.step = "the preparation"
        self.number = 0

    def begin(self, title):
        self.number += 1
        self.step = f"step {self.number} ({title})"
        say(f"\n── {self.number}. {title} " + "─" * max(3, 96 - len(title)))

    def expect(self, true, what, shown=""):
        if not true:
            raise NotAsTold(f"{self.step}: {what}" + (f"\nwhat was shown:\n{shown}" if shown else ""))

    def show(self, text):
        say("\n".join(f"  {line}".rstrip() for line in text.strip("\n").splitlines()))


def main():
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the story instead of staying up")
    options = parser.parse_args()
    story = Story()
    try:
        play(story, options.once)
    except (NotAsTold, Trouble, OSError) as trouble:
        where = "" if isinstance(trouble, NotAsTold) else f"{story.step}: "
        say(f"\nThe demonstration failed at {where}{trouble}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted; everything that was started is stopped.")
        return 130
    return 0


def play(story, once):
    begun = time.monotonic()
    machine.need("postgresql", "libclang-dev", "build-essential", "openssl")
    say("building Lockgate (release; the first time takes some minutes)")
    machine.build_release()
    say(f"ready to go after {time.monotonic() - begun:.0f} s")
    with machine.work_folder("demo") as work, postgres.Server(work, tls=True) as server:
        password = server.account("orders_app", TARGET)
        fill(server, password)
        target = gateway.Target(TARGET, server.port, TARGET, "orders_app", password, "verify-full", server.authority)
        agent = gateway.User(AGENT, [GROUP])
        lockgate = gateway.Gateway(work, [target], [agent], {POLICY.stem: POLICY.read_text()}, tls="required", durability="os")
        try:
            before(story, server)
            check(story, lockgate)
            lockgate.start()
            session(story, lockgate, agent)
            after(story, server)
            lockgate.stop()
            recording(story, lockgate, work)
            if once:
                say("\nEvery step was as told.")
            else:
                stay(lockgate, agent)
        finally:
            if lockgate.process is not None:
                lockgate.kill()


def fill(server, password):
    rows = ", ".join(f"('{name}', '{email}', '{ssn}', '{card}')" for name, email, ssn, card in CUSTOMERS)
    orders = f"SELECT 1 + n % {len(CUSTOMERS)}, 10 * n + 0.95, 'open' FROM generate_series(1, {ORDERS}) n"
    server.sql(
        f"{SCHEMA} INSERT INTO public.customers (name, email, ssn, card) VALUES {rows};"
        f"INSERT INTO sales.orders (customer_id, total, state) {orders};",
        database=TARGET,
        user="orders_app",
        password=password,
    )


def before(story, server):
    story.begin("What the database holds, seen by its owner, past the gateway")
    rows = server.sql("SELECT name, email, ssn, card FROM public.customers ORDER BY id", TARGET)
    story.show(rows)
    story.expect(rows.count("\n") + 1 == len(CUSTOMERS), "the database does not hold the customers", rows)


def check(story, lockgate):
    story.begin("The policy, and lockgate check")
    lockgate.write()
    story.show(POLICY.read_text())
    argv = [lockgate.binary, "check", "--config", lockgate.config]
    say(f"\n  $ lockgate check --config {lockgate.config.name}")
    story.show(machine.run(argv, what="lockgate check"))


def session(story, lockgate, agent):
    story.begin(f"{AGENT} connects with psql, as it always did")
    with terminal.Psql(shutil.which("psql"), lockgate.client_env(agent), TARGET) as psql:
        shown = psql.banner
        story.show(shown)
        connection = psql.pid

        story.begin("It reads rows: protected columns are masked")
        shown = psql.ask("SELECT name, email, ssn, card FROM public.customers ORDER BY id;")
        story.show(shown)
        masked(story, shown)

        story.begin("It is refused DROP TABLE, by a rule with a name")
        shown = psql.ask("DROP TABLE sales.orders;")
        story.show(shown)
        refused(story, shown, "drop", "schema changes go through migrations")
        state = psql.ask("\\echo :LAST_ERROR_SQLSTATE")
        story.show(state)
        story.expect("42501" in state, "the SQLSTATE is not 42501 (insufficient_privilege)", state)

        story.begin("It goes on, on the same connection")
        shown = psql.ask("SELECT id, customer_id, total FROM sales.orders ORDER BY id LIMIT 3;")
        story.show(shown)
        story.expect("(3 rows)" in shown, "three orders should be shown", shown)
        story.expect(psql.pid == connection, f"another connection: process {psql.pid}, it was {connection}", shown)
        shown = psql.ask("INSERT INTO sales.notes (order_id, body) VALUES (1, 'called the customer');")
        story.show(shown)
        story.expect("INSERT 0 1" in shown, "the note should be inserted", shown)

        story.begin("An UPDATE without WHERE is refused")
        shown = psql.ask("UPDATE public.customers SET email = 'nobody@example.com';")
        story.show(shown)
        refused(story, shown, "update", "an UPDATE or DELETE needs a WHERE")

        story.begin("A refusal inside a transaction fails that transaction")
        for line, expected in (
            ("BEGIN;", "BEGIN"),
            ("INSERT INTO sales.notes (order_id, body) VALUES (2, 'never to be seen');", "INSERT 0 1"),
            ("DELETE FROM sales.orders;", "orders_agents"),
            ("COMMIT;", "ROLLBACK"),
        ):
            shown = psql.ask(line)
            story.show(shown)
            story.expect(expected in shown, f"{line} should show {expected}", shown)
        story.expect(psql.pid == connection, f"another connection: process {psql.pid}, it was {connection}")
        story.expect(psql.quit() == 0, "psql should end with exit 0")


def masked(story, shown):
    for name, email, ssn, card in CUSTOMERS:
        line = next((line for line in shown.splitlines() if line.strip().startswith(name)), "")
        cells = [cell.strip() for cell in line.split("|")]
        story.expect(len(cells) == 4, f"no row of {name} is shown", shown)
        local, domain = email.split("@")
        story.expect(cells[1].endswith("@" + domain) and local not in cells[1], f"email of {name}: keep domain", shown)
        story.expect(cells[2].endswith(ssn[-4:]) and ssn[:6] not in cells[2], f"ssn of {name}: keep last 4", shown)
        story.expect(cells[3] and not re.search(r"\d", cells[3]), f"card of {name}: redact", shown)


def refused(story, shown, effect, because):
    story.expect("ERROR:" in shown, "it should be refused", shown)
    story.expect("orders_agents" in shown and effect in shown, f"the refusal should name the rule about {effect}", shown)
    story.expect(because in shown, f"the refusal should say: {because}", shown)


def after(story, server):
    story.begin("The database, past the gateway: unmasked, whole, only what was allowed has happened")
    for sql, expected in (
        ("SELECT email, ssn, card FROM public.customers WHERE id = 1", "|".join(CUSTOMERS[0][1:])),
        ("SELECT count(*) FROM sales.orders", str(ORDERS)),
        ("SELECT order_id, body FROM sales.notes", "1|called the customer"),
    ):
        shown = server.sql(sql, TARGET)
        story.show(f"{sql}\n    {shown}")
        story.expect(shown == expected, f"{sql} should give {expected}", shown)


def recording(story, lockgate, work):
    story.begin("The recording, with the gateway stopped: list")
    shown = replayed(story, lockgate, "list")
    story.expect(AGENT in shown and TARGET in shown, f"the list should hold the session of {AGENT} on {TARGET}", shown)

    story.begin("show: who, what, the verdict and its rule, the rows as the agent saw them")
    shown = replayed(story, lockgate, "show", "last")
    for word in ("DROP TABLE sales.orders", "schema changes go through migrations", "called the customer", AGENT):
        story.expect(word in shown, f"the transcript should contain: {word}", shown)
    for _, email, ssn, card in CUSTOMERS:
        for secret in (email, ssn, card):
            story.expect(secret not in shown, f"the transcript shows {secret}, which the agent never saw")

    story.begin("verify: whole, and it would notice")
    replayed(story, lockgate, "verify")
    damaged = work / "damaged"
    shutil.copytree(lockgate.recordings(), damaged)
    place = damage(damaged)
    code, shown = gateway.replay("verify", damaged)
    say(f"\n  one bit of a copy changed ({place}):")
    story.show(shown)
    story.expect(code != 0, "verify should refuse a recording in which one bit was changed", shown)


def replayed(story, lockgate, *words):
    say(f"  $ lockgate-replay {' '.join(words)} {lockgate.recordings().relative_to(lockgate.folder)}")
    code, shown = lockgate.replay(*words)
    story.show(shown)
    story.expect(code == 0, f"lockgate-replay {words[0]} should end with exit 0, not {code}", shown)
    return shown


def damage(folder):
    """Flips one bit inside a statement that was recorded."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        bytes_ = bytearray(path.read_bytes())
        at = bytes_.find(b"DROP TABLE sales.orders")
        if at >= 0:
            bytes_[at] ^= 1
            path.write_bytes(bytes_)
            return f"{path.relative_to(folder)}, byte {at}"
    raise NotAsTold("no recording contains the refused statement")


def stay(lockgate, agent):
    lockgate.start()
    password = lockgate.folder / "secrets" / f"user-{agent.name}"
    say("\nEverything stays up; Ctrl-C ends it. Try it from another terminal:\n")
    say(f"  PGPASSWORD=$(cat {password}) psql 'host=127.0.0.1 port={lockgate.port} dbname={TARGET} user={AGENT} sslmode=require'")
    say(f"  {lockgate.binary}-replay list {lockgate.recordings()}")
    say(f"  {lockgate.binary}-replay show last {lockgate.recordings()}")
    say(f"  curl http://127.0.0.1:{lockgate.admin}/metrics")
    try:
        while lockgate.process.poll() is None:
            time.sleep(0.5)
        raise Trouble(f"lockgate ended by itself. Its log ends:\n{lockgate.log_tail()}")
    except KeyboardInterrupt:
        lockgate.stop()
        say("\nStopped and cleaned up.")


if __name__ == "__main__":
    sys.exit(main())
