"""What every kind of MLflow's stores can be asked, and what is told of its registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from modelyard.tracking import Experiment, LoggedModel, Run
from modelyard.tracking.values import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A registered model as MLflow keeps it; `aliases` are the numbers of versions by alias."""

    name: str
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVersion:
    """A version as MLflow keeps it; `stage` is MLflow's word, and the time is in milliseconds since 1970."""

    name: str
    number: int
    stage: str
    description: str
    source: str
    run_id: str
    model_id: str
    run_link: str
    created: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a location, by its path there."""

    path: str
    size: int


class Origin(Protocol):
    """Where everything comes from. Things come in pages or one by one, never all at once."""

    place: str  # for people, without a password
    parallel: int  # how many questions at a time help

    def close(self) -> None:
        """Give connections back."""

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment, deleted ones too."""

    def runs(self, experiment_id: str) -> Iterator[Run]:
        """The runs of an experiment, deleted ones too, with the latest value of each metric."""

    def whole(self, run: Run) -> Run:
        """The run with what lists of runs leave out."""

    def history(self, run: Run, key: str) -> Iterator[list[Point]]:
        """Every value of a metric, some at a time."""

    def logged_models(self, experiment_id: str) -> Iterator[LoggedModel]:
        """The logged models of an experiment."""

    def models(self) -> Iterator[FoundModel]:
        """The registered models."""

    def versions(self, name: str) -> Iterator[FoundVersion]:
        """The versions of a registered model, the oldest first."""

    def files(self, location: str, inner: str) -> Iterator[FoundFile] | None:
        """What lies at a location, which MLflow's layout has at `inner`; None if it cannot be read from here."""

    def open(self, location: str, inner: str, path: str) -> AbstractContextManager[BinaryIO]:
        """The bytes of a file that `files` named."""
