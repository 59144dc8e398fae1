"""Random sequences of protocol messages, legal and half legal: what a server answers through Lockgate is what it answers.

Each seed makes one sequence, from nothing but the seed. It is sent to a database directly and to its twin through the
gateway, cut at random places; the two streams of answers are compared message by message: types, tags, errors with
all their fields, rows, transaction states.

Three profiles: `allow` (a policy that allows everything), `mask` (one column is masked: the twin holds raw values in
it, the database that is spoken to directly what the mask makes of them), `deny` (a denied statement gives what a
syntax error in its place gives directly).
"""

import random
import struct

from support import wire
from support.wire import message, text

SCHEMA = """
CREATE TABLE n (i int PRIMARY KEY, t text);
INSERT INTO n SELECT i, 'row ' || i FROM generate_series(1, 8) i;
CREATE TABLE w (i int, t text);
CREATE TABLE forbidden (i int);
CREATE TABLE people (id int PRIMARY KEY, name text, ssn text);
INSERT INTO people SELECT i, 'name ' || i, {ssn} FROM generate_series(1, 4) i;
"""
SSN = {"direct": "'[REDACTED]'", "through": "'900-12-000' || i"}
POLICY = """
policy everything for group "everyone" on target "through" {
    allow * on *
}
policy masked for group "masked" on target "through" {
    allow * on *
    mask public.people.ssn with redact
}
policy some for group "some" on target "through" {
    allow * on *
    deny delete on public.forbidden because "it is forbidden"
    deny lock because "nothing is locked"
}
"""

LONG = "n" * 63
LONGER = "n" * 70
STATEMENTS = ("", "", "", "s1", "s2", LONG, LONGER)
PORTALS = ("", "", "", "p1", "p2", "c1", "c2")
# What Parse takes: one statement; with its number of parameters.
SINGLE = (
    ("SELECT 1", 0),
    ("SELECT i, t FROM n ORDER BY i", 0),
    ("SELECT i, t FROM n WHERE i = $1", 1),
    ("SELECT $1::int + $2::int", 2),
    ("SELECT $1::text", 1),
    ("SELECT 1 / 0", 0),
    ("SELECT 1 / (i - 3) FROM n ORDER BY i", 0),
    ("SELECT no_such_column FROM n", 0),
    ("SELEC 1", 0),
    ("", 0),
    ("-- nothing", 0),
    ("INSERT INTO w VALUES ($1, $2)", 2),
    ("INSERT INTO w VALUES (1, 'x') RETURNING i, t", 0),
    ("UPDATE w SET t = 'y' RETURNING *", 0),
    ("DELETE FROM w", 0),
    ("INSERT INTO n VALUES (1, 'twice')", 0),
    ("BEGIN", 0),
    ("BEGIN", 0),
    ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE", 0),
    ("COMMIT", 0),
    ("COMMIT", 0),
    ("ROLLBACK", 0),
    ("ROLLBACK AND CHAIN", 0),
    ("COMMIT AND CHAIN", 0),
    ("SAVEPOINT a", 0),
    ("ROLLBACK TO a", 0),
    ("RELEASE a", 0),
    ("PREPARE s1 AS SELECT i FROM n ORDER BY i LIMIT 2", 0),
    ("PREPARE s2 (int) AS SELECT t FROM n WHERE i = $1", 0),
    ("EXECUTE s1", 0),
    ("EXECUTE s2 (3)", 0),
    ("DEALLOCATE s1", 0),
    ("DEALLOCATE ALL", 0),
    ("DECLARE c1 CURSOR FOR SELECT i FROM n ORDER BY i", 0),
    ("DECLARE c2 CURSOR WITH HOLD FOR SELECT t FROM n ORDER BY i", 0),
    ("FETCH 2 FROM c1", 0),
    ("FETCH 2 FROM p1", 0),
    ("FETCH ALL FROM c2", 0),
    ("MOVE 1 FROM c1", 0),
    ("CLOSE c1", 0),
    ("CLOSE ALL", 0),
    ("SET search_path = public", 0),
    ("SET work_mem = '5MB'", 0),
    ("SET DateStyle = 'German'", 0),
    ("SET LOCAL DateStyle = 'SQL'", 0),
    ("RESET ALL", 0),
    ("SHOW DateStyle", 0),
    ("SET client_encoding = LATIN1", 0),
    ("DISCARD ALL", 0),
    ("LISTEN ch", 0),
    ("NOTIFY ch, 'hello'", 0),
    ("UNLISTEN *", 0),
    ("DO $$ BEGIN RAISE NOTICE 'told'; END $$", 0),
    ("DO $$ BEGIN RAISE EXCEPTION 'thrown' USING ERRCODE = 'XX123', HINT = 'a hint'; END $$", 0),
    ("CREATE TEMP TABLE tt (i int)", 0),
    ("DROP TABLE IF EXISTS tt", 0),
    ("TRUNCATE w", 0),
    ("COPY n TO STDOUT", 0),
    ("COPY (SELECT 1 / (i - 3) FROM n ORDER BY i) TO STDOUT", 0),
    ("COPY w FROM STDIN", 0),
    ("COPY w FROM STDIN", 0),
    ("EXPLAIN (COSTS OFF) SELECT * FROM n", 0),
    ("SELECT 1; SELECT 2", 0),
    ("VALUES (1), (2), (3)", 0),
    ("VACUUM w", 0),
)
# Of a column that is masked for some.
OF_PEOPLE = (
    ("SELECT id, name, ssn FROM people ORDER BY id", 0),
    ("SELECT ssn FROM people WHERE id = $1", 1),
    ("DECLARE c1 CURSOR FOR SELECT ssn FROM people ORDER BY id", 0),
    ("PREPARE s1 AS SELECT ssn, id FROM people ORDER BY id", 0),
    ("FETCH 2 FROM c1", 0),
    ("FETCH 1 FROM p1", 0),
    ("EXECUTE s1", 0),
)
# Of strings of several statements, what one stands in the middle of.
STRINGS = (
    "SELECT 1; SELECT 2",
    "BEGIN; SELECT 1; COMMIT",
    "BEGIN; INSERT INTO w VALUES (7, 'a'); ROLLBACK; SELECT count(*) FROM w",
    "INSERT INTO w VALUES (8, 'b'); SELECT 1 / 0; SELECT 2",
    "BEGIN; SAVEPOINT a; SELECT 1 / 0; ROLLBACK TO a; COMMIT",
    "SELECT 1; BEGIN; SELECT 2",
    "SELECT 1; COMMIT; SELECT 2",
    "SELECT 1; ROLLBACK; SELECT 1 / 0",
    ";;;",
    ";SELECT 1;",
    "COPY w FROM STDIN; SELECT 1; COPY w FROM STDIN",
    "COPY n TO STDOUT; COPY n TO STDOUT",
    "COPY w FROM STDIN; COPY n TO STDOUT",
    "PREPARE s1 AS SELECT 5; EXECUTE s1; DEALLOCATE s1",
    "BEGIN; DECLARE c1 CURSOR FOR SELECT i FROM n ORDER BY i; FETCH 3 FROM c1",
    "SET DateStyle = 'SQL'; SELECT 1 / 0",
    "SELECT 1; SELEC 2",
    "LISTEN ch; NOTIFY ch; NOTIFY ch, 'two'",
    "VACUUM w; SELECT 1",
)
DENIED = ("DELETE FROM forbidden", "SELECT 1; DELETE FROM forbidden WHERE i = 1", "LOCK TABLE n", "BEGIN; LOCK TABLE n; COMMIT")
WRONG = "lockgate refused"
# OIDs with numbers of arguments: abs, int4pl (right and wrong), length, and one that is not there.
FUNCTIONS = ((1397, 1), (177, 2), (177, 1), (1317, 1), (4294967, 1))
CLOSES = 5


class Sequence:
    """What one seed says. `direct` and `through` are lists of messages, the same but for denied statements."""

    def __init__(self, seed, profile):
        self.random = random.Random(f"{profile} {seed}")
        self.profile = profile
        self.single = SINGLE + OF_PEOPLE * 3 if profile == "mask" else SINGLE
        self.direct, self.through, self.words = [], [], []
        self.parameters = {}
        for _ in range(self.random.randint(1, 4)):
            for _ in range(self.random.randint(1, 9)):
                self.one()
            self.marker()

    def send(self, words, kind, body=b"", other=None):
        self.words.append(words)
        self.direct.append(message(kind, body))
        self.through.append(message(kind, body if other is None else other))

    def one(self):
        draw = self.random.choices(
            (self.query, self.whole, self.parse, self.bind, self.describe, self.execute, self.close, self.sync, self.flush)
            + (self.copy, self.function, self.denied),
            (14, 22, 8, 10, 8, 12, 5, 10, 5, 4, 2, 12 if self.profile == "deny" else 0),
        )[0]
        draw()

    def query(self):
        sql = self.random.choice(STRINGS) if self.random.random() < 0.4 else self.random.choice(self.single)[0]
        self.send(f"Query {sql}", b"Q", text(sql))
        if "FROM STDIN" in sql and self.random.random() < 0.8:
            for _ in range(sql.count("FROM STDIN")):
                self.copied()

    def copied(self):
        for _ in range(self.random.randint(0, 3)):
            self.send("CopyData", b"d", self.random.choice((b"1\ta\n", b"2\tb\n3\tc\n", b"", b"4\t", b"d\n", b"not a number\tx\n")))
            if self.random.random() < 0.1:
                self.send("Flush", b"H")
        self.send("CopyFail", b"f", text("gave up")) if self.random.random() < 0.2 else self.send("CopyDone", b"c")

    def copy(self):
        self.random.choice((lambda: self.send("CopyData", b"d", b"9\tz\n"), lambda: self.send("CopyDone", b"c"), self.copied))()

    def whole(self):
        """A statement as drivers run it."""
        sql, count = self.random.choice(self.single)
        name = self.random.choice(STATEMENTS)
        portal = self.random.choice(PORTALS)
        self.parse(name, sql)
        if self.random.random() < 0.4:
            self.named("Describe", b"D", "S", name)
        self.bind(portal, name, count)
        if self.random.random() < 0.6:
            self.named("Describe", b"D", "P", portal)
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self.execute(portal)
        if "FROM STDIN" in sql:
            self.copied()
        if self.random.random() < 0.6:
            self.sync()

    def parse(self, name=None, sql=None):
        name = self.random.choice(STATEMENTS) if name is None else name
        sql = self.random.choice(self.single)[0] if sql is None else sql
        types = self.random.choice(((), (), (), (23,), (25, 25), (0, 25)))
        self.send(f"Parse {name!r} {sql} {types}", b"P", text(name) + text(sql) + struct.pack(f"!h{len(types)}I", len(types), *types))

    def bind(self, portal=None, name=None, count=None):
        portal = self.random.choice(PORTALS) if portal is None else portal
        name = self.random.choice(STATEMENTS) if name is None else name
        count = self.random.choice((0, 1, 2)) if count is None or self.random.random() < 0.05 else count
        values = [self.random.choice((b"1", b"3", b"5", None, b"x")) for _ in range(count)]
        results = self.random.choice(((), (), (0,), (1,), (1, 0), (0, 1, 0)))
        formats = self.random.choice(((), (), (), (0,), (1,)))
        self.send(
            f"Bind {portal!r} {name!r} {values} formats {formats} results {results}",
            b"B",
            text(portal) + text(name) + codes(formats) + struct.pack("!h", count) + sized(values) + codes(results),
        )

    def describe(self):
        what = self.random.choice("SP")
        self.named("Describe", b"D", what, self.random.choice(STATEMENTS if what == "S" else PORTALS))

    def close(self):
        what = self.random.choice("SP")
        self.named("Close", b"C", what, self.random.choice(STATEMENTS if what == "S" else PORTALS))

    def named(self, words, kind, what, name):
        self.send(f"{words} {what} {name!r}", kind, what.encode() + text(name))

    def execute(self, portal=None):
        portal = self.random.choice(PORTALS) if portal is None else portal
        rows = self.random.choice((0, 0, 0, 1, 2, 5))
        self.send(f"Execute {portal!r} {rows}", b"E", text(portal) + struct.pack("!i", rows))

    def sync(self):
        for _ in range(self.random.choice((1, 1, 1, 1, 2, 3))):
            self.send("Sync", b"S")

    def flush(self):
        self.send("Flush", b"H")

    def function(self):
        oid, count = self.random.choice(FUNCTIONS)
        values = [self.random.choice((b"1", b"-2", b"x")) for _ in range(count)]
        result = self.random.choice((0, 0, 1))
        body = struct.pack("!I", oid) + codes(()) + struct.pack("!h", count) + sized(values) + struct.pack("!h", result)
        self.send(f"FunctionCall {oid} {values}", b"F", body)

    def denied(self):
        """What a denial must be like: a syntax error. Flush first: an unsent part of the pipeline goes with it."""
        sql = self.random.choice(DENIED)
        self.flush()
        if self.random.random() < 0.5:
            self.send(f"Query denied {sql}", b"Q", text(WRONG), text(sql))
            return
        sql = self.random.choice((DENIED[0], DENIED[2]))
        self.send(f"Parse denied {sql}", b"P", text("") + text(WRONG) + b"\0\0", text("") + text(sql) + b"\0\0")

    def marker(self):
        """Ends whatever is under way; its answer cannot be mistaken for another's."""
        self.send("CopyFail", b"f", text("marker"))
        self.send("Sync", b"S")
        for _ in range(CLOSES):
            self.send("Close S 'no such'", b"C", b"S" + text("no such"))
        self.send("Sync", b"S")


def sized(values):
    return b"".join(struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values)


def codes(formats):
    return struct.pack(f"!h{len(formats)}h", len(formats), *formats)


RESET = message(b"Q", text("ROLLBACK")) + message(b"Q", text("DISCARD ALL")) + message(b"Q", text("TRUNCATE w"))


class Player:
    """One end: a session that plays sequences one after the other, and is made anew when it is cut."""

    def __init__(self, connect):
        self.connect = connect
        self.session = None

    def close(self):
        if self.session:
            self.session.close()
            self.session = None

    def play(self, messages, cuts):
        """The answers to a sequence, as text; `cuts` says how the bytes are cut."""
        if self.session is None:
            self.session = self.connect()
        answers = []
        try:
            start = 0
            for end in marker_ends(messages):
                self.send(b"".join(messages[start:end]), cuts)
                answers += self.answers()
                start = end
            self.reset()
        except (EOFError, ConnectionError):
            answers.append("the connection was closed")
            self.close()
        return answers

    def send(self, data, cuts):
        while data and self.session:
            size = cuts.choice((len(data), len(data), cuts.randint(1, len(data))))
            self.session.socket.sendall(data[:size])
            data = data[size:]

    def answers(self):
        """Up to the marker's."""
        shown, closes = [], 0
        while True:
            kind, body = self.session.read()
            shown.append(show(kind, body))
            if kind == b"Z" and closes == CLOSES:
                return shown
            closes = closes + 1 if kind == b"3" else 0

    def reset(self):
        self.session.socket.sendall(RESET)
        for _ in range(3):
            while self.session.read()[0] != b"Z":
                pass


def marker_ends(messages):
    """Where markers end: the Sync behind that many Closes."""
    closes = 0
    for index, one in enumerate(messages):
        if one[:1] == b"S" and closes == CLOSES:
            yield index + 1
        closes = closes + 1 if one[:1] == b"C" else 0


def show(kind, body):
    name = kind.decode()
    if kind in b"EN":
        fields = wire.fields(body)
        if 'rule "stale portal"' in fields["M"] or 'rule "masked/mask' in fields["M"]:
            return UNMASKABLE
        if fields["C"] == "42501" and fields["M"].startswith("Lockgate refused"):
            fields = {"C": "42601", "M": "refused"}
        elif WRONG.split()[0] in fields["M"]:
            fields = {"C": "42601", "M": "refused"}
        # Where in the server's source: what Lockgate asks itself (Describe) may fail in the client's stead.
        return f"{name} { {letter: value for letter, value in fields.items() if letter not in 'FLR'} }"
    if kind == b"A":
        return f"A {body[4:]}"
    if kind == b"T":
        return f"T {columns(body)}"
    return f"{name} {body}"


def columns(body):
    """Names, types and formats; a table by whether there is one, for temporary tables have other OIDs each time."""
    shown, at = [], 2
    for _ in range(struct.unpack("!H", body[:2])[0]):
        end = body.index(b"\0", at)
        table, attribute, kind, _, _, form = struct.unpack("!IhIhih", body[end + 1 : end + 19])
        shown.append((body[at:end].decode(errors="replace"), table != 0, attribute, kind, form))
        at = end + 19
    return shown


# What Lockgate refuses where a column is masked, and the server would not: how to mask such rows cannot be known.
UNMASKABLE = "E unmaskable"
# Where a Query has left a pipeline's implicit transaction half open, the server fails the next Describe with this in
# place of its true error; to mask, Lockgate asks one that the client did not. With nothing masked it asks none.
STRAY_TRANSACTION = "StartTransactionCommand: unexpected state STARTED"


def differ(direct, through, profile):
    """Where two lists of answers part, or None. Nothing is compared behind a FATAL on both sides."""
    for index in range(max(len(direct), len(through))):
        a = direct[index] if index < len(direct) else "nothing"
        b = through[index] if index < len(through) else "nothing"
        if ("'FATAL'" in a and "'FATAL'" in b) or b == UNMASKABLE or (profile == "mask" and STRAY_TRANSACTION in b):
            return None
        if a != b:
            return index
    return None


def told(sequence, direct, through, index):
    lines = ["the sequence:", *(f"    {words}" for words in sequence.words), "the answers, directly:"]
    lines += [f"  {'>' if at == index else ' '} {line[:300]}" for at, line in enumerate(direct[: index + 4])]
    lines += ["through Lockgate:"]
    lines += [f"  {'>' if at == index else ' '} {line[:300]}" for at, line in enumerate(through[: index + 4])]
    return "\n".join(lines)


def compare(seed, profile, ends):
    """None, or how the answers to this seed's sequence differ."""
    sequence = Sequence(seed, profile)
    cuts = random.Random(seed)
    direct = ends["direct"].play(sequence.direct, cuts)
    through = ends["through"].play(sequence.through, cuts)
    index = differ(direct, through, profile)
    if "closed" in "".join(direct[-1:] + through[-1:]):
        for end in ends.values():
            end.close()
    return None if index is None else told(sequence, direct, through, index)
