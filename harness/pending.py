"""Launches of a run that has not ended: each is saved as soon as it has ended, so that an interruption loses none."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import store
from harness.envs import Environment
from harness.record import Launch


class Part(BaseModel):
    """A finished launch with what its engine said of itself, and where its log lies."""

    model_config = ConfigDict(extra="forbid")
    launch: Launch
    flags: dict[str, Any] = {}
    versions: dict[str, str] = {}
    log: str = ""  # under the logs of the results folder


class Pending:
    """The folder of one case of a run. `plan` is all that must agree for a run to be gone on with."""

    def __init__(self, folder: Path, resumed: bool = False) -> None:
        self.folder, self.run, self.resumed = folder, folder.name, resumed

    @classmethod
    def open(cls, root: Path, plan: dict[str, Any], resume: bool) -> "Pending":
        """A new folder, or with `resume` the newest interrupted run of this very plan where there is one."""
        text = json.dumps(plan, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        kept = sorted(root.glob(f"*-{digest}"))
        if resume and kept:
            return cls(kept[-1], resumed=True)
        pending = cls(root / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{digest}")
        store.write(pending.folder / "plan.json", text + "\n")
        return pending

    @property
    def records(self) -> list[Path] | None:
        """Records already written of this case, None while it has not ended."""
        path = self.folder / "records.json"
        return [Path(p) for p in json.loads(path.read_text())] if path.exists() else None

    def ended(self, records: list[Path]) -> None:
        """The case has ended, and these are its records; the folder stays until the whole run has ended."""
        store.write(self.folder / "records.json", json.dumps([str(p) for p in records]))

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

    def missing(self, environments: Sequence[Environment], launches: int) -> int:
        """How many of so many launches an engine have no figures; none is missed of one that cannot do this at all."""
        able = [e for e in environments if not self.refused(e.engine)]
        return launches * len(able) - self.good(able)

    def refused(self, engine: str) -> bool:
        """Whether the engine has said that it cannot do this at all."""
        return any(part.launch.unsupported for part in self.parts(engine))

    def good(self, environments: Sequence[Environment]) -> int:
        """How many launches of these engines have ended well."""
        return sum(part.launch.error is None for e in environments for part in self.parts(e.engine))

    def _path(self, engine: str, order: int) -> Path:
        return self.folder / f"{engine}-{order}.json"

    def remove(self) -> None:
        shutil.rmtree(self.folder)
