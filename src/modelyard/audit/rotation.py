"""Goes over to a new signing key, or adds a second kind of signature."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.audit import rules, store
from modelyard.audit.integration import BATCH, integrate, standing, statements, take_in
from modelyard.audit.keyring import Rotation
from modelyard.audit.log import Log
from modelyard.audit.subjects import SubjectKeys
from modelyard.core.errors import Conflict
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.refs import Resource
from modelyard.core.work import Work

KEY = Resource("audit_trail", "key")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that signs from a size of the log on, and the statement by which the old key names it."""

    public_key: str
    size: int
    statement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMaster:
    """The name of the master key in force, how many persons' keys it wraps, and the event that tells of it."""

    master: str
    persons: int
    event_id: str


class Rotating(Log):
    """Which keys sign the log."""

    @operation("POST", "/audit/key", needs="audit.write", remote=False)
    def rotate_key(self, *, user: str) -> NewKey:
        """The key that signs from now on. The old one names it in a statement that both sign, and is destroyed.

        The statement is an event of the log, and stands behind the new key in `audit.ed25519.pub`. Whoever holds an old
        public key can still verify the log: the statements lead to the new one.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> new = logger.rotate_key(user="ana@example.org")
        >>> new.public_key == str(logger.keys.public()), logger.verify().ok
        (True, True)
        """
        self.integrate()
        with self.store.work(rules.checked_text(user, "user")) as work:
            now = micros(work.now)
            while store.count_waiting(work.rows) >= BATCH:
                integrate(work.rows, self.keys, now)
            before = standing(work.rows, self.keys)
            old, size = before.key, before.size + store.count_waiting(work.rows) + 1
            new = self.keys.stage(old.name)
            change = Rotation(old=old.public, new=new.public, size=size)
            statement = change.signed(old, new)
            told = {"old": str(old.public), "new": str(new.public), "size": size, "statement": statement}
            work.emit(EventType.KEY_ROTATED, KEY, told, severity=EventSeverity.WARNING)
            before.key = new
            take_in(work.rows, self.keys, before, store.waiting(work.rows, BATCH), now)
            every = statements(work.rows)
        self.keys.promote(new, every)
        return NewKey(public_key=str(new.public), size=size, statement=statement)

    @operation("POST", "/audit/master-key", needs="audit.write", remote=False)
    def rotate_master_key(self, *, user: str) -> NewMaster:
        """The master key that wraps the keys of persons from now on, and how many it wraps.

        In the default place it is a new one, and the old one is destroyed. Where the setting `master_key` names a place,
        put the new key there before the old one, call this, and remove the old one.

        >>> from modelyard.audit import AuditLogger, EventType
        >>> logger = AuditLogger(folder)
        >>> event = logger.log_event(EventType.DATA_ACCESSED, "file", "f7", user="ana", subject="patient-17")
        >>> logger.rotate_master_key(user="dpo@example.org").persons
        1
        >>> logger.query_events(subject="patient-17")[0].details["reported"]
        True
        """
        who = rules.checked_text(user, "user")
        persons, new = SubjectKeys(self.store.folder).rewrap()
        told = {"master": new.key_id, "persons": persons}
        with self.store.work(who) as work:
            event = work.emit(EventType.CONFIGURATION_CHANGED, KEY, told, severity=EventSeverity.WARNING)
        return NewMaster(master=new.key_id, persons=persons, event_id=event.event_id)

    @operation("POST", "/audit/cosigner", needs="audit.write", remote=False)
    def add_post_quantum_key(self, *, user: str) -> NewKey:
        """The ML-DSA-44 key that signs each checkpoint too from now on (C2SP tlog-cosignature): 3 kB more a checkpoint.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> key = logger.add_post_quantum_key(user="ana@example.org").public_key
        >>> logger.checkpoint().count("\\n— "), logger.verify().ok
        (2, True)
        """
        from modelyard.audit.cosigning import CosigningKey  # needs a newer cryptography than all the rest

        if self.keys.cosigner_seed() is not None:
            raise Conflict(f"Checkpoints are signed by ML-DSA-44 already, with {self.keys.cosigning}.")
        self.integrate()
        name = self.keys.created().name
        with self.store.work(rules.checked_text(user, "user")) as work:
            run = store.last_run(work.rows)
            size = (run["leaf_index"] + run["count"] if run else 0) + 1
            public = CosigningKey(name, self.keys.made_cosigner_seed()).public
            _announce(work, str(public.key), size)
        return NewKey(public_key=str(public.key), size=size, statement="")


def _announce(work: Work, key: str, size: int) -> None:
    told = {"cosigner": key, "size": size}
    work.emit(EventType.CONFIGURATION_CHANGED, KEY, told, severity=EventSeverity.WARNING)
