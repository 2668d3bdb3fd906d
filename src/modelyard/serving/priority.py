"""How a process makes itself less than those that answer. Imports nothing that takes time: it comes before what does.

Idle priority alone does not do it where the kernel shares processors out by session first (autogroups, as most desktops and
servers without containers do): what a shadow used was then taken from all processes of its session, those that answer
included. So it has a session of its own, of little weight.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LOW, LOWEST = 10, 19
BEGINNING = (
    5  # of its session while it begins and loads: with the least of weights it would take minutes on a busy machine
)
_AUTOGROUP = Path("/proc/self/autogroup")


def low() -> None:
    """Give way to all others, and where memory ends, go first."""
    os.nice(LOW)
    _weigh(BEGINNING)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def idle(but: set[int | None]) -> None:
    """From now on run all threads of this process but some only where a processor has nothing else to do."""
    _weigh(LOWEST)
    if not hasattr(os, "SCHED_IDLE"):
        os.nice(LOWEST - LOW)
        return
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) not in but:
            with suppress(ProcessLookupError, PermissionError):
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def _weigh(nice: int) -> None:
    with suppress(OSError):  # no such thing here, or told too soon after the last time
        _AUTOGROUP.write_text(str(nice))


def limited() -> bool:
    """Whether this machine or container limits how much of its processors all processes may use together.

    There what a shadow uses of an idle processor is taken from what the others may use a moment later.
    """
    with suppress(OSError, IndexError):
        return Path("/sys/fs/cgroup/cpu.max").read_text().split()[0] != "max"
    with suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()) > 0
    return False
