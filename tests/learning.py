"""Whether every algorithm learns on both engines, by three seeds: `nox -s learning` (an hour), outside CI.

`python -m tests.learning ENGINE` writes docs/learning-ENGINE.json, run by run, and goes on where it was interrupted;
`python -m tests.learning` draws docs/learning.svg and writes the table of docs/learning.md from these files.
"""

import json
import sys
import time
from dataclasses import replace
from typing import Any

from benchmarks.rl_step import CASES, RLStep, learning
from harness import envs
from harness.paths import PROJECT
from harness.rig import Rig, log_path

DOCS = PROJECT / "docs"
ENGINES, SEEDS, GOAL = ("vllm", "sglang"), (0, 1, 2), 0.9
FIRST = CASES["tiny-grpo-learns"]
RUNS = {name: CASES[f"tiny-{name}-learns"] for name in ("grpo", "ppo", "rloo", "dapo")} | {
    # The supervised steps teach an adapter less, so that it begins at 0.13.
    "grpo, LoRA": replace(learning(FIRST, settings=FIRST.lesson.settings | {"rate": 1e-3, "lora": 16}), steps=100)
}


def run(rig: Rig, case: RLStep, seed: int) -> dict[str, Any]:
    case = learning(replace(case, seed=seed), settings=case.lesson.settings | {"seed": seed})
    rig.begin(rig.log)
    start = time.monotonic()
    for index in range(case.steps):
        case.step(rig, index)
    seconds, certificates = time.monotonic() - start, case.finish(rig)
    rig.unlink()
    return {
        "curve": rig.facts["curve"],
        "held_out": round(rig.facts["held_out"], 4),
        "seconds": round(seconds, 1),
        "mismatch": max(rig.facts["mismatch"]),
        "wrong": {name: one.reason for name, one in certificates.items() if one.ok is False},
    }


def measure(engine: str) -> None:
    path = DOCS / f"learning-{engine}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    log = log_path(PROJECT / "results" / ".work" / "logs" / "learning", engine, 0)
    with Rig(envs.find(engine), FIRST.model, FIRST.options, log, 600, lambda text: None) as rig:
        for seed in SEEDS:
            for name, case in RUNS.items():
                if (key := f"{name}, seed {seed}") not in found:
                    found[key] = run(rig, case, seed)
                    path.write_text(json.dumps(found, indent=1) + "\n")
                    print(engine, key, {k: v for k, v in found[key].items() if k != "curve"}, flush=True)


def draw() -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rollbench"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(ENGINES), len(RUNS), figsize=(12, 4.6), sharex=True, sharey=True)
    lines = ["| algorithm | engine | held-out reward, three seeds | seconds of all steps | largest mismatch, nats |"]
    lines += ["|---|---|---|---|---|"]
    for row, engine in zip(axes, ENGINES, strict=True):
        found = json.loads((DOCS / f"learning-{engine}.json").read_text())
        for axis, name in zip(row, RUNS, strict=True):
            runs = [found[f"{name}, seed {seed}"] for seed in SEEDS]
            for seed, one in zip(SEEDS, runs, strict=True):
                axis.plot(one["curve"], linewidth=1, label=f"seed {seed}")
            axis.axhline(GOAL, color="grey", linewidth=0.8, linestyle=":")
            axis.set_title(f"{name} · {engine}", fontsize=9)
            held = ", ".join(f"{one['held_out']:.2f}" for one in runs)
            seconds = ", ".join(f"{one['seconds']:.0f}" for one in runs)
            lines.append(f"| {name} | {engine} | {held} | {seconds} | {max(one['mismatch'] for one in runs):.1e} |")
    axes[0][0].legend(fontsize=7)
    axes[-1][len(RUNS) // 2].set_xlabel("step")
    figure.supylabel("reward of sampled answers")
    figure.tight_layout()
    figure.savefig(DOCS / "learning.svg", metadata={"Date": None})
    page = DOCS / "learning.md"
    head, _, _ = page.read_text().partition("| algorithm |")
    page.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    for each in sys.argv[1:]:
        measure(each)
    if not sys.argv[1:]:
        draw()
