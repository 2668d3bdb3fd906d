"""How long events are kept, what expires, and what a legal hold keeps."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from modelyard.audit import rules, store, tables
from modelyard.audit.log import Log
from modelyard.audit.subjects import SubjectKeys
from modelyard.audit.upkeep import Remains
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.operations import operation
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource
from modelyard.core.work import Work

DAY = 86_400_000_000  # microseconds
BATCH = 2_000  # events that expire in one transaction
EXPIRED_ACTOR = "expired"
EXPIRED_DETAILS = dumps({"expired": True})
RULES = Resource("audit_trail", "retention")
# What the log needs to read itself: which keys signed, what expired, who was erased, what is held, what the rules are.
KEPT = frozenset(
    {
        EventType.KEY_ROTATED,
        EventType.EVENTS_EXPIRED,
        EventType.SUBJECT_ERASED,
        EventType.HOLD_PLACED,
        EventType.HOLD_LIFTED,
        EventType.CONFIGURATION_CHANGED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRules:
    """How many days events of each type are kept; types that are not named are kept for ever."""

    days: dict[str, int]
    frameworks: tuple[str, ...]
    minimum_days: int
    set_by: str
    set_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """How many events of each type expired now."""

    events: int
    by_type: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A legal hold: nothing of what it lies on expires or is erased."""

    hold_id: str
    resource_type: str
    resource_id: str
    reason: str
    placed_by: str
    placed_at: Instant


class Retention(Log):
    """What is kept, and for how long."""

    @operation("PUT", "/audit/retention", needs="audit.write")
    def set_retention(self, days: dict[str, int], *, user: str, frameworks: list[str] | None = None) -> RetentionRules:
        """The rules in force from now on: events of each named type expire after that many days; all others never do.

        `frameworks` are the laws whose minimum holds, from retention.toml; the EU AI Act's six months unless given.
        Invalid for a shorter time, and for types that the log needs to read itself.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).set_retention({"features_read": 400}, user="dpo@example.org").minimum_days
        184
        """
        laws = tuple(frameworks) if frameworks is not None else ("eu_ai_act",)
        minimum = max((_minimum(law) for law in laws), default=1)
        for name, count in days.items():
            _checked_rule(name, count, minimum, laws)
        with self.store.work(rules.checked_text(user, "user")) as work:
            told = {"days": dict(days), "frameworks": list(laws), "minimum_days": minimum}
            event = work.emit(EventType.CONFIGURATION_CHANGED, RULES, told, severity=EventSeverity.WARNING)
        return _rules(event.details, event.actor, event.occurred_at)

    @operation("GET", "/audit/retention", needs="audit.read")
    def retention(self) -> RetentionRules:
        """The rules in force.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).retention().days
        {}
        """
        with self.store.reading() as rows:
            return _current(rows)

    @operation("POST", "/audit/expiry", needs="audit.write")
    def expire_events(self, *, user: str) -> Expiry:
        """How many events expired: who did it and what was said are removed from those older than the rules keep them.

        Their types, resources and times stay, bound by a digest in an event of its own, and the log and every proof made
        before still verify. What a legal hold lies on stays whole.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).expire_events(user="dpo@example.org").events
        0
        """
        rules.checked_text(user, "user")
        self.catch_up()
        by_type: dict[str, int] = {}
        for name, days in self.retention().days.items():
            before, count = micros(self.store.clock.now()) - days * DAY, 0
            after: int | None = 0
            while after is not None:
                with self.store.work(user) as work:
                    expired, after = _expire(work, EventType(name), before, after)
                count += expired
            if count:
                by_type[name] = count
        if by_type:
            self.store.database.scrub()
        return Expiry(events=sum(by_type.values()), by_type=by_type)

    @operation("POST", "/audit/holds", needs="audit.write")
    def legal_hold(self, resource_type: str, resource_id: str, *, user: str, reason: str) -> Hold:
        """The hold that lies on a thing from now on: its events neither expire nor are erased, and it is not deleted.

        A hold on a model lies on all its versions; one on `subject` and a person, on all that is about that person.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> logger.legal_hold("model", "fraud", user="counsel@example.org", reason="case 7").resource_id
        'fraud'
        """
        kind, name = rules.checked_text(resource_type, "resource_type"), rules.checked_text(resource_id, "resource_id")
        why = rules.checked_text(reason, "reason")
        if kind == "subject":
            name = self._pseudonym(name)
        with self.store.work(rules.checked_text(user, "user")) as work:
            hold = {"hold_id": new_id("hold"), "resource_type": kind, "resource_id": name, "reason": why}
            placed = {**hold, "placed_by": user, "placed_at": micros(work.now)}
            tables.add_hold(work.rows, placed)
            work.emit(EventType.HOLD_PLACED, Resource(kind, name), hold, severity=EventSeverity.WARNING)
        return _hold(placed)

    @operation("DELETE", "/audit/holds/{hold_id}", needs="audit.write")
    def lift_hold(self, hold_id: str, *, user: str, reason: str) -> Hold:
        """The hold that lies no longer.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> hold = logger.legal_hold("model", "fraud", user="counsel@example.org", reason="case 7")
        >>> logger.lift_hold(hold.hold_id, user="counsel@example.org", reason="settled").hold_id == hold.hold_id
        True
        """
        why = rules.checked_text(reason, "reason")
        with self.store.work(rules.checked_text(user, "user")) as work:
            row = tables.hold(work.rows, hold_id)
            if row is None:
                known = [str(hold["hold_id"]) for hold in tables.holds(work.rows)]
                raise NotFound(f"There is no hold {hold_id!r}. {nearest(hold_id, known)}")
            tables.drop_hold(work.rows, hold_id)
            work.emit(
                EventType.HOLD_LIFTED,
                Resource(row["resource_type"], row["resource_id"]),
                {"hold_id": hold_id, "reason": why},
                severity=EventSeverity.WARNING,
            )
        return _hold(row)

    @operation("GET", "/audit/holds", needs="audit.read")
    def list_holds(self) -> list[Hold]:
        """Every hold that lies on something, oldest first.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).list_holds()
        []
        """
        with self.store.reading() as rows:
            return [_hold(row) for row in tables.holds(rows)]

    def _pseudonym(self, subject: str) -> str:
        key_id = SubjectKeys(self.store.folder).id_of(subject)
        if key_id is None:
            raise NotFound("No event is about that person, so there is nothing to hold. Check how the name is written.")
        return key_id


@cache
def minimums() -> dict[str, dict[str, Any]]:
    """The frameworks and the days that each demands."""
    return tomllib.loads(resources.files("modelyard.audit").joinpath("retention.toml").read_text())


def _minimum(framework: str) -> int:
    known = minimums()
    if framework not in known:
        raise Invalid(f"There is no framework {framework!r}. {nearest(str(framework), list(known))}")
    return int(known[framework]["days"])


def _checked_rule(name: str, count: int, minimum: int, laws: tuple[str, ...]) -> None:
    names = [kind.value for kind in EventType if kind not in KEPT]
    if name in {kind.value for kind in KEPT}:
        raise Invalid(f"Events of type {name!r} never expire: the log needs them to read itself.")
    if name not in names:
        raise Invalid(f"There is no event type {name!r}. {nearest(str(name), names)}")
    if type(count) is not int or count < minimum:
        raise Invalid(f"{name} must be kept at least {minimum} days ({', '.join(laws) or 'a day'}), not {count}.")


def _current(rows: Connection) -> RetentionRules:
    """The newest rules that somebody set here; what others report is none."""
    for row in reversed(store.events_of(rows, EventType.CONFIGURATION_CHANGED.value)):
        if (row["resource_type"], row["resource_id"]) == (RULES.kind, RULES.id):
            told = rules.parsed(row["details"])
            if not told.get("reported"):
                return _rules(told, row["actor"], from_micros(row["occurred_at"]))
    return RetentionRules(days={}, frameworks=(), minimum_days=1, set_by="", set_at=None)


def _rules(told: Any, by: str, at: Instant) -> RetentionRules:
    return RetentionRules(
        days={str(name): int(count) for name, count in told["days"].items()},
        frameworks=tuple(told["frameworks"]),
        minimum_days=int(told["minimum_days"]),
        set_by=by,
        set_at=at,
    )


def _expire(work: Work, kind: EventType, before: int, after: int) -> tuple[int, int | None]:
    """(how many events expired, the position to go on from or None at the end)."""
    found = tables.expirable(work.rows, kind.value, before, after, BATCH)
    remains, positions = Remains(), []
    run: Row | None = None
    for event in found:
        if run is None or event[0] >= run["position"] + run["count"]:
            run = store.run_of(work.rows, event[0])
        if run is None or event[0] >= run["position"] + run["count"] or run["integrated_at"] >= before:
            continue  # not in the tree yet, or its clock was wrong: it is younger than it says
        index = run["leaf_index"] + event[0] - run["position"]
        left = (*event[:4], EXPIRED_ACTOR, *event[5:8], EXPIRED_DETAILS)
        remains.add(index, run["integrated_at"], left)
        positions.append(event[0])
    if positions:
        told = {
            "type": kind.value,
            "before": from_micros(before),
            "events": remains.count,
            "remains": remains.hexdigest(),
        }
        event_id = work.emit(EventType.EVENTS_EXPIRED, RULES, told, severity=EventSeverity.WARNING).event_id
        tables.strip(work.rows, positions, EXPIRED_ACTOR, EXPIRED_DETAILS)
        tables.drop_payloads_at(work.rows, positions)
        tables.mark_expired(work.rows, positions, event_id)
    return len(positions), found[-1][0] if len(found) == BATCH else None


def _hold(row: Any) -> Hold:
    return Hold(
        hold_id=row["hold_id"],
        resource_type=row["resource_type"],
        resource_id=row["resource_id"],
        reason=row["reason"],
        placed_by=row["placed_by"],
        placed_at=from_micros(row["placed_at"]),
    )
