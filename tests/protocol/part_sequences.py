"""Random sequences of messages, directly and through a gateway; see `sequences`."""

import sequences
from cases import recordings_verify
from support import gateway, postgres, wire
from support.gateway import Gateway, User
from support.machine import say

PROFILES = {"allow": "pilot", "mask": "reader", "deny": "agent"}
SHOWN_MAX = 5


def run(work, bin, options):
    with postgres.Server(work, bin=bin) as server:
        server.sql("CREATE DATABASE direct; CREATE DATABASE through")
        for database, ssn in sequences.SSN.items():
            server.sql(sequences.SCHEMA.format(ssn=ssn), database)
        users = [User("pilot", ["everyone"]), User("reader", ["masked"]), User("agent", ["some"])]
        target = gateway.target_of(server, "through")
        with Gateway(work, [target], users, {"sequences": sequences.POLICY}, driver=options.driver) as lockgate:
            passed, failed = 0, []
            for profile in options.profile or PROFILES:
                user = next(user for user in users if user.name == PROFILES[profile])
                ends = {
                    "direct": sequences.Player(lambda: session(server.port, server.superuser, server.password, "direct")),
                    "through": sequences.Player(lambda: session(lockgate.port, user.name, user.password, "through")),
                }
                good, bad = play(profile, ends, options)
                passed += good
                failed += bad
            lockgate.deserted()
        recordings_verify(lockgate)
    return passed, failed


def session(port, user, password, database):
    return wire.Session("127.0.0.1", port, user, password, database)


def play(profile, ends, options):
    failed = []
    for seed in range(options.first, options.first + options.seeds):
        difference = sequences.compare(seed, profile, ends)
        if difference:
            failed.append(f"{profile} {seed}")
            if len(failed) <= SHOWN_MAX:
                say(f"--- {profile}, seed {seed}: {difference}")
    for end in ends.values():
        end.close()
    return options.seeds - len(failed), failed
