"""`modelyard demo`: the main job."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Literal

from cyclopts import Parameter

from modelyard.cli.output import show


def demo(
    *,
    keep: Annotated[bool, Parameter(help="Keep the yard afterwards, to look around in it.", negative="")] = False,
    port: Annotated[int, Parameter(help="Port for predictions; a free one unless given.")] = 0,
    v3: Annotated[Literal["broken", "healthy"], Parameter(help="What the third version is like.")] = "broken",
    format: Annotated[
        Literal["table", "json"], Parameter(help="The story as it happens, or one JSON document.")
    ] = "table",
) -> int:
    """Take a real model through its whole life on this machine: about a minute, no download, loopback only.

    Exit code 1 if anything came out otherwise than it should: v3 not rolled back when broken, or rolled back when healthy.
    """
    from modelyard.demo.run import run
    from modelyard.demo.story import teller_for

    warnings.simplefilter("ignore")  # of libraries; ours are errors
    document = run(teller_for(format), keep=keep, port=port, v3=v3)
    if format == "json":
        show(document, "json")
    else:
        _farewell(document)
    return 0 if as_it_should_be(document) else 1


def as_it_should_be(document: dict[str, object]) -> bool:
    """Whether the story ended as it is meant to."""
    facts = {chapter["key"]: chapter["facts"] for chapter in document["chapters"]}  # type: ignore[attr-defined]  # a JSON document
    rolled_back = facts["fault"]["rolled_back"]
    return bool(
        facts["audit"]["ok"]
        and facts["canary"]["status"] == "completed"
        and rolled_back == (document["v3"] == "broken")
    )


def _farewell(document: dict[str, object]) -> None:
    out = sys.stdout
    out.write(f"\nThe whole life of a model in {document['seconds']:.0f} s.\n")
    if document["yard"]:
        out.write(f"The yard was kept. Look around: modelyard audit query-events --yard {document['yard']}\n")
    out.write(f"Report: {document['report']}\n")
