"""Says what this process is like, as JSON, and ends with the status that it is told."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    words = {name: os.environ.get(name) for name in ("WORD", "PYTHONUTF8")}
    descriptors = sorted(map(int, os.listdir("/proc/self/fd")))
    print(
        json.dumps(
            {
                "parent": os.getppid(),
                "group": os.getpgid(0),
                "pid": os.getpid(),
                "folder": os.getcwd(),
                "path": sys.path[0],
                "arguments": sys.argv[1:],
                "command_line": " ".join(
                    Path("/proc/self/cmdline").read_text().split("\0")
                ).strip(),
                "words": words,
                # One of them is that by which the others are listed.
                "descriptors": [
                    number for number in descriptors if os.path.exists(f"/dev/fd/{number}")
                ],
                "forked": "quicbaton.cli.worker" in sys.modules,
                "input": sys.stdin.read(),
            }
        )
    )
    sys.exit(int(sys.argv[1]))
