"""What a device can do: peaks that its vendor states, and rates that a probe reached on it inside an environment."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.client import Worker, environment
from harness.errors import LaunchFailed
from harness.machine import boot_id
from harness.store import write

MODULE = "harness.worker.rates"
TIMEOUT = 120.0  # seconds, most of them for importing torch from a cold disk


@dataclass(frozen=True)
class Peak:
    """One GPU's peaks: bf16 matrix products without sparsity and with float32 accumulation, and its memory."""

    gpu: str  # how the name that NVML reports ends
    tflop_s: float  # 10^12 FLOP/s
    gb_s: float  # 10^9 bytes/s
    source: str


H100 = "NVIDIA H100 Tensor Core GPU datasheet (its bf16 figures are with sparsity: half of them)"
A100_80 = "NVIDIA A100 Tensor Core GPU datasheet, 80 GB"
A100_40 = "NVIDIA A100 Tensor Core GPU datasheet, 40 GB"
PEAKS = (  # a card on which sources disagree (A10G, B200) or that could not be checked (GH200, H200 NVL) is left out
    Peak("H100 80GB HBM3", 989, 3350, H100),
    Peak("H100 PCIe", 756, 2000, H100),
    Peak("H100 NVL", 835, 3900, H100),
    Peak("H200", 989, 4800, "NVIDIA H200 Tensor Core GPU datasheet (bf16 with sparsity: half)"),
    Peak("H20", 148, 4000, "NVIDIA H20 specification as resellers print it (no datasheet of NVIDIA's own was found)"),
    Peak("A100-SXM4-80GB", 312, 2039, A100_80),
    Peak("A100 80GB PCIe", 312, 1935, A100_80),
    Peak("A100-SXM4-40GB", 312, 1555, A100_40),
    Peak("A100-PCIE-40GB", 312, 1555, A100_40),
    Peak("L40S", 362.05, 864, "NVIDIA L40S datasheet"),
    Peak("L40", 181.05, 864, "NVIDIA L40 datasheet"),
    Peak("L4", 121, 300, "NVIDIA L4 Tensor Core GPU datasheet (bf16 with sparsity: half)"),
    Peak("A10", 125, 600, "NVIDIA A10 Tensor Core GPU datasheet"),
    Peak("RTX 4090", 165.2, 1008, "NVIDIA Ada GPU Architecture whitepaper"),
    Peak("RTX 3090", 71, 936, "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A"),
)


def peak(gpu_name: str) -> Peak | None:
    """The peaks of the GPU of that NVML name: of the rows that the name ends with, word for word, the longest.

    The end, because what follows makes another card (RTX 4090 Laptop GPU, RTX 3090 Ti, H20-3e, a MIG slice), and words,
    because GH200 is no H200. None rather than a wrong denominator.
    """
    rows = [row for row in PEAKS if f" {gpu_name}".endswith(f" {row.gpu}")]
    return max(rows, key=lambda row: len(row.gpu), default=None)


def measured(
    python: str,
    folder: Path,
    paths: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Rates that the devices reach under this interpreter's torch: `{"devices": [...]}`, as `harness.worker.rates`
    writes them, or `{"failed": reason}`; never raises.

    The probe runs once a boot, interpreter and CUDA_VISIBLE_DEVICES and its answer stays in `folder`; a failure is not
    kept. Call it while nothing else runs on the devices. `paths` and `variables` are those of the engine's worker.
    """
    seen = environment(variables or {}, ()).get("CUDA_VISIBLE_DEVICES")
    digest = hashlib.sha256(json.dumps([python, seen]).encode()).hexdigest()
    kept = folder / f"rates-{boot_id()[:8]}-{digest[:8]}.json"
    log = kept.with_suffix(".log")
    try:
        if not kept.is_file():
            with Worker("probe of rates", python, log, variables or {}, tuple(paths), MODULE) as probe:
                write(kept, json.dumps(probe.call("rates", timeout).value, indent=1) + "\n")
        return {"devices": json.loads(kept.read_text())}
    except LaunchFailed as error:  # which names the log
        return {"failed": f"{python}: {str(error).splitlines()[0]}"}
    except (OSError, ValueError) as error:
        return {"failed": f"{python}: {str(error).splitlines()[0]} (log: {log})"}
