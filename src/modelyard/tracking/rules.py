"""What may be logged and what follows from it: names, limits, the latest value of a metric, the digest of a record."""

from __future__ import annotations

import posixpath
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from modelyard.core.canonical import digest
from modelyard.core.errors import Invalid, nearest
from modelyard.tracking.values import RUN_NAME, Dataset, DatasetInput, Point, Run

E = TypeVar("E", bound=Enum)

LONGEST_KEY = 250
LONGEST_PARAMETER = 6_000
LONGEST_TAG = 8_000
LONGEST_EXPERIMENT_TAG = 20_000
LONGEST_EXPERIMENT_NAME = 500
LONGEST_LOCATION = 2_048
LONGEST_DATASET = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}
LONGEST_INPUT_TAG_KEY, LONGEST_INPUT_TAG = 255, 500
INTEGER = 2**63  # timestamps and steps are 64-bit integers
_KEY = re.compile(r"[/\w.\- :]+\Z")
_NOT_IN_MODEL_NAMES = frozenset("/:.%\"'")
# fmt: off
_ADJECTIVES = (
    "able", "amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "crisp", "deft", "eager",
    "early", "fair", "fine", "fresh", "gentle", "glad", "golden", "keen", "kind", "lively", "lucid", "lunar",
    "mellow", "merry", "neat", "nimble", "noble", "polar", "proud", "quick", "quiet", "rapid", "ready", "sharp",
    "silent", "sleek", "smart", "solar", "solid", "steady", "sunny", "swift", "tidy", "vivid", "warm", "wise",
    "witty", "zesty",
)
_NOUNS = (
    "badger", "bass", "bear", "beaver", "bee", "birch", "cedar", "cod", "colt", "crab", "crane", "cricket", "deer",
    "dove", "duck", "eagle", "elm", "falcon", "fern", "finch", "fox", "frog", "gull", "hare", "hawk", "heron",
    "ibex", "kite", "lark", "lynx", "maple", "mole", "moose", "moth", "oak", "otter", "owl", "perch", "pine",
    "quail", "ram", "ray", "robin", "seal", "stag", "stork", "swan", "trout", "whale", "wren",
)
# fmt: on


def run_name() -> str:
    """A name for a run that was given none: easy to say and to tell from others.

    >>> len(run_name().split("-"))
    3
    """
    return f"{random.choice(_ADJECTIVES)}-{random.choice(_NOUNS)}-{random.randrange(1000)}"  # noqa: S311 - a label


def named_tags(name: str, tags: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A new run's name and its tags with it: as given, as the tag says, or made up. Invalid if the two differ.

    >>> named_tags("one", {})
    ('one', {'mlflow.runName': 'one'})
    """
    told = tags.get(RUN_NAME, "")
    if name and told and name != told:
        raise Invalid(f"The run is called {name!r} and its tag {RUN_NAME} says {told!r}. Give one of them.")
    name = name or told or run_name()
    return name, {RUN_NAME: name, **tags}


def checked_key(key: str, what: str) -> str:
    """The key itself if it is a good name of a metric, parameter or tag.

    >>> checked_key("val/loss", "metric")
    'val/loss'
    >>> checked_key("../loss", "metric")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: '../loss' is no name of a metric. ...
    """
    if (
        not isinstance(key, str)
        or len(key) > LONGEST_KEY
        or not _KEY.match(key)
        or posixpath.normpath(key) != key
        or key.startswith(("..", "/"))
        or key == "."
    ):
        raise Invalid(
            f"{key!r:.300} is no name of a {what}. Use 1 to {LONGEST_KEY} letters, digits, spaces and _ - . : / without "
            "an empty, . or .. part between slashes."
        )
    return key


def checked_texts(texts: Mapping[str, str], what: str, longest: int) -> dict[str, str]:
    """The entries themselves if keys and texts are good."""
    for key, text in texts.items():
        checked_key(key, what)
        checked_text(text, f"The {what} {key!r}", longest)
    return dict(texts)


def checked_text(text: str, what: str, longest: int) -> str:
    """The text itself if it is one and not too long."""
    if not isinstance(text, str):
        raise Invalid(f"{what} is {text!r:.100}, which is no text. Write it as text.")
    if len(text) > longest:
        raise Invalid(f"{what} has {len(text):,} characters; at most {longest:,} are kept. Log it as a file.")
    if "\0" in text:
        raise Invalid(f"{what} has a null character. Leave it out.")
    return text


def parameter_text(value: Any) -> str:
    """A parameter as the text it is kept as.

    >>> parameter_text(0.1), parameter_text(True)
    ('0.1', 'True')
    """
    return value if isinstance(value, str) else str(value)


def checked_experiment_name(name: str) -> str:
    """The name itself if it is a good one."""
    if not isinstance(name, str) or not name.strip():
        raise Invalid(f"{name!r} is no name of an experiment. Give it a text.")
    return checked_text(name, "The name of the experiment", LONGEST_EXPERIMENT_NAME)


def checked_location(location: str) -> str:
    """The place itself if files of runs may lie there."""
    if checked_text(location, "artifact_location", LONGEST_LOCATION).startswith("runs:"):
        raise Invalid(f"artifact_location is {location!r}; a run's files cannot lie in a run. Give a folder or a URL.")
    return location


def checked_model_name(name: str) -> str:
    """The name itself if a logged model may have it."""
    checked_text(name, "The name of the model", LONGEST_EXPERIMENT_NAME)
    if not name or _NOT_IN_MODEL_NAMES & set(name):
        raise Invalid(f"{name!r} is no name of a logged model. Leave out / : . % and quotes.")
    return name


def checked_time(moment: int | None, what: str) -> int | None:
    """The time itself if it is whole milliseconds of 64 bits."""
    if moment is not None and (type(moment) is not int or not -INTEGER <= moment < INTEGER):
        raise Invalid(f"{what} is {moment!r}. Give whole milliseconds since 1970.")
    return moment


def experiment_number(experiment_id: str) -> int:
    """The number that an experiment's id spells.

    >>> experiment_number("7")
    7
    """
    text = str(experiment_id)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid(f"{experiment_id!r:.100} is no experiment id. Ids are numbers such as 0; names have get_by_name.")
    return int(text)


def metric_rows(run: int, points: Iterable[Point]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a batch of (key, value, timestamp, step), and the latest of each key among them.

    The latest has the highest (step, timestamp, value), and a value that is not a number counts as 0 there; so it is in
    MLflow, whose clients compare. This is the loop that every metric passes: it makes one mapping each and no more.
    """
    try:
        return _rows(run, points)
    except Invalid:
        raise
    except (TypeError, ValueError) as error:  # no tuple of four, or a key that cannot be one
        raise Invalid(f"Metrics are tuples (key, value, timestamp, step): {error}.") from error


def _rows(run: int, points: Iterable[Point]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    for key, value, timestamp, step in points:
        number = value if type(value) is float else _number(key, value)
        if type(timestamp) is not int or type(step) is not int or not (0 <= timestamp < INTEGER > step >= -INTEGER):
            raise Invalid(_no_moment(key, timestamp, step))
        is_nan = number != number  # noqa: PLR0124 - the test for not-a-number that calls nothing
        row = {
            "run": run,
            "key": key,
            "timestamp": timestamp,
            "step": step,
            "value": 0.0 if is_nan else number,
            "is_nan": int(is_nan),
        }
        rows.append(row)
        known = latest.get(key)
        if known is None:
            latest[checked_key(key, "metric")] = row
        elif (step, timestamp, row["value"]) > (known["step"], known["timestamp"], known["value"]):
            latest[key] = row
    return rows, list(latest.values())


def _number(key: Any, value: Any) -> float:
    """The value of a metric as a float: an int, a NumPy number."""
    try:
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise Invalid(f"The metric {key!r} has the value {value!r:.100}. Give a number.") from None


def _no_moment(key: Any, timestamp: Any, step: Any) -> str:
    return (
        f"The metric {key!r} has the time {timestamp!r} and the step {step!r}. Give whole numbers of 64 bits: milliseconds "
        "since 1970, not negative, and a step."
    )


def checked_dataset(used: DatasetInput) -> DatasetInput:
    """The dataset itself if its texts are there and not too long."""
    dataset: Dataset = used.dataset
    for name, longest in LONGEST_DATASET.items():
        text = getattr(dataset, name)
        if text is not None:
            checked_text(text, f"The {name} of the dataset", longest)
    if not dataset.name or not dataset.digest:
        raise Invalid("A dataset needs a name and a digest. Give both.")
    for key, text in used.tags.items():
        checked_text(key, "A dataset's tag", LONGEST_INPUT_TAG_KEY)
        checked_text(text, f"The dataset's tag {key!r}", LONGEST_INPUT_TAG)
    return used


def record_digest(run: Run) -> str:
    """The SHA-256 over what a run was given and measured: its name, status, times, parameters, tags, latest metrics,
    datasets and models. Numbers go in as Python writes them, since JSON has no infinities."""
    return digest(
        {
            "run_id": run.run_id,
            "experiment_id": run.experiment_id,
            "name": run.name,
            "status": run.status,
            "start_time": str(run.start_time),
            "end_time": str(run.end_time),
            "params": run.params,
            "tags": run.tags,
            "metrics": [
                [m.key, repr(m.value), str(m.timestamp), str(m.step)]
                for m in sorted(run.latest_metrics, key=lambda metric: metric.key)
            ],
            "datasets": sorted([d.dataset.name, d.dataset.digest] for d in run.datasets),
            "model_inputs": sorted(run.model_inputs),
            "model_outputs": sorted([m.model_id, str(m.step)] for m in run.model_outputs),
        }
    )


def one_of(name: str, known: Sequence[str], what: str) -> str:
    """The name itself if it is a known one; Invalid, with the nearest, if not."""
    if name not in known:
        raise Invalid(f"{name!r:.100} is no {what}. {nearest(name, list(known))}")
    return name


def chosen(kind: type[E], value: E | str) -> E:
    """The member of an enumeration that a value names; Invalid, with the nearest, if none."""
    try:
        return kind(value)
    except ValueError:
        known = [str(member.value) for member in kind]
        raise Invalid(f"{value!r:.100} is no {kind.__name__}. {nearest(str(value), known)}") from None
