"""What the registry decides: versions and their order, transitions, who may approve, which version is better."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Invalid, nearest
from modelyard.core.ids import checked_name
from modelyard.core.instants import Instant
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.refs import SemVer

CHAMPION = "champion"  # the version that serves; it may only be one in production
TEXT_LIMIT = 10_000
WORD_LIMIT = 256
ENTRIES_LIMIT = 1_000
PAGE_LIMIT = 10_000

# Upwards only with an approval; downwards freely. Restoring starts at the bottom, so that production is approved anew.
PROMOTIONS: Mapping[ModelStage, frozenset[ModelStage]] = {
    ModelStage.DEVELOPMENT: frozenset({ModelStage.STAGING, ModelStage.PRODUCTION}),
    ModelStage.STAGING: frozenset({ModelStage.PRODUCTION}),
    ModelStage.PRODUCTION: frozenset(),
    ModelStage.ARCHIVED: frozenset(),
}
DEMOTIONS: Mapping[ModelStage, frozenset[ModelStage]] = {
    ModelStage.DEVELOPMENT: frozenset({ModelStage.ARCHIVED}),
    ModelStage.STAGING: frozenset({ModelStage.DEVELOPMENT, ModelStage.ARCHIVED}),
    ModelStage.PRODUCTION: frozenset({ModelStage.STAGING, ModelStage.DEVELOPMENT, ModelStage.ARCHIVED}),
    ModelStage.ARCHIVED: frozenset({ModelStage.DEVELOPMENT}),
}
LOWER_IS_BETTER = frozenset(
    [
        "brier",
        "calibration",
        "cost",
        "crossentropy",
        "deviance",
        "ece",
        "error",
        "errors",
        "fdr",
        "fnr",
        "fpr",
        "gap",
        "hinge",
        "latency",
        "logloss",
        "loss",
        "mae",
        "mape",
        "mase",
        "medae",
        "memory",
        "mse",
        "msle",
        "nll",
        "perplexity",
        "pinball",
        "rmse",
        "rmsle",
        "size",
        "smape",
        "time",
        "wape",
    ]
)


class RequestStatus(Enum):
    """How far a promotion request has come."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    VOID = "void"  # what was to be approved changed, or is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One person's yes."""

    approver: str
    comment: str
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRequest:
    """A request to move one version, with exactly these bytes and figures, to a stage.

    `digest` is the artifact's; `evidence` is the digest of the version's metrics and parameters when it was asked.
    """

    request_id: str
    name: str
    version: str
    from_stage: ModelStage
    target_stage: ModelStage
    digest: str
    evidence: str
    requested_by: str
    justification: str
    reviewers: tuple[str, ...]
    quorum: int
    status: RequestStatus
    created_at: Instant
    decided_at: Instant | None = None
    reason: str = ""
    approvals: tuple[Approval, ...] = ()


ALLOW = Decision(verdict=Verdict.ALLOW)


def refuse(reason: str) -> Decision:
    """A refusal with its reason."""
    return Decision(verdict=Verdict.REFUSE, reasons=(reason,))


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


def checked_person(person: str, what: str) -> str:
    """The person's name if there is one."""
    if not isinstance(person, str) or not person.strip() or len(person) > WORD_LIMIT or not person.isprintable():
        raise Invalid(f"{what} is {person!r}. Name a person, for example ana@example.com.")
    return person


def folded(person: str) -> str:
    """One form for all spellings of a person's name, so that nobody becomes another by writing it differently.

    >>> folded(" Ana@Example.com") == folded("ana@example.com")
    True
    """
    return unicodedata.normalize("NFKC", person).casefold().strip()


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


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, sorted, each once."""
    if isinstance(tags, str):
        raise Invalid(f"tags is the text {tags!r:.80}. Pass a list, for example ['fraud', 'team=risk'].")
    found = sorted({tag if isinstance(tag, str) else repr(tag) for tag in tags})
    for tag in found:
        if not tag.strip() or len(tag) > WORD_LIMIT or not tag.isprintable():
            raise Invalid(f"{tag!r:.80} is no tag. Use 1 to {WORD_LIMIT} printable characters.")
    if len(found) > ENTRIES_LIMIT:
        raise Invalid(f"There are {len(found):,} tags; {ENTRIES_LIMIT:,} are allowed.")
    return tuple(found)


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


def may_request(model: ModelVersion, target: ModelStage) -> Decision:
    """Whether a promotion of the version to the stage can be asked for."""
    if target in PROMOTIONS[model.stage]:
        return ALLOW
    allowed = sorted(stage.value for stage in PROMOTIONS[model.stage])
    hint = f"Ask for {' or '.join(allowed)}." if allowed else "Restore it to development first."
    if model.stage is ModelStage.PRODUCTION:
        hint = "Demote or archive it without a request."
    return refuse(f"{model.name} {model.version} cannot be promoted from {model.stage.value} to {target.value}. {hint}")


def may_demote(model: ModelVersion, target: ModelStage) -> Decision:
    """Whether the version may be moved to the stage without an approval."""
    if target in DEMOTIONS[model.stage]:
        return ALLOW
    if target in PROMOTIONS[model.stage]:
        return refuse(
            f"{model.name} {model.version} needs an approval to move from {model.stage.value} to {target.value}. "
            f"Ask for one: modelyard registry request-promotion {model.name} {model.version} {target.value}"
        )
    return refuse(f"{model.name} {model.version} cannot be moved from {model.stage.value} to {target.value}.")


def barred(model: ModelVersion, requested_by: str) -> dict[str, str]:
    """Who may not approve, by folded name, and why: nobody approves their own work."""
    found = {folded(model.trained_by): "trained it"} if model.trained_by else {}
    found[folded(model.created_by)] = "registered it"
    found[folded(requested_by)] = "asked for the promotion"
    return found


def check_reviewers(model: ModelVersion, requested_by: str, reviewers: tuple[str, ...], quorum: int) -> None:
    """Invalid unless enough of the named reviewers may approve."""
    if type(quorum) is not int or quorum < 1:
        raise Invalid(f"quorum is {quorum!r}. Pass the number of approvals needed, 1 or more.")
    able = {folded(reviewer) for reviewer in reviewers} - barred(model, requested_by).keys()
    if reviewers and len(able) < quorum:
        raise Invalid(
            f"{len(able)} of the reviewers named may approve {model.name} {model.version}, and {quorum} must. "
            "Name others: who asked, registered or trained cannot approve."
        )


def may_decide(request: PromotionRequest, model: ModelVersion, person: str) -> Decision:
    """Whether the person may approve or reject the request."""
    why = barred(model, request.requested_by).get(folded(person))
    if why is not None:
        return refuse(f"{person} {why}, and cannot decide on {request.name} {request.version}. Ask another reviewer.")
    if request.reviewers and folded(person) not in {folded(reviewer) for reviewer in request.reviewers}:
        return refuse(
            f"{person} is no reviewer of {request.name} {request.version}. Reviewers: {', '.join(request.reviewers)}."
        )
    return ALLOW


def may_withdraw(request: PromotionRequest, person: str) -> Decision:
    """Whether the person may take the request back."""
    if folded(person) == folded(request.requested_by):
        return ALLOW
    return refuse(f"Only {request.requested_by} may withdraw the promotion of {request.name} {request.version}.")


def still_stands(request: PromotionRequest, model: ModelVersion, evidence: str) -> Decision:
    """Whether the version is still what the request was made for."""
    what = f"{request.name} {request.version}"
    if model.digest != request.digest:
        return refuse(f"The bytes of {what} changed since its promotion was asked for. Ask again.")
    if evidence != request.evidence:
        return refuse(f"The metrics or parameters of {what} changed since its promotion was asked for. Ask again.")
    if model.stage is not request.from_stage:
        return refuse(f"{what} moved to {model.stage.value} since its promotion was asked for. Ask again.")
    return ALLOW


def may_be_champion(model: ModelVersion) -> Decision:
    """Whether the champion alias may point at the version: only production is approved to serve."""
    if model.stage is ModelStage.PRODUCTION:
        return ALLOW
    return refuse(
        f"{model.name} {model.version} is in {model.stage.value}; only a production version can be the champion. "
        f"Ask for a promotion: modelyard registry request-promotion {model.name} {model.version} production"
    )


def may_delete(model: ModelVersion) -> Decision:
    """Whether the version may be deleted."""
    if model.stage is ModelStage.PRODUCTION:
        return refuse(f"{model.name} {model.version} is in production. Demote or archive it before deleting it.")
    if model.aliases:
        return refuse(
            f"{model.name} {model.version} has the alias {model.aliases[0]}. Move the alias to another version first."
        )
    return ALLOW


def higher_is_better(metric: str) -> bool:
    """False for losses, errors, times, rates of failure and sizes, by the words of the metric's name.

    >>> [higher_is_better(name) for name in ("val_accuracy", "log_loss", "rmse", "latency_p95_ms")]
    [True, False, False, False]
    """
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", metric).lower())
    return not LOWER_IS_BETTER.intersection(words)


def compare(first: ModelVersion, second: ModelVersion) -> dict[str, Any]:
    """Differences between two versions, and the winner: better in at least one shared metric and worse in none."""
    shared = sorted(first.metrics.keys() & second.metrics.keys())
    figures = {name: _figure(name, first, second) for name in shared}
    winners = {figure["winner"] for figure in figures.values()} - {None}
    keys = sorted(first.parameters.keys() | second.parameters.keys())
    return {
        "name": first.name,
        "version1": first.version,
        "version2": second.version,
        "metrics_comparison": figures,
        "only_in_version1": sorted(first.metrics.keys() - second.metrics.keys()),
        "only_in_version2": sorted(second.metrics.keys() - first.metrics.keys()),
        "parameter_differences": {
            key: {"version1": first.parameters.get(key), "version2": second.parameters.get(key)}
            for key in keys
            if first.parameters.get(key) != second.parameters.get(key)
        },
        "same_bytes": first.digest == second.digest,
        "winner": winners.pop() if len(winners) == 1 else None,
        "winner_rule": "better in at least one shared metric and worse in none",
    }


def _figure(name: str, first: ModelVersion, second: ModelVersion) -> dict[str, Any]:
    one, two = first.metrics[name], second.metrics[name]
    up = higher_is_better(name)
    better = None if one == two else (second if (two > one) == up else first).version
    return {
        "version1": one,
        "version2": two,
        "difference": two - one,
        "relative_difference": (two - one) / abs(one) if one else None,
        "higher_is_better": up,
        "winner": better,
    }
