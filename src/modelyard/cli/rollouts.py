"""`modelyard deployment apply FILE` with what it changes, and `modelyard deployment watch ID` live."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from modelyard.cli.derive import FORMAT, YARD, call, secret_of
from modelyard.cli.output import show
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.instants import SYSTEM_CLOCK, as_utc
from modelyard.core.operations import operations
from modelyard.settings import Setting, settings

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

ENDED = ("completed", "rolled_back", "aborted")
SILENT_S = 5.0  # a controller looks twice a second
REPEAT_S = 30.0  # without a terminal, a line is repeated after so long though nothing but counts has changed
WIDE = 24  # characters of a bar
DROPPED = ("p50 ms", "version", "p99 ms", "req/s", "weight", "error rate")  # on a narrow terminal, in this order
HISTORY, ABOVE = 5, 18  # the last entries of the history, and the lines above them

Ask = Callable[[str], Any]
Seen = Mapping[str, Any]


def add(app: App) -> None:
    """Put the two commands in place of the derived ones."""
    if "apply" in app:
        del app["apply"]
    app.command(apply)
    app.command(watch)


def apply(
    path: Path,
    *,
    dry_run: Annotated[bool, Parameter(help="Only say what would change.", negative="")] = False,
    again: Annotated[bool, Parameter(help="Also a version that was rolled back or aborted.", negative="")] = False,
    created_by: Annotated[str | None, Parameter(help="Who is acting; the setting `user` unless given.")] = None,
    yard: YARD = None,
    format: FORMAT = None,
) -> int:
    """Start or amend the rollout that a YAML or JSON file describes. The same again changes nothing.

    What changes is told first. With --dry-run that is all, and the exit code is 1 where the file would be refused.
    """
    found = settings({"yard": yard, "format": format, "user": created_by})
    known = {one.verb: one for one in operations("deployment")}
    values = {"path": path, "again": again, "created_by": found["user"].value}
    difference = plain(call(known["diff"], values, found))
    sys.stderr.write("".join(f"{line}\n" for line in told_difference(difference)))
    if dry_run:
        if (found["format"].value or ("table" if sys.stdout.isatty() else "json")) == "json":
            show(difference, "json")
        return int(difference["verdict"] == "refused")
    applied = plain(call(known["apply"], values, found))
    show(applied, found["format"].value)
    sys.stderr.write(f"Watch it: modelyard deployment watch {applied['deployment_id']}\n")
    return 0


def told_difference(found: Seen) -> list[str]:
    """What a file would do, a line a change: + for new, ~ for changed.

    >>> told_difference({"endpoint": "e", "version": "v2", "verdict": "unchanged", "reason": "dep_1 has completed it"})
    ['e v2: unchanged, dep_1 has completed it']
    """
    lines = [f"{found['endpoint']} {found['version']}: {found['verdict']}, {found['reason']}"]
    for change in found.get("changes", ()):
        before = "" if change["now"] is None else f"{_value(change['now'])} -> "
        lines.append(f"  {'~' if before else '+'} {change['key']}: {before}{_value(change['wanted'])}")
    return lines


def watch(
    deployment_id: str,
    *,
    interval: Annotated[float, Parameter(help="Seconds between two looks.")] = 1.0,
    yard: YARD = None,
    format: FORMAT = None,
) -> int:
    """Show a rollout live until it has ended: weights, counts, error rates, latencies, evidence and what it waits for.

    On a terminal it is one picture; elsewhere a line for each change and every half minute; with --format json one
    document a line for each look. The exit code is 0 for completed, 1 for rolled back or aborted.
    """
    if not 0.05 <= interval <= 3600:
        raise Invalid(f"interval is {interval:g}. Give seconds from 0.05 to 3600.")
    found = settings({"yard": yard, "format": format})
    chosen = found["format"].value or ("table" if sys.stdout.isatty() else "lines")
    if chosen == "csv":
        raise Invalid("A rollout is watched as table or json. Its history as csv: modelyard deployment history ID")
    with _asking(found, deployment_id) as ask:
        if chosen == "json":
            last = _as_json(_looks(ask, interval))
        elif chosen == "table" and _draws():
            last = _as_picture(_looks(ask, interval, "history"))
        else:
            last = _as_lines(_looks(ask, interval))
    return int(last["status"] != "completed")


def _draws() -> bool:
    """Whether what has been written can be drawn over."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextmanager
def _asking(found: Mapping[str, Setting], deployment_id: str) -> Iterator[Ask]:
    """Asks the yard, or the server that the settings name, over one connection."""
    if found["url"].value:
        from modelyard.client.client import Client

        with Client(found["url"].value, token=secret_of(found["token"].value)) as client:
            yield lambda verb: plain(getattr(client.deployment, verb)(deployment_id=deployment_id))
        return
    from modelyard.yard import Yard

    with Yard(found["yard"].value, files=found["files"].value or None) as yard:
        yield lambda verb: plain(getattr(yard.deployments, verb)(deployment_id))


def _looks(ask: Ask, interval: float, *beside: str) -> Iterator[Seen]:
    """What there is to show, look after look, until the rollout has ended.

    Who watches is not sent away when the server is started anew: after the first look an outage is told, and waited out.
    """
    now: dict[str, Any] = {}
    while now.get("status") not in ENDED:
        if now:
            time.sleep(interval)
        try:
            now = {**ask("get_deployment"), "look": ask("look"), **{verb: ask(verb) for verb in beside}}
        except Unavailable as error:
            if not now:
                raise
            now = {**now, "outage": str(error)}
        yield now


def _as_json(looks: Iterator[Seen]) -> Seen:
    now: Seen = {}
    for seen in looks:
        if seen != now:
            sys.stdout.write(dumps(seen) + "\n")
            sys.stdout.flush()
        now = seen
    return now


def _as_lines(looks: Iterator[Seen]) -> Seen:
    now: Seen = {}
    said, at = ("", ""), -math.inf
    for now in looks:
        kind = (f"{now['status']} {now['step']}", waits_for(now).partition(":")[0])
        if kind != said or time.monotonic() - at >= REPEAT_S:
            sys.stdout.write(line(now) + "\n")
            sys.stdout.flush()
            said, at = kind, time.monotonic()
    return now


def _as_picture(looks: Iterator[Seen]) -> Seen:
    from rich.console import Console
    from rich.live import Live

    now: Seen = {}
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for seen in looks:
            live.update(picture(seen, now, console.width, console.height), refresh=True)
            now = seen
    return now


def line(now: Seen) -> str:
    """All of it in one line.

    >>> told = {"status": "running", "steps": [{"share": 0.05}, {"share": 1}], "step": 0, "reason": "", "look": {}}
    >>> line({**told, "endpoint": "fraud", "model_version": "v2.0.0"}).split(" ", 1)[1]
    'fraud v2.0.0 running, step 1 of 2 at 5% | waits for the first look'
    """
    at = SYSTEM_CLOCK.now().strftime("%H:%M:%S")
    where = f"step {now['step'] + 1} of {len(now['steps'])} at {_percent(_share(now))}"
    head = f"{at} {now['endpoint']} {now['model_version']} {now['status'].replace('_', ' ')}, {where}"
    arms = [
        f"{name} {arm['requests']} requests, {arm['errors']} errors ({_percent(arm['error_rate'])}), p95 {_ms(arm['p95_ms'])}"
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
    names = _fitting(rows, width)
    for name in names:
        table.add_column(name, justify="left" if name in ("arm", "version") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


def _fitting(rows: list[dict[str, str]], width: int) -> list[str]:
    """The names of the columns that stand whole side by side; without rows none.

    >>> row = {"arm": "canary", "requests": "1,000", "errors": "0", "p50 ms": "1.25"}
    >>> _fitting([row], 80), _fitting([row], 25)
    (['arm', 'requests', 'errors', 'p50 ms'], ['arm', 'requests', 'errors'])
    """
    names = list(rows[0]) if rows else []
    for gone in DROPPED:
        wanted = sum(max(len(name), *(len(row[name]) for row in rows)) + 2 for name in names) - 2
        if wanted <= width:
            break
        names = [name for name in names if name != gone]
    return names


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
    return f"{str(one['at'])[11:19]}  {one['what']:<12}{_percent(one['share']):>6}  {'; '.join(one['reasons'])}"


def _track(now: Seen) -> Any:
    """The steps in a row, the present one marked."""
    from rich.text import Text

    parts = Text()
    for place, step in enumerate(now["steps"]):
        share = step["share"] or step["shadow_share"]
        text = f"{'copies ' if not step['share'] and share else ''}{_percent(share)}{' gate' if step['gate'] else ''}"
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
            "weight": _percent(arm["weight"]),
            "requests": f"{arm['requests']:,}",
            "req/s": _per_second(look, before.get("look", {}), name),
            "errors": f"{arm['errors']:,}",
            "error rate": _percent(arm["error_rate"]),
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
        told = f"{_percent(shadow['agreement'])} of {shadow['compared']:,} agree, at least {_percent(low)} at 95 %; "
        told += f"95 % of them within {near:g}; " if near is not None else ""
        told += f"{shadow['dropped']:,} dropped"
        yield "shadow", told
    if now["look"].get("at") and now["status"] not in ENDED:
        who = now["look"]["controller"] or "somebody without a lease"
        yield "controller", f"{who}, {_age(now):.0f} s ago"


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


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else (dumps(value) if isinstance(value, list) else str(value))


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part * 100:.3g}%"


def _ms(value: float | None, unit: str = " ms") -> str:
    return "-" if value is None else f"{value:.3g}{unit}"


def _e(log: float) -> str:
    found = math.exp(min(log, 700.0))
    return f"{found:,.0f}" if 100 <= found < 1e7 else f"{found:.3g}"
