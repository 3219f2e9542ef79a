"""The curator's store: problems, every reply that was paid for, and how each problem ended, in one SQLite file.

What is committed outlives `kill -9`: a run that starts again replays the replies of unfinished problems and asks only
for what is missing. Everything streams; no list grows with the number of problems.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, Self

from mvjax.curator.production import Call, Outcome, Problem, Reply
from mvjax.curator.store import database
from mvjax.curator.store.differences import first_difference
from mvjax.curator.store.stored import DUPLICATE, DUPLICATE_ID, UNUSABLE, Added, StoredCall
from mvjax.curator.text import dedup
from mvjax.data.records import Fault
from mvjax.errors import UserError


class Store:
    """A store, open. Use `open` or `read`; as a context manager it closes itself."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: database.Lock | None = None):
        self.path = path
        self._database = connection
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        *,
        create: bool = True,
        accept_new_settings: bool = False,
    ) -> Store:
        """A store to write to.

        Args:
          path: the file, or ":memory:".
          settings: JSON values that replies and outcomes depend on; None: whatever the store has.
          create: make the file where there is none.
          accept_new_settings: let problems that are not done go on with other settings than the store's.
        Raises:
          UserError: no store, of another format, in use by another process, or made with other settings.
        """
        path, lock = Path(path), None
        if str(path) != database.MEMORY:
            database.check_place(path, create=create)
            lock = database.Lock(path)
        with contextlib.ExitStack() as undo:
            if lock is not None:
                undo.callback(lock.release)
            store = cls(path, database.connect(path, create=create, writes=True), lock)
            undo.callback(store._database.close)
            if settings is not None:
                store._settle(json.loads(json.dumps(settings)), accept_new_settings)
            undo.pop_all()
        return store

    @classmethod
    def read(cls, path: str | Path) -> Store:
        """A store to look at only; a run may be writing to it meanwhile. Raises UserError as `open` does."""
        path = Path(path)
        database.check_place(path, create=False)
        return cls(path, database.connect(path, create=False, writes=False))

    def close(self) -> None:
        """Close the file and free it for others."""
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fact(self, name: str, default: Any = None) -> Any:
        """A JSON value that was kept by `keep`; `settings` are those of the store."""
        row = self._one("SELECT value FROM facts WHERE name = ?", name)
        return default if row is None else json.loads(row[0])

    def keep(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def add(self, problems: Iterable[Problem | Fault], source: str = "") -> Added:
        """Add problems in their order, all of them or, where the iterable raises, none.

        A problem that the store has is passed over. The same id with another content is a fault; the same content
        under another id is rejected as a duplicate.

        Args:
          problems: faults among them are kept, for the reasons' sake.
          source: name of the input. Faults that were kept under it before are forgotten: they may have been mended.
        """
        added = Added()
        with self._transaction():
            self._database.execute("DELETE FROM faults WHERE source = ?", (source,))
            for entry in problems:
                fault, kind = (entry, UNUSABLE) if isinstance(entry, Fault) else (self._add(entry, added), DUPLICATE_ID)
                if fault is not None:
                    added.faults += 1
                    added.first_fault = added.first_fault or fault
                    row = (source, fault.name, kind, fault.reason)
                    self._database.execute("INSERT INTO faults VALUES (?, ?, ?, ?)", row)
        return added

    def pending(self, after: int = 0, limit: int = 64) -> list[tuple[int, Problem]]:
        """The next problems without an outcome in input order, with their ordinals; those after an ordinal."""
        rows = self._database.execute(
            "SELECT ordinal, problem FROM problems WHERE ordinal > ?"
            " AND NOT EXISTS (SELECT 1 FROM outcomes WHERE record = ordinal) ORDER BY ordinal LIMIT ?",
            (after, limit),
        )
        return [(ordinal, Problem(**json.loads(text))) for ordinal, text in rows]

    def replies(self, record: int) -> dict[int, tuple[str, Reply]]:
        """Stored replies of a problem by number, each with its call's fingerprint."""
        return {call.number: (call.fingerprint, call.reply) for call in self._calls(record) if call.number is not None}

    def commit(self, record: int, number: int, call: Call, reply: Reply, cost: float = 0.0) -> None:
        """Keep a reply. From here on this call is never asked again."""
        asked = (record, number, call.stage, call.where, call.why, call.fingerprint)
        row = (*asked, *astuple(reply), cost, time.time())
        self._database.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def drop(self, record: int, first: int) -> int:
        """Let a problem's calls from a number on count no more; returns how many."""
        return self._database.execute(
            "UPDATE calls SET number = NULL WHERE record = ? AND number >= ?", (record, first)
        ).rowcount

    def finish(self, record: int, outcome: Outcome) -> None:
        """Keep how a problem ended.

        Raises:
          sqlite3.IntegrityError: it has ended before.
        """
        row = (record, outcome.state, outcome.check, outcome.to_json(), time.time())
        self._database.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", row)

    def again(self, check: str) -> int:
        """Make the problems that were rejected for a class of reason pending. Returns how many.

        Failed replies of theirs, and of all that are pending, count no more. Duplicates stay what they are.
        """
        chosen, values = "state = 'rejected' AND reason = ? AND reason != ?", (check, DUPLICATE)
        with self._transaction():
            again = self._database.execute(f"DELETE FROM outcomes WHERE {chosen}", values).rowcount
            self._database.execute(
                "UPDATE calls SET number = NULL WHERE finish = 'failed' AND record NOT IN (SELECT record FROM outcomes)"
            )
        return again

    def outcomes(self, order: str | None = None) -> Iterator[tuple[Problem, Outcome]]:
        """Problems that have ended, with their outcomes, in input order; shuffled by a seed where one is given."""
        key = "ordinal"
        if order is not None:
            self._database.create_function("place", 1, lambda id: dedup.digest(order, id), deterministic=True)
            key = "place(id), ordinal"
        # Sorted by themselves: rows with their texts would all lie in the sorter.
        for (record,) in self._database.execute(
            f"SELECT ordinal FROM problems JOIN outcomes ON record = ordinal ORDER BY {key}"
        ):
            problem, outcome = self._one(
                "SELECT problem, outcome FROM problems JOIN outcomes ON record = ordinal WHERE ordinal = ?", record
            )
            yield Problem(**json.loads(problem)), Outcome.from_json(outcome)

    def faults(self) -> Iterator[tuple[Fault, str]]:
        """Lines of the input that could not be used, with their classes of reason, in input order."""
        for name, reason, kind in self._database.execute("SELECT name, reason, class FROM faults ORDER BY rowid"):
            yield Fault(name, reason), kind

    def spent(self) -> tuple[int, int, float]:
        """Tokens of all prompts and of all replies, those that count no more too, and what they cost."""
        return self._one(
            "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cost), 0.0)"
            " FROM calls"
        )

    def problem(self, id: str) -> Problem | None:
        """A problem by its id."""
        row = self._one("SELECT problem FROM problems WHERE id = ?", id)
        return None if row is None else Problem(**json.loads(row[0]))

    def outcome(self, id: str) -> Outcome | None:
        """How a problem ended; None where it has not, or is not known."""
        row = self._one("SELECT outcome FROM outcomes JOIN problems ON record = ordinal WHERE id = ?", id)
        return None if row is None else Outcome.from_json(row[0])

    def calls(self, id: str) -> list[StoredCall]:
        """All calls of a problem: those that count by number, then the others."""
        row = self._one("SELECT ordinal FROM problems WHERE id = ?", id)
        return [] if row is None else self._calls(row[0])

    def ids(self) -> Iterator[str]:
        """Ids of the problems in input order."""
        return (id for (id,) in self._database.execute("SELECT id FROM problems ORDER BY ordinal"))

    def rows(self, question: str) -> Iterator[tuple]:
        """Rows of a question in SQL, for `mvjax.curator.store.counts`."""
        return self._database.execute(question)

    def _settle(self, settings: dict[str, Any], accept: bool) -> None:
        """Keep the settings; UserError where work has been done with others."""
        made_with = self.fact("settings")
        if made_with is not None and made_with != settings and not accept and self._has_work():
            raise UserError(
                f"{self.path}: was made with {first_difference(made_with, settings)}; give the old value, name another"
                " --store, or let what is not done yet go on with the new one (--accept-new-settings)"
            )
        self.keep("settings", settings)

    def _has_work(self) -> bool:
        return bool(
            self._one("SELECT 1 FROM calls LIMIT 1")
            or self._one("SELECT 1 FROM outcomes WHERE reason != ? LIMIT 1", DUPLICATE)
        )

    def _add(self, problem: Problem, added: Added) -> Fault | None:
        """Add one; its fault where it cannot be used."""
        text = json.dumps(asdict(problem), ensure_ascii=False, sort_keys=True)
        if not _is_text(text):
            return Fault(repr(problem.id), "has a character that is half a surrogate pair; write the input as UTF-8")
        known = self._one("SELECT problem FROM problems WHERE id = ?", problem.id)
        if known is not None:
            if known[0] != text:
                return Fault(problem.id, "the id belongs to another problem already; ids must be unique")
            added.known += 1
            return None
        same = dedup.digest(problem.question, problem.reasoning)
        first = self._one("SELECT id FROM problems WHERE same = ? ORDER BY ordinal LIMIT 1", same)
        record = self._database.execute(
            "INSERT INTO problems (id, problem, same) VALUES (?, ?, ?)", (problem.id, text, same)
        ).lastrowid
        assert record is not None  # a row was inserted
        added.new += 1
        if first is not None:
            added.duplicates += 1
            self.finish(record, Outcome(None, DUPLICATE, f"the same question and reasoning as {first[0]}"))
        return None

    def _calls(self, record: int) -> list[StoredCall]:
        rows = self._database.execute(
            "SELECT number, stage, place, why, fingerprint, reply, finish, prompt_tokens, completion_tokens, seconds,"
            " estimated, cost, time FROM calls WHERE record = ? ORDER BY number IS NULL, number, rowid",
            (record,),
        )
        return [
            StoredCall(*row[:5], reply=Reply(*row[5:10], estimated=bool(row[10])), cost=row[11], time=row[12])
            for row in rows
        ]

    def _one(self, question: str, *values: Any) -> Any:
        """The first row of the answer; None where there is none."""
        return self._database.execute(question, values).fetchone()

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
