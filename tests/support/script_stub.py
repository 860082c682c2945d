"""What a shell script gives to tools/protocol.py, without running it."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")
STUB = '#!/bin/sh\n(for word; do printf "%s\\n" "$word"; done; echo END) >> "{calls}"\n'


def protocol_calls(
    script: str | Path, *words: str, folder: Path, environment: dict[str, str]
) -> list[list[str]]:
    """The arguments of every call of tools/protocol.py that a script makes.

    Args:
        script: relative to the repository.
        words: its arguments.
        folder: for the stand-in for Python and its notes.
        environment: variables of the script, beside those of the tests.
    """
    calls, stub = folder / "calls", folder / "python"
    calls.unlink(missing_ok=True)
    stub.write_text(STUB.format(calls=calls), encoding="utf-8")
    stub.chmod(0o755)
    done = subprocess.run(
        [BASH, str(script), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": str(stub), **environment},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = [call.splitlines() for call in calls.read_text().split("END\n") if call]
    return [call[1:] for call in made if call[0].endswith("protocol.py")]
