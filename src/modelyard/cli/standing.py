"""An experiment that is watched, as a line or as a screen, and what to do next about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import fitting
from modelyard.core.instants import SYSTEM_CLOCK

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

WIDE = 24  # characters of a bar
Dropped = tuple[str | tuple[str, ...], ...]  # columns that a narrow terminal does not show, the first ones first
ARM_DROPPED: Dropped = ("p95 latency", "model", "planned", "success rate")
METRIC_DROPPED: Dropped = ("p at any look", ("control", "changed"), "role", "p of all (Holm)", "change")

Seen = Mapping[str, Any]


def line(now: Seen) -> str:
    """All of it in one line."""
    test, analysis = now["test"], now["analysis"]
    at = SYSTEM_CLOCK.now().strftime("%H:%M:%S")
    goals = [
        f"{row['metric']} of {row['treatment']} {row['change'] or '–'} ({row['interval'] or 'no interval yet'})"
        for row in rows(analysis)
        if row["role"] == "goal"
    ]
    return " | ".join([f"{at} {test['name']} {test['status']}", come(now), *goals, waits_for(now)])


def waits_for(now: Seen) -> str:
    """What it waits for, or how it ended."""
    if now.get("outage"):
        return f"not seen any more: {now['outage']}"
    test = now["test"]
    if test["ended_at"] is None:
        return str(now["analysis"]["conclusion"])
    how = f"{test['status']} with {test['winner']}" if test["winner"] else test["status"]
    return f"{how}: {test['conclusion']}" if test["conclusion"] else f"{how}. {now['analysis']['conclusion']}"


def kind(now: Seen) -> tuple[object, ...]:
    """What has to change for another line to be worth reading."""
    found = now["analysis"]
    verdicts = [row["verdict"] for row in rows(found)]
    return (
        now["test"]["status"],
        now["over"],
        now.get("outage"),
        found["winner"],
        found["sample_ratio"]["mismatch"],
        *verdicts,
    )


def won(now: Seen) -> bool:
    """Whether a treatment has won: as a person has concluded, or as is shown while it runs."""
    test, found = now["test"], now["analysis"]
    control = test["variants"][0]["name"]
    if test["ended_at"] is not None:
        return test["winner"] not in ("", control)
    sound = not (found["sample_ratio"]["mismatch"] or found["covariate_mismatch"])
    return sound and found["winner"] not in (None, control)


def todo(test_id: str, analysis: Seen, *, over: bool = False) -> str:
    """The command that comes next; none while there is nothing but to wait."""
    if analysis["status"] == "draft":
        return f"modelyard ab-testing start-test {test_id}"
    if analysis["status"] != "running":
        return ""
    if analysis["sample_ratio"]["mismatch"] or analysis["covariate_mismatch"]:
        return f"modelyard ab-testing stop-test {test_id} --reason '...'"
    control = next(iter(analysis["variants"]))
    winner = analysis["winner"] or (control if over else "")
    return f"modelyard ab-testing conclude-test {test_id} --winner {_word(winner)}" if winner else ""


def _word(name: str) -> str:
    return f"'{name}'" if " " in name else name


def come(now: Seen) -> str:
    """How many units have come, and how long it takes.

    >>> told = {"units": 300, "units_left": 100, "days": 3.0, "days_left": 1.0}
    >>> come({**told, "test": {"unit": "user", "planned_units": 400}})
    '300 of 400 units (user), day 4, about 1 day left'
    """
    test = now["test"]
    of = "" if test["planned_units"] is None else f" of {test['planned_units']:,}"
    unit = "" if test["unit"] == "unit" else f" ({test['unit']})"
    left = "" if not now["days_left"] else f", about {_long(now['days_left'])} left"
    return f"{now['units']:,}{of} units{unit}, day {int(now['days']) + 1}{left}"


def _long(days: float) -> str:
    """A length of time, to be understood rather than to be exact."""
    for size, name in ((1.0, "day"), (1 / 24, "hour"), (1 / 1440, "minute")):
        if days >= size:
            number = days / size
            shown = f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:,.0f}"
            return f"{shown} {name}{'' if shown == '1' else 's'}"
    return "a minute"


def picture(now: Seen, width: int = 120) -> Group:
    """A screen of it. What it means and what to do stand above, for a small screen is cut below."""
    from rich.console import Group
    from rich.text import Text

    analysis = now["analysis"]
    command = todo(now["test"]["test_id"], analysis, over=now["over"])
    several = len(analysis["comparisons"]) > 1
    dropped = METRIC_DROPPED if several else ("treatment", *METRIC_DROPPED)
    metrics = [{name: cell for name, cell in row.items() if name not in ("low", "high")} for row in rows(analysis)]
    parts: list[Table | Text] = [
        _head(now),
        _progress(now),
        Text(),
        Text(waits_for(now)),
        *([Text(command, "bold", overflow="fold")] if command else []),
        Text(),
        _table(list(arms(analysis)), width, ARM_DROPPED),
        Text(),
        _table(metrics, width, dropped),
        Text(),
        *_facts(now),
    ]
    return Group(*parts)


def _head(now: Seen) -> Text:
    from rich.text import Text

    test = now["test"]
    colour = {"concluded": "green", "stopped": "yellow", "draft": "yellow"}.get(test["status"], "cyan")
    where = f"  {test['endpoint']}" if test["endpoint"] else ""
    return Text.assemble(
        (f"{test['name']}  ", "bold"),
        (test["status"], f"bold {colour}"),
        where,
        (f"  {test['test_id']}", "dim"),
    )


def _progress(now: Seen) -> Text:
    from rich.text import Text

    planned = now["test"]["planned_units"]
    if planned is None:
        return Text(come(now))
    filled = round((1 - now["units_left"] / planned) * WIDE)
    return Text(f"{'█' * filled}{'░' * (WIDE - filled)} {come(now)}")


def _table(found: list[dict[str, Any]], width: int, dropped: Dropped) -> Table:
    """As many columns as fit, none of them broken."""
    from rich.table import Table
    from rich.text import Text

    cells = [{name: str(cell) for name, cell in row.items()} for row in found]
    table = Table(header_style="bold", box=None, pad_edge=False)
    names = [name for name in fitting(cells, width, dropped) if any(row[name] for row in cells)]
    for name in names:
        words = name in ("variant", "model", "treatment", "metric", "role", "verdict", "interval")
        table.add_column(name, justify="left" if words else "right", no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*(Text(row[name], STYLES.get(row[name], "") if name == "verdict" else "") for name in names))
    return table


STYLES = {"sure": "green", "held": "green", "broken": "bold red"}


def _facts(now: Seen) -> Iterator[Text]:
    """What the figures rest on."""
    from rich.text import Text

    test, analysis = now["test"], now["analysis"]
    split = analysis["sample_ratio"]
    if split["mismatch"]:
        yield Text("units did not arrive in the planned shares", "bold red")
    elif split["checked"] and any(split["seen"].values()):
        yield Text("units arrive in the planned shares", "dim")
    if test["ramp_seconds"] and test["status"] == "running":
        yield Text(
            f"the ramp has reached {min(1.0, now['days'] * 86400 / test['ramp_seconds']):.0%} of the planned shares",
            "dim",
        )
    yield from (Text(told, "dim") for told in methods(analysis))
    if test["endpoint"] and test["guard_alpha"] and test["ended_at"] is None:
        slower = 1 + test["latency_margin"]
        yield Text(f"guarded: a treatment that fails more often, or is {slower:g} times as slow, is taken back", "dim")


def methods(analysis: Seen) -> list[str]:
    """How it is decided, in words."""
    if "bayesian" not in analysis:
        return [str(analysis["method"])]
    return [f"decided by beliefs: {analysis['bayesian']['prior']}", f"intervals: {analysis['method']}"]


def listed(test: Seen) -> dict[str, Any]:
    """A row a test."""
    return {
        "test": test["test_id"],
        "name": test["name"],
        "status": test["status"],
        "since": (test["started_at"] or test["created_at"])[:10],
        "endpoint": test["endpoint"],
        "compares": " ".join(variant["model"] for variant in test["variants"]),
        "winner": test["winner"],
    }


def arms(answer: Seen) -> Iterator[dict[str, Any]]:
    """A row a variant."""
    split, beliefs = answer["sample_ratio"], answer.get("bayesian", {}).get("variants") or {}
    for name, arm in answer["variants"].items():
        seen, planned = split["seen"][name], split["planned"][name]
        yield {
            "variant": name,
            "model": arm["model"],
            "units": f"{arm['units']:,}",
            "share": "–" if seen is None else f"{seen:.1%}",
            "planned": f"{planned:.1%}",
            "success rate": "–" if arm["success_rate"] is None else f"{arm['success_rate']:.2%}",
            **({"best": f"{beliefs[name]['chance_of_being_best']:.1%}"} if name in beliefs else {}),
            "p95 latency": "–" if arm["latency"]["p95"] is None else f"{1000 * arm['latency']['p95']:.3g} ms",
        }


def rows(answer: Seen) -> Iterator[dict[str, Any]]:
    """A row a treatment and metric: goals first, then guardrails; figures are relative changes in percent."""
    for name, one in answer["comparisons"].items():
        latency = {} if one["latency"] is None else {"latency": one["latency"]}
        found = {"success": one["success"], **latency, **one["metrics"]}
        for metric in sorted(found, key=lambda metric: ("goal", "guardrail", "secondary").index(found[metric]["role"])):
            told = found[metric]
            low, high = told["relative_interval"] or (None, None)
            yield {
                "treatment": name,
                "metric": metric,
                "role": told["role"],
                "verdict": one["guardrails"].get(metric) or one["goals"].get(metric) or "",
                "control": _number(told.get("adjusted_control", told["control"])),
                "changed": _number(told.get("adjusted_treatment", told["treatment"])),
                "change": "" if told["relative"] is None else _percent(told["relative"]),
                "low": low,
                "high": high,
                "interval": "" if low is None and high is None else f"{_percent(low)} to {_percent(high)}",
                "p at any look": _number(told["sequential_p_value"]),
                "p of all (Holm)": _number(told.get("p_value_holm")),
            }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "…" if value is None else f"{value:+.2f}%"
