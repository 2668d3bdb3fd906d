"""Hold a running server to its OpenAPI document with schemathesis, which lives in an environment of its own.

    scripts/peers.sh schemathesis
    .venv/bin/python scripts/check_openapi.py --examples 50

The exit code is that of schemathesis: 0 where no request was answered with a fault of the server or against the document.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

from modelyard import Yard
from modelyard.testing.serving import YardServer

PEER = Path(__file__).parent.parent / ".peers" / "schemathesis" / "bin" / "schemathesis"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main(arguments: list[str]) -> int:
    """Start a server with something in it, and let schemathesis ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--phases", default="examples,coverage,fuzzing")
    parser.add_argument("--checks", default=CHECKS)
    parser.add_argument("--peer", type=Path, default=PEER)
    parser.add_argument("--only", default="", help="a regular expression of paths")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        with Yard(Path(folder) / "yard") as yard:
            secret = yard.access.create_token("root@example.com", role="admin", created_by="root").secret
            yard.registry.create_model("fraud", created_by="root@example.com")
            yard.governance.register_dataset("cards")
        with YardServer(Path(folder) / "yard") as server:
            with urlopen(
                f"{server.url}/api/v1/openapi.json", timeout=120
            ) as answer:  # made now: the peer waits ten seconds
                answer.read()
            command = [str(given.peer), "run", f"{server.url}/api/v1/openapi.json", "--checks", given.checks]
            command += ["--header", f"Authorization: Bearer {secret}", "--max-examples", str(given.examples)]
            command += ["--phases", given.phases, "--seed", "1", "--no-color", "--suppress-health-check", "all"]
            command += ["--exclude-path", "/api/v1/openapi.json", "--rate-limit", "300/s", "--warnings", "off"]
            if given.only:
                command += ["--include-path-regex", given.only]
            done = subprocess.run(command, check=False, cwd=folder).returncode
            log = server.log.read_text()
            if "Traceback" in log:
                sys.stdout.write(log)
                done = done or 1
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
