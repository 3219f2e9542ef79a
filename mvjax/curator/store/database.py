"""A store's file: an SQLite database that is known by its marks, of one format, with one writer at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO
from urllib.parse import quote

from mvjax.errors import UserError

MEMORY = ":memory:"
APPLICATION = 0x6D767863
"""Marks an SQLite file as a store."""
FORMAT = 2
"""Raised whenever the tables change."""

SCHEMA = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE problems (ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, problem TEXT NOT NULL,"
    " same BLOB NOT NULL)",
    "CREATE INDEX problems_same ON problems (same)",
    # A call that counts no more has no number: it was paid for all the same.
    "CREATE TABLE calls (record INTEGER NOT NULL REFERENCES problems, number INTEGER, stage TEXT NOT NULL,"
    " place TEXT NOT NULL, why TEXT NOT NULL, fingerprint TEXT NOT NULL, reply TEXT NOT NULL, finish TEXT NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL,"
    " estimated INTEGER NOT NULL, cost REAL NOT NULL,"
    " time REAL NOT NULL, UNIQUE (record, number))",
    "CREATE TABLE outcomes (record INTEGER PRIMARY KEY REFERENCES problems, state TEXT NOT NULL, reason TEXT NOT NULL,"
    " outcome TEXT NOT NULL, time REAL NOT NULL)",
    "CREATE TABLE faults (source TEXT NOT NULL, name TEXT NOT NULL, class TEXT NOT NULL, reason TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)


class Lock:
    """Held by the process that writes to a store; the system frees it when the process ends, however it ends."""

    def __init__(self, path: Path):
        """Take the lock of the store at `path`.

        Raises:
          UserError: another process has it.
        """
        self._path = Path(f"{path}-lock")
        while True:
            self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 (held until `release`)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.seek(0)
                holder = self._file.read().strip()
                self._file.close()
                raise UserError(
                    f"{path}: process {holder or '?'} is working on this store; let it end, or stop it"
                    " (status, show and export can be used meanwhile)"
                ) from None
            if self._is_current(self._file):
                break
            self._file.close()  # whoever had it before has just removed it
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let others have it."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def _is_current(self, file: IO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False


def check_place(path: Path, *, create: bool) -> None:
    """Raise UserError where no store can be at `path`, or none is and none is to be made; makes its directory."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory; --store names a file")
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise UserError(f"{path}: there is no such store; `mvjax curate llm` makes one")


def connect(path: Path, *, create: bool, writes: bool) -> sqlite3.Connection:
    """Open a store's file.

    Args:
      path: the file; ":memory:" makes a new store that goes away with the connection.
      create: make the file where there is none.
      writes: whether the connection may write; the caller holds the `Lock` then.
    Raises:
      UserError: no store, or a store of another format.
    """
    if str(path) == MEMORY:
        return _made(sqlite3.connect(MEMORY, isolation_level=None))
    connection = sqlite3.connect(_address(path, writes), uri=True, isolation_level=None, timeout=60)
    try:
        is_new = _examine(connection, path)
        if is_new and not create:
            raise UserError(f"{path}: is an empty file, no store of the curator")
        if writes:
            # A commit outlives the process; only a failing machine can undo the last ones, and never half of one.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        else:
            connection.execute("PRAGMA query_only = ON")
        return _made(connection) if is_new else connection
    except BaseException:
        connection.close()
        raise


def _address(path: Path, writes: bool) -> str:
    name = quote(str(path.resolve()))
    if writes:
        return f"file:{name}"
    if os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK):
        return f"file:{name}?mode=rw"
    return f"file:{name}?mode=ro" + ("" if Path(f"{path}-wal").exists() else "&immutable=1")


def _examine(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is still empty; UserError where it is anything but a store of this format."""
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        raise UserError(f"{path}: the store cannot be opened ({error})") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: is no store of the curator ({error}); name another --store") from error
    if application == 0 and tables == 0:
        return True
    if application != APPLICATION:
        raise UserError(f"{path}: is a database of another program, no store of the curator; name another --store")
    if version != FORMAT:
        raise UserError(
            f"{path}: is a store of another version of mvjax (format {version}, this one has {FORMAT});"
            " go on with that version, or name another --store"
        )
    return False


def _made(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")
    return connection
