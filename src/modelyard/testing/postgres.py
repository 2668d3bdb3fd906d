"""A private PostgreSQL: its own folder, socket and port, gone when it is closed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from modelyard.core.ids import new_id
from modelyard.testing.servers import end, free_port, program, someone_else, wait_until

INSTALL = "apt-get install postgresql (or put the server's bin folder into PATH)"
PASSWORD = "modelyard"
QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class PostgresServer:
    """A running PostgreSQL of its own. Over its socket anyone is let in; over TCP the password is asked.

    Settings are those of postgresql.conf; by default nothing waits for the disk, so it is for tests only.
    """

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self._programs = {name: program(name, debian, INSTALL) for name in ("initdb", "postgres", "psql", "pg_isready")}
        self._user = someone_else()
        self.folder = Path(tempfile.mkdtemp(prefix="modelyard-pg-", dir="/tmp"))
        if self._user:
            shutil.chown(self.folder, self._user)
        self.port = free_port()
        self.log = self.folder / "log"
        try:
            self._process = self._started(QUICK if settings is None else settings)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def url(self, database: str = "postgres") -> str:
        """The URL of a database over the socket, without a password."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='/')}&port={self.port}"

    def tcp_url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """The URL of a database over TCP, with a password."""
        return f"postgresql://postgres:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """The name of a fresh database, a copy of the template."""
        name = new_id("test")
        self.sql(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for a statement."""
        done = subprocess.run(
            [self._programs["psql"], "-XqtA", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        end(self._process, signal.SIGINT)  # the fast shutdown: clients are disconnected
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self, settings: dict[str, str]) -> subprocess.Popen[bytes]:
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(PASSWORD)
        if self._user:
            shutil.chown(secret, self._user)
        initdb = [self._programs["initdb"], "-D", str(data), "-U", "postgres", "--pwfile", str(secret), "--no-sync"]
        initdb += ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, capture_output=True, user=self._user, cwd=self.folder)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), **settings}
        command = [self._programs["postgres"], "-D", str(data), "-p", str(self.port)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, user=self._user, cwd=self.folder, start_new_session=True
            )
        wait_until(self._ready, process, self.log)
        return process

    def _ready(self) -> bool:
        asked = [self._programs["pg_isready"], "-q", "-h", str(self.folder), "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0
