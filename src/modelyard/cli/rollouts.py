"""`modelyard deployment apply FILE` with what it changes, `history ID` with its reasons, and `watch ID` live."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from modelyard.cli.declaring import commands
from modelyard.cli.derive import FORMAT, YARD, asked, format_of
from modelyard.cli.live import Ask, Watched
from modelyard.cli.live import watch as watch_live
from modelyard.cli.output import show, show_whole
from modelyard.cli.watched import ENDED, Seen, line, percent, picture, waits_for
from modelyard.settings import settings

apply, diff = commands("deployment", "deployment_id", "rollout")


def add(app: App) -> None:
    """Put these commands in place of the derived ones."""
    for command in (apply, diff, history, watch):
        if command.__name__ in app:
            del app[command.__name__]
        app.command(command)


def history(deployment_id: str, *, yard: YARD = None, format: FORMAT = None) -> int:
    """What was decided about a deployment, by whom and why, oldest first; as json also from which numbers."""
    found = settings({"yard": yard, "format": format})
    entries, chosen = asked("deployment", "history", {"deployment_id": deployment_id}, found), format_of(found)
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
    last = watch_live(ROLLOUT, deployment_id, interval=interval, yard=yard, format=format)
    return int(last["status"] != "completed")


def seen(ask: Ask) -> Seen:
    """A rollout with its last look."""
    return {**ask("get_deployment"), "look": ask("look")}


ROLLOUT = Watched(
    area="deployment",
    identity="deployment_id",
    see=seen,
    ended=lambda now: now["status"] in ENDED,
    line=line,
    kind=lambda now: (now["status"], now["step"], waits_for(now).partition(":")[0]),
    picture=picture,
    history="modelyard deployment history ID --format csv",
    beside=("history",),
)
