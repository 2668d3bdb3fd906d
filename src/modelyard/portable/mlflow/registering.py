"""Registered models, their versions under their numbers, and aliases.

Stages are not taken over where a policy asks for an approval: an import is no way round it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from modelyard.core.errors import Conflict, Invalid, NotFound, YardError
from modelyard.core.models import ModelStage, ModelVersion, RegisteredModel
from modelyard.core.ports import Connection
from modelyard.portable.mlflow import admitting
from modelyard.portable.mlflow.admitting import OURS, Source
from modelyard.portable.mlflow.bringing import Bringing
from modelyard.portable.mlflow.values import FoundModel, FoundVersion
from modelyard.registry import checks, rules, store, store_models

STAGES: Mapping[str, ModelStage] = {
    "staging": ModelStage.STAGING,
    "production": ModelStage.PRODUCTION,
    "archived": ModelStage.ARCHIVED,
}
STAGE_TAG = "mlflow.stage"
NAME_TAG = "mlflow.name"  # what a model was called whose name is none here
CREATED = "created"  # in a version's metadata: when MLflow registered it, which tells an imported one from others
SHOWN = 10
_OF_MODEL = re.compile(r"/models/(m-[0-9a-zA-Z]+)/artifacts(?:/(.*))?\Z")
_LOGGED = re.compile(r"models:/(m-[0-9a-zA-Z]+)\Z")
_VERSION = re.compile(r"models:/([^/]+)/(\d{1,18})\Z")


def name_here(name: str) -> str:
    """The name itself if a model here may have it; else the nearest plain one, with a digest that tells it from others.

    >>> name_here("fraud 2"), name_here("Größe (neu)")
    ('fraud 2', 'Groe-neu-aa91adeb')
    """
    try:
        return checks.checked_model_name(name)
    except Invalid:
        letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^A-Za-z0-9]+", "-", letters).strip("-")[:100] or "model"
        return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _models(bringing: Bringing) -> Iterator[FoundModel]:
    """The registered models by their names here."""
    for model in bringing.origin.models():
        here = name_here(model.name)
        bringing.names[here] = model.name
        yield replace(model, name=here)


def _versions(bringing: Bringing, name: str) -> Iterator[FoundVersion]:
    """The versions of a model by its name here."""
    for version in bringing.origin.versions(bringing.names[name]):
        yield replace(version, name=name)


def check(bringing: Bringing) -> None:
    """Conflict, naming all, where a model of the same name here has other versions; nothing is written before this."""
    taken = []
    for model in _models(bringing):
        with bringing.yard.store.reading() as rows:
            if store_models.last_number(rows, model.name) == 0:
                continue
            for version in _versions(bringing, model.name):
                known = store.by_number(rows, model.name, version.number)
                if known is not None and not _is_one(known, version):
                    taken.append(f"{model.name} {version.number}")
                    break
            else:
                if not _any_imported(rows, model.name, bringing):
                    taken.append(model.name)
    if taken:
        more = f" and {len(taken) - SHOWN} more" if len(taken) > SHOWN else ""
        raise Conflict(
            f"Nothing was imported: other models here have the names (and numbers) {', '.join(taken[:SHOWN])}{more}. Rename "
            "those here: modelyard registry rename-model NAME NEW_NAME USER"
        )


def _any_imported(rows: Connection, name: str, bringing: Bringing) -> bool:
    """Whether one of the versions there is here; a model without versions there stands in nobody's way."""
    found = list(_versions(bringing, name))
    return not found or any(store.by_number(rows, name, one.number) is not None for one in found)


def _is_one(known: ModelVersion, version: FoundVersion) -> bool:
    more = known.metadata.get(OURS) or {}
    return bool(more.get(CREATED) == version.created and known.run_id == (version.run_id or known.run_id))


def bring(bringing: Bringing) -> None:
    """Every model; those with copies of other models' versions come last."""
    late = []
    for model in _models(bringing):
        if any(_VERSION.match(one.source) for one in _versions(bringing, model.name)):
            late.append(model)
        else:
            _bring_model(bringing, model)
    for model in late:
        _bring_model(bringing, model)


def _bring_model(bringing: Bringing, model: FoundModel) -> None:
    tally, registry = bringing.tally, bringing.yard.registry
    tally.there["registered models"] += 1
    tally.there["aliases"] += len(model.aliases)
    try:
        known = _model(bringing, model)
    except Invalid as error:
        lost = sum(1 for _ in _versions(bringing, model.name))
        tally.there["versions"] += lost
        tally.reason("registered models", f"{model.name!r:.150}: {error}")
        return
    tally.here["registered models"] += 1
    for version in _versions(bringing, model.name):
        tally.there["versions"] += 1
        try:
            _version(bringing, model, version)
        except (Invalid, Conflict) as error:
            tally.reason("versions", f"{model.name} {version.number}: {error}")
    bringing.progress()
    for alias, number in model.aliases.items():
        try:
            here = registry.get_by_alias(known.name, alias).number if alias in known.aliases else None
            if here is None and _set_alias(bringing, model.name, alias, number):
                tally.new["aliases"] += 1
                here = number
            if here == number:
                tally.here["aliases"] += 1
            elif here is not None:
                tally.reason("aliases", f"{alias} of {model.name} points at {number} there and at {here} here.")
        except (YardError, OSError) as error:
            tally.reason("aliases", f"{alias} of {model.name}: {error}")


def _model(bringing: Bringing, model: FoundModel) -> RegisteredModel:
    registry = bringing.yard.registry
    try:
        return registry.get_registered_model(model.name)
    except NotFound:
        pass
    there = bringing.names[model.name]
    if there != model.name:
        bringing.tally.note(f"The model {there!r} is called {model.name} here, where names are plainer.")
    named = {NAME_TAG: there} if there != model.name else {}
    tags = _tags(bringing, f"model {model.name}", {**model.tags, **named})
    made = registry.create_model(model.name, bringing.user, description=model.description, tags=list(tags))
    bringing.tally.new["registered models"] += 1
    return made


def _tags(bringing: Bringing, whose: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    """The tags as the registry keeps them, without those that it does not take."""
    kept = []
    for key, value in tags.items():
        try:
            checks.checked_value(value, checks.checked_key(key))
        except Invalid as error:
            bringing.tally.note(f"A tag of {whose} was left out: {error}")
            continue
        kept.append(checks.tag_text(key, value))
    return tuple(kept)


def _version(bringing: Bringing, model: FoundModel, version: FoundVersion) -> None:
    with bringing.yard.store.reading() as rows:
        known = store.by_number(rows, model.name, version.number)
        gone = known is None and store_models.last_number(rows, model.name) >= version.number
    if gone:
        bringing.tally.reason("versions", f"{model.name} {version.number} was removed here.")
        return
    if known is None:
        known = _register(bringing, version)
        bringing.tally.new["versions"] += 1
    if known.stage is ModelStage.DEVELOPMENT and known.updated_at == known.created_at:
        _move(bringing, known, version.stage)  # also after an import that was cut short here; not what somebody touched
    bringing.tally.here["versions"] += 1


def _register(bringing: Bringing, version: FoundVersion) -> ModelVersion:
    whose = f"{version.name} {version.number}"
    source = _source(bringing, version)
    draft = admitting.drafted(bringing.yard, source, bringing.user)
    if source.quarantined:
        bringing.tally.note(f"{whose} is in quarantine: {source.quarantined[0]}")
    elif not draft.digest:
        bringing.tally.note(f"{whose} has no bytes here ({version.source}), so it is never promoted.")
    tags = dict(version.tags)
    if version.stage.lower() in STAGES:
        tags[STAGE_TAG] = version.stage
    if source.quarantined:
        tags[admitting.ADMISSION] = "quarantined"
    notes = admitting.noted(source) | {CREATED: version.created}
    if version.run_link:
        notes["run_link"] = version.run_link
    return bringing.yard.registry.register_numbered(
        replace(
            draft,
            name=version.name,
            number=version.number,
            tags=_tags(bringing, whose, tags),
            description=version.description,
            metadata={OURS: notes},
        )
    )


def _source(bringing: Bringing, version: FoundVersion) -> Source:
    """Where a version's files lie here, if what they belong to has come over."""
    copied = _VERSION.match(version.source)
    if copied is not None:
        return _copy(bringing, version, copied[1], int(copied[2]))
    found = Source(version.source, version.run_id, version.model_id)
    of_model = _OF_MODEL.search(version.source)
    logged = _LOGGED.match(version.source)
    inner = ""
    if logged is not None:
        found.model_id = found.model_id or logged[1]
    elif of_model is not None:
        found.model_id, inner = found.model_id or of_model[1], of_model[2] or ""
    elif version.run_id:
        _, mark, inner = version.source.partition(f"/{version.run_id}/artifacts")
        if not mark:
            _, mark, inner = version.source.partition(f"runs:/{version.run_id}")
        run = admitting.run_of(bringing.yard, version.run_id) if mark else None
        return _placed(found, run.artifact_uri if run is not None else "", inner)
    model = admitting.logged_model_of(bringing.yard, found.model_id) if found.model_id else None
    if model is not None:
        found.run_id = found.run_id or model.source_run_id or ""
    return _placed(found, model.artifact_location if model is not None else "", inner)


def _placed(found: Source, root: str, inner: str) -> Source:
    if not root.startswith("mlflow-artifacts:/"):
        found.location = found.source
        return found
    inner = unquote(inner) if urlsplit(found.source).scheme == "file" else inner
    found.path = f"{root.removeprefix('mlflow-artifacts:/').strip('/')}/{inner.strip('/')}".rstrip("/")
    if not found.source.startswith(("models:", "runs:")):
        found.source = f"mlflow-artifacts:/{found.path}"
    return found


def _copy(bringing: Bringing, version: FoundVersion, name: str, number: int) -> Source:
    try:
        known: ModelVersion = bringing.yard.registry.version_by_number(name_here(name), number)
    except NotFound:
        return Source(version.source, version.run_id, version.model_id, location=version.source)
    more = known.metadata.get(OURS) or {}
    return Source(
        source=version.source,
        run_id=known.run_id,
        model_id=more.get("model_id", ""),
        location="" if known.digest else more.get("location") or known.source,
        digest=known.digest,
        size=known.size,
        framework=known.framework,
        quarantined=tuple(more.get("findings", ())),
        known=known,
    )


def _move(bringing: Bringing, known: ModelVersion, stage: str) -> None:
    """Move a version to its former stage where no policy asks for an approval; else its tag tells of the stage."""
    target = STAGES.get(stage.lower())
    if target is None:
        return
    registry = bringing.yard.registry
    if target is ModelStage.ARCHIVED:
        registry.archive(known.name, known.version, bringing.user)
    elif known.digest and not registry.policy_of(known.name, target).protected:
        try:
            registry.transition(known.name, known.version, target, bringing.user)
        except YardError as error:
            bringing.tally.note(f"{known.name} {known.number} was {stage}, and is in development here: {error}")
    else:
        bringing.tally.note(
            f"{known.name} {known.number} was {stage}, and is in development here: ask for approval with modelyard registry "
            f"request-promotion {known.name} {known.version} {target.value}"
        )


def _set_alias(bringing: Bringing, name: str, alias: str, number: int) -> bool:
    """Point an alias at a version; False, and a reason, for a protected one whose version is not in production."""
    registry = bringing.yard.registry
    version = registry.version_by_number(name, number)
    protected = alias == rules.CHAMPION and version.stage is not ModelStage.PRODUCTION
    if protected and registry.policy_of(name, ModelStage.PRODUCTION).protected:
        bringing.tally.reason(
            "aliases",
            f"{alias} of {name} ({number}) is kept for versions in production. Approve it, then set the alias.",
        )
        return False
    registry.set_alias(name, alias, version.version, user=bringing.user)
    return True
