"""Launches of a run that has not ended: each is saved as soon as it has ended, so that an interruption loses none."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import store
from harness.record import Launch


class Part(BaseModel):
    """A finished launch with what its engine said of itself."""

    model_config = ConfigDict(extra="forbid")
    launch: Launch
    flags: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Pending:
    """The folder of one run of one case. `plan` is all that must agree for a run to be gone on with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder.name

    @classmethod
    def open(cls, root: Path, plan: dict[str, Any], resume: bool) -> "Pending":
        """A new folder, or with `resume` the newest interrupted run of this very plan where there is one."""
        text = json.dumps(plan, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        kept = sorted(root.glob(f"*-{digest}"))
        if resume and kept:
            return cls(kept[-1])
        pending = cls(root / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{digest}")
        store.write(pending.folder / "plan.json", text + "\n")
        return pending

    @staticmethod
    def interrupted(root: Path) -> int:
        """How many launches lie in folders of interrupted runs."""
        return len(list(root.glob("*/*-*.json")))

    def save(self, engine: str, part: Part) -> None:
        store.write(self._path(engine, part.launch.order), part.model_dump_json() + "\n")

    def load(self, engine: str, order: int) -> Part | None:
        """The saved launch, None when there is none or its file is damaged (it is then measured anew)."""
        try:
            return Part.model_validate_json(self._path(engine, order).read_bytes())
        except (OSError, ValidationError):
            return None

    def parts(self, engine: str) -> Iterator[Part]:
        """The engine's launches, in order."""
        orders = sorted(int(path.stem.rsplit("-", 1)[1]) for path in self.folder.glob(f"{engine}-*.json"))
        for order in orders:
            if part := self.load(engine, order):
                yield part

    def _path(self, engine: str, order: int) -> Path:
        return self.folder / f"{engine}-{order}.json"

    def done(self) -> None:
        shutil.rmtree(self.folder)
