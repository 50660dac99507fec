"""A SkyRL configuration as a case: what it states is measured, and what it does not is as in our own smallest case."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import multi_turn, rl_step, single_turn
from harness import memory, skyrl
from harness.errors import UserError, nearest
from harness.scenario import Options, Scenario
from harness.skyrl import Config
from harness.worker.options import ATTENTION

SAMPLING, TRAINER = "generator.sampling_params", "trainer"
MODEL, ESTIMATOR = "trainer.policy.model.path", "trainer.algorithm.advantage_estimator"
RATE, RANK, TOGETHER = (
    f"{TRAINER}.{name}" for name in ("policy.optimizer_config.lr", "policy.model.lora.rank", "placement.colocate_all")
)
KWARGS, TENSOR = "generator.engine_init_kwargs", "generator.inference_engine_tensor_parallel_size"
OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {  # keys that are engine options, with their values
    "generator.gpu_memory_utilization": ("memory_fraction", float),
    "generator.enable_prefix_caching": ("prefix_caching", bool),
    "generator.enforce_eager": ("eager", bool),
    "generator.vllm_v1_disable_multiproc": ("multiprocessing", lambda value: not value),
    "generator.max_num_seqs": ("max_running", int),
    "generator.max_num_batched_tokens": ("chunked_prefill", int),
    TENSOR: ("tensor_parallel", int),
}
WORKLOAD = {  # keys that are parameters of any scenario
    "generator.n_samples_per_prompt": "samples",
    f"{SAMPLING}.max_generate_length": "output_tokens",
    "trainer.max_prompt_length": "input_tokens",
}
ESTIMATORS = {"grpo": "grpo", "gae": "ppo", "rloo": "rloo", "reinforce++": "reinforce_pp"}  # SkyRL's name and ours


def of_file(path: Path, gpus: int, model: str | None = None) -> tuple[str, Scenario, list[str]]:
    """The name of a configuration's case on a machine with so many GPUs, the case, and the keys that it leaves aside.

    An RL step where the file has a trainer, else conversations where it has turns, else single turns. Raises UserError
    for a file that is none, or that this machine cannot measure.
    """
    config = skyrl.load(path)
    taken = {*OPTIONS, *WORKLOAD, "generator.backend", MODEL}
    if TRAINER in config.entries:
        case, more = _step(config, gpus)
    elif int(config.of("generator.max_turns", 1)) > 1:
        case, more = _turns(config, gpus)
    else:
        case, more = _single(config, gpus)
    case = replace(case, model=model or _model(config, gpus, case.model))
    name = f"{type(case).__module__.rpartition('.')[2]}/config-{re.sub(r'[^A-Za-z0-9.-]+', '-', path.stem)}"
    known = {config.path(name) for name in {*taken, *more}}
    leaves = [path for path, value in config.values.items() if not isinstance(value, dict)]
    return name, case, [leaf for leaf in leaves if leaf not in known and not leaf.startswith(config.path(KWARGS))]


def _model(config: Config, gpus: int, otherwise: str) -> str:
    """The model that the file names, as our shape of it with dummy weights where we have one."""
    if not (named := config.of(MODEL)):
        return otherwise
    if not gpus:
        raise UserError(f"{config.name}: {named} needs a GPU, this machine has none: add --model {otherwise}")
    return memory.ours(str(named)) or str(named)


def _options(config: Config, base: Options, length: int) -> Options:
    """With the engine options that the file states; `length`: tokens that the longest request may have."""
    stated = {name: (field, make) for name, (field, make) in OPTIONS.items() if config.of(name) is not None}
    found = {field: make(_above_zero(config, name)) for name, (field, make) in stated.items()}
    kwargs, engine = config.kwargs, config.backend
    longest = kwargs.pop("max_model_len" if engine == "vllm" else "context_length", 0)
    length = max(length, base.max_model_len, longest if isinstance(longest, int) else 0)
    backends = {names[engine == "sglang"].lower(): name for name, names in ATTENTION.items()}
    attention = str(kwargs.get("attention_backend", "")).lower()
    if attention in backends:
        found["attention"] = backends[attention]
        del kwargs["attention_backend"]
    return replace(base, max_model_len=length, native={engine: kwargs} if kwargs else {}, **found)


def _workload(config: Config, also: Mapping[str, str]) -> dict[str, Any]:
    names = {**WORKLOAD, **also}
    return {field: _above_zero(config, name) for name, field in names.items() if config.of(name) is not None}


def _above_zero(config: Config, name: str) -> Any:
    """The value of a key. Raises UserError for a number below what can be measured."""
    value = config.of(name)
    switch, may_be_zero = isinstance(value, bool), name.endswith("temperature")
    if not switch and (value < 0 or (value == 0 and not may_be_zero)):
        raise UserError(f"{config.name}: line {config.line(name)}: {config.path(name)} is {value}, which is too small")
    return value


def _sized(config: Config, gpus: int, case: Any, each: Callable[[Any], int]) -> Any:
    """The case with its engine options, on as many GPUs as an engine takes."""
    options = _options(config, case.options, each(case))
    if options.tensor_parallel > max(gpus, 1):
        where = f"{config.name}: line {config.line(TENSOR)}"
        raise UserError(f"{where}: {options.tensor_parallel} GPUs an engine, this machine has {gpus}")
    return replace(case, options=options, gpus=options.tensor_parallel if gpus else 0)


def _single(config: Config, gpus: int) -> tuple[Scenario, list[str]]:
    also = {f"{SAMPLING}.temperature": "temperature"}
    base = replace(single_turn.B05, prompts=64) if gpus else single_turn.TINY
    case = replace(base, **_workload(config, also))
    return _sized(config, gpus, case, lambda made: made.input_tokens + made.output_tokens), [*also]


def _turns(config: Config, gpus: int) -> tuple[Scenario, list[str]]:
    also = {f"{SAMPLING}.temperature": "temperature", "generator.max_turns": "turns"}
    case = replace(multi_turn.B05 if gpus else multi_turn.TINY, **_workload(config, also))
    long = case.system_tokens + case.turns * (case.input_tokens + case.output_tokens)
    return _sized(config, gpus, case, lambda made: long), [*also]


def _step(config: Config, gpus: int) -> tuple[Scenario, list[str]]:
    """A trainer on the engine's GPUs, as many ranks as the engine has, or one on a GPU of its own."""
    also = {"trainer.train_batch_size": "prompts"}
    base = rl_step.TINY if not gpus else rl_step.B05 if config.of(TOGETHER, True) else rl_step.APART
    estimator = str(config.of(ESTIMATOR, "grpo"))
    if estimator not in ESTIMATORS:
        where = f"{config.name}: line {config.line(ESTIMATOR)}: {ESTIMATOR} is {estimator!r}"
        raise UserError(f"{where}, which is not measured here: {nearest(estimator, ESTIMATORS)}")
    settings = {"rate": config.of(RATE)} | {"lora": config.of(RANK, 0) or None}
    kept = base.lesson.settings | {name: value for name, value in settings.items() if value is not None}
    lesson = replace(base.lesson, algorithm=ESTIMATORS[estimator], settings=kept)
    case = replace(base, lesson=lesson, **_workload(config, also))
    case = _sized(config, gpus, case, lambda made: made.input_tokens + made.output_tokens)
    ranks = case.options.tensor_parallel if gpus and case.colocated else base.ranks
    case = replace(case, ranks=ranks, gpus=max(case.gpus, base.gpus))
    if case.gpus > gpus:
        raise UserError(
            f"{config.name}: a trainer apart from the engine needs {case.gpus} GPUs, this machine has {gpus}"
        )
    return case, [*also, ESTIMATOR, RATE, RANK, TOGETHER, "trainer.strategy"]
