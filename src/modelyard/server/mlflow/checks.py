"""MLflow's own limits and names, refused with the messages that its clients and their tests know."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from urllib.parse import unquote

from modelyard.core.errors import Invalid
from modelyard.server.mlflow.errors import Refused
from modelyard.server.mlflow.fields import as_integer
from modelyard.tracking.files import checked_path

KEY = 250
PARAMETER, TAG, EXPERIMENT_TAG, MODEL_TAG = 6_000, 8_000, 20_000, 100_000
EXPERIMENT_NAME, ALIAS = 500, 255
METRICS, ENTRIES, TOGETHER = 1_000, 100, 1_000
RESULTS = 50_000
_NAME = re.compile(r"[/\w.\- :]*\Z")
_RUN = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}\Z")
_ALIAS = re.compile(r"[\w\-]*\Z")
_CHARACTERS = "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."
_DECODINGS = 10


def invalid(path: str, value: object, why: str = "") -> str:
    """What MLflow says of a wrong value of a parameter."""
    told = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"Invalid value {told} for parameter '{path}' supplied{f': {why}' if why else '.'}"


def name(key: str, path: str) -> str:
    """The key itself if metrics, parameters and tags may have it."""
    if not _NAME.match(key):
        raise Refused(invalid(path, key, _CHARACTERS))
    return still(key, path)


def still(key: str, path: str) -> str:
    """The key itself if it is the same name as a path of a file."""
    norm = posixpath.normpath(key)
    if norm != key or norm == "." or norm.startswith(("..", "/")):
        why = (
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as such."
        )
        raise Refused(invalid(path, key, f"{why} This name would resolve to {norm!r}"))
    return key


def length(text: str, longest: int, what: str) -> str:
    """The text itself if it is not too long."""
    if len(text) > longest:
        raise Refused(f"'{what}' exceeds the maximum length of {longest} characters")
    return text


def metric_key(key: str, path: str = "name") -> str:
    """The key itself if a metric may have it."""
    return length(name(key, path), KEY, "Metric name")


def metric_moment(key: str, value: float, timestamp: int) -> int:
    """The time itself if it is not before 1970."""
    if timestamp < 0:
        why = f"metric '{key}' (value={value}). Timestamp must be a nonnegative long (64-bit integer) "
        raise Refused(invalid("timestamp", timestamp, why))
    return timestamp


def parameter(key: str, value: str, path: str = "key") -> tuple[str, str]:
    """The parameter, its value shortened if it is too long, as MLflow's own server does by default."""
    return length(name(key, path), KEY, "Param key"), value[:PARAMETER]


def run_tag(key: str, value: str, path: str = "") -> tuple[str, str]:
    """The tag of a run, its value shortened if it is too long."""
    told = f"{path}.key" if path else "key"
    return length(name(key, told), KEY, told), value[:TAG]


def tags(given: Mapping[str, str], longest: int) -> dict[str, str]:
    """The tags of an experiment, a model or a version."""
    for key, value in given.items():
        length(name(key, "key"), KEY, "key")
        length(value, longest, "value")
    return dict(given)


def run_id(run: str) -> str:
    """The id itself if a run may have it."""
    if not _RUN.match(run):
        raise Refused(invalid("run_id", run))
    return run


def experiment_id(experiment: str) -> str:
    """The id itself if it is a number."""
    text = experiment.strip()
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise Refused(f"Invalid experiment ID '{experiment}'. Experiment ID must be a valid integer.")
    return str(int(text))


def batch(metrics: int, parameters: int, tags: int) -> None:
    """Refused if there is more in a batch than MLflow takes."""
    for what, limit, count in (
        ("metrics", METRICS, metrics),
        ("params", ENTRIES, parameters),
        ("tags", ENTRIES, tags),
        ("metrics, params, and tags", TOGETHER, metrics + parameters + tags),
    ):
        if count > limit:
            raise Refused(
                f"A batch logging request can contain at most {limit} {what}. Got {count} {what}. "
                f"Please split up {what} across multiple requests and try again."
            )


def model_name(model: str, path: str = "name") -> str:
    """The name itself if MLflow lets a model have it."""
    if not model.strip():
        raise Refused(f"Missing value for required parameter '{path}'.")
    if "/" in model or ":" in model:
        raise Refused(f"Invalid model name '{model}'. Names cannot contain '/' or ':'.")
    return still(model, "name")


def version_number(version: str) -> int:
    """The number that a version is asked for by."""
    try:
        return as_integer(version)
    except ValueError:
        raise Refused(f"Parameter 'version' must be an integer, got '{version}'.") from None


def alias(given: str) -> str:
    """The alias itself if MLflow lets a version have it."""
    if not _ALIAS.match(given):
        raise Refused(
            f"Invalid alias name: '{given}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
        )
    length(given, ALIAS, "Registered model alias name")
    if given.lower() == "latest":
        raise Refused("'latest' alias name (case insensitive) is reserved.")
    if re.fullmatch(r"[vV]\d+", given):
        raise Refused(f"Version alias name '{given}' is reserved.")
    return given


def results(count: int, most: int = RESULTS) -> int:
    """The size of a page itself if it may be asked for."""
    if count < 1:
        raise Refused(f"Invalid value {count} for parameter 'max_results' supplied. It must be a positive integer")
    if count > most:
        raise Refused(f"Invalid value {count} for parameter 'max_results' supplied. It must be at most {most}")
    return count


def artifact_path(path: str) -> str:
    """The path of a file below the artifact root, refused unless it stays there however often it is decoded.

    What the server decoded once is what is looked up; further decodings are only looked at (CVE-2023-6977, CVE-2024-3848).

    >>> artifact_path("1/ab12/artifacts/model/MLmodel")
    '1/ab12/artifacts/model/MLmodel'
    >>> artifact_path("1/%252e%252e/secret")
    Traceback (most recent call last):
    modelyard.server.mlflow.errors.Refused: Invalid path
    """
    try:
        found = checked_path(path)
        seen = path
        for _ in range(_DECODINGS):
            further = unquote(seen)
            if further == seen:
                break
            seen = checked_path(further)
        else:
            raise Refused("Invalid path")
    except Invalid as error:
        raise Refused("Invalid path") from error
    if "#" in seen or re.match(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:/", seen):
        raise Refused("Invalid path")
    return found
