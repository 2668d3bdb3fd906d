"""A rollout that is watched, as a line or as a screen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import fitting
from modelyard.core.instants import SYSTEM_CLOCK, as_utc

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

ENDED = ("completed", "rolled_back", "aborted")
SILENT_S = 5.0  # a controller looks twice a second
WIDE = 24  # characters of a bar
DROPPED = ("p50 ms", "version", "p99 ms", "req/s", "weight", "error rate")  # on a narrow terminal, in this order
HISTORY, ABOVE = 5, 18  # the last entries of the history, and the lines above them

Seen = Mapping[str, Any]


def line(now: Seen) -> str:
    """All of it in one line.

    >>> told = {"status": "running", "steps": [{"share": 0.05}, {"share": 1}], "step": 0, "reason": "", "look": {}}
    >>> line({**told, "endpoint": "fraud", "model_version": "v2.0.0"}).split(" ", 1)[1]
    'fraud v2.0.0 running, step 1 of 2 at 5% | waits for the first look'
    """
    at = SYSTEM_CLOCK.now().strftime("%H:%M:%S")
    where = f"step {now['step'] + 1} of {len(now['steps'])} at {percent(_share(now))}"
    head = f"{at} {now['endpoint']} {now['model_version']} {now['status'].replace('_', ' ')}, {where}"
    arms = [
        f"{name} {arm['requests']} requests, {arm['errors']} errors ({percent(arm['error_rate'])}), p95 {_ms(arm['p95_ms'])}"
        for name, arm in now["look"].get("arms", {}).items()
    ]
    evidence = [f"e {_e(one['value'])} of {_e(one['details']['threshold'])}" for one in _evidence(now)[:1]]
    return " | ".join([head, *arms, *evidence, waits_for(now)])


def waits_for(now: Seen) -> str:
    """What it waits for, or how it ended."""
    if now["status"] in ENDED:
        return str(now["reason"])
    if now.get("outage"):
        return f"not seen any more: {now['outage']}"
    reasons = now["look"].get("reasons") or ["nothing was decided yet"]
    if not now["look"].get("at"):
        return "waits for the first look"
    stale = _age(now)
    told = f"waits: {reasons[0]}" if now["look"]["verdict"] == "hold" else f"{now['look']['verdict']}: {reasons[0]}"
    if stale > SILENT_S:
        return f"nobody has looked for {stale:.0f} s, is `modelyard serve` running? The guard watches on | {told}"
    return told


def picture(now: Seen, before: Seen, width: int = 120, height: int = 30) -> Group:
    """A screen of it. What it waits for stands above, for a small screen is cut below."""
    from rich.console import Group
    from rich.text import Text

    command: tuple[Text, ...] = ()
    if now["status"] == "waiting":  # on a line of its own, to be copied
        command = (Text(f"modelyard deployment promote {now['deployment_id']} --step {now['step']}", no_wrap=True),)
    told = [Text(_entry(one), "dim", no_wrap=True, overflow="ellipsis") for one in now.get("history", [])]
    last = told[-max(1, min(HISTORY, height - ABOVE)) :]
    state = Text(f"ended: {now['reason']}" if now["status"] in ENDED else waits_for(now))
    return Group(
        _head(now),
        _track(now),
        Text(),
        state,
        *command,
        Text(),
        _arms(now, before, width),
        Text(),
        _facts(now),
        Text(),
        *last,
    )


def _head(now: Seen) -> Text:
    from rich.text import Text

    colour = {"completed": "green", "rolled_back": "red", "aborted": "yellow", "waiting": "yellow"}.get(
        now["status"], "cyan"
    )
    return Text.assemble(
        (f"{now['endpoint']}  ", "bold"),
        f"{now['baseline'] or '-'} -> {now['model_version']}  {now['strategy']}  ",
        (now["status"].replace("_", " "), f"bold {colour}"),
        (f"  {now['deployment_id']}", "dim"),
    )


def _arms(now: Seen, before: Seen, width: int) -> Table:
    """What each arm did, in as many columns as fit."""
    from rich.table import Table

    rows = list(_rows(now, before))
    table = Table(header_style="bold", box=None, pad_edge=False)
    names = fitting(rows, width, DROPPED)
    for name in names:
        table.add_column(name, justify="left" if name in ("arm", "version") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


def _facts(now: Seen) -> Table:
    from rich.table import Table
    from rich.text import Text

    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, fact in _known(now):
        facts.add_row(Text(name, "bold"), Text(fact))
    return facts


def _entry(one: Seen) -> str:
    return f"{str(one['at'])[11:19]}  {one['what']:<12}{percent(one['share']):>6}  {'; '.join(one['reasons'])}"


def _track(now: Seen) -> Any:
    """The steps in a row, the present one marked."""
    from rich.text import Text

    parts = Text()
    for place, step in enumerate(now["steps"]):
        share = step["share"] or step["shadow_share"]
        text = f"{'copies ' if not step['share'] and share else ''}{percent(share)}{' gate' if step['gate'] else ''}"
        done = place < now["step"] or now["status"] == "completed"
        style = "green" if done else ("bold reverse" if place == now["step"] and now["status"] not in ENDED else "dim")
        parts.append("  >  " if place else "")
        parts.append(f" {text} ", style)
    return parts


def _rows(now: Seen, before: Seen) -> Iterator[dict[str, str]]:
    look = now["look"]
    for name, arm in look.get("arms", {}).items():
        yield {
            "arm": name,
            "version": arm["version"],
            "weight": percent(arm["weight"]),
            "requests": f"{arm['requests']:,}",
            "req/s": _per_second(look, before.get("look", {}), name),
            "errors": f"{arm['errors']:,}",
            "error rate": percent(arm["error_rate"]),
            **{f"{q} ms": _ms(arm[f"{q}_ms"], "") for q in ("p50", "p95", "p99")},
        }
    shadow = look.get("shadow")
    if shadow:
        yield {
            "arm": "shadow",
            "version": shadow["version"],
            "weight": "copies",
            "requests": f"{shadow['compared']:,}",
            "req/s": "",
            "errors": f"{shadow['errors']:,}",
            "error rate": "",
            **{f"{q} ms": _ms(shadow[f"{q}_ms"], "") for q in ("p50", "p95", "p99")},
        }


def _known(now: Seen) -> Iterator[tuple[str, str]]:
    """What is known, and by whom."""
    for one in _evidence(now):
        name = "evidence against it" if one["name"].startswith("rollback") else "late fault"
        part = max(0.0, min(1.0, one["value"] / one["details"]["threshold"]))
        filled = round(part * WIDE)
        yield name, f"{'█' * filled}{'░' * (WIDE - filled)} {_e(one['value'])} of {_e(one['details']['threshold'])}"
    margins = {"error_rate_difference": now["terms"]["margin"], "latency_p95_excess": 0.0} if now.get("terms") else {}
    for one in now["look"].get("measurements", ()):
        if one["name"] in margins and one["high"] is not None:
            yield (
                one["name"].replace("_", " "),
                f"at most {one['high']:+.4f}; promoted at {margins[one['name']]:g} or less",
            )
    shadow = now["look"].get("shadow")
    if shadow and shadow["compared"]:
        low, near = shadow["agreement_interval"][0], shadow["distance"]["p95"]
        told = f"{percent(shadow['agreement'])} of {shadow['compared']:,} agree, at least {percent(low)} at 95 %; "
        told += f"95 % of them within {near:g}; " if near is not None else ""
        told += f"{shadow['dropped']:,} dropped"
        yield "shadow", told
    if now["look"].get("at") and now["status"] not in ENDED:
        who = now["look"]["controller"] or "somebody without a lease"
        yield "controller", f"{who}, {_age(now):.0f} s ago"
        if now["look"].get("servers", 1) > 1:
            yield "counts", f"of {now['look']['servers']} servers"


def _evidence(now: Seen) -> list[Seen]:
    return [one for one in now["look"].get("measurements", ()) if "threshold" in one.get("details", {})]


def _share(now: Seen) -> float:
    gone = now["status"] in ("rolled_back", "aborted")
    return 0.0 if gone else float(now["steps"][now["step"]]["share"])


def _per_second(look: Seen, before: Seen, name: str) -> str:
    """Requests a second between two looks of one generation."""
    if not before.get("at") or before["generation"] != look["generation"] or name not in before["arms"]:
        return ""
    seconds = _moment(look["at"]) - _moment(before["at"])
    if seconds <= 0:
        return "" if not seconds else "-"
    return f"{(look['arms'][name]['requests'] - before['arms'][name]['requests']) / seconds:,.0f}"


def _age(now: Seen) -> float:
    return max(0.0, SYSTEM_CLOCK.now().timestamp() - _moment(now["look"]["at"]))


def _moment(text: str) -> float:
    from datetime import datetime

    return as_utc(datetime.fromisoformat(text)).timestamp()


def percent(part: float | None) -> str:
    """A part of one in percent, in three digits.

    >>> percent(0.0512), percent(None)
    ('5.12%', '-')
    """
    return "-" if part is None else f"{part * 100:.3g}%"


def _ms(value: float | None, unit: str = " ms") -> str:
    return "-" if value is None else f"{value:.3g}{unit}"


def _e(log: float) -> str:
    found = math.exp(min(log, 700.0))
    return f"{found:,.0f}" if 100 <= found < 1e7 else f"{found:.3g}"
