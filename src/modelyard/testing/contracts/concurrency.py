"""Work done at once: in threads, and in a forked child."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable


def in_threads(count: int, task: Callable[[int], object]) -> None:
    """Run task(0) to task(count - 1) in as many threads, begun together; the first error is raised here."""
    gate, failed = threading.Barrier(count), []

    def run(number: int) -> None:
        gate.wait()
        try:
            task(number)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def in_child(task: Callable[[], object]) -> int:
    """The exit status of a forked child that ran the task: 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        try:
            task()
        except BaseException:  # noqa: BLE001 - the child must not go on as a second test run
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
