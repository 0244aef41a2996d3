"""What every client is asked for: where to connect and how, and the checks that are plain SQL.

A check in SQL raises an exception if it fails, so that it is the same for all clients: a client
only has to run statements, each in a transaction of its own, and to fail when the server does.
"""

import dataclasses
import os
import pathlib
import re

SCHEMA = "holdfast_check"
# Long beside a bad link, short beside a person's patience.
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 60
# A whole step of one client, its programs' starts included.
STEP_TIMEOUT_S = 120
# Far above a segment, a packet and every buffer on the way.
LARGE_BYTES = 10_000_000
PARALLEL = 50
# Rows that are copied in, and read back through a server-side cursor.
ROWS = 1_000


class Failed(Exception):
    """A check that did not hold."""


def expect(holds, what):
    if not holds:
        raise Failed(what)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    host: str
    port: int

    @classmethod
    def parse(cls, text):
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host.strip("[]"), int(port))


@dataclasses.dataclass(frozen=True)
class Target:
    """The two endpoints, and one way to connect to them."""

    primary: Endpoint
    replica: Endpoint
    user: str
    password: str = dataclasses.field(repr=False)
    database: str
    ca: pathlib.Path
    # In libpq's format: what a program must not get on its command line.
    passfile: pathlib.Path
    bin_dir: pathlib.Path
    bound_s: float
    tls: bool

    @property
    def mode(self):
        return "verify-full" if self.tls else "plain"

    @property
    def options(self):
        """Settings of the session, as libpq's `options`."""
        return f"-c search_path={SCHEMA} -c statement_timeout={STATEMENT_TIMEOUT_S}s"

    def libpq(self, endpoint):
        """Parameters for whatever is built on libpq."""
        return {
            "host": endpoint.host,
            "port": str(endpoint.port),
            "user": self.user,
            "dbname": self.database,
            "passfile": str(self.passfile),
            "sslmode": "verify-full" if self.tls else "disable",
            "sslrootcert": str(self.ca),
            "gssencmode": "disable",
            # A database without an encoding would give bytes where text is expected.
            "client_encoding": "UTF8",
            "connect_timeout": str(CONNECT_TIMEOUT_S),
            "options": self.options,
            "application_name": SCHEMA,
        }

    def program(self, name):
        path = self.bin_dir / name
        if not os.access(path, os.X_OK):
            raise Failed(f"there is no program {path}")
        return str(path)

    # The checks. No parameters: a program's script has none. What is put in is a number, a name of
    # ours, or a position that was looked at.

    def _do(self, body):
        return f"do $$ begin {body} end $$"

    def session_checks(self, recovery):
        """Where a session must have come out, and how."""
        endpoint, leads = ("replica", "the primary") if recovery else ("primary", "a replica")
        return [
            self._do(
                f"if pg_is_in_recovery() is distinct from {recovery} then raise exception "
                f"'the {endpoint} endpoint leads to {leads}'; end if;"
            ),
            self._do(
                f"if (select ssl from pg_stat_ssl where pid = pg_backend_pid()) is distinct from "
                f"{self.tls} then raise exception 'asked for {self.mode}: TLS is not {self.tls}'; end if;"
            ),
        ]

    def write(self, key):
        return [
            *self.session_checks(False),
            f"insert into entry (key, body) values ('{key}', 'written')",
        ]

    def read_replayed(self, key, lsn):
        """Waits for the position, and then finds the row."""
        if not re.fullmatch(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}", lsn):
            raise Failed(f"the server's position {lsn!r} is malformed")
        looks = max(1, round(self.bound_s * 100))
        return [
            *self.session_checks(True),
            self._do(
                f"for look in 1..{looks} loop exit when pg_last_wal_replay_lsn() >= '{lsn}'; "
                f"perform pg_sleep(0.01); end loop; "
                f"if pg_last_wal_replay_lsn() < '{lsn}' then "
                f"raise exception '{lsn} is not replayed within {self.bound_s} s'; end if;"
            ),
            self._do(
                f"if not exists (select from entry where key = '{key}') then "
                f"raise exception 'the row is not on the replica that replayed it'; end if;"
            ),
        ]

    def refused_write(self):
        """A write at a replica: SQLSTATE 25006, and nothing else, is right."""
        return [
            *self.session_checks(True),
            self._do(
                "begin insert into entry (key, body) values ('replica', ''); "
                "raise exception 'a write at the replica endpoint was accepted'; "
                "exception when sqlstate '25006' then null; end;"
            ),
        ]

    def parallel(self):
        """Waits until all sessions of a client are there at once."""
        looks = round(CONNECT_TIMEOUT_S * 20)
        return self._do(
            # A session's own look would be frozen at its first within a transaction.
            f"for look in 1..{looks} loop perform pg_stat_clear_snapshot(); "
            f"exit when (select count(*) from pg_stat_activity where application_name = '{SCHEMA}') "
            f">= {PARALLEL}; perform pg_sleep(0.05); end loop; "
            f"if (select count(*) from pg_stat_activity where application_name = '{SCHEMA}') "
            f"< {PARALLEL} then raise exception 'there are not {PARALLEL} sessions at once'; end if; "
            # Long enough that the last one to look still sees the first.
            f"perform pg_sleep(1);"
        )
