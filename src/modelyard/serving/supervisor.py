"""Keeps the workers of one folder alive and as many as the load asks for: `python -m modelyard.serving.supervisor`.

The supervisor holds the listening socket and answers nothing itself, so that it may be stopped, swapped out or busy
while the workers serve, count and roll back.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelyard.core.errors import Unavailable
from modelyard.serving.calls import LOAD, read
from modelyard.serving.fleet import Fleet
from modelyard.serving.lasting import Lasting
from modelyard.serving.listening import address, grpc_reserved, listen
from modelyard.serving.metrics import LatencyWindow
from modelyard.serving.places import Places
from modelyard.serving.scaler import SCALE_S, PublishedTargets, Scaler
from modelyard.serving.scaling import Targets
from modelyard.serving.shadowing import Shadowing
from modelyard.serving.tidying import Tidier
from modelyard.serving.vigil import HANG_S, HUNG, Death, Vigil, bury_orphans, count

log = logging.getLogger("modelyard.serving")
LOOK_S = 0.1
QUICK_DEATH_S = 5.0  # a worker that lives shorter is restarted with a growing pause
START_S = 60.0
STOP_S = 40.0
SEE_OFF_S = 0.01  # between two looks whether all have ended
UNTOLD = 1000  # ends of workers that wait for the yard to come back
# There is a process a core: threads that libraries make beside (scikit-learn's boosted trees, PyTorch) would only wait for
# those of the other processes, as they spin: ten times as long on a busy machine. Who sets these decides.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_AS_TOLD = {0, -signal.SIGTERM, -signal.SIGKILL}  # how a worker ends that was told to, and was killed if it did not

LatencyNow = Callable[[], float | None]
Scaled = Callable[[int, int], None]
Died = Callable[[Death], None]


@dataclass(slots=True)
class Child:
    """A worker process and when it began."""

    process: subprocess.Popen[bytes]
    since: float
    leaving: float = 0.0  # since when it is to drain
    hung: bool = False
    buried: bool = False


class Serving:
    """The workers that `start` started: where they listen, which processes they are, and how to end them."""

    def __init__(
        self,
        folder: Path,
        listener: socket.socket,
        *,
        place: str = "",
        report: str | None = None,
        targets: Callable[[], Targets],
        latency_ms: LatencyNow = lambda: None,
        scaled: Scaled = lambda *_: None,
        died: Died = lambda _: None,
        hang_s: float = HANG_S,
        output: int | None = None,
        grpc: socket.socket | None = None,
        model_control: bool = False,
        fleet: Fleet | None = None,
    ) -> None:
        self.places = Places(folder)
        self._output = output  # where the workers write; None is this process's own standard error
        self.host, self.port = listener.getsockname()[:2]
        self._listener = listener
        self._watched, self._alive = os.pipe()  # the workers drain when this process is gone and its end closes
        self._command = [
            *(sys.executable, "-m", "modelyard.serving.worker", "--folder", str(folder)),
            *("--socket", str(listener.fileno()), "--parent", str(self._watched)),
            *("--place", place or str(folder), "--report", report or ""),
            *(("--grpc", address(grpc)) if grpc is not None else ()),
            *(("--model-control",) if model_control else ()),
        ]
        self._shadowing = Shadowing(self.places, output=output, died=died)
        self._command += ["--copies", str(self._shadowing.written)]
        self._fleet = fleet
        self._grpc = grpc  # keeps the port while no worker listens on it
        self._scaler = Scaler(self.places, targets, latency_ms)
        self._scaled, self._died = scaled, died
        self._telling = Lasting("The end of a worker cannot be recorded yet")
        self._untold: deque[Death] = deque(maxlen=UNTOLD)
        self._vigil = Vigil(self.places, hang_s=hang_s)
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._leaving: list[Child] = []
        self._pause = 0.0
        self._stopping = threading.Event()
        self.restarts = 0
        self._tidier = Tidier(self.places, output)
        self._keeper = threading.Thread(target=self._keep, name="modelyard-supervisor", daemon=True)

    @property
    def url(self) -> str:
        """Where the workers answer."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def grpc(self) -> str:
        """HOST:PORT of the gRPC service; empty where there is none."""
        return "" if self._grpc is None else address(self._grpc)

    @property
    def pids(self) -> list[int]:
        """The worker processes that are to stay."""
        with self._lock:
            return [child.process.pid for child in self._children]

    @property
    def shadow_pid(self) -> int | None:
        """The process that asks shadows; None while there is none."""
        return self._shadowing.pid

    def begin(self) -> Serving:
        """Start the workers and wait until each is ready."""
        atexit.register(self.stop)
        self._shadowing.begin()
        if self._fleet is not None:
            self._fleet.begin()
        self._set_size(self._scaler.least())
        self._wait_ready()
        self._keeper.start()
        return self

    def scale_to(self, count: int) -> None:
        """Change the number of workers; those that leave drain."""
        with self._lock:
            before = len(self._children)
        self._set_size(count)
        if count != before:
            self._scaled(before, count)

    def stop(self) -> None:
        """Drain the workers and wait for their end. Again does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join(STOP_S)
        self._tidier.stop()
        self._set_size(0)
        self._see_off()
        self._shadowing.stop()
        if self._fleet is not None:
            self._fleet.stop()
        self._listener.close()
        if self._grpc is not None:
            self._grpc.close()
        os.close(self._alive)
        os.close(self._watched)
        if self._output is not None:
            os.close(self._output)
        atexit.unregister(self.stop)

    def hurry(self) -> None:
        """Wait no longer for what is in flight: a worker that is told to end twice ends."""
        with self._lock:
            for child in (*self._children, *self._leaving):
                child.process.terminate()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _set_size(self, count: int) -> None:
        with self._lock:
            while len(self._children) < count:
                self._children.append(self._spawn())
            while len(self._children) > count:
                self._let_go(self._children.pop())

    def _let_go(self, child: Child) -> None:
        """Have a worker drain and end."""
        child.process.terminate()
        child.leaving = time.monotonic()
        self._leaving.append(child)

    def _spawn(self) -> Child:
        files = (self._listener.fileno(), self._watched, self._shadowing.written)
        process = subprocess.Popen(
            self._command,
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=_ONE_THREAD | os.environ,
        )
        return Child(process, time.monotonic())

    def _wait_ready(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            ready = {report.pid for report in self.places.slot_reports().values() if report.ready}
            if ready >= set(self.pids):
                return
            dead = [child for child in self._children if child.process.poll() is not None]
            if dead:
                self.stop()
                raise Unavailable(
                    f"A worker on {self.url} ended with code {dead[0].process.returncode} before it was ready. "
                    f"Its reason is {'on standard error' if self._output is None else 'in the log'}."
                )
            time.sleep(0.01)
        why = ", ".join(sorted(self._loading())) or "nothing that is known; the machine may be busy"
        self.stop()
        raise Unavailable(f"The workers on {self.url} were not ready within {START_S:g} s. What they load: {why}.")

    def _loading(self) -> set[str]:
        """The versions that workers are loading now."""
        found = [read(path) for path in self.places.slots.glob("*.vitals")]
        loads = [call.what for one in found if one is not None and one.pid in self.pids for call in one.calls]
        return {" ".join(what[1:]) for what in loads if what[0] == LOAD}

    def _keep(self) -> None:
        """Look after the workers until the end, whatever one look at them meets."""
        looking, replacing, scaling, tidying = (
            Lasting(trouble)
            for trouble in (
                "The workers cannot be looked after",
                "Dead workers cannot be replaced",
                "The number of workers cannot be looked at",
                "The payload log cannot be tidied",
            )
        )
        next_look = time.monotonic() + SCALE_S
        while not self._stopping.wait(LOOK_S):
            with looking.round():
                self._look_after()
            with replacing.round():
                self._restart_dead()
            with tidying.round():
                self._tidier.look()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + SCALE_S
                with scaling.round():
                    self._scale()

    def _see_off(self) -> None:
        """Wait for the workers that are to end. One that hangs or dies at that is told of as at any other time."""
        looking = Lasting("The workers' ends cannot be looked after")
        while any(child.process.poll() is None for child in self._leaving):
            time.sleep(SEE_OFF_S)
            with looking.round():
                self._look_after()
            self._restart_dead()
        with looking.round():
            self._look_after()
        self._leaving.clear()

    def _look_after(self) -> None:
        """End the workers that hang, replace those whose threads are lost, and count those that died."""
        self._vigil.turn()
        with self._lock:
            children = [*self._children, *self._leaving]
        for child in children:
            code, pid = child.process.poll(), child.process.pid
            if code is not None:
                if not child.buried:
                    child.buried = True
                    if not child.leaving or child.hung or code not in _AS_TOLD:
                        self._tell(self._vigil.buried(pid, code))
                continue
            verdict = self._vigil.verdict(pid, child.since)
            if verdict is not None and verdict.reason == HUNG:
                child.hung = True
                self._vigil.kill(pid)
            elif verdict is not None and self._replaced(child):
                self.restarts += 1
                self._tell(verdict)
                count(self.places, verdict.reason)
        with self._telling.round():
            while self._untold:
                self._died(self._untold[0])
                self._untold.popleft()

    def _replaced(self, child: Child) -> bool:
        """Have another worker in the place of one that drains; False where it is to leave anyway."""
        with self._lock:
            if child not in self._children:
                return False
            self._children[self._children.index(child)] = self._spawn()
            self._let_go(child)
            return True

    def _tell(self, death: Death) -> None:
        of = f" at a call of {death.endpoint}'s arm {death.arm}" if death.endpoint else ""
        log.warning("Worker %d %s (%s)%s. Another one takes its place.", death.pid, death.reason, death.detail, of)
        self._untold.append(death)

    def _restart_dead(self) -> None:
        now = time.monotonic()
        with self._lock:
            for child in self._leaving:
                if child.process.poll() is None and now > child.leaving + STOP_S:
                    child.process.kill()
            self._leaving = [child for child in self._leaving if not child.buried]
            for place, child in enumerate(self._children):
                if not child.buried or now < child.since + self._pause:
                    continue
                quick = now - child.since < QUICK_DEATH_S + self._pause
                self._pause = min(max(2 * self._pause, 0.2), 10.0) if quick else 0.0
                self.restarts += 1
                self._children[place] = self._spawn()

    def _scale(self) -> None:
        pids = self.pids
        count = self._scaler.count(pids)
        if count != len(pids):
            log.info("%d serving processes from now on, not %d: %s.", count, len(pids), self._scaler.why(len(pids)))
            self.scale_to(count)


def _told_to_stop() -> int:
    """A pipe's end that becomes readable with SIGTERM or SIGINT.

    Not a lock: the kernel may give a signal to another thread than the one that waits (it does after SIGCONT), and
    only the wake-up pipe is written whichever thread it is.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)
    return told


def main(arguments: list[str]) -> None:
    """Serve a folder until SIGTERM or SIGINT: the first drains, a second one ends at once."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.serving.supervisor", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-workers", type=int, default=0)
    parser.add_argument("--place", default="")
    parser.add_argument("--report", default=None)
    parser.add_argument("--grpc-port", type=int, default=None)
    parser.add_argument("--model-control", action="store_true")
    given = parser.parse_args(arguments)
    told = _told_to_stop()
    places = Places(given.folder)
    bury_orphans(places)
    listener = listen(given.host, given.port)
    with Serving(
        given.folder,
        listener,
        place=given.place,
        report=given.report,
        targets=PublishedTargets(places, least=given.workers, most=given.max_workers),
        latency_ms=LatencyWindow(places).p95,
        grpc=None if given.grpc_port is None else grpc_reserved(given.host, given.grpc_port),
        model_control=given.model_control,
    ).begin() as serving:
        calls = f" and gRPC on {serving.grpc}" if serving.grpc else ""
        sys.stderr.write(f"Serving {given.folder} on {serving.url}{calls} with {len(serving.pids)} workers.\n")
        os.read(told, 1)
        threading.Thread(target=_hurry, args=(told, serving), daemon=True).start()


def _hurry(told: int, serving: Serving) -> None:
    """The second signal says that nothing is to be waited for."""
    os.read(told, 1)
    serving.hurry()


if __name__ == "__main__":
    main(sys.argv[1:])
