"""Every claim of the guide that people chose by (its seed): a row with the test that decides it. Nothing is told of a
claim that a test did not find in records, in the locks, or in the resolver's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness.findings import (
    Finding,
    Says,
    Test,
    about,
    apart,
    at_most,
    better_than,
    faster,
    proves,
    runs,
    similar,
    untested,
    version,
)  # fmt: skip
from harness.probes import PROBES, uses
from harness.record import Record
from harness.standings import NAMES, Standing


@dataclass(frozen=True)
class Claim:
    """`cases`: patterns of the cases whose records decide; `speed`: figures of a machine without a GPU decide nothing
    where there are any of one with a GPU, and are marked where there are none. `needs`: what to measure it on."""

    section: str
    text: str
    test: Test
    cases: tuple[str, ...] = ()
    metric: str = ""
    speed: bool = False
    needs: str = ""


@dataclass(frozen=True)
class Judged:
    claim: Claim
    says: Says
    findings: Sequence[Finding]
    cpu_only: bool = False


def judge(claim: Claim, everything: Sequence[Standing]) -> Judged:
    """One that finds against it is enough against a claim; what is open keeps it open."""
    chosen = [s for s in everything if any(fnmatchcase(s.key.case, pattern) for pattern in claim.cases)]
    found = claim.test.find(chosen, claim.metric, everything)
    decided = [finding for finding in found if finding.says != Says.NONE]
    on_gpu = [finding for finding in decided if finding.gpu or finding.general]
    counted = on_gpu or decided if claim.speed else decided
    order = (Says.FAILS, Says.OPEN, Says.HOLDS)
    says = next((verdict for verdict in order if any(f.says == verdict for f in counted)), Says.NONE)
    return Judged(claim, says, counted or found, cpu_only=bool(claim.speed and counted and not on_gpu))


MULTI = ("multi_turn/*-shared", "multi_turn/*-groups", "multi_turn/*-agent", "multi_turn/*-concurrency-*")
BATCH = ("single_turn/*-512", "single_turn/*-128", "single_turn/*-16")
LONG = ("long_context/*",)
EVERY = ("single_turn/*", "multi_turn/*", "long_context/*")
PARTS = ("sleep_wake/*-kv", "sleep_wake/*-weights")
DISCARD = ("sleep_wake/*-discard", "sleep_wake/*-discard-staged")
NCCL = ("weight_sync/*-nccl",)
LEVELS = (*PARTS, "sleep_wake/*-backup", *DISCARD)
CONSUMER = ("RTX 3090", "RTX 4090")
BUILT = untested("how it is built, which no figure decides")
OWN = untested("their worth depends on what one needs of them")
FAMILIAR = untested("what someone knows already, which no figure decides")

_QUICK, _MATRIX, _SGLANG, _VLLM = "Quick decision", "Comparison matrix", "SGLang", "vLLM"
_SPEED, _SYNC, _MEMORY, _GPU = "Generation throughput", "Weight sync time", "Memory efficiency", "GPU compatibility"
_MIGRATE, _SCENARIOS, _TROUBLE, _FEATURES = "Migration", "Common scenarios", "Troubleshooting", "Feature support"
_INSTALL, _SUMMARY = "Installation", "Summary"
SECTIONS = (_QUICK, _MATRIX, _SGLANG, _VLLM, _SPEED, _SYNC, _MEMORY, _GPU, _MIGRATE, _SCENARIOS, _TROUBLE, _FEATURES,
            _INSTALL, _SUMMARY)  # fmt: skip


def speed(section: str, text: str, test: Test, cases: tuple[str, ...], metric: str = "output_throughput") -> Claim:
    return Claim(section, text, test, cases, metric, speed=True)


def both(section: str, text: str, *cases: str) -> list[Claim]:
    """Of each engine, that it does this."""
    return [Claim(section, f"{text}: {NAMES[engine]} yes", runs(engine), cases) for engine in NAMES]


def attends(
    section: str, text: str, engine: str, backend: str, gpus: tuple[str, ...] = (), works: bool = True
) -> Claim:
    """That an engine runs with an attention backend, or does not; on these GPUs, or on any."""
    test = runs(engine, uses(gpus, backend), Says.HOLDS if works else Says.FAILS)
    needs = f"a GPU named {' or '.join(gpus)}" if gpus else "a GPU"
    return Claim(section, text, test, (f"single_turn/*-{backend}", *EVERY), needs=needs)


def refuses(section: str, text: str, *cases: str) -> Claim:
    """That SGLang does not do this."""
    return Claim(section, text, runs("sglang", yes=Says.FAILS), cases)


def _cached(section: str, engine: str, text: str) -> Claim:
    return speed(section, text, better_than(engine, "-no-prefix-caching"), MULTI)


def _sync(engine: str, size: str, seconds: float) -> Claim:
    ways = ("ipc", "ipc-loader", f"own-{engine}-*", "*-ipc-sharded")
    cases = tuple(f"weight_sync/{size}-{way}" for way in ways)
    return speed(_SYNC, f"{size}: {NAMES[engine]} about {seconds:g} s", about(engine, seconds), cases, "sync_latency")


def _gpu(engine: str, gpu: str, name: str, backend: str, works: bool) -> Claim:
    text = f"{NAMES[engine]} on {gpu}: {name} {'works' if works else 'does not work'}"
    return attends(_GPU, text, engine, backend, (gpu,), works)


def _not_yet(name: str, why: str) -> list[Claim]:
    return [Claim(_FEATURES, f"{name}: {NAMES[engine]} yes", untested(why)) for engine in NAMES]


def _feature(name: str) -> list[Claim]:
    """Of each engine, what the matrix says of a feature."""
    probe = PROBES[name]
    tests = {engine: untested(probe.why) if probe.why else proves(engine, probe) for engine in NAMES}
    return [Claim(_FEATURES, f"{name}: {NAMES[engine]} yes", test, probe.cases) for engine, test in tests.items()]


def _default_on_gpu(record: Record) -> bool:
    return bool(record.machine.gpus) and record.options.get("attention", "auto") == "auto"


def _attention_chosen(record: Record) -> bool:
    return bool(record.options.get("attention", "auto") != "auto")


CLAIMS: tuple[Claim, ...] = (
    speed(_QUICK, "multi-turn or agent training: SGLang", faster("sglang"), MULTI, "conversation_time"),
    speed(_QUICK, "SGLang has the better prefix caching", faster("sglang"), MULTI, "cache_share"),
    attends(_QUICK, "a consumer GPU (RTX 3090, 4090): SGLang, FlashInfer works", "sglang", "flashinfer", CONSUMER),
    Claim(_QUICK, "familiar with vLLM: vLLM", FAMILIAR),
    speed(_QUICK, "else SGLang, the recommended default", faster("sglang"), (*BATCH, *MULTI, *LONG)),

    _cached(_MATRIX, "sglang", "prefix caching: SGLang by RadixAttention (a tree)"),
    _cached(_MATRIX, "vllm", "prefix caching: vLLM by PagedAttention"),
    speed(_MATRIX, "multi-turn: SGLang excellent, vLLM good", faster("sglang"), MULTI, "conversation_time"),
    Claim(_MATRIX, "weight sync: SGLang by a native distributed API", runs("sglang"),
          ("weight_sync/*-own-sglang-distributed",)),
    Claim(_MATRIX, "weight sync: vLLM by a worker extension", runs("vllm"), ("weight_sync/*-ipc", "weight_sync/*-shm")),
    refuses(_MATRIX, "sleep: SGLang all or nothing", *PARTS),
    Claim(_MATRIX, "sleep: vLLM in configurable levels", runs("vllm"), LEVELS),
    attends(_MATRIX, "attention: SGLang with FlashInfer", "sglang", "flashinfer"),
    attends(_MATRIX, "attention: SGLang with FA3", "sglang", "fa3"),
    attends(_MATRIX, "attention: vLLM with FlashAttention", "vllm", "fa3"),
    attends(_MATRIX, "attention: vLLM with FlashInfer", "vllm", "flashinfer"),
    Claim(_MATRIX, "both run on a broad range of GPUs", untested("see the rows of each GPU")),
    Claim(_MATRIX, "SGLang has PyTorch 2.9.1", version("sglang", "torch", "2.9.1")),
    Claim(_MATRIX, "vLLM has PyTorch 2.8.0", version("vllm", "torch", "2.8.0")),
    Claim(_MATRIX, "documentation: SGLang's newer, vLLM's more mature", untested("no figure decides it")),

    _cached(_SGLANG, "sglang", "multi-turn agents: RadixAttention caches conversation prefixes efficiently"),
    attends(_SGLANG, "consumer GPUs: FlashInfer works from SM 8.6 on", "sglang", "flashinfer", (*CONSUMER, "L4")),
    Claim(_SGLANG, "starting fresh: native weight sync", runs("sglang"), ("weight_sync/*-own-sglang-*",)),
    speed(_SGLANG, "memory-constrained: sleep releases all GPU memory (at most 1 GiB stays)", at_most("sglang", 1.0),
          DISCARD, "memory_asleep"),
    attends(_SGLANG, "FlashInfer works on most GPUs", "sglang", "flashinfer"),
    refuses(_SGLANG, "SGLang needs use_conversation_multi_turn=true", *BATCH),
    Claim(_SGLANG, "num_inference_engines: 4", untested("every case has one inference engine")),
    Claim(_SGLANG, "weight_sync_backend: nccl", runs("sglang"), NCCL),
    Claim(_SGLANG, "the attention backend can be chosen", runs("sglang", _attention_chosen), EVERY, needs="a GPU"),

    Claim(_VLLM, "already using vLLM: familiar API and configuration", FAMILIAR),
    Claim(_VLLM, "fine-grained sleep: what is released can be chosen", runs("vllm"), (*PARTS, *DISCARD)),
    Claim(_VLLM, "weight_sync_backend: nccl", runs("vllm"), NCCL),
    Claim(_VLLM, "multi-turn is optional", runs("vllm"), BATCH),
    Claim(_VLLM, "its v1 engine has a multiprocessing toggle", runs("vllm"), ("single_turn/*-no-multiprocessing",)),
    Claim(_VLLM, "vLLM's own extensions", OWN),

    speed(_SPEED, "single-turn prompts: similar", similar(), BATCH),
    speed(_SPEED, "multi-turn with a shared prefix: SGLang faster", faster("sglang"), MULTI),
    speed(_SPEED, "long sequences: similar", similar(), LONG),

    *both(_SYNC, "CUDA IPC with colocate_all", "weight_sync/*-ipc"),
    _sync("sglang", "0.5B", 0.5), _sync("vllm", "0.5B", 0.5), _sync("sglang", "7B", 1.9), _sync("vllm", "7B", 2.0),
    _sync("sglang", "70B", 8), _sync("vllm", "70B", 8),

    Claim(_MEMORY, "KV cache: PagedAttention in both", BUILT),
    refuses(_MEMORY, "sleep and wake: SGLang all or nothing", *PARTS),
    Claim(_MEMORY, "sleep and wake: vLLM in configurable levels", runs("vllm"), LEVELS),
    speed(_MEMORY, "prefix sharing: SGLang's tree finds more than vLLM's blocks", faster("sglang"), MULTI,
          "cache_share"),

    *(_gpu("sglang", gpu, name, backend, works)
      for gpu, fa3 in (("RTX 3090", False), ("RTX 4090", False), ("A100", True), ("H100", True), ("L4", False))
      for name, backend, works in (("FlashInfer", "flashinfer", True), ("FA3", "fa3", fa3))),
    *(_gpu("vllm", gpu, name, backend, True)
      for gpu in ("RTX 3090", "RTX 4090", "A100", "H100")
      for name, backend in (("FlashAttention", "fa3"), ("FlashInfer", "flashinfer"))),
    attends(_GPU, "consumer GPUs: SGLang with attention_backend=flashinfer", "sglang", "flashinfer", CONSUMER),
    *(Claim(_GPU, f"vLLM's FlashAttention is {name}", untested("records name the backend, not its version"))
      for name in ("v2 on RTX 3090 and 4090", "v2 or v3 on A100 and H100")),

    refuses(_MIGRATE, "to SGLang: add use_conversation_multi_turn", *BATCH),
    Claim(_MIGRATE, "to SGLang: add attention_backend flashinfer, for GPU compatibility",
          runs("sglang", _default_on_gpu, Says.FAILS), BATCH),
    refuses(_MIGRATE, "to SGLang: remove enforce_eager, which is vLLM's own", "single_turn/*-eager"),
    refuses(_MIGRATE, "to SGLang: remove vllm_v1_disable_multiproc, which is vLLM's own",
            "single_turn/*-no-multiprocessing"),
    Claim(_MIGRATE, "to vLLM: use_conversation_multi_turn can be removed", runs("vllm"), BATCH),
    Claim(_MIGRATE, "to vLLM: remove engine_init_kwargs, which have another format",
          untested("the table above has the flags of both")),
    Claim(_MIGRATE, "to change the engine one must install anew", apart("engines", "cuda")),

    *both(_SCENARIOS, "GSM8K: either works well", "single_turn/*-gsm8k"),
    speed(_SCENARIOS, "GSM8K: SGLang slightly preferred", faster("sglang"), ("single_turn/*-gsm8k",)),
    speed(_SCENARIOS, "multi-turn agents: SGLang", faster("sglang"), ("multi_turn/*-agent",), "conversation_time"),
    _cached(_SCENARIOS, "sglang", "multi-turn agents: RadixAttention caches system prompts efficiently"),
    *both(_SCENARIOS, "code generation: either works", "single_turn/*-code"),
    Claim(_SCENARIOS, "code generation: it depends on the GPU there is", untested("see the rows of each GPU")),
    speed(_SCENARIOS, "memory-constrained, one GPU: SGLang (what stays in use asleep)", faster("sglang"), DISCARD,
          "memory_asleep"),
    speed(_SCENARIOS, "memory-constrained, one GPU: SGLang (throughput with half the memory)", faster("sglang"),
          ("single_turn/*-memory",)),
    Claim(_SCENARIOS, "memory-constrained, one GPU: SGLang shares it with the trainer (colocate_all)", runs("sglang"),
          ("rl_step/*-grpo",)),

    refuses(_TROUBLE, "SGLang: use_conversation_multi_turn=False is not supported", *BATCH),
    attends(_TROUBLE, "SGLang: FA3 needs SM 8.0", "sglang", "fa3", ("T4", "V100"), works=False),
    attends(_TROUBLE, "SGLang: FlashInfer works where FA3 does not", "sglang", "flashinfer", ("T4", "V100", *CONSUMER)),
    Claim(_TROUBLE, "vLLM hangs at start; without multiprocessing it does not", untested("no launch hung")),
    speed(_TROUBLE, "vLLM out of memory: gpu_memory_utilization 0.6 takes less", better_than("vllm", "memory-0.6"),
          ("single_turn/*-memory-0.6",), "peak_memory"),
    speed(_TROUBLE, "vLLM out of memory: enforce_eager takes less", better_than("vllm", "eager"),
          ("single_turn/*-eager",), "peak_memory"),

    *_feature("GRPO"), *_feature("PPO with GAE"), *_feature("RLOO"), *_feature("DAPO"), *_feature("LoRA"),
    *_feature("tensor parallel"), *_feature("pipeline parallel"), *_feature("FSDP2 training"),
    *_feature("Megatron training"), *_feature("multi-node"),
    _cached(_FEATURES, "sglang", "prefix caching: SGLang yes (RadixAttention)"),
    _cached(_FEATURES, "vllm", "prefix caching: vLLM yes (PagedAttention)"),
    *_feature("speculative decoding"),
    *_not_yet("Ray (not in the old guide)", "launches are local processes"),
    *_not_yet("several inference engines (num_inference_engines)", "every case has one inference engine"),

    Claim(_INSTALL, "the two cannot be installed into one environment", apart("engines", "cuda")),
    Claim(_INSTALL, "the same without a GPU", apart("engines", "cpu")),
    Claim(_INSTALL, "their torch pins conflict", apart("torch", "cuda")),
    Claim(_INSTALL, "their torch pins conflict without a GPU", apart("torch", "cpu")),
    Claim(_INSTALL, "SGLang needs PyTorch 2.9.1", version("sglang", "torch", "2.9.1")),
    Claim(_INSTALL, "vLLM needs PyTorch 2.8.0", version("vllm", "torch", "2.8.0")),
    *both(_INSTALL, "it works in an environment of its own", *BATCH),
    Claim(_INSTALL, "one environment can be switched by installing the other engine",
          untested("each engine's environment is built once, from its lock")),

    speed(_SUMMARY, "SGLang for multi-turn agents", faster("sglang"), MULTI, "conversation_time"),
    attends(_SUMMARY, "SGLang for consumer GPUs", "sglang", "flashinfer", CONSUMER),
    Claim(_SUMMARY, "SGLang for native weight sync", runs("sglang"), ("weight_sync/*-own-sglang-*",)),
    Claim(_SUMMARY, "vLLM for fine-grained sleep", runs("vllm"), (*PARTS, *DISCARD)),
    Claim(_SUMMARY, "SGLang for those who start fresh", FAMILIAR),
    Claim(_SUMMARY, "vLLM for those who know it, or have it set up", FAMILIAR),
    Claim(_SUMMARY, "vLLM for features of its own", OWN),
    speed(_SUMMARY, "when in doubt, SGLang", faster("sglang"), (*BATCH, *MULTI, *LONG)),
)  # fmt: skip
