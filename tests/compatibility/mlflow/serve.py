"""Our server as a process: `python serve.py YARD PORT [open] [files=URL]`.

`open` leaves staging and production open by policy; `files` says where bytes live when the yard is a database.
"""

from __future__ import annotations

import sys

import uvicorn

from modelyard import Yard
from modelyard.core.models import ModelStage
from modelyard.server.app import create_app

place, port, *modes = sys.argv[1:]
files = next((mode.removeprefix("files=") for mode in modes if mode.startswith("files=")), None)
yard = Yard(place, files=files)
if "open" in modes:
    for stage in (ModelStage.STAGING, ModelStage.PRODUCTION):
        proposed = yard.registry.propose_policy("*", stage, "ana@example.com", quorum=0)
        yard.registry.approve_policy(proposed.policy_id, "max@example.com")
uvicorn.run(create_app(yard, local_user="ana@example.com"), port=int(port), log_level="warning", access_log=False)
