"""The fingerprint and the state of a machine."""

import re

from harness import doctor, machine


def test_fingerprint_names_the_machine() -> None:
    found = machine.fingerprint()
    assert re.fullmatch(r"[a-z0-9-]+", found.id)
    assert found.cores >= 1
    assert found.ram_gib > 0
    assert bool(found.gpus) == bool(found.driver)


def test_state_is_read_without_a_gpu_too() -> None:
    state = machine.state()
    assert state["ram_available_gib"] > 0
    assert ("gpus" in state) == bool(machine.gpu_names())
    assert len(machine.device_memory_mib()) == len(machine.gpu_names())


def test_doctor_says_what_to_do(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (99.0, 0, 0))
    found = {f.what: f for f in doctor.findings(tmp_path / "results")}
    assert "nox -s env-vllm" in found["vllm cannot run"].advice
    assert any(f.state == "warning" and "load average 99" in f.what for f in found.values())
    assert any("results go to" in what for what in found)
