"""An empty `ray` where there is none, for an import alone.

vLLM 0.26 imports ray at the top of its IPC engine, for one of its three ways of sending handles, which is not
the one that is used here; its workers never use it. Nothing else of vLLM takes an empty package for ray: each asks for
a part of it and catches what follows.
"""

import importlib.util
import os
import sys
from pathlib import Path

ENGINE = "vllm.distributed.weight_transfer.ipc_engine"
FOLDER = Path(__file__).parents[1] / "shims" / "vllm_ray"


def install_where_missing() -> None:
    """In this process and in those that it will start, where this vLLM needs it and there is no ray."""
    if importlib.util.find_spec("ray") is None and _imported_by(ENGINE):
        sys.path.append(str(FOLDER))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(FOLDER))))


def installed() -> bool:
    """Whether the ray that this process finds is the stand-in."""
    found = importlib.util.find_spec("ray")
    return found is not None and found.origin is not None and Path(found.origin).is_relative_to(FOLDER)


def _imported_by(module: str) -> bool:
    """Whether a module's source imports ray wherever it is imported itself."""
    found = importlib.util.find_spec(module)
    return found is not None and "import ray" in Path(str(found.origin)).read_text().splitlines()
