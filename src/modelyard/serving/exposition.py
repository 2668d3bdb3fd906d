"""Metric families as text for Prometheus: the exposition format 0.0.4, and OpenMetrics 1.0 for whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelyard.serving.replies import TEXT

OPEN_METRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Labels = Mapping[str, object]


@dataclass(slots=True)
class Family:
    """One metric: its name without a suffix, its kind, what it tells, and its samples (suffix, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)

    def add(self, value: float, **labels: object) -> Family:
        """A counter's or gauge's value."""
        self.samples.append(("_total" if self.kind == COUNTER else "", labels, value))
        return self

    def spread(self, edges: Sequence[float], counts: Iterable[int], total: float, **labels: object) -> Family:
        """A histogram: how many values fell into each bucket (one more than there are edges), and their sum."""
        within = 0
        for edge, count in zip((*map(_number, edges), "+Inf"), counts, strict=True):
            within += int(count)
            self.samples.append(("_bucket", {**labels, "le": edge}, within))
        self.samples += [("_sum", labels, total), ("_count", labels, within)]
        return self


def accepted(accept: bytes) -> bytes:
    """The content type for a scraper that accepts these."""
    return OPEN_METRICS if b"application/openmetrics-text" in accept else TEXT


def text(families: Iterable[Family], kind: bytes = TEXT) -> str:
    """The families in that content type."""
    opened = kind == OPEN_METRICS
    lines = []
    for family in families:
        name = family.name if opened or family.kind != COUNTER else f"{family.name}_total"
        lines += [f"# HELP {name} {_escaped(family.help)}", f"# TYPE {name} {family.kind}"]
        lines += [f"{family.name}{end}{_labels(labels)} {_number(value)}" for end, labels, value in family.samples]
    return "\n".join([*lines, *(["# EOF"] if opened else [])]) + "\n"


def _number(value: float) -> str:
    """An integer as such, else the shortest text that says the same."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**63 else repr(float(value))


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(str(value)).replace(chr(34), chr(92) + chr(34))}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")
