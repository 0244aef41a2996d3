#!/usr/bin/env python3
"""Tries what people connect to PostgreSQL with against the endpoints of a cluster.

Each of psql, psycopg 3, asyncpg, SQLAlchemy and pgbench, plain and over TLS, writes at the primary
endpoint and reads at the replica endpoint, and does there what clients do. One line for each; the
exit code is 1 if anything failed, 2 if nothing could be tried.

    check.py --primary 127.10.0.1:5432 --replica 127.10.0.2:5432 --user postgres \
        --password-file postgres-superuser.password --ca ca.pem

The user has to be allowed to create a schema; `holdfast_check` is there while this runs.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import secrets
import sys
import tempfile
import time

# They are imported below: no folder of compiled files in the working copy.
sys.dont_write_bytecode = True

import psycopg

from libraries import Asyncpg, Psycopg, SqlAlchemy
from programs import Pgbench, Psql
from target import CONNECT_TIMEOUT_S, LARGE_BYTES, SCHEMA, Endpoint, Failed, Target, expect

CLIENTS = {client.name: client for client in (Psql, Psycopg, Asyncpg, SqlAlchemy, Pgbench)}
PASSWORD_BYTES_MAX = 1_000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--primary", type=Endpoint.parse, required=True, metavar="HOST:PORT")
    parser.add_argument("--replica", type=Endpoint.parse, required=True, metavar="HOST:PORT")
    parser.add_argument("--user", default="postgres")
    parser.add_argument("--database", default="postgres")
    parser.add_argument("--password-file", type=pathlib.Path, required=True, help="holds the password and nothing else")
    parser.add_argument("--ca", type=pathlib.Path, required=True, help="the authority of the servers' certificates")
    parser.add_argument("--bin-dir", type=pathlib.Path, default="/usr/bin", help="where psql and pgbench are")
    parser.add_argument("--bound", type=float, default=10.0, metavar="SECONDS", help="until a write is replayed")
    parser.add_argument("--tls", choices=["both", "only", "off"], default="both", help="`only` where plain is refused")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}; all without")
    given = parser.parse_args()
    if unknown := set(given.clients) - set(CLIENTS):
        parser.error(f"there is no client {', '.join(sorted(unknown))}: {', '.join(CLIENTS)}")
    return given


def read_password(path):
    with open(path, encoding="utf-8") as file:
        password = file.read(PASSWORD_BYTES_MAX).rstrip("\r\n")
    expect(password and "\n" not in password and "\0" not in password, f"{path} does not hold one password")
    return password


def write_passfile(folder, password):
    path = folder / "pgpass"
    quoted = password.replace("\\", "\\\\").replace(":", "\\:")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"*:*:*:*:{quoted}\n")
    return path


class Control:
    """A session of our own at the primary: prepares, and looks at positions."""

    def __init__(self, target):
        parameters = target.libpq(target.primary) | {"application_name": "holdfast_control"}
        self.connection = psycopg.connect(**parameters, autocommit=True)

    def prepare(self):
        self.connection.execute(f"drop schema if exists {SCHEMA} cascade; create schema {SCHEMA}")
        self.connection.execute("create table entry (key text primary key, body text not null)")
        self.connection.execute("create table copied (n int not null)")

    def position(self):
        return self.connection.execute("select pg_current_wal_lsn()::text").fetchone()[0]

    def close(self):
        with contextlib.suppress(psycopg.Error), self.connection:
            self.connection.execute(f"drop schema if exists {SCHEMA} cascade")


def steps(client, target, control):
    """What is tried, by name, in this order."""
    key = f"{client.name} {target.mode}"
    body = secrets.token_hex(LARGE_BYTES // 2)

    def replayed(of):
        return target.read_replayed(of, control.position())

    def large():
        client.put_large(f"{key} large", body)
        found = client.get_large(replayed(f"{key} large"), f"{key} large")
        expect(found == body, f"{len(found)} other characters than the {len(body)} written came back")

    yield "a write at the primary", lambda: client.run(target.primary, target.write(key))
    yield "the row at the replica", lambda: client.run(target.replica, replayed(key))
    yield "a write at the replica is refused", lambda: client.run(target.replica, target.refused_write())
    yield "a row of 10 MB", large
    yield from client.features()
    yield "50 sessions at once", client.parallel


def failures(client, target, control):
    for name, step in steps(client, target, control):
        try:
            step()
        # Whatever a client raises is a failure of that step, and the next one is tried.
        except Exception as error:  # noqa: BLE001
            words = str(error).strip() or type(error).__name__
            yield f"{target.mode}, {name}: {words.splitlines()[0]}"


def try_client(kind, targets, control):
    """Its line; whether it all went well."""
    started, found, version = time.monotonic(), [], ""
    for target in targets:
        client = kind(target)
        try:
            version = client.version()
            found.extend(failures(client, target, control))
        except Failed as error:
            found.append(str(error))
        finally:
            getattr(client, "close", lambda: None)()
    verdict = "; ".join(found) or f"ok ({', '.join(target.mode for target in targets)})"
    elapsed = time.monotonic() - started
    print(f"{kind.name:<11} {version:<24} {elapsed:6.1f} s  {'FAILED ' if found else ''}{verdict}", flush=True)
    return not found


def main():
    given = arguments()
    # What somebody has in the environment must not decide how we connect.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="holdfast-clients-") as folder:
        try:
            password = read_password(given.password_file)
            plain = Target(
                primary=given.primary,
                replica=given.replica,
                user=given.user,
                password=password,
                database=given.database,
                ca=given.ca.resolve(strict=True),
                passfile=write_passfile(pathlib.Path(folder), password),
                bin_dir=given.bin_dir,
                bound_s=given.bound,
                tls=False,
            )
            secure = dataclasses.replace(plain, tls=True)
            targets = {"both": [plain, secure], "only": [secure], "off": [plain]}[given.tls]
            control = Control(targets[-1])
        except (OSError, ValueError, Failed, psycopg.Error) as error:
            print(f"check: {error}", file=sys.stderr)
            return 2
        try:
            control.prepare()
            wanted = [CLIENTS[name] for name in given.clients] or CLIENTS.values()
            return 0 if all([try_client(kind, targets, control) for kind in wanted]) else 1
        finally:
            control.close()


if __name__ == "__main__":
    sys.exit(main())
