"""The demo with a good third version: apart from the other, so that two processes share what takes minutes."""

from __future__ import annotations

from pathlib import Path

from demo_run import Demo


def test_a_healthy_third_version_is_not_rolled_back(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--v3", "healthy")
    document = demo.document()
    fault = next(chapter["facts"] for chapter in document["chapters"] if chapter["key"] == "fault")
    assert not fault["rolled_back"]
    assert fault["status"] == "completed"
    assert fault["after_version"] == "v3.0.0"
    assert [path.name for path in (tmp_path / "modelyard-demo").iterdir()] == [Path(document["report"]).name]
