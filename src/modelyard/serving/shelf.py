"""The versions that one process holds in memory. Loading one may take minutes, so it keeps nobody from using the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter_ns

from modelyard.core.errors import YardError
from modelyard.serving import loaded
from modelyard.serving.calls import LOAD, LOADER, Calls, mark
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.places import Places
from modelyard.serving.trials import LOAD_S, TriedElsewhere, trial
from modelyard.serving.values import Installed

RETRY_LOAD_S = 1.0
Stamp = tuple[int, int, int]
Troubles = (YardError, OSError, ImportError)


class NotLoaded(YardError):
    """A version is not here yet: it has been noted as wanted."""


class Shelf:
    """What is loaded, what is wanted, and what could not be loaded. One thread loads at a time; any may ask."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.calls = Calls()  # where loading is noted, so that a process that hangs in it is noticed
        self.on_load: Callable[[str, str, float], object] = lambda *_: None  # model, version, microseconds
        self.news = False  # whether something was loaded, or could not be, since `begin`
        self._models: dict[Installed, tuple[LoadedModel, Stamp | None]] = {}
        self._failed: dict[Installed, tuple[Exception, Stamp | None, float]] = {}
        self._wanted: dict[Installed, Stamp | None] = {}
        self._asked: set[Installed] = set()
        self._underway: Installed | None = None
        self._mark: Path | None = None
        self._since = 0.0
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether a version is to be loaded."""
        return bool(self._wanted)

    @property
    def loading(self) -> bool:
        """Whether a thread is loading one."""
        return self._underway is not None

    def begin(self) -> None:
        """Begin to ask anew: what is not asked for any more is not wanted any more."""
        with self._lock:
            self._asked, self._wanted, self.news = set(), {}, False

    def model(self, one: Installed) -> LoadedModel:
        """The version, loaded. NotLoaded before that; what kept it from being loaded, for a second."""
        stamp = _stamp(one)
        with self._lock:
            self._asked.add(one)
            kept = self._models.get(one)
            if kept is not None and kept[1] == stamp:
                return kept[0]
            error, of, at = self._failed.get(one, (None, None, 0.0))
            if error is not None and of == stamp and time.monotonic() - at < RETRY_LOAD_S:
                raise error
            if one != self._underway:
                self._wanted[one] = stamp
        raise NotLoaded(f"{one.model} {one.version} is being loaded.")

    def load(self, *, standing: bool) -> bool:
        """Load what is wanted; False if it is all being tried by other processes first. `standing`: see `trial`."""
        done = False
        with self._turn:
            for one in list(self._wanted):
                with self._lock:
                    if one not in self._wanted:  # not any more
                        continue
                    stamp = self._wanted.pop(one)
                    self._underway, self._since = one, time.monotonic()
                try:
                    self._keep(one, self._loaded(one, stamp, standing=standing), stamp)
                    done = True
                except TriedElsewhere:
                    self._wanted.setdefault(one, stamp)
                except Troubles as error:
                    self._failed[one] = (error, stamp, time.monotonic())
                    done = True
                finally:
                    self._underway = None
            self.news = self.news or done
        return done

    def _loaded(self, one: Installed, stamp: Stamp | None, *, standing: bool) -> LoadedModel:
        begun = perf_counter_ns()
        with trial(self._places, one, stamp, standing=standing) as self._mark:
            found = self.calls.at(LOADER, mark(LOAD, one.model, one.version), self._load, one)
        self.on_load(one.model, one.version, (perf_counter_ns() - begun) / 1000)
        return found

    def _load(self, one: Installed) -> LoadedModel:
        return loaded.load(one, self._part)

    def _part(self, one: Installed) -> LoadedModel:
        """A version that a service is given: the same as an arm has, so that it is in memory once."""
        stamp = _stamp(one)
        with self._lock:
            kept = self._models.get(one)
        if kept is not None and kept[1] == stamp:
            return kept[0]
        model = loaded.load(one)
        self._keep(one, model, stamp)
        return model

    def _keep(self, one: Installed, model: LoadedModel, stamp: Stamp | None) -> None:
        with self._lock:
            self._models[one] = (model, stamp)
            self._failed.pop(one, None)

    def drop(self, used: Iterable[LoadedModel | None]) -> None:
        """Drop what is neither used nor has been asked for since `begin`; requests in flight still hold theirs."""
        ids = {id(model) for model in used}
        with self._lock:
            stay = [kept[0] for one, kept in self._models.items() if one in self._asked or id(kept[0]) in ids]
            ids |= {id(part) for model in stay for part in (model, *model.parts)}
            self._models = {one: kept for one, kept in self._models.items() if id(kept[0]) in ids}
            self._failed = {one: failed for one, failed in self._failed.items() if one in self._asked}

    def give_up(self) -> None:
        """This process ends while it loads, since it was told to: no word against the version, unless it hangs in it."""
        if self._mark is not None and self.loading and time.monotonic() - self._since < LOAD_S:
            self._mark.unlink(missing_ok=True)


def _stamp(installed: Installed) -> Stamp | None:
    """What changes when the model's file does; None for code."""
    path = Path(installed.path)
    if installed.framework == "python" or not path.exists():
        return None
    stat = path.stat()
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)
