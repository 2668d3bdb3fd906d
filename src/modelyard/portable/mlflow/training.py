"""Experiments with their runs and logged models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from modelyard.core.errors import Conflict, Invalid, YardError
from modelyard.portable.mlflow.bringing import Bringing
from modelyard.portable.mlflow.spool import Spool
from modelyard.tracking import Experiment, LoggedModel, Run
from modelyard.tracking import portable as tracking
from modelyard.tracking.runs import below

TOGETHER = 64  # runs of one transaction
OURS = "mlflow-artifacts"
LOCAL = frozenset({"", "file", OURS, "http", "https"})
SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Read:
    """A run as it is to be kept here, with its values."""

    origin: Run
    run: Run
    spool: Spool


def check(bringing: Bringing) -> None:
    """Conflict, naming all, where an experiment's name is taken here by another; nothing is written before this."""
    taken = []
    with bringing.yard.store.reading() as rows:
        for found in bringing.origin.experiments():
            try:
                _, obstacle = tracking.experiment_here(rows, found)
            except Invalid:
                continue  # which is told when it is its turn
            if obstacle is not None:
                taken.append(f"{found.name!r} (experiment {obstacle.experiment_id} here)")
    if taken:
        more = f" and {len(taken) - SHOWN} more" if len(taken) > SHOWN else ""
        raise Conflict(
            f"Nothing was imported: other experiments have the names {', '.join(taken[:SHOWN])}{more}. Rename those here: "
            "modelyard tracking rename-experiment ID NAME"
        )


def bring(bringing: Bringing) -> None:
    """Every experiment, and what belongs to it."""
    for found in bringing.origin.experiments():
        bringing.tally.there["experiments"] += 1
        try:
            here = _experiment(bringing, found)
        except Invalid as error:
            bringing.tally.reason("experiments", f"{found.name!r:.100}: {error}")
            _count_lost(bringing, found)
            continue
        bringing.tally.here["experiments"] += 1
        _runs(bringing, found, here)
        _models(bringing, found, here)


def _experiment(bringing: Bringing, found: Experiment) -> Experiment:
    """The experiment here that stands for another tracker's, made if it is missing."""
    tracking.check_experiment(found)
    with bringing.yard.store.work(bringing.user) as work:
        known, _ = tracking.experiment_here(work.rows, found)
        if known is not None:
            missing = {key: value for key, value in found.tags.items() if key not in known.tags}
            tracking.add_experiment_tags(work, known.experiment_id, missing)
            return known
        number = tracking.free_number(work.rows, found.experiment_id)
        made = replace(
            found,
            experiment_id=str(number),
            artifact_location=_place(found.artifact_location, f"{bringing.yard.tracking.artifact_root}/{number}"),
        )
        tracking.write_experiment(work, made)
    bringing.tally.new["experiments"] += 1
    if made.experiment_id != found.experiment_id:
        bringing.tally.note(
            f"Experiment {found.experiment_id} ({found.name}) is {made.experiment_id} here: its id was taken."
        )
    return made


def _place(there: str, here: str) -> str:
    """Where files lie: here, unless they lie in an object store, which clients reach themselves."""
    return here if urlsplit(there).scheme in LOCAL else there


def _runs(bringing: Bringing, found: Experiment, here: Experiment) -> None:
    every = bringing.origin.runs(found.experiment_id)
    while runs := list(islice(every, TOGETHER)):
        bringing.tally.there["runs"] += len(runs)
        read: list[_Read] = []
        try:
            every_read = _mapped(bringing, lambda run: _read(bringing, run, here), runs)
            read.extend(one for one in every_read if one is not None)
            _write(bringing, read)
            _compare(bringing, read)
        finally:
            for one in read:
                one.spool.close()
        for _ in _mapped(bringing, lambda one: _run_files(bringing, one), read):
            pass
        bringing.progress()


def _mapped(bringing: Bringing, function: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
    """The function's answers, several at a time where that helps."""
    if bringing.origin.parallel == 1:
        yield from map(function, values)
    else:
        with ThreadPoolExecutor(bringing.origin.parallel) as pool:
            yield from pool.map(function, values)


def _read(bringing: Bringing, run: Run, here: Experiment) -> _Read | None:
    """A run with every value of its metrics; None, and a reason, for one that cannot be kept here."""
    run = bringing.origin.whole(run)
    place = _place(
        run.artifact_uri, below(f"{bringing.yard.tracking.artifact_root}/{here.experiment_id}", run.run_id, "artifacts")
    )
    try:
        tracking.checked_run(run)
        spool = Spool(bringing.origin, run)
    except Invalid as error:
        bringing.tally.reason("runs", f"{run.run_id}: {error}")
        return None
    newest = tracking.as_metrics(spool.newest)
    kept = replace(run, experiment_id=here.experiment_id, artifact_uri=place, latest_metrics=newest)
    return _Read(run, kept, spool)


def _write(bringing: Bringing, read: list[_Read]) -> None:
    """Write the runs that are not here, and what is new of those that went on when they came over before."""
    with bringing.yard.store.reading() as rows:
        known = tracking.runs_here(rows, [one.run.run_id for one in read])
        counted = tracking.values_of(rows, list(known))
    fresh = [one for one in read if one.run.run_id not in known]
    gone_on = [
        one
        for one in read
        if (old := known.get(one.run.run_id)) is not None
        and not old.status.ended
        and _is_one(old, one.run)
        and (counted[old.run_id] < one.spool.count or not tracking.same_record(old, one.run))
    ]
    if fresh or gone_on:
        with bringing.yard.store.work(bringing.user) as work:
            for one in (*fresh, *gone_on):
                tracking.write_run(work, one.run, one.spool.values(), one.spool.newest)
    tally = bringing.tally
    tally.new["runs"] += len(fresh)
    for one in fresh:
        for kind, count in _counts(one).items():
            tally.new[kind] += count
    for one in gone_on:
        tally.new["metric values"] += max(0, one.spool.count - counted[one.run.run_id])


def _is_one(old: Run, new: Run) -> bool:
    return (old.experiment_id, old.start_time) == (new.experiment_id, new.start_time)


def _counts(one: _Read) -> dict[str, int]:
    run = one.run
    return {
        "parameters": len(run.params),
        "tags": len(run.tags),
        "metric values": one.spool.count,
        "datasets": len(run.datasets),
    }


def _compare(bringing: Bringing, read: list[_Read]) -> None:
    """Read the runs again from here, and count what is as it was there."""
    with bringing.yard.store.reading() as rows:
        known = tracking.runs_here(rows, [one.run.run_id for one in read])
        counted = tracking.values_of(rows, list(known))
    tally = bringing.tally
    for one in sorted(read, key=lambda each: each.run.run_id):
        run, here = one.run, known[one.run.run_id]
        for kind, count in _counts(one).items():
            tally.there[kind] += count
        if not _is_one(here, run):
            tally.reason("runs", f"{run.run_id}: another run has this id here, in experiment {here.experiment_id}.")
            continue
        tally.here["runs"] += 1
        tally.here["parameters"] += sum(here.params.get(key) == value for key, value in run.params.items())
        tally.here["tags"] += sum(here.tags.get(key) == value for key, value in run.tags.items())
        tally.here["metric values"] += min(counted[run.run_id], one.spool.count)
        tally.here["datasets"] += sum(used in here.datasets for used in run.datasets)
        if tracking.same_record(here, run):
            bringing.records.update(f"{run.run_id} {tracking.record_digest(here)}\n".encode())
        else:
            tally.reason("tags", f"run {run.run_id} is not as it is there: it was changed since, here or there.")


def _run_files(bringing: Bringing, one: _Read) -> None:
    inner = f"{one.origin.experiment_id}/{one.run.run_id}/artifacts"
    run = one.run
    _files(
        bringing, "run files", one.origin.artifact_uri, inner=inner, here=run.artifact_uri, whose=f"run {run.run_id}"
    )


def _files(bringing: Bringing, kind: str, there: str, *, inner: str, here: str, whose: str) -> None:
    if not here.startswith(f"{OURS}:/"):
        bringing.tally.note(f"The files of {whose} stay at {there}.")
        return
    root = here.removeprefix(f"{OURS}:/").strip("/")
    try:
        copied = bringing.copy_files(kind, there, inner, root, whose)
    except YardError as error:
        bringing.tally.there[kind] += 1
        bringing.tally.reason(kind, f"those of {whose}: {error}")
        return
    if not copied:
        bringing.tally.there[kind] += 1  # at least: they could not be counted
        bringing.tally.reason(kind, f"those of {whose} lie at {there}, which cannot be read from here.")


def _models(bringing: Bringing, found: Experiment, here: Experiment) -> None:
    tally = bringing.tally
    for model in bringing.origin.logged_models(found.experiment_id):
        tally.there["logged models"] += 1
        root = f"{bringing.yard.tracking.artifact_root}/{here.experiment_id}"
        place = _place(model.artifact_location, below(root, "models", model.model_id, "artifacts"))
        try:
            tracking.checked_model(model)
        except Invalid as error:
            tally.reason("logged models", f"{model.model_id}: {error}")
            continue
        _model(bringing, replace(model, experiment_id=here.experiment_id, artifact_location=place))
        inner = f"{model.experiment_id}/models/{model.model_id}/artifacts"
        whose = f"logged model {model.model_id}"
        _files(bringing, "model files", model.artifact_location, inner=inner, here=place, whose=whose)


def _model(bringing: Bringing, model: LoggedModel) -> None:
    tally = bringing.tally
    with bringing.yard.store.work(bringing.user) as work:
        known = tracking.models_here(work.rows, [model.model_id]).get(model.model_id)
        if known is None:
            tracking.write_model(work, model)
            known = tracking.models_here(work.rows, [model.model_id])[model.model_id]
            tally.new["logged models"] += 1
    same = all(known.tags.get(key) == value for key, value in model.tags.items()) and known.params == model.params
    if (known.experiment_id, known.name) == (model.experiment_id, model.name) and same:
        tally.here["logged models"] += 1
    else:
        tally.reason("logged models", f"{model.model_id} is not as it is there: it was changed since, here or there.")


def _count_lost(bringing: Bringing, found: Experiment) -> None:
    """What belongs to an experiment that could not come over."""
    lost = sum(1 for _ in bringing.origin.runs(found.experiment_id))
    bringing.tally.there["runs"] += lost
    if lost:
        bringing.tally.reason("runs", f"{lost:,} of the experiment {found.name!r:.100}, which could not come over.")
