"""What every part of the registry begins with: find the version or the model, or say which ones there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from modelyard.core.decisions import Decision
from modelyard.core.errors import Forbidden, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.models import ModelVersion, RegisteredModel
from modelyard.core.ports import Connection
from modelyard.core.refs import ModelRef, Resource
from modelyard.core.work import Store, Work
from modelyard.registry import store as versions
from modelyard.registry import store_models
from modelyard.registry.rules import CHAMPION

SHOWN = 1_000  # characters of a tag that an event tells


def found(rows: Connection, name: str, version: str) -> ModelVersion:
    """The version; NotFound names the nearest known ones."""
    model = versions.version(rows, name, version)
    if model is not None:
        return model
    some = versions.some_versions(rows, name)
    if some:
        raise NotFound(f"{name} has no version {version}. Its newest: {', '.join(some)}.")
    if store_models.model(rows, name) is not None:
        raise NotFound(f"{name} has no version yet, so no {version}.")
    raise NotFound(f"There is no model {name!r}, so no {version}. {nearest(name, store_models.names(rows))}")


def found_model(rows: Connection, name: str) -> RegisteredModel:
    """The registered model; NotFound names the nearest known ones."""
    model = store_models.model(rows, name)
    if model is None:
        raise NotFound(f"There is no model {name!r}. {nearest(name, store_models.names(rows))}")
    return model


def by_alias(rows: Connection, name: str, alias: str) -> ModelVersion:
    """The version that an alias points at; NotFound names the aliases there are."""
    model = versions.by_alias(rows, name, alias)
    if model is None:
        raise NotFound(no_alias(rows, name, alias))
    return model


def referred(rows: Connection, reference: str) -> ModelVersion:
    """The version that `name:version`, `name@alias`, or a name alone (its champion) refers to."""
    name, at, alias = reference.rpartition("@")
    if at:
        return by_alias(rows, name, alias)
    if ":" not in reference:
        return by_alias(rows, reference, CHAMPION)
    ref = ModelRef.parse(reference)
    return found(rows, ref.name, ref.version)


def no_alias(rows: Connection, name: str, alias: str) -> str:
    """That a model has no such alias, and which ones it has."""
    found_model(rows, name)
    known = store_models.aliases_of(rows, name)
    return f"{name} has no alias {alias!r}. {nearest(alias, known) if known else 'It has no alias yet.'}"


def resource(model: ModelVersion) -> Resource:
    """What events about the version are about."""
    return Resource("model", f"{model.name}:{model.version}")


def holder(name: str, canonical: str) -> str:
    """Under which name a version holds its artifact."""
    return f"model {name}:{canonical}"


def told_tags(tags: Iterable[str]) -> list[str]:
    """Tags as events tell them, each shortened: a value may be a hundred thousand characters."""
    return [tag[:SHOWN] for tag in tags]


def tell_refusal(work: Work, model: ModelVersion, action: str, decision: Decision) -> None:
    """A refusal changes nothing, and is an event all the same."""
    details = {"action": action, "reasons": decision.reasons, "digest": model.digest}
    work.emit(EventType.SECURITY_VIOLATION, resource(model), details, severity=EventSeverity.WARNING)


@contextmanager
def refusals_told(store: Store, actor: str, about: Resource, action: str) -> Iterator[None]:
    """What a handler of another area refuses within the transaction leaves nothing there; it is told after it."""
    try:
        yield
    except Forbidden as error:
        if error.told:
            raise
        with store.work(actor) as work:
            told = {"action": action, "reasons": [str(error)]}
            work.emit(EventType.SECURITY_VIOLATION, about, told, severity=EventSeverity.WARNING)
        raise Forbidden(str(error), told=True) from error


def tell_created(work: Work, model: RegisteredModel) -> None:
    """A model exists from now on."""
    details = {
        "owner": model.owner,
        "project": model.project,
        "licence": model.licence,
        "description": model.description,
        "tags": told_tags(model.tags),
    }
    work.emit(EventType.REGISTERED_MODEL_CREATED, Resource("model", model.name), details)
