"""psycopg 3, asyncpg, and SQLAlchemy on psycopg."""

import asyncio
import concurrent.futures
import ssl

import asyncpg
import psycopg
import sqlalchemy

from target import CONNECT_TIMEOUT_S, PARALLEL, ROWS, SCHEMA, STATEMENT_TIMEOUT_S, STEP_TIMEOUT_S, Failed, expect

SERIES = f"select * from generate_series(1, {ROWS})"
SELECT_BODY = "select body from entry where key = {}"
INSERT_ENTRY = "insert into entry (key, body) values ({}, {})"


def in_threads(work):
    """PARALLEL times at once; the first failure is the outcome."""
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(work) for _ in range(PARALLEL)]:
            done.result(STEP_TIMEOUT_S)


def expect_series(numbers):
    expect(numbers == list(range(1, ROWS + 1)), f"{len(numbers)} of {ROWS} rows, or others")


def psycopg_copy(connection):
    """There and back; the caller rolls back."""
    with connection.cursor() as cursor:
        with cursor.copy("copy copied from stdin") as copy:
            for n in range(1, ROWS + 1):
                copy.write_row((n,))
        with cursor.copy("copy copied to stdout") as copy:
            copy.set_types(["int4"])
            expect_series([row[0] for row in copy.rows()])


def psycopg_notified(listener, notifier):
    """Both in autocommit mode."""
    listener.execute("listen told")
    notifier.execute("notify told, 'so'")
    heard = list(listener.notifies(timeout=CONNECT_TIMEOUT_S, stop_after=1))
    expect([one.payload for one in heard] == ["so"], f"no notification, but {heard}")


class Psycopg:
    name = "psycopg"

    def __init__(self, target):
        self.target = target

    def version(self):
        return f"{psycopg.__version__} (libpq {psycopg.pq.version_pretty(psycopg.pq.version())})"

    def _connect(self, endpoint):
        return psycopg.connect(**self.target.libpq(endpoint), autocommit=True)

    def run(self, endpoint, statements):
        with self._connect(endpoint) as connection:
            for one in statements:
                connection.execute(one)

    def put_large(self, key, body):
        with self._connect(self.target.primary) as connection:
            connection.execute(INSERT_ENTRY.format("%s", "%s"), (key, body))

    def get_large(self, statements, key):
        with self._connect(self.target.replica) as connection:
            for one in statements:
                connection.execute(one)
            return connection.execute(SELECT_BODY.format("%s"), (key,)).fetchone()[0]

    def features(self):
        return [
            ("a server-side cursor", self._cursor),
            ("COPY", self._copy),
            ("a prepared statement", self._prepared),
            ("LISTEN and NOTIFY", self._notified),
        ]

    def _cursor(self):
        with self._connect(self.target.replica) as connection, connection.transaction():
            with connection.cursor(name="series") as cursor:
                cursor.itersize = 100
                cursor.execute(SERIES)
                expect_series([row[0] for row in cursor])

    def _copy(self):
        with self._connect(self.target.primary) as connection:
            with connection.transaction(force_rollback=True):
                psycopg_copy(connection)

    def _prepared(self):
        for endpoint in (self.target.primary, self.target.replica):
            with self._connect(endpoint) as connection:
                for n in range(3):
                    row = connection.execute("select %s::int + 1", (n,), prepare=True).fetchone()
                    expect(row == (n + 1,), f"{n} + 1 is {row}")
                kept = connection.execute("select count(*) from pg_prepared_statements").fetchone()
                expect(kept == (1,), f"{kept[0]} prepared statements instead of 1")

    def _notified(self):
        with self._connect(self.target.primary) as one, self._connect(self.target.primary) as other:
            psycopg_notified(one, other)

    def parallel(self):
        in_threads(lambda: self.run(self.target.primary, [self.target.parallel()]))


class Asyncpg:
    name = "asyncpg"

    def __init__(self, target):
        self.target = target
        # Verifies the certificate, and the address that it is for.
        self.tls = ssl.create_default_context(cafile=target.ca) if target.tls else False

    def version(self):
        return asyncpg.__version__

    def _connect(self, endpoint):
        return asyncpg.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=self.target.user,
            password=self.target.password,
            database=self.target.database,
            ssl=self.tls,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STEP_TIMEOUT_S,
            server_settings={
                "application_name": SCHEMA,
                "search_path": SCHEMA,
                "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
            },
        )

    def _in_session(self, endpoint, work):
        async def session():
            connection = await self._connect(endpoint)
            try:
                return await work(connection)
            finally:
                await connection.close(timeout=CONNECT_TIMEOUT_S)

        return asyncio.run(asyncio.wait_for(session(), STEP_TIMEOUT_S))

    def run(self, endpoint, statements):
        async def work(connection):
            for one in statements:
                await connection.execute(one)

        self._in_session(endpoint, work)

    def put_large(self, key, body):
        insert = INSERT_ENTRY.format("$1", "$2")
        self._in_session(self.target.primary, lambda connection: connection.execute(insert, key, body))

    def get_large(self, statements, key):
        async def work(connection):
            for one in statements:
                await connection.execute(one)
            return await connection.fetchval(SELECT_BODY.format("$1"), key)

        return self._in_session(self.target.replica, work)

    def features(self):
        primary, replica = self.target.primary, self.target.replica
        return [
            ("a server-side cursor", lambda: self._in_session(replica, self._cursor)),
            ("COPY", lambda: self._in_session(primary, self._copy)),
            ("a prepared statement", lambda: self._in_session(replica, self._prepared)),
            ("LISTEN and NOTIFY", lambda: self._in_session(primary, self._notified)),
        ]

    async def _cursor(self, connection):
        async with connection.transaction():
            expect_series([row[0] async for row in connection.cursor(SERIES, prefetch=100)])

    async def _copy(self, connection):
        transaction = connection.transaction()
        await transaction.start()
        numbers = [(n,) for n in range(1, ROWS + 1)]
        await connection.copy_records_to_table("copied", records=numbers)
        out = bytearray()

        async def keep(data):
            out.extend(data)

        await connection.copy_from_query("select * from copied", output=keep)
        expect_series([int(line) for line in out.split()])
        await transaction.rollback()

    async def _prepared(self, connection):
        plus = await connection.prepare("select $1::int + 1")
        for n in range(3):
            found = await plus.fetchval(n)
            expect(found == n + 1, f"{n} + 1 is {found}")

    async def _notified(self, connection):
        heard = asyncio.get_running_loop().create_future()
        await connection.add_listener("told", lambda *told: heard.done() or heard.set_result(told[3]))
        other = await self._connect(self.target.primary)
        try:
            await other.execute("notify told, 'so'")
            expect(await asyncio.wait_for(heard, CONNECT_TIMEOUT_S) == "so", "another notification")
        finally:
            await other.close(timeout=CONNECT_TIMEOUT_S)

    def parallel(self):
        async def all_at_once():
            connections = await asyncio.gather(
                *(self._connect(self.target.primary) for _ in range(PARALLEL)), return_exceptions=True
            )
            up = [one for one in connections if isinstance(one, asyncpg.Connection)]
            try:
                failed = [one for one in connections if isinstance(one, BaseException)]
                if failed:
                    raise Failed(f"{len(failed)} of {PARALLEL} connections: {failed[0]!r}")
                await asyncio.gather(*(one.execute(self.target.parallel()) for one in up))
            finally:
                await asyncio.gather(*(one.close(timeout=CONNECT_TIMEOUT_S) for one in up))

        asyncio.run(asyncio.wait_for(all_at_once(), STEP_TIMEOUT_S))


class SqlAlchemy:
    name = "sqlalchemy"

    def __init__(self, target):
        self.target = target
        self.engines = {}

    def version(self):
        return f"{sqlalchemy.__version__} (psycopg)"

    def _engine(self, endpoint):
        """With a pool, as its users have; every statement of its is prepared."""
        if endpoint not in self.engines:
            self.engines[endpoint] = sqlalchemy.create_engine(
                "postgresql+psycopg://",
                connect_args=self.target.libpq(endpoint) | {"prepare_threshold": 0},
                pool_size=PARALLEL,
                pool_pre_ping=True,
                pool_timeout=CONNECT_TIMEOUT_S,
            )
        return self.engines[endpoint]

    def close(self):
        for engine in self.engines.values():
            engine.dispose()

    def run(self, endpoint, statements):
        with self._engine(endpoint).connect() as connection:
            for one in statements:
                # Not text(): a colon would be a parameter.
                connection.exec_driver_sql(one)
                connection.commit()

    def put_large(self, key, body):
        with self._engine(self.target.primary).begin() as connection:
            insert = sqlalchemy.text(INSERT_ENTRY.format(":key", ":body"))
            connection.execute(insert, {"key": key, "body": body})

    def get_large(self, statements, key):
        with self._engine(self.target.replica).connect() as connection:
            for one in statements:
                connection.exec_driver_sql(one)
                connection.commit()
            select = sqlalchemy.text(SELECT_BODY.format(":key"))
            return connection.execute(select, {"key": key}).scalar_one()

    def features(self):
        return [
            ("a server-side cursor", self._cursor),
            ("COPY", self._copy),
            ("a prepared statement", self._prepared),
            ("LISTEN and NOTIFY", self._notified),
        ]

    def _cursor(self):
        with self._engine(self.target.replica).connect() as connection:
            streaming = connection.execution_options(yield_per=100)
            expect_series(list(streaming.execute(sqlalchemy.text(SERIES)).scalars()))

    def _copy(self):
        with self._engine(self.target.primary).connect() as connection:
            psycopg_copy(connection.connection.driver_connection)
            connection.rollback()

    def _prepared(self):
        with self._engine(self.target.replica).connect() as connection:
            plus = sqlalchemy.text("select cast(:n as int) + 1")
            for n in range(3):
                found = connection.execute(plus, {"n": n}).scalar_one()
                expect(found == n + 1, f"{n} + 1 is {found}")
            kept = sqlalchemy.text("select count(*) from pg_prepared_statements where statement like '%int) + 1'")
            expect(connection.execute(kept).scalar_one() == 1, "the statement was not prepared once")

    def _notified(self):
        # Notifications come outside of transactions.
        engine = self._engine(self.target.primary).execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as one, engine.connect() as other:
            psycopg_notified(one.connection.driver_connection, other.connection.driver_connection)
            one.exec_driver_sql("unlisten *")

    def parallel(self):
        in_threads(lambda: self.run(self.target.primary, [self.target.parallel()]))
