"""Every metric that a record can hold: unit, direction, definition, and what the gate takes for a change."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple


class Worth(NamedTuple):
    """What the gate takes for a change. `tolerance`: the smallest worth a verdict; `detect`: the smallest that a `pass`
    promises it would have seen. Both are shares of the metric (0.03 is 3 %); of scale `difference`, for what may be 0
    or below, they are amounts in its unit. `blocks`: a regression fails the gate; each metric that blocks costs the
    others power, so there are few, and none that says what another says."""

    tolerance: float
    detect: float
    blocks: bool = False
    scale: Literal["ratio", "difference"] = "ratio"

    @property
    def blocking(self) -> "Worth":
        return self._replace(blocks=True)


@dataclass(frozen=True)
class Metric:
    """A row of METRICS; the fields of its `Worth` are its own. `better` None: neither direction is good in itself, and
    there is no verdict."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower", None]
    tolerance: float
    detect: float
    blocks: bool
    scale: Literal["ratio", "difference"]
    definition: str


BY_LOAD = {"output_throughput": False, "ttft": True, "latency": True}  # blocks with (True) or without a rate alone


def in_case(metric: Metric, params: Mapping[str, Any]) -> Metric:
    """The metric as it blocks in a case. Requests that arrive at a rate fix the throughput, and their times block;
    where all are due at once the throughput does, and says what the times say."""
    scheduled = bool(params.get("rate") or params.get("trace"))
    return replace(metric, blocks=False) if BY_LOAD.get(metric.name, scheduled) != scheduled else metric


_SPEED, _TIME, _TAIL, _USE = Worth(0.03, 0.05), Worth(0.05, 0.10), Worth(0.10, 0.20), Worth(0.05, 0.10)
_SHARE, _COUNT = Worth(0.02, 0.05, scale="difference"), Worth(1, 5, scale="difference")
_LEAK, _HOST = Worth(0.005, 0.01, scale="difference"), Worth(0.25, 0.5, scale="difference")
_ROWS: tuple[tuple[str, str, str, Literal["higher", "lower", None], Worth, str], ...] = (
    ("output_throughput", "output", "tok/s", "higher", _SPEED.blocking,
     "generated tokens of a step over its seconds, from the start of the call to the last token"),
    ("output_per_gpu", "output a GPU", "tok/s", "higher", _SPEED,
     "output throughput over the GPUs of the case; on a machine without one it is not given"),
    ("total_throughput", "total", "tok/s", "higher", _SPEED,
     "prompt and generated tokens of a step over its seconds; prompt tokens from the prefix cache count"),
    ("step_time", "step", "s", "lower", _SPEED,
     "from the start of the call to the last token of all its requests"),
    ("ttft", "TTFT", "s", "lower", _TIME.blocking,
     "time to first token: from when a request was due (not from when it went out); median over a step's requests"),
    ("tpot", "TPOT", "s", "lower", _TIME,
     "time per output token behind the first: (last - first) / (tokens - 1); median over a step's requests"),
    ("itl", "ITL", "s", "lower", _TIME,
     "inter-token latency: time between two outputs of a request, where outputs are streamed; median over a step's"),
    ("latency", "latency", "s", "lower", _TIME.blocking,
     "from when a request was due to its last token; median over a step's requests"),
    ("conversation_time", "conversation", "s", "lower", _TIME,
     "from when a conversation was due to its last token, pauses included; median over a step's conversations"),
    ("ttft_p90", "TTFT p90", "s", "lower", _TAIL, "90th percentile over all requests of a launch"),
    ("ttft_p99", "TTFT p99", "s", "lower", _TAIL, "99th percentile over all requests of a launch"),
    ("tpot_p99", "TPOT p99", "s", "lower", _TAIL, "99th percentile over all requests of a launch"),
    ("itl_p99", "ITL p99", "s", "lower", _TAIL, "99th percentile over all gaps of a launch"),
    ("latency_p90", "latency p90", "s", "lower", _TAIL, "90th percentile over all requests of a launch"),
    ("latency_p99", "latency p99", "s", "lower", _TAIL, "99th percentile over all requests of a launch"),
    ("queue_time", "queue", "s", "lower", _TAIL,
     "in the engine's queue before its first forward pass, as the engine tells; median over a step's requests"),
    ("cache_share", "cached", "", "higher", _SHARE,
     "share of a step's prompt tokens that came from the prefix cache, as the engine counts them"),
    ("preemptions", "preemptions", "", "lower", _COUNT,
     "times that a running request of a step lost its place (SGLang: retractions)"),
    ("bubble_share", "bubble", "", "lower", _SHARE,
     "share of a step's time between the median and the last finish: what the slowest requests cost"),
    ("sync_latency", "sync", "s", "lower", _TIME.blocking,
     "from weights ready in the trainer to an engine ready to serve them: sending, loading, control, cache flush"),
    ("sync_worker", "sync: worker", "s", "lower", _TIME,
     "the part of the sync in the engine's model processes, fenced on the device, of the slowest of them"),
    ("sync_merge", "sync: merge", "s", "lower", _TAIL,
     "from a trained LoRA adapter to whole weights with it merged in, ready to be sent, in the trainer's stand-in; it "
     "comes before the sync and is no part of it"),
    ("sync_gather", "sync: gather", "s", "lower", _TAIL, "taken apart: whole tensors put together from shards"),
    ("sync_pack", "sync: pack", "s", "lower", _TAIL,
     "taken apart: the senders' part, where the engine waits for it: packing, writing, handing over"),
    ("sync_transfer", "sync: transfer", "s", "lower", _TAIL,
     "taken apart: from the senders' buffers to the engine's processes, where it is not the load itself"),
    ("sync_load", "sync: load", "s", "lower", _TAIL,
     "taken apart: into the parameters, from where the transport has the weights; with the transfer where the engine's "
     "loader fetches while it loads"),
    ("sync_start", "sync: start", "s", "lower", _TAIL, "taken apart: the engine's getting ready to take weights"),
    ("sync_finalise", "sync: finalise", "s", "lower", _TAIL, "taken apart: what the engine does with loaded weights"),
    ("sync_fence", "sync: fence", "s", "lower", _TAIL,
     "an engine's own way: rollbench's call behind the engine's that waits for the device, less the waiting; a part of "
     "the sync"),
    ("sync_flush", "sync: flush", "s", "lower", _TAIL,
     "taken apart: emptying the prefix cache, as a sync does (records of before 2026-11-24: by the engine's call)"),
    ("sync_control", "sync: control", "s", "lower", _TAIL,
     "taken apart: the engine's call around its model processes' work, without a flush"),
    ("sync_bandwidth", "sync: rate", "GB/s", "higher", _TIME,
     "bytes of all weights, or of the adapter where it goes alone, over the sync's seconds"),
    ("sync_floor_ratio", "sync / floor", "", "lower", _TIME,
     "the sync's seconds over those of one plain copy of as many bytes on the model's device, measured in the launch"),
    ("sync_path_ratio", "sync / path floor", "", "lower", _TIME,
     "the sync's seconds over those of plain copies of what each process needs, from where it lies, measured in the "
     "launch"),
    ("sleep_time", "sleep", "s", "lower", _TIME,
     "the engine's call that gives device memory back, fenced on the device; without the launch's first"),
    ("wake_time", "wake", "s", "lower", _TIME,
     "the engine's calls that take it again, together, without a sync of weights; without the launch's first"),
    ("sleep_cycle", "sleep + wake", "s", "lower", _TIME.blocking,
     "what sleeping costs: sleep and wake, and where weights were discarded the sync that brings them back"),
    ("sleep_first", "sleep: first", "s", "lower", _TAIL,
     "the launch's first sleep, which may have to pin host memory; one sample of a launch that the case begins"),
    ("wake_first", "wake: first", "s", "lower", _TAIL,
     "the launch's first waking; one sample of a launch that the case begins"),
    ("memory_asleep", "memory asleep", "GiB", "lower", _USE.blocking,
     "device memory in use while asleep above the baseline before the launch, on all GPUs of the case together, less "
     "what a sender of weights took there when it joined"),
    ("memory_awake", "memory awake", "GiB", "lower", _USE,
     "the same right after waking, with the weights in place and nothing generated yet"),
    ("memory_waking", "memory waking", "GiB", "lower", _USE,
     "the most of the same from the start of waking until the weights are in place: what must fit beside a trainer "
     "that still holds its own; with staged waking the KV cache comes after that"),
    ("memory_slope", "memory slope", "GiB/cycle", "lower", _LEAK.blocking,
     "slope of a straight line through memory_awake over the measured cycles; one sample a launch"),
    ("host_taken", "host taken", "GiB", "lower", _HOST,
     "what sleeping keeps on the host: available host memory before the launch's first sleep less that while asleep in "
     "the last cycle (pinned memory is not in every process's resident size); one sample of a launch that the case "
     "begins"),
    ("throughput_kept", "throughput kept", "", "higher", _SPEED,
     "output throughput of a batch after waking over that of the same batch before the sleep"),
    ("sync_pause", "sync: pause", "s", "lower", _TAIL,
     "a sync with requests in flight: from the call to pause until nothing runs (`drain`: until all is done)"),
    ("sync_resume", "sync: resume", "s", "lower", _TAIL,
     "a sync with requests in flight: from the call to go on to the first output behind it, where any comes"),
    ("sync_gap", "sync: gap", "s", "lower", _TIME.blocking,
     "a sync with requests in flight: the longest time without an output of any request, from the last before the "
     "pause to the first behind the call to go on (the end of that call where none comes)"),
    ("tokens_lost", "tokens lost", "", "lower", _SHARE,
     "tokens that were generated and thrown away in a step, over those that it asks for"),
    ("tokens_old", "old tokens", "", None, _SHARE,
     "share of a step's tokens that were out before the new weights came in"),
    ("startup", "start-up", "s", "lower", _TAIL,
     "from the start of the process to an engine ready for requests; one sample a launch, the same for all cases that "
     "share it"),
    ("peak_memory", "peak memory", "GiB", "lower", _USE.blocking,
     "on a GPU, the most device memory that the sampler saw in use during the launch above the baseline before it, the "
     "sum over the case's GPUs, each at its own peak; on a CPU, the most resident memory of the launch's processes "
     "together; one sample a launch, of a case that shares it from the case's first warm-up step to its last step"),
    ("host_memory", "host memory", "GiB", "lower", _USE,
     "the most resident memory of the launch's processes together while steps were measured (shared pages count in "
     "each); one sample a launch"),
    ("energy", "energy", "J/token", "lower", _USE,
     "difference of the GPUs' energy counters over the measured steps, over the tokens generated in them"),
    ("gpu_busy", "GPU busy", "", None, _USE,
     "share of the measured steps' time in which some kernel ran, the mean of NVML's utilisation over the GPUs of the "
     "case; in inference with all requests due at once a low share says that CPU work sets the pace; one sample a "
     "launch"),
    ("mfu", "MFU", "", "higher", _USE,
     "model FLOPs utilisation: forward FLOPs of the measured steps over their seconds and the GPUs' peak bf16 rate"),
    ("mbu", "MBU", "", "higher", _USE,
     "model bandwidth utilisation: least bytes that generation must read over the measured seconds and the GPUs' peak "
     "bandwidth (a lower bound)"),
)  # fmt: skip
# Of an RL step, in their order. Where the engine answers while the trainer learns they add up to more than the step.
PHASES = {
    "phase_rollout": "the engine's answers, all turns together",
    "phase_sleep": "the engine gives its device memory back",
    "phase_onload": "the trainer's memory comes back from the host",
    "phase_reward": "answers are judged, and made a batch",
    "phase_logprobs_old": "log-probabilities under the policy before the update",
    "phase_logprobs_ref": "log-probabilities under the reference, where the algorithm has one",
    "phase_values": "the critic's values, where the algorithm has one",
    "phase_advantage": "advantages, weights and corrections",
    "phase_forward_backward": "the loss and its gradients, of all micro-batches",
    "phase_optimiser": "clipping, the optimiser, and the weights as they are sent",
    "phase_offload": "the trainer's memory goes to the host",
    "phase_wake": "the engine takes its device memory again",
    "phase_sync": "the weights go into the engine, whose prefix cache is emptied",
    "phase_other": "asking, handing over, and whatever else the step takes",
}
COMPUTED = ("logprobs_old", "logprobs_ref", "values", "advantage", "forward_backward", "optimiser")  # by the trainer
FROM_TRAINER = (  # figures under its own names
    "reward", "entropy", "gradient_norm", "kl", "clipped", "mismatch_mean", "mismatch_max", "mismatch_kl",
)  # fmt: skip
_ROWS += (
    (
        "rl_throughput",
        "RL throughput",
        "tok/s/GPU",
        "higher",
        _SPEED.blocking,
        "prompt and generated tokens of an RL step over its whole seconds and the GPUs of engine and trainer",
    ),
    *(
        (name, name.replace("phase_", "step: ").replace("_", " "), "s", "lower", _TAIL, f"of an RL step: {text}")
        for name, text in PHASES.items()
    ),
    (
        "phase_hidden",
        "hidden",
        "s",
        None,
        _TAIL,
        "seconds of an RL step's phases that ran beside others, which nobody waited for",
    ),
    (
        "trainer_mfu",
        "trainer MFU",
        "",
        "higher",
        _USE,
        "model FLOPs of forward and backward passes (three times a forward pass, twice where an adapter alone learns, "
        "and a critic's; recomputation not counted) over their seconds and the peak bf16 rate of the trainer's GPUs",
    ),
    *(
        (
            f"memory_{name}",
            f"memory: {name.replace('_', ' ')}",
            "GiB",
            "lower",
            _USE,
            "the most device memory that torch had allocated in the trainer during this phase, of the fullest rank",
        )
        for name in COMPUTED
    ),
    ("reward", "reward", "", "higher", _TAIL, "mean over a step's answers, before the update"),
    (
        "reward_held_out",
        "held-out reward",
        "",
        "higher",
        _TAIL,
        "mean over greedy answers to prompts that were never learnt from, behind the last step; one sample a launch",
    ),
    ("entropy", "entropy", "nat", None, _TAIL, "of the policy before the update, mean over the answers' tokens"),
    ("gradient_norm", "gradient norm", "", None, _TAIL, "before clipping, mean over a step's updates"),
    ("kl", "KL", "nat", None, _TAIL, "of the policy from the reference by the algorithm's estimator, a token's mean"),
    ("clipped", "clipped", "", None, _TAIL, "share of tokens whose ratio was clipped"),
    (
        "mismatch_mean",
        "mismatch",
        "nat",
        "lower",
        _TAIL,
        "log-probabilities that the engine gave for its tokens against the trainer's of the same tokens: mean absolute "
        "difference; with a lag also what the policy has learnt since",
    ),
    ("mismatch_max", "mismatch: max", "nat", "lower", _TAIL, "the largest of the same"),
    ("mismatch_kl", "mismatch: KL", "nat", "lower", _TAIL, "of the engine's policy from the trainer's, by k3"),
    ("lag", "lag", "", "lower", _TAIL, "updates between the weights that answered and those that learn from it"),
)
METRICS = {name: Metric(name, title, unit, better, *worth, text) for name, title, unit, better, worth, text in _ROWS}

PERCENTILES = {  # metric: what it is a percentile of, and which; only where a launch has samples enough
    "ttft_p90": ("ttft", 0.90),
    "ttft_p99": ("ttft", 0.99),
    "tpot_p99": ("tpot", 0.99),
    "itl_p99": ("itl", 0.99),
    "latency_p90": ("latency", 0.90),
    "latency_p99": ("latency", 0.99),
}
