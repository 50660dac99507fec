"""asv's way to run a commit: its tree under the interpreter that runs asv. The engines' environments are found, or
built, by the tree itself from its own locks. Named in asv.conf.json (`existing` would refuse a range of commits)."""

import sys
from pathlib import Path
from typing import Any

from asv.environment import Environment
from asv.machine import Machine, MachineCollection
from asv.util import UserError

from harness import asv_history
from harness.paths import PROJECT


def make_known() -> None:
    """What `asv machine --yes` does: asv asks about a machine that it has not met, and a first `asv continuous` would
    wait for answers."""
    name = Machine.get_unique_machine_name()
    try:
        MachineCollection.load(name)
    except UserError:
        MachineCollection.save(name, Machine.get_defaults())


def setup() -> None:
    """asv calls this when it loads the plugin. `asv publish` is given the tracked records too."""
    make_known()
    if "publish" in sys.argv[1:]:
        asv_history.write(PROJECT / "results", PROJECT / ".asv" / "results")


class Ready(Environment):  # type: ignore[misc]
    """An environment that is there already; what changes from commit to commit is the tree on its path."""

    tool_name = "rollbench"

    def __init__(self, conf: Any, python: str, requirements: Any, tagged_env_vars: Any) -> None:
        self._requirements: dict[str, str] = {}
        super().__init__(conf, python, {}, tagged_env_vars)
        self._base_requirements: dict[str, str] = {}

    @classmethod
    def matches(cls, python: str) -> bool:
        return True

    def create(self) -> None:
        Path(self._path).mkdir(parents=True, exist_ok=True)

    def find_executable(self, executable: str) -> str:
        return sys.executable

    def install_project(self, conf: Any, repo: Any, commit_hash: str) -> None:
        """Check the commit out, and put it on the path."""
        self.checkout_project(repo, commit_hash)
        self._set_build_dirs(self._build_root, None)
        self._global_env_vars["ASV_PYTHONPATH"] = self._build_root

    def run(self, args: list[str], **kwargs: Any) -> Any:
        return self.run_executable("python", args, **kwargs)
