"""Fuzz for a while: `python -m tests.fuzz.run [--seconds N] [TARGET...]`.

With atheris, where that is installed, new inputs are found by coverage; they are kept in
`.fuzz/TARGET`, from where the next run goes on. Otherwise hypothesis makes as many as there is time
for. An input that fails is written to `corpus/TARGET`: mend the fault and commit both.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import fuzzing

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz one target after the other.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(fuzzing.names()))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser.add_argument(
        "--engine",
        choices=["atheris", "hypothesis"],
        default="atheris" if has_atheris else "hypothesis",
        help="atheris where it is installed, else hypothesis",
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.targets) - set(fuzzing.names())
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {fuzzing.names()}")
    if options.one:
        return _with_atheris(options.targets[0], options.seconds)
    failed = []
    for name in options.targets or fuzzing.names():
        print(f"--- {name}: {options.seconds} s with {options.engine}", flush=True)
        if options.engine == "atheris":
            # libFuzzer ends its process.
            command = [
                sys.executable,
                "-m",
                __spec__.name,
                "--one",
                "--seconds",
                str(options.seconds),
                name,
            ]
            found_none = subprocess.run(command, check=False).returncode == 0
        else:
            found_none = _with_hypothesis(name, options.seconds)
        if not found_none:
            failed.append(name)
    print(f"faults in: {', '.join(failed)}" if failed else "no fault found")
    return 1 if failed else 0


def _with_atheris(name: str, seconds: int) -> int:
    import atheris  # noqa: PLC0415 - an option

    with atheris.instrument_imports(include=["quicbaton"]):
        module = fuzzing.load(name)
    found = ROOT / ".fuzz" / name
    known = fuzzing.CORPUS / name
    for folder in (found, known):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in module.seeds():
        (found / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    arguments = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={known}/",
        f"-max_len={fuzzing.MAX_BYTES}",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *arguments, str(found), str(known)], module.target)
    atheris.Fuzz()
    return 0


def _with_hypothesis(name: str, seconds: int) -> bool:
    module = fuzzing.load(name)
    until = time.monotonic() + seconds
    tried = 0
    smallest: list[bytes] = []

    @settings(
        max_examples=500,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzzing.inputs(module, name))
    def try_it(data: bytes) -> None:
        nonlocal tried
        tried += 1
        try:
            module.target(data)
        except Exception:
            # Hypothesis ends with the smallest.
            smallest[:] = [data]
            raise

    while time.monotonic() < until:
        try:
            try_it()
        except Exception:
            traceback.print_exc()
            break
    print(f"{tried} inputs")
    if not smallest:
        return True
    folder = fuzzing.CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{hashlib.sha256(smallest[0]).hexdigest()[:16]}"
    path.write_bytes(smallest[0])
    print(f"kept as {path.relative_to(ROOT)}")
    return False


if __name__ == "__main__":
    sys.exit(main())
