"""What may be stored: names, versions and their order, people, tags, figures, texts."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid, nearest
from modelyard.core.ids import checked_name
from modelyard.core.models import ModelStage, ModelVersion, References
from modelyard.core.people import checked_person
from modelyard.core.refs import SemVer

TEXT_LIMIT = 10_000
WORD_LIMIT = 256
KEY_LIMIT = 250  # of a tag, and the next: MLflow's own limits
VALUE_LIMIT = 100_000
ENTRIES_LIMIT = 1_000
PAGE_LIMIT = 10_000
EXAMPLE_LIMIT = 100_000
NEXT = "next"  # in place of a version: the model's next number as one
WORDS_LIMIT, WORD_LENGTH = 2_000, 64  # what full-text search keeps of one version
_WORD = re.compile(r"[^\W_]+")


def canonical_version(version: str) -> str:
    """The version without its leading v: what is unique within a model.

    >>> canonical_version("v1.2.0-rc.1+b7")
    '1.2.0-rc.1+b7'
    """
    return SemVer.parse(version).text.removeprefix("v")


def sort_key(version: str) -> str:
    """A text that sorts, byte by byte, as semantic versions do (semver.org, item 11).

    Numbers carry their length first; a release ends in `~`, which lies behind every pre-release.

    >>> sort_key("1.10.0") > sort_key("1.9.0") > sort_key("1.9.0-rc.1") > sort_key("1.9.0-alpha")
    True
    """
    parsed = SemVer.parse(version)
    core = "".join(_number(number) for number in (parsed.major, parsed.minor, parsed.patch))
    if not parsed.pre:
        return core + "~"
    # Each identifier ends in `!`, which lies before every character of one: of a and a.b the shorter comes first.
    return core + "".join(("0" + _number(int(p)) if p.isdigit() else "1" + p) + "!" for p in parsed.pre)


def _number(number: int) -> str:
    digits = str(number)
    return f"{len(digits):03d}{digits}"


def checked_model_name(name: str) -> str:
    """The name itself if a model may have it; `@` is left to aliases.

    >>> checked_model_name("fraud@champion")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: 'fraud@champion' is no model name: @ marks an alias. ...
    """
    if "@" in checked_name(name, "model"):
        raise Invalid(f"{name!r} is no model name: @ marks an alias. Use a name without it.")
    return name


def checked_alias(alias: str) -> str:
    """The alias itself if it is a plain name that is not mistaken for a version."""
    if re.match(r"v?\d", checked_name(alias, "alias")) or "@" in alias or alias == "latest":
        raise Invalid(f"{alias!r} is no alias: it reads as a version. Use a word such as champion or challenger.")
    return alias


def checked_project(project: str) -> str:
    """The project's name if it is a plain one."""
    return checked_name(project, "project")


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as finite floats."""
    found: dict[str, float] = {}
    for key, value in _entries(metrics, "metrics").items():
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise Invalid(
                f"metrics[{key!r}] is {value!r:.80}. A metric is a finite number; leave it out if it is undefined."
            )
        found[key] = number
    return found


def split_tag(tag: str) -> tuple[str, str | None]:
    """A tag's key and value; a label is a key without a value.

    >>> split_tag("team=risk=high"), split_tag("risk"), split_tag("note=")
    (('team', 'risk=high'), ('risk', None), ('note', ''))
    """
    key, equals, value = tag.partition("=")
    return key, value if equals else None


def tag_text(key: str, value: str | None) -> str:
    """The tag as one text: `key` or `key=value`."""
    return key if value is None else f"{key}={value}"


def checked_key(key: str) -> str:
    """The key itself if a tag may have it."""
    if not isinstance(key, str) or not key.strip() or len(key) > KEY_LIMIT or not key.isprintable() or "=" in key:
        raise Invalid(f"{key!r:.80} is no tag's key. Use 1 to {KEY_LIMIT} printable characters without =.")
    return key


def checked_value(value: str | None, key: str) -> str | None:
    """The value itself if a tag may have it; None makes a label."""
    if value is None or (
        isinstance(value, str) and len(value) <= VALUE_LIMIT and "\0" not in value and _encodes(value)
    ):
        return value
    raise Invalid(f"The value of the tag {key} is no text of at most {VALUE_LIMIT:,} characters.")


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, sorted, each once; a key has one value."""
    if isinstance(tags, str):
        raise Invalid(f"tags is the text {tags!r:.80}. Pass a list, for example ['fraud', 'team=risk'].")
    found: dict[str, str] = {}
    for tag in tags:
        text = tag if isinstance(tag, str) else repr(tag)
        key, value = split_tag(text)
        checked_value(value, checked_key(key))
        if found.setdefault(key, text) != text:
            raise Invalid(f"The tag {key} is given twice: {found[key]:.80} and {text:.80}. A key has one value.")
    if len(found) > ENTRIES_LIMIT:
        raise Invalid(f"There are {len(found):,} tags; {ENTRIES_LIMIT:,} are allowed.")
    return tuple(sorted(found.values()))


def checked_entries(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Parameters or metadata: text keys, any JSON values."""
    return _entries(values, what)


def _entries(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise Invalid(f"{what} is a {type(values).__name__}. Pass a mapping, for example {{'accuracy': 0.96}}.")
    if len(values) > ENTRIES_LIMIT:
        raise Invalid(f"{what} has {len(values):,} entries; {ENTRIES_LIMIT:,} are allowed.")
    for key in values:
        if not isinstance(key, str) or not key.strip() or len(key) > WORD_LIMIT or not key.isprintable():
            raise Invalid(f"{what} has the key {key!r:.80}. Use 1 to {WORD_LIMIT} printable characters.")
    return dict(values)


def checked_text(text: str, what: str) -> str:
    """The text if it is one, is valid Unicode without NUL, and is not endless."""
    if not isinstance(text, str) or len(text) > TEXT_LIMIT or "\x00" in text or not _encodes(text):
        raise Invalid(f"{what} is no text of at most {TEXT_LIMIT:,} characters.")
    return text


def words_of(*texts: str) -> list[str]:
    """The distinct words of texts as full-text search compares them: folded, in order, at most 2,000.

    >>> words_of("Fraud_detector, v2", "fraud")
    ['fraud', 'detector', 'v2']
    """
    found: dict[str, None] = {}
    for text in texts:
        for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
            found[word[:WORD_LENGTH]] = None
            if len(found) == WORDS_LIMIT:
                return list(found)
    return list(found)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_limit(limit: int) -> int:
    """The limit itself if a page may have so many entries."""
    if type(limit) is not int or not 1 <= limit <= PAGE_LIMIT:
        raise Invalid(f"limit is {limit!r}. Pass 1 to {PAGE_LIMIT:,}, and page on from the last entry.")
    return limit


def references_of(values: Mapping[str, Any]) -> References:
    """The references that a mapping names.

    >>> references_of({"comit": "4f1d09c"})
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: references has no 'comit'. Did you mean commit? ...
    """
    known = [entry.name for entry in fields(References)]
    for key, value in checked_entries(values, "references").items():
        if key not in known:
            raise Invalid(f"references has no {key!r}. {nearest(key, known)}")
        if not isinstance(value, bool if key == "dirty" else str):
            raise Invalid(f"references[{key!r}] is {value!r:.80}. Pass a {'bool' if key == 'dirty' else 'text'}.")
    return References(**values)


def checked_environment(values: Mapping[str, Any]) -> dict[str, str]:
    """What a version ran with, by name: texts."""
    return {key: checked_text(value, f"environment[{key!r}]") for key, value in _entries(values, "environment").items()}


def checked_draft(draft: ModelVersion) -> ModelVersion:
    """The version before it is registered, with everything in it checked."""
    checked_model_name(draft.name)
    if draft.version != NEXT:
        canonical_version(draft.version)
    checked_person(draft.created_by, "created_by")
    if draft.trained_by:
        checked_person(draft.trained_by, "trained_by")
    checked_name(draft.framework, "framework")
    for name in (
        "description",
        "changelog",
        "training_data",
        "code_version",
        "run_id",
        "source",
        "parent",
    ):
        checked_text(getattr(draft, name), name)
    for name in ("repository", "commit", "data_digest", "lock_digest"):
        checked_text(getattr(draft.references, name), f"references.{name}")
    example = plain(draft.example)
    if len(dumps(example)) > EXAMPLE_LIMIT:
        raise Invalid(f"example has more than {EXAMPLE_LIMIT:,} characters as JSON. Keep a few rows of it.")
    commit = draft.references.commit + ("-dirty" if draft.references.dirty else "")
    return replace(
        draft,
        metrics=checked_metrics(draft.metrics),
        tags=checked_tags(draft.tags),
        parameters=plain(checked_entries(draft.parameters, "parameters")),
        metadata=plain(checked_entries(draft.metadata, "metadata")),
        environment=checked_environment(draft.environment),
        example=example,
        training_data=draft.training_data or draft.references.data_digest,
        code_version=draft.code_version or commit,
    )


def stage_of(stage: ModelStage | str) -> ModelStage:
    """The stage with that name.

    >>> stage_of("producton")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: There is no stage 'producton'. Did you mean production? ...
    """
    if isinstance(stage, ModelStage):
        return stage
    known = {one.value: one for one in ModelStage}
    if stage not in known:
        raise Invalid(f"There is no stage {stage!r}. {nearest(str(stage), list(known))}")
    return known[stage]
