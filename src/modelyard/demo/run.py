"""Runs the story from the first chapter to the report."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from modelyard import __version__
from modelyard.core.errors import Unavailable
from modelyard.data.census import load_census
from modelyard.demo import building, rollouts, watching
from modelyard.demo.report import write_report
from modelyard.demo.scene import MODEL, Scene
from modelyard.demo.story import Story, Teller
from modelyard.serving.listening import listen
from modelyard.yard import Yard

FOLDER = Path("modelyard-demo")


def run(
    teller: Teller, *, keep: bool = False, port: int = 0, v3: Literal["broken", "healthy"] = "broken"
) -> dict[str, Any]:
    """The story's document; its report's path stands under `report`.

    Each run works in a folder of its own below ./modelyard-demo, so a killed run never stands in a later one's way. With
    `keep` the whole yard stays there; without, only the report does.
    """
    listen("127.0.0.1", port).close()  # a port in use is told now, not after the models were trained
    story = Story(teller)
    with _folder(keep) as folder:
        with Yard(folder / "yard") as yard:
            sequencer = yard.audit.start_sequencer()
            try:
                _tell(story, Scene(yard=yard, folder=folder, records=load_census(), port=port, v3=v3))
            finally:
                sequencer.stop()
        document = story.document() | {
            "version": __version__,
            "machine": f"{os.cpu_count()} cores, {platform.system()}",
            "v3": v3,
        }
        document["yard"] = str(folder / "yard") if keep else None
        document["report"] = str(write_report(document, FOLDER.absolute() / f"report-{folder.name}.html"))
    return document


def _tell(story: Story, scene: Scene) -> None:
    with story.chapter("features", "Features of 2015, with the times they were true") as chapter:
        building.dataset(scene)
        building.features(scene, chapter)
    with story.chapter("train_v1", "Version 1 is trained and registered") as chapter:
        building.train(
            scene, chapter, "v1.0.0", building.first_config(scene), "Logistic regression on the records of 2015"
        )
    with story.chapter("approval", "Promotion: asked for, refused to the same person, approved by another") as chapter:
        building.approve(scene, chapter, "v1.0.0")
    with story.chapter("train_v2", "Version 2 is tuned, trained and approved") as chapter:
        building.train(scene, chapter, "v2.0.0", building.second_config(scene), "Gradient boosting, tuned")
        building.approve_quietly(scene, "v2.0.0")
    with story.chapter("serving", "Version 1 answers over HTTP") as chapter:
        plane = rollouts.serve(scene, chapter)
    try:
        _roll_out(story, scene)
    finally:
        plane.stop()
    _watch(story, scene)


def _roll_out(story: Story, scene: Scene) -> None:
    with story.chapter("shadow", "Version 2 shadows live traffic of 2016") as chapter:
        rollouts.shadow(scene, chapter)
    with story.chapter("canary", "Version 2 as a canary: 5 → 25 → 50 → 100 %") as chapter:
        scene.yard.provide(MODEL, "v2.0.0")
        rollouts.canary(scene, chapter, "v2.0.0", "v1.0.0", (2016,))
        rollouts.tell_promotion(chapter)
    title = "Version 3, deliberately broken, as a canary" if scene.v3 == "broken" else "Version 3, healthy, as a canary"
    with story.chapter("fault", title) as chapter:
        rollouts.third(scene, chapter)
    with story.chapter("experiment", "An experiment: version 1 against version 2 on records of 2017") as chapter:
        rollouts.experiment(scene, chapter)


def _watch(story: Story, scene: Scene) -> None:
    title = "Performance: live predictions and what turned out to be true"
    with story.chapter("performance", title) as chapter:
        watching.performance(scene, chapter)
    title = "Drift: none where there is none, the real one by feature, a unit error by name"
    with story.chapter("drift", title) as chapter:
        watching.drift(scene, chapter)
    with story.chapter("explanation", "Why one person got this prediction") as chapter:
        watching.explanation(scene, chapter)
    with story.chapter("bias", "Bias by sex, race and disability") as chapter:
        watching.bias(scene, chapter)
    with story.chapter("controls", "What can be shown to an auditor: GDPR and AI Act") as chapter:
        watching.controls(scene, chapter)
    with story.chapter("audit", "The audit log: verified, and one event proved offline") as chapter:
        watching.audit(scene, chapter)


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    """A fresh folder for one run. Folders that killed runs left behind are removed."""
    try:
        FOLDER.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER.absolute()))
    except OSError as error:
        raise Unavailable(
            f"{FOLDER.absolute()} cannot be written: {error.strerror}. Run the demo in a folder of your own."
        ) from error
    mark = folder / "running"
    mark.write_text(str(os.getpid()))
    _clear(folder)
    try:
        yield folder
    finally:
        if keep:
            mark.unlink(missing_ok=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _clear(mine: Path) -> None:
    for mark in FOLDER.absolute().glob("run-*/running"):
        if mark.parent != mine and not _alive(mark.read_text()):
            shutil.rmtree(mark.parent, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True
