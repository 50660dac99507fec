"""The table of peaks, and how the probe is run: on a stand-in for an interpreter, never on torch."""

import json
from pathlib import Path

import pytest

from harness import client, rates
from harness.machine import boot_id

FOUND = [{"device": "cpu", "copy_gb_s": 10.0}]


REPLY = """reply() { echo "{\\"value\\": $1, \\"seconds\\": 0}" > /dev/fd/$out; }\n"""


def python(folder: Path, script: str) -> str:
    """An interpreter that runs a shell script instead, once it is asked; `reply JSON` in it answers."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nout=$5; read asked < /dev/fd/$4\n{REPLY}{script}\n")
    path.chmod(0o755)
    return str(path)


def test_every_peak_has_figures_and_a_source() -> None:
    assert len({row.gpu for row in rates.PEAKS}) == len(rates.PEAKS)
    for row in rates.PEAKS:
        assert row.source.startswith("NVIDIA")
        assert 50 < row.tflop_s < 1000  # above: a figure with sparsity
        assert 300 <= row.gb_s < 5000


@pytest.mark.parametrize(
    ("name", "tflop_s", "gb_s"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 3350),
        ("NVIDIA H100 PCIe", 756, 2000),
        ("NVIDIA H200", 989, 4800),
        ("NVIDIA H20", 148, 4000),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("A100-PCIE-40GB", 312, 1555),
        ("NVIDIA L40S", 362.05, 864),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA GeForce RTX 4090", 165.2, 1008),
    ],
)
def test_peak_by_the_name_that_nvml_reports(name: str, tflop_s: float, gb_s: float) -> None:
    found = rates.peak(name)
    assert found and (found.tflop_s, found.gb_s) == (tflop_s, gb_s)


@pytest.mark.parametrize(
    "name",
    ["", "NVIDIA GH200 480GB", "NVIDIA H200 NVL", "NVIDIA H20-3e", "NVIDIA A10G", "NVIDIA GeForce RTX 3090 Ti",
     "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GB200"],
)  # fmt: skip
def test_another_card_of_a_like_name_has_no_peak(name: str) -> None:
    assert rates.peak(name) is None


def test_the_longest_row_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rates, "PEAKS", (rates.Peak("PCIe", 1, 1, ""), *rates.PEAKS, rates.Peak("H100 PCIe X", 1, 1, ""))
    )
    found = rates.peak("NVIDIA H100 PCIe")
    assert found and found.gpu == "H100 PCIe"


def test_measured_once_a_boot_interpreter_and_choice_of_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = f"""[ "$1 $2" = "-m harness.worker.rates" ] || exit 3
    [ -f "${{PYTHONPATH%%:*}}/harness/worker/rates.py" ] || exit 4
    echo "$PYTHONPATH" >> {tmp_path}/runs; reply '{json.dumps(FOUND)}'"""
    fake, kept = python(tmp_path, script), tmp_path / "kept"
    for _ in range(2):
        assert rates.measured(fake, kept, (Path("/shim"),)) == {"devices": FOUND}
    assert [path.name.startswith(f"rates-{boot_id()[:8]}-") for path in kept.glob("*.json")] == [True]
    assert rates.measured(fake, kept, variables={"CUDA_VISIBLE_DEVICES": "1"}) == {"devices": FOUND}
    monkeypatch.setattr(rates, "boot_id", lambda: "another boot")
    assert rates.measured(fake, kept) == {"devices": FOUND}
    runs = (tmp_path / "runs").read_text().splitlines()
    assert [run.endswith("/site:/shim") for run in runs] == [True, False, False]
    assert not Path(runs[0].removesuffix("/site:/shim")).exists()
    assert len(list(kept.glob("*.json"))) == 3


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'No module named torch' >&2; exit 1", "died in rates (exit status 1) (log: /"),
        ("exit 0", "died in rates (exit status 0)"),
        ("echo nonsense > /dev/fd/$5", "Expecting value"),
    ],
)
def test_a_probe_that_fails_gives_the_reason_and_keeps_nothing(tmp_path: Path, script: str, reason: str) -> None:
    found = rates.measured(python(tmp_path, script), tmp_path / "kept")
    assert found.keys() == {"failed"}
    assert reason in found["failed"]
    assert "\n" not in found["failed"]
    assert not list(tmp_path.glob("kept/*.json"))


def test_no_interpreter_and_no_folder(tmp_path: Path) -> None:
    assert "No such file" in rates.measured("/no/python", tmp_path)["failed"]
    (tmp_path / "file").touch()
    assert rates.measured(python(tmp_path, "reply []"), tmp_path / "file").keys() == {"failed"}


def test_a_late_probe_ends_with_all_that_it_started(tmp_path: Path) -> None:
    fake = python(tmp_path, f"echo $$ > {tmp_path}/leader; sleep 60 & wait")
    assert rates.measured(fake, tmp_path / "kept", timeout=0.3)["failed"].count("no answer to rates within 0.3 s")
    assert client.group(int((tmp_path / "leader").read_text())) == []
