"""What a trainer makes of a device, without an engine: `python -m tests.trainers.speed 1.5B grpo [SETTINGS]`.

512 packed sequences of 128 + 512 random tokens (`--sequences` fewer), a step after the first ones, which compile:
seconds and peak memory of each phase, and MFU, model FLOPs of forward and backward passes
(`harness.efficiency.training_flops`) over their seconds and the device's peak. `--profile`: where the device's time
goes in one more step. SETTINGS: fields of `trainers.settings.Settings` as JSON.
"""

import argparse
import json
from pathlib import Path

import torch

from harness import efficiency, models
from trainers.algorithms import ALGORITHMS
from trainers.batch import Batch, build, group_ids
from trainers.settings import Settings
from trainers.trainer import Trainer

FAST = {"compiled": True, "budget": 8192, "chunk": 4096}
PROMPT, OWN, GROUP = 128, 512, 8
WARM_UP = 2


def batch(vocabulary: int, count: int) -> Batch:
    random = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        found: list[int] = torch.randint(3, vocabulary, (length,), generator=random).tolist()
        return found

    asked = [prompt for _ in range(count // GROUP) for prompt in [tokens(PROMPT)] * GROUP]
    given, rewards = [tokens(OWN) for _ in asked], torch.rand(len(asked), generator=random).tolist()
    logprobs = [[-12.0] * OWN] * len(asked)
    return build(asked, given, logprobs, rewards, group_ids(len(asked), GROUP), ended=[True] * len(asked), limit=OWN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", help="of Qwen2.5: 0.5B, 1.5B, 7B")
    parser.add_argument("algorithm", choices=ALGORITHMS)
    parser.add_argument("settings", nargs="?", default=json.dumps(FAST))
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--tflops", type=float, default=989.4, help="peak bf16 rate of the device; an H100's")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    path = str(models.find(f"Qwen2.5-{asked.size}").path)
    config = json.loads(Path(path, "config.json").read_text())
    trainer = Trainer(path, ALGORITHMS[asked.algorithm], Settings(**json.loads(asked.settings)), "cuda")
    given = batch(config["vocab_size"], asked.sequences)
    for _ in range(WARM_UP + 1):
        found = trainer.train(given)
    own_B = given.own_B
    flops = efficiency.training_flops(config, given.length_B - own_B, own_B, critic=trainer.critic is not None)
    for name, value in found.items():
        if name.endswith("_s"):
            memory = found[f"{name[:-2]}_bytes"] / (1 << 30)
            print(f"{name[:-2]:18} {value:8.3f} s {memory:8.1f} GiB")
    print(f"MFU {efficiency.mfu(flops, found['forward_backward_s'], asked.tflops):.3f}")
    if asked.profile:
        with torch.profiler.profile() as seen:
            trainer.train(given)
        print(seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
