"""The registry's documents of the portable layout: registered models, versions, requests with their approvals, policies
and what was done without approval.

The first three are values of the registry as JSON, so that a field which a value gains is in its document too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from modelyard.core.canonical import plain
from modelyard.core.documents import Document, Kind, Table
from modelyard.core.errors import Conflict, Damaged
from modelyard.core.instants import micros
from modelyard.core.models import ModelVersion, RegisteredModel
from modelyard.core.people import likeness
from modelyard.core.ports import Connection
from modelyard.core.work import Work
from modelyard.registry import checks, store, store_models, store_policies, store_requests, store_scores
from modelyard.registry.comparison import Scores
from modelyard.registry.lookup import holder
from modelyard.registry.rules import PromotionRequest, RequestStatus

PAGE = 500
EVERY = 2**31 - 1
V = TypeVar("V")
POLICY = Table(
    name="promotion_policies",
    columns=(
        "policy_id",
        "scope",
        "target_stage",
        "version",
        "status",
        "asked",
        "proposed_by",
        "proposed_at",
        "justification",
        "decided_by",
        "decided_at",
        "reason",
        "agreed_by",
    ),
    times=frozenset({"proposed_at", "decided_at"}),
    values=frozenset({"asked", "agreed_by"}),
)
BREAK = Table(
    name="break_glass_moves",
    columns=(
        "break_id",
        "name",
        "canonical",
        "version",
        "from_stage",
        "target_stage",
        "digest",
        "broken_by",
        "reason",
        "incident",
        "created_at",
        "status",
        "reviewer",
        "verdict",
        "comment",
        "reviewed_at",
    ),
    times=frozenset({"created_at", "reviewed_at"}),
)


def model_document(rows: Connection, model: RegisteredModel) -> Document:
    """A registered model with the number of its newest version and the names that it had, each with the renaming's event."""
    last = rows.one("SELECT last_number FROM registered_models WHERE name = :name", name=model.name)
    renames = rows.all(
        "SELECT r.former, e.event_id FROM model_renames r LEFT JOIN events e ON e.position = r.position"
        " WHERE r.name = :name ORDER BY r.position, r.former",
        name=model.name,
    )
    return {
        "model": plain(model),
        "last_number": last["last_number"] if last else 0,
        "renames": [{"former": row["former"], "event_id": row["event_id"] or ""} for row in renames],
    }


def version_document(rows: Connection, model: ModelVersion) -> Document:
    """A version with everything that the registry knows of it, its scores by row as little-endian doubles in base64."""
    kept = [
        {**plain(scores), "packed": base64.b64encode(store_scores.bytes_of(rows, model, scores)).decode()}
        for scores in store_scores.all_of(rows, model)
    ]
    return {"version": plain(model), "scores": kept}


def version_of(document: Document) -> ModelVersion:
    """The version of a document."""
    return _value(document.get("version"), ModelVersion)


def requests_document(name: str, version: str, requests: list[PromotionRequest]) -> Document:
    """The requests for one version, the oldest first, each with its approvals."""
    return {"name": name, "version": version, "requests": plain(requests)}


def _models(rows: Connection) -> Iterator[Document]:
    after = ""
    while names := rows.all(
        "SELECT name FROM registered_models WHERE name > :after ORDER BY name LIMIT :limit", after=after, limit=PAGE
    ):
        for row in names:
            model = store_models.model(rows, row["name"])
            if model is not None:
                yield model_document(rows, model)
        after = names[-1]["name"]


def _versions(rows: Connection) -> Iterator[Document]:
    after: tuple[str, str] | None = None
    while some := store.versions(rows, name=None, stage=None, tag=None, after=after, limit=PAGE):
        for one in some:
            yield version_document(rows, one)
        after = (some[-1].name, some[-1].version)


def _requests(rows: Connection) -> Iterator[Document]:
    sql = "SELECT DISTINCT name, canonical FROM promotion_requests ORDER BY name, canonical"
    for row in rows.all(sql):
        found = _requests_for(rows, row["name"], row["canonical"])
        if found is not None:
            yield found


def _requests_for(rows: Connection, name: str, version: str) -> Document | None:
    """Asked for by the version as it is written now, else as it was written when it was asked for last."""
    found = store_requests.requests(rows, name=name, version=version, status=None, limit=EVERY)[::-1]
    if not found:
        return None
    known = store.version(rows, name, version)
    found.sort(key=lambda request: (request.created_at, request.request_id))
    return requests_document(name, known.version if known else found[-1].version, found)


def _model_here(rows: Connection, document: Document) -> Document | None:
    model = store_models.model(rows, _model(document).name)
    return None if model is None else model_document(rows, model)


def _version_here(rows: Connection, document: Document) -> Document | None:
    version = version_of(document)
    known = store.version(rows, version.name, version.version)
    return None if known is None else version_document(rows, known)


def _requests_here(rows: Connection, document: Document) -> Document | None:
    return _requests_for(rows, document["name"], document["version"])


def _check_version(rows: Connection, document: Document) -> None:
    version = version_of(document)
    known = store.by_number(rows, version.name, version.number)
    if known is not None:
        raise Conflict(
            f"{version.name} {version.version} has the number {version.number}, which is {known.version}'s here. "
            "Import into a yard that has no such model, or rename the model here first."
        )


def _check_requests(rows: Connection, document: Document) -> None:
    for request in _requests_of(document):
        sql = "SELECT name FROM promotion_requests WHERE request_id = :request_id"
        if rows.one(sql, request_id=request.request_id) is not None:
            raise Conflict(f"There is a request {request.request_id} here already, for another version.")


def _write_model(work: Work, document: Document) -> None:
    model = _model(document)
    store_models.add(work.rows, model, last_number=int(document["last_number"]))
    for rename in document["renames"]:
        row = work.rows.one("SELECT position FROM events WHERE event_id = :id", id=rename["event_id"])
        if row is None:  # that event has expired, so everything that is left of the history came after it
            continue
        work.rows.run(
            "INSERT INTO model_renames (name, former, position) VALUES (:name, :former, :position)",
            name=model.name,
            former=rename["former"],
            position=row["position"],
        )


def _write_version(work: Work, document: Document) -> None:
    version = version_of(document)
    store.add_version(work.rows, version)
    if version.digest:
        holds = holder(version.name, checks.canonical_version(version.version))
        work.store.artifacts.hold(work.rows, version.digest, holds)
    for kept in document["scores"]:
        scores = _value({key: value for key, value in kept.items() if key != "packed"}, Scores)
        store_scores.put(work.rows, scores, _packed(kept), now=micros(scores.created_at))
    for alias in version.aliases:
        store_models.set_alias(work.rows, version.name, alias, version.version)


def _write_requests(work: Work, document: Document) -> None:
    for request in _requests_of(document):
        store_requests.add_request(work.rows, request)
        for approval in request.approvals:
            store_requests.add_approval(work.rows, request.request_id, likeness(approval.approver), approval)
        for number, comment in enumerate(request.comments, start=1):  # later ones stand at their events, further on
            store_requests.add_comment(work.rows, request.request_id, comment, position=number)
        if request.status is not RequestStatus.OPEN and request.decided_at is not None:
            now = micros(request.decided_at)
            store_requests.decide(work.rows, request.request_id, request.status, now=now, reason=request.reason)


def _policies(rows: Connection) -> Iterator[Document]:
    for row in rows.all("SELECT * FROM promotion_policies ORDER BY scope, target_stage, version"):
        yield {"policy": POLICY.document(row)}


def _policy_here(rows: Connection, document: Document) -> Document | None:
    sql = "SELECT * FROM promotion_policies WHERE policy_id = :policy_id"
    row = rows.one(sql, policy_id=document["policy"]["policy_id"])
    return None if row is None else {"policy": POLICY.document(row)}


def _check_policy(rows: Connection, document: Document) -> None:
    """Whoever imports must not replace the rules that hold here."""
    policy = document["policy"]
    known = rows.one(
        "SELECT policy_id FROM promotion_policies WHERE scope = :scope AND target_stage = :target_stage LIMIT 1",
        scope=policy["scope"],
        target_stage=policy["target_stage"],
    )
    if known is not None:
        raise Conflict(
            f"There is a policy for {policy['scope']} to {policy['target_stage']} here already ({known['policy_id']})."
        )


def _write_policy(work: Work, document: Document) -> None:
    POLICY.insert(work.rows, [document["policy"]])
    store_policies.policy(work.rows, document["policy"]["policy_id"])  # which reads what it may hold


def _breaks(rows: Connection) -> Iterator[Document]:
    for row in rows.all("SELECT * FROM break_glass_moves ORDER BY created_at, break_id"):
        yield {"move": BREAK.document(row)}


def _break_here(rows: Connection, document: Document) -> Document | None:
    sql = "SELECT * FROM break_glass_moves WHERE break_id = :break_id"
    row = rows.one(sql, break_id=document["move"]["break_id"])
    return None if row is None else {"move": BREAK.document(row)}


def _write_break(work: Work, document: Document) -> None:
    BREAK.insert(work.rows, [document["move"]])


def _packed(kept: Document) -> bytes:
    try:
        return base64.b64decode(kept["packed"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Damaged(f"The scores of {kept.get('dataset')!r:.80} are not base64.") from error


def _model(document: Document) -> RegisteredModel:
    return _value(document.get("model"), RegisteredModel)


def _requests_of(document: Document) -> list[PromotionRequest]:
    return _value(document.get("requests"), list[PromotionRequest])


def _value(data: object, kind: type[V]) -> V:
    """The value that JSON stands for; Damaged for one that is not exactly it, such as one of a newer modelyard."""
    try:
        value = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise Damaged(f"A document holds no {kind.__name__}: {error}.") from error
    if plain(value) != data:
        raise Damaged(f"A document holds a {kind.__name__} with fields that are not known here. Upgrade modelyard.")
    return value


def _nothing(rows: Connection, document: Document) -> None:
    """What is not there can always be written."""


MODELS = Kind(name="models", every=_models, standing=_model_here, write=_write_model, check=_nothing)
VERSIONS = Kind(name="versions", every=_versions, standing=_version_here, write=_write_version, check=_check_version)
REQUESTS = Kind(name="requests", every=_requests, standing=_requests_here, write=_write_requests, check=_check_requests)
POLICIES = Kind(name="policies", every=_policies, standing=_policy_here, write=_write_policy, check=_check_policy)
BREAKS = Kind(name="break_glass", every=_breaks, standing=_break_here, write=_write_break, check=_nothing)
