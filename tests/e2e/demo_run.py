"""The demo as a user runs it, watched for calls to the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Installed as sitecustomize in every Python process of the demo: notes each address that is not loopback.
WATCH = """
import os, sys

def watch(event, args):
    if event == "socket.connect":
        address = args[1]
        outside = isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost")
    elif event == "socket.getaddrinfo":
        outside = args[0] not in ("127.0.0.1", "::1", "localhost", None, "", b"127.0.0.1")
    else:
        return
    if outside:
        with open(os.environ["WATCH_LOG"], "a") as log:
            log.write(f"{event} {args!r} {sys.argv}\\n")

sys.addaudithook(watch)
"""


class Demo:
    """A running `modelyard demo --format json` whose chapters can be waited for."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "watch").mkdir(exist_ok=True)
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        self.log = folder / "connections.log"
        env = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
        env |= {"PYTHONPATH": str(folder / "watch"), "WATCH_LOG": str(self.log)}
        command = [sys.executable, "-m", "modelyard", "demo", "--format", "json", *arguments]
        self.out = folder / "document.json"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.PIPE, text=True)

    def until(self, chapter: int) -> None:
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if line.startswith(f"{chapter}. "):
                return
        pytest.fail("the demo ended early: " + "".join(seen[-20:]))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def document(self) -> dict[str, Any]:
        _, words = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, words[-3000:]
        return json.loads(self.out.read_text())
