"""`modelyard deployment apply FILE` with what it changes, `history ID` with its reasons, and `watch ID` live."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from modelyard.cli.derive import FORMAT, YARD, call, secret_of
from modelyard.cli.output import show, show_whole
from modelyard.cli.watched import ENDED, Seen, line, percent, picture, waits_for
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.operations import operations
from modelyard.settings import Setting, settings

REPEAT_S = 30.0  # without a terminal, a line is repeated after so long though nothing but counts has changed

Ask = Callable[[str], Any]


def add(app: App) -> None:
    """Put these commands in place of the derived ones."""
    for command in (apply, history, watch):
        if command.__name__ in app:
            del app[command.__name__]
        app.command(command)


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
    if difference["verdict"] == "refused":
        return 1
    applied = plain(call(known["apply"], values, found))
    show(applied, found["format"].value)
    sys.stderr.write(f"Watch it: modelyard deployment watch {applied['deployment_id']}\n")
    return 0


def history(deployment_id: str, *, yard: YARD = None, format: FORMAT = None) -> int:
    """What was decided about a deployment, by whom and why, oldest first; as json also from which numbers."""
    found = settings({"yard": yard, "format": format})
    known = {one.verb: one for one in operations("deployment")}
    entries = plain(call(known["history"], {"deployment_id": deployment_id}, found))
    chosen = found["format"].value or ("table" if sys.stdout.isatty() else "json")
    if chosen != "table":
        show(entries, chosen)
        return 0
    told = [
        {
            "at": one["at"][:19].replace("T", " "),
            "what": one["what"],
            "step": one["step"] + 1,
            "share": percent(one["share"]),
            "by": one["actor"],
            "why": "; ".join(one["reasons"]),
        }
        for one in entries
    ]
    show_whole(told, "table")
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
            last = _as_json(looks_at(ask, interval))
        elif chosen == "table" and _draws():
            last = _as_picture(looks_at(ask, interval, "history"))
        else:
            last = _as_lines(looks_at(ask, interval))
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


def looks_at(ask: Ask, interval: float, *beside: str) -> Iterator[Seen]:
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


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else (dumps(value) if isinstance(value, list) else str(value))
