"""Speed behind syncs against speed before: what holds, what does not, and what cannot be told."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness import envs, speed
from harness.rig import Rig, log_path
from harness.scenario import Options
from harness.series import Series
from harness.speed import Rounds

BEFORE = Rounds([100.0, 101.0, 99.0, 100.0, 100.0], 0.0, 1.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    options = Options(native={"fake": {"seconds_per_token": 0.001}})
    with Rig(envs.find("fake"), "tiny-qwen3", options, log_path(tmp_path, "fake", 0), 60, print) as rig:
        yield rig


def test_rounds_are_of_one_cold_batch_and_leave_the_audit_alone(rig: Rig) -> None:
    prompts, tokens = speed.BATCH["cpu"]
    found = speed.rounds(rig)
    assert len(found.rates) == speed.ROUNDS
    assert 0 < min(found.rates) <= max(found.rates) <= prompts * tokens / (tokens * 0.001)
    assert found.ended - found.begun >= sum(prompts * tokens / rate for rate in found.rates)
    assert 0 < found.host < 1
    assert rig.audit.calls == []
    assert int(rig.generate(speed.batch(rig), temperature=0.0).cached_B.sum()) > 0  # the last round left it


@pytest.mark.parametrize(
    ("behind", "ok", "tries"),
    [
        ([[100.0] * 5], True, 1),
        ([[81.0] * 5], True, 1),  # a CPU's noise
        ([[70.0] * 5, [90.0] * 5], True, 2),  # it was disturbed, and is repeated
        ([[70.0] * 5] * 3, False, 3),
        ([[70.0] * 5, [70.0, 70.0, 70.0, 70.0, 95.0], [60.0] * 5], None, 3),  # one round could
    ],
)
def test_speed_is_kept_lost_or_cannot_be_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, behind: list[list[float]], ok: bool | None, tries: int
) -> None:
    found = list(behind)
    monkeypatch.setattr(speed, "rounds", lambda rig: Rounds(found.pop(0), 1.0, 2.0))
    monkeypatch.setattr(speed, "disturbed", lambda rig, spans: "")
    certificate = speed.kept(rig, BEFORE)
    assert certificate.ok is ok
    assert len(behind) - len(found) == tries
    assert rig.facts["speed"] == {"before": BEFORE.rates, "behind": behind[:tries]}
    assert "of the 100 tok/s before the first sync, at least 0.8 needed" in certificate.reason


def test_what_others_used_is_told_instead_of_a_loss(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {"t": [0.0, 1.0, 2.0], "busy": [0.0, 1.1, 5.1], "own": [0.0, 1.0, 2.0]}
    columns = {name: np.array(values) for name, values in busy.items()}
    columns |= {"total": 4 * columns["t"], "light": 0 * columns["t"], "sampler": 0 * columns["t"]}
    monkeypatch.setattr(rig, "series", lambda ended: Series(columns, ""))
    monkeypatch.setattr(speed.machine, "fingerprint", lambda: SimpleNamespace(cores=4))
    quiet, loud = Rounds([70.0] * 5, 0.0, 0.5), Rounds([70.0] * 5, 1.0, 2.0)
    assert speed.disturbed(rig, [quiet]) == ""  # 0.1 cores
    assert speed.disturbed(rig, [quiet, loud]) == "others used 3.00 cores of 4, at most 0.40 pass"
    monkeypatch.setattr(speed, "rounds", lambda rig: loud)
    certificate = speed.kept(rig, BEFORE)
    assert certificate.ok is None
    assert "but others used 3.00 cores" in certificate.reason


def test_rounds_before_that_were_as_slow_are_told_instead_of_a_loss(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "rounds", lambda rig: Rounds([70.0] * 5, 1.0, 2.0))
    monkeypatch.setattr(speed, "disturbed", lambda rig, spans: "")
    certificate = speed.kept(rig, Rounds([100.0, 100.0, 101.0, 66.0, 65.0], 0.0, 1.0))
    assert (certificate.ok, "but two before had 0.660 or less" in certificate.reason) == (None, True)
    assert speed.kept(rig, Rounds([100.0, 100.0, 101.0, 99.0, 65.0], 0.0, 1.0)).ok is False  # one alone tells nothing


@pytest.mark.parametrize(("host", "ok"), [(1.0, False), (1.1, False), (1.2, None)])
def test_a_slower_processor_is_told_instead_of_a_loss(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, host: float, ok: bool | None
) -> None:
    monkeypatch.setattr(speed, "rounds", lambda rig: Rounds([70.0] * 5, 1.0, 2.0, host))
    monkeypatch.setattr(speed, "disturbed", lambda rig, spans: "")
    certificate = speed.kept(rig, BEFORE)
    assert certificate.ok is ok
    assert ("the processor took 1.20 times as long" in certificate.reason) == (ok is None)


def test_a_gpu_is_held_to_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class There:
        facts: dict[str, Any] = {}  # noqa: RUF012
        environment = type("Environment", (), {"device": "cuda"})

    monkeypatch.setattr(speed, "rounds", lambda rig: Rounds([94.0] * 5, 1.0, 2.0))
    monkeypatch.setattr(speed, "disturbed", lambda rig, spans: "")
    assert speed.kept(There(), BEFORE).ok is False  # type: ignore[arg-type]
