"""The engines' own benchmarks, as they are: what rollbench's figures are held against.

`python -m harness.worker.own_tool TOOL INCOMING OUTGOING`: a job comes over the wire, and what the tool measured, in
the tool's own words, goes back. Its functions are called and not its command, because flags go in as Python values, and
because the command asks for the metadata of a distribution that a build of another name does not have.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from harness.worker.__main__ import exchange

Job = dict[str, Any]
DATA, OUT = Path("data.json"), Path("own_tool.json")  # in the worker's scratch folder


def vllm(job: Job) -> dict[str, Any]:
    """`vllm bench throughput`: one `LLM.generate` of all prompts, behind one of all warm-up prompts."""
    from vllm.benchmarks import throughput

    arguments = parsed(throughput.add_cli_args, [
        "--model", job["model"], "--dataset-name", "sharegpt", "--dataset-path", str(DATA.absolute()),
        "--output-len", str(job["output_tokens"]), "--num-prompts", str(job["prompts"]),
        "--num-warmups", str(job["warmup"]), "--seed", str(job["seed"]), "--output-json", str(OUT.absolute()),
        *job["switches"],
    ])  # fmt: skip
    for name, value in job["flags"].items():
        if not hasattr(arguments, name):
            raise AttributeError(f"vllm bench throughput has no flag {name}")
        setattr(arguments, name, value)
    throughput.main(arguments)
    found: dict[str, Any] = json.loads(OUT.read_text())
    return found


def parsed(add: Any, words: list[str]) -> Any:
    """The arguments of one of vLLM's own commands."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add(parser)
    return parser.parse_args(words)


def sglang(job: Job) -> dict[str, Any]:
    """`sglang.bench_offline_throughput`: one `Engine.generate` of all prompts, behind its own warm-up of 16 prompts.

    `job["rehearse"]`: so many more of the timed calls before the one that counts, to see what warm-up is worth.
    """
    from sglang.benchmark import offline_throughput as tool
    from sglang.srt.server_args import ServerArgs

    once = tool.throughput_test_once

    def rehearsed(*positional: Any, reqs: Any, **named: Any) -> Any:
        for _ in range(job["rehearse"] if len(reqs) == job["prompts"] else 0):
            once(*positional, reqs=reqs, **named)
            time.sleep(0.5)  # as the tool does behind its own warm-up
        return once(*positional, reqs=reqs, **named)

    tool.throughput_test_once = rehearsed
    asked = tool.BenchArgs(
        dataset_name="random", dataset_path=str(DATA.absolute()), num_prompts=job["prompts"],
        random_input_len=job["input_tokens"], random_output_len=job["output_tokens"],
        random_range_ratio=1.0,  # which is what it calls lengths that do not vary
        seed=job["seed"], extra_request_body=json.dumps({"temperature": job["temperature"]}),
    )  # fmt: skip
    found: dict[str, Any] = tool.throughput_test(ServerArgs(model_path=job["model"], **job["flags"]), asked)
    return found


def serve(job: Job) -> dict[str, Any]:
    """`vllm bench serve`: requests at even times to a server. Nothing comes back: the server knows when they came."""
    from vllm.benchmarks import serve

    serve.main(parsed(serve.add_cli_args, [
        "--model", job["model"], "--base-url", job["url"], "--dataset-name", "random",
        "--random-input-len", str(job["input_tokens"]), "--random-output-len", str(job["output_tokens"]),
        "--num-prompts", str(job["prompts"]), "--request-rate", str(job["rate"]), "--burstiness", "inf",
        "--disable-tqdm",
    ]))  # fmt: skip
    return {}


TOOLS = {"vllm": vllm, "sglang": sglang, "vllm-serve": serve}


def run(job: Job) -> dict[str, Any]:
    """What a message asks for, of the tool that the command line names."""
    os.environ.update(job["environment"])
    DATA.write_text(json.dumps(job["data"]))
    return TOOLS[sys.argv[1]](job)


if __name__ == "__main__":
    exchange(run, int(sys.argv[2]), int(sys.argv[3]))
