"""The portable layout: which documents there are, and where each lies.

    models/NAME/model.json                  a registered model, the names it had, the number of its newest version
    models/NAME/VERSION/...                 the file or package of a version under the name it was admitted with
    metadata/NAME_VERSION.json              a version: stage, tags, aliases, figures, references, artifact
    approvals/NAME_VERSION.json             the requests for a version, with approvals and comments
    approvals/policies/POLICY.json          a promotion policy, as proposed and decided
    approvals/break_glass/MOVE.json         a move that nobody approved, with its review
    ab_tests/TEST.json                      a test: plan, arms, units, rounds, looks
    ab_tests/holdouts/NAME.json             units that no test takes in
    deployments/deployments/ID.json         a deployment with every decision about it
    deployments/shadows/ID.json             a shadow with its counts
    audit_logs/events/YYYY/MM/DD/events.jsonl   the events of a UTC day, each line the bytes of its leaf
    audit_logs/events/YYYY/MM/DD/expired.jsonl  the leaf hashes of events of that day whose content has expired
    audit_logs/events/YYYY/MM/DD/sealed.jsonl   the sealed parts of events about persons, of which no key is exported
    audit_logs/reports/EVENT.json           what each report that was made said
    audit_logs/checkpoints/                 the log's newest checkpoint and its public key
    manifest.json                           SHA-256 and size of every other file, written last

NAME and VERSION are written by the rule of `names.file_name`. No version holds `_`, so NAME_VERSION reads one way only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.ab_testing import portable as ab_testing
from modelyard.core.documents import Document, Kind
from modelyard.deployment import portable as deployment
from modelyard.portable.names import file_name
from modelyard.registry import portable as registry

EVENTS, REPORTS, CHECKPOINTS = "audit_logs/events/", "audit_logs/reports/", "audit_logs/checkpoints/"
PUBLIC_KEY = CHECKPOINTS + "audit.ed25519.pub"
EVENTS_FILE, EXPIRED_FILE, SEALED_FILE = "events.jsonl", "expired.jsonl", "sealed.jsonl"
ARTIFACT = "artifact"  # the part of a version's document that is not the registry's
UNNAMED = "package"  # where an artifact lies whose own name is no file's


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One kind of document and where one of it lies."""

    kind: Kind
    path: Callable[[Document], str]
    pattern: str  # what the paths of the section look like


def named(folder: str, name: str, version: str) -> str:
    """Where a document about a version lies.

    >>> named("metadata", "Fraud", "v1.0.0")
    'metadata/!fraud_v1.0.0.json'
    """
    return f"{folder}/{file_name(name)}_{file_name(version)}.json"


def artifact_place(version: Mapping[str, Any], artifact: Mapping[str, Any]) -> str:
    """Where the file or package of a version lies."""
    own = artifact["name"]
    plain = own not in ("", ".", "..") and "/" not in own and "\0" not in own
    return f"models/{file_name(version['name'])}/{file_name(version['version'])}/{own if plain else UNNAMED}"


def artifact_files(version: Mapping[str, Any], artifact: Mapping[str, Any]) -> dict[str, str]:
    """path -> SHA-256 of every file of a version's artifact."""
    place = artifact_place(version, artifact)
    if artifact["kind"] == "file":
        return {place: artifact["digest"]}
    return {f"{place}/{path}": digest for path, digest in artifact["members"].items()}


MODELS = Section(
    kind=registry.MODELS,
    path=lambda document: f"models/{file_name(document['model']['name'])}/model.json",
    pattern=r"models/[^/]+/model\.json",
)
VERSIONS = Section(
    kind=registry.VERSIONS,
    path=lambda document: named("metadata", document["version"]["name"], document["version"]["version"]),
    pattern=r"metadata/[^/]+\.json",
)
SECTIONS = (  # in the order in which they are written
    MODELS,
    VERSIONS,
    Section(
        kind=registry.REQUESTS,
        path=lambda document: named("approvals", document["name"], document["version"]),
        pattern=r"approvals/[^/]+\.json",
    ),
    Section(
        kind=registry.POLICIES,
        path=lambda document: f"approvals/policies/{file_name(document['policy']['policy_id'])}.json",
        pattern=r"approvals/policies/[^/]+\.json",
    ),
    Section(
        kind=registry.BREAKS,
        path=lambda document: f"approvals/break_glass/{file_name(document['move']['break_id'])}.json",
        pattern=r"approvals/break_glass/[^/]+\.json",
    ),
    Section(
        kind=ab_testing.KIND,
        path=lambda document: f"ab_tests/{file_name(document['test']['test_id'])}.json",
        pattern=r"ab_tests/[^/]+\.json",
    ),
    Section(
        kind=ab_testing.HOLDOUTS,
        path=lambda document: f"ab_tests/holdouts/{file_name(document['holdout']['name'])}.json",
        pattern=r"ab_tests/holdouts/[^/]+\.json",
    ),
    Section(
        kind=deployment.KIND,
        path=lambda document: f"deployments/deployments/{file_name(document['deployment']['deployment_id'])}.json",
        pattern=r"deployments/deployments/[^/]+\.json",
    ),
    Section(
        kind=deployment.SHADOW_KIND,
        path=lambda document: f"deployments/shadows/{file_name(document['shadow']['shadow_id'])}.json",
        pattern=r"deployments/shadows/[^/]+\.json",
    ),
)
