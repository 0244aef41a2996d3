"""psql and pgbench."""

import os
import subprocess
import tempfile

from target import LARGE_BYTES, PARALLEL, ROWS, STEP_TIMEOUT_S, Failed, expect

# libpq's parameters are not all named alike in its environment.
VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "gssencmode": "PGGSSENCMODE",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
}


def libpq_environment(target, endpoint):
    """All parameters are in the environment, the password in a file: the command line is public."""
    parameters = target.libpq(endpoint)
    # What it says is read here: in English.
    return dict(os.environ, LC_ALL="C") | {VARIABLES[name]: value for name, value in parameters.items()}


def finish(process, text=None):
    """Its output; what it says on standard error if it fails."""
    try:
        out, err = process.communicate(text, timeout=STEP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed(f"{process.args[0]} has not ended after {STEP_TIMEOUT_S} s") from None
    expect(process.returncode == 0, last_words(err) or f"exit code {process.returncode}")
    return out + err


def last_words(err):
    """The server's complaint before the program's own about it."""
    lines = [line for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if any(word in line for word in ("ERROR", "FATAL", "error:"))]
    return (errors or lines[-1:] or [""])[0]


class Psql:
    name = "psql"

    def __init__(self, target):
        self.target = target

    def version(self):
        return finish(self._start(None, ["--version"])).split()[2]

    def _start(self, endpoint, arguments=("--no-psqlrc", "--quiet", "-At", "-v", "ON_ERROR_STOP=1")):
        return subprocess.Popen(
            [self.target.program("psql"), "--no-password", *arguments],
            env=libpq_environment(self.target, endpoint or self.target.primary),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, endpoint, statements):
        return finish(self._start(endpoint), "".join(f"{one};\n" for one in statements))

    def put_large(self, key, body):
        finish(self._start(self.target.primary), f"\\copy entry from stdin\n{key}\t{body}\n\\.\n")

    def get_large(self, statements, key):
        query = f"copy (select body from entry where key = '{key}') to stdout"
        return self.run(self.target.replica, [*statements, query]).rstrip("\n")

    def features(self):
        return [
            ("a server-side cursor", self._cursor),
            ("COPY", self._copy),
            ("a prepared statement", self._prepared),
            ("LISTEN and NOTIFY", self._notified),
        ]

    def _cursor(self):
        query = f"\\set FETCH_COUNT 100\nselect * from generate_series(1, {ROWS});\n"
        lines = finish(self._start(self.target.replica), query).split()
        expect(lines == [str(n) for n in range(1, ROWS + 1)], f"{len(lines)} of {ROWS} rows")

    def _copy(self):
        rows = "".join(f"{n}\n" for n in range(ROWS))
        script = f"begin;\n\\copy copied from stdin\n{rows}\\.\n\\copy copied to stdout\nrollback;\n"
        expect(finish(self._start(self.target.primary), script) == rows, "other rows came back")

    def _prepared(self):
        for endpoint in (self.target.primary, self.target.replica):
            out = self.run(endpoint, ["prepare plus(int) as select $1 + 1", "execute plus(41)"])
            expect(out.strip() == "42", f"41 + 1 is {out.strip()!r}")

    def _notified(self):
        out = self.run(self.target.primary, ["listen told", "notify told, 'so'"])
        expect('"told" with payload "so"' in out, f"no notification, but {out!r}")

    def parallel(self):
        statement = f"{self.target.parallel()};\n"
        processes = [self._start(self.target.primary) for _ in range(PARALLEL)]
        try:
            for process in processes:
                process.stdin.write(statement)
                process.stdin.flush()
            for process in processes:
                finish(process)
        finally:
            for process in processes:
                process.kill()
                process.wait()


class Pgbench:
    """What it prints are figures: everything else is checked in its scripts."""

    name = "pgbench"

    def __init__(self, target):
        self.target = target
        self.written = None

    def version(self):
        return self._program(self.target.primary, ["--version"]).split()[2]

    def _program(self, endpoint, arguments):
        process = subprocess.Popen(
            [self.target.program("pgbench"), *arguments],
            env=libpq_environment(self.target, endpoint),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return finish(process)

    def run(self, endpoint, statements, arguments=("-t", "1")):
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write("".join(f"{one};\n" for one in statements))
            script.flush()
            return self._program(endpoint, ["-n", *arguments, "-f", script.name])

    def put_large(self, key, body):
        self.written = body
        self.run(self.target.primary, [f"insert into entry (key, body) values ('{key}', '{body}')"])

    def get_large(self, statements, key):
        found = f"from entry where key = '{key}' and length(body) = {LARGE_BYTES}"
        # The division fails where nothing is found.
        self.run(self.target.replica, [*statements, f"select body {found}", f"select 1 / count(*) {found}"])
        return self.written

    def features(self):
        return [
            ("a server-side cursor", self._cursor),
            ("COPY (pgbench -i)", lambda: self._program(self.target.primary, ["-i", "-q"])),
            ("TPC-B-like, prepared", lambda: self._transactions(self.target.primary, [])),
            ("select-only at the replica, prepared", self._select_only),
        ]

    def _cursor(self):
        rows = f"declare series cursor for select * from generate_series(1, {ROWS})"
        self.run(self.target.replica, ["begin", rows, "fetch 100 from series", "fetch all from series", "commit"])

    def _transactions(self, endpoint, arguments):
        out = self._program(endpoint, ["-n", "-M", "prepared", "-c", "4", "-t", "25", *arguments])
        expect("actually processed: 100/100" in out, f"not all transactions: {out!r}")

    def _select_only(self):
        # The tables were filled a moment ago.
        looks = round(self.target.bound_s * 100)
        there = (
            f"do $$ begin for look in 1..{looks} loop exit when to_regclass('pgbench_accounts') is not null; "
            f"perform pg_sleep(0.01); end loop; end $$"
        )
        self.run(self.target.replica, [there])
        self._transactions(self.target.replica, ["-S"])

    def parallel(self):
        self.run(self.target.primary, [self.target.parallel()], ["-c", str(PARALLEL), "-t", "1"])
