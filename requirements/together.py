"""Ask the resolver whether both engines fit into one environment, with the versions that the locks hold; the answers go
into requirements/together.json, from which `rollbench guide` tells them: `python requirements/together.py`."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

from harness.envs import torch_source
from harness.together import ANSWERS, Answer, questions

HERE = Path(__file__).parent
TARGETS = {"cpu": ("3.11", "x86_64-manylinux_2_34"), "cuda": ("3.12", "x86_64-manylinux_2_39")}  # as lock.py has them


def answer(lane: str, asked: tuple[str, ...]) -> Answer:
    """What uv says of these requirements, with what both engines' locks leave out left out."""
    python, platform = TARGETS[lane]
    overrides = "".join(path.read_text() for path in sorted(HERE.glob(f"*-{lane}.overrides")))
    with tempfile.TemporaryDirectory() as folder:
        wanted, left_out = Path(folder, "wanted.in"), Path(folder, "left-out.in")
        wanted.write_text("\n".join(asked) + "\n")
        left_out.write_text(overrides)
        command = ["uv", "pip", "compile", "--quiet", f"--python-version={python}", f"--python-platform={platform}",
                   f"--overrides={left_out}", str(wanted), *torch_source(lane)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "unsatisfiable" not in done.stderr and "incompatible" not in done.stderr:
        raise SystemExit(f"{' '.join(command)}: the resolver gave no answer:\n{done.stderr}")
    why = re.search(r"Because.*", " ".join(done.stderr.split()))
    return Answer(lane=lane, asked=asked, fits=not done.returncode, why=why[0] if why else "")


def main() -> None:
    version = subprocess.run(["uv", "--version"], capture_output=True, text=True, check=True).stdout.split()
    found = [answer(lane, asked) for lane, asked in questions()]
    for one in found:
        print(f"{one.lane}: {' + '.join(one.asked)}: {'fits' if one.fits else one.why}")
    told = {"resolver": " ".join(version[:2]), "answers": [one.model_dump() for one in found]}
    ANSWERS.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
