"""Models as values: stages, versions, artifacts, and the signature of what goes in and comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from modelyard.core.instants import Instant

PACKAGE_MANIFEST = "modelyard.json"  # in every model package folder

FeatureKind = Literal["float", "int", "bool", "string"]
Task = Literal["binary", "multiclass", "regression"]


class ModelStage(Enum):
    """Where a version stands in its life."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """One input column: its name, kind, whether it may be missing, and its categories where they are known."""

    name: str
    kind: FeatureKind = "float"
    nullable: bool = False
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and gives: input columns in order, the task, and the classes in the order of probabilities."""

    inputs: tuple[FeatureSpec, ...]
    task: Task
    classes: tuple[Any, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The input columns' names, in the model's order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def numeric(self) -> bool:
        """True if every input is a number or a bool, so that a batch is one float matrix."""
        return all(spec.kind != "string" for spec in self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far the exported form's answers lie from the native ones on sample rows."""

    rows: int
    max_difference: float
    tolerance: float
    passed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageManifest:
    """What `modelyard.json` in a model package says. `files` maps a framework name to a file beside it.

    `primary` is the framework that answers by default: the exported form where its parity passed, else the native one.
    """

    name: str
    framework: str
    primary: str
    files: Mapping[str, str]
    signature: Signature
    parity: Parity | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Stored bytes by digest: one file, or a folder as a tree of files. `members` maps relative paths to digests."""

    digest: str
    size: int
    format: str
    name: str
    members: Mapping[str, str] = field(default_factory=dict)
    admission: Literal["accepted", "quarantined"] = "accepted"
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What a version was made from: the code (repository, commit, whether it had uncommitted changes), the digest of the
    training data, and the digest of the lock file that names every dependency."""

    repository: str = ""
    commit: str = ""
    dirty: bool = False
    data_digest: str = ""
    lock_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A model by name, without its versions. `aliases` maps each alias to its version; a tag is `label` or `key=value`."""

    name: str
    created_at: Instant
    updated_at: Instant
    description: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    project: str = "default"
    licence: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model as the registry knows it.

    `number` counts a model's versions in the order of registration and is never used again; 0 before that. `source`
    says where the bytes came from, `run_id` which run logged them. A tag is `label` or `key=value`.
    """

    name: str
    version: str
    framework: str
    stage: ModelStage
    digest: str
    created_by: str
    created_at: Instant
    updated_at: Instant
    description: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    trained_by: str = ""
    training_data: str = ""
    code_version: str = ""
    parent: str = ""
    signature: Signature | None = None
    size: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    run_id: str = ""
    source: str = ""
    changelog: str = ""
    references: References = References()
    example: Any = None
    environment: Mapping[str, str] = field(default_factory=dict)
