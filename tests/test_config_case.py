"""A SkyRL configuration as a case."""

from pathlib import Path

import pytest

from benchmarks import CPU, GPU
from benchmarks.multi_turn import MultiTurn
from benchmarks.rl_step import APART, B05, RLStep
from benchmarks.single_turn import TINY, SingleTurn
from harness import store
from harness.config_case import of_file
from harness.errors import UserError
from harness.record import Record
from tests.commands import rollbench
from tests.test_migrate import GUIDE

SERVED = """generator:
  backend: vllm
  n_samples_per_prompt: 4
  gpu_memory_utilization: 0.6
  enforce_eager: true
  vllm_v1_disable_multiproc: true
  enable_prefix_caching: false
  max_num_seqs: 32
  num_inference_engines: 2
  engine_init_kwargs: {attention_backend: FLASHINFER, max_model_len: 9000, block_size: 32}
  sampling_params:
    temperature: 0.7
    max_generate_length: 256
"""
LEARNS = """trainer:
  placement:
    colocate_all: true
  algorithm:
    advantage_estimator: gae
  policy:
    model:
      path: Qwen/Qwen2.5-7B-Instruct
      lora: {rank: 16}
    optimizer_config: {lr: 2.0e-6}
  train_batch_size: 24
  max_prompt_length: 300
generator:
  inference_engine:
    backend: vllm
    tensor_parallel_size: 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my config.yaml"


def test_what_is_stated_is_measured(file: Path) -> None:
    file.write_text(SERVED)
    name, case, aside = of_file(file, gpus=1)
    assert isinstance(case, SingleTurn)
    assert name == "single_turn/config-my-config"
    assert (case.samples, case.temperature, case.output_tokens, case.gpus) == (4, 0.7, 256, 1)
    told = case.options
    assert (told.memory_fraction, told.eager, told.multiprocessing, told.prefix_caching) == (0.6, True, False, False)
    assert (told.max_running, told.attention, told.max_model_len) == (32, "flashinfer", 9000)
    assert told.native == {"vllm": {"block_size": 32}}
    assert told.dtype == GPU.dtype
    assert aside == ["generator.num_inference_engines"]


def test_without_a_gpu_it_is_a_tiny_case(file: Path) -> None:
    file.write_text("generator:\n  backend: sglang\n")
    assert of_file(file, gpus=0)[1] == TINY
    file.write_text("generator:\n  max_turns: 6\n  sampling_params: {max_generate_length: 2000}\n")
    case = of_file(file, gpus=0)[1]
    assert isinstance(case, MultiTurn)
    assert (case.turns, case.options.eager) == (6, CPU.eager)
    assert case.options.max_model_len == 512 + 6 * (64 + 2000)


def test_a_trainer_makes_it_an_rl_step(file: Path) -> None:
    file.write_text(LEARNS)
    name, case, aside = of_file(file, gpus=2)
    assert isinstance(case, RLStep)
    assert name == "rl_step/config-my-config"
    assert case.lesson.algorithm == "ppo"
    assert {"rate": 2e-6, "lora": 16}.items() <= case.lesson.settings.items()
    assert (case.prompts, case.input_tokens, case.model) == (24, 300, "Qwen2.5-7B")
    assert (case.gpus, case.ranks, case.options.tensor_parallel, case.colocated, case.sleeps) == (2, 2, 2, True, True)
    assert case.options.memory_fraction == B05.options.memory_fraction
    assert aside == []
    file.write_text(LEARNS.replace("all: true", "all: false").replace("tensor_parallel_size: 2", "num_engines: 1"))
    apart = of_file(file, gpus=2)[1]
    assert isinstance(apart, RLStep)
    assert (apart.gpus, apart.transport, apart.colocated, apart.sleeps) == (2, APART.transport, False, False)


@pytest.mark.parametrize(
    ("text", "gpus", "words"),
    [
        (
            LEARNS.replace("size: 2", "size: 1"),
            0,
            "Qwen/Qwen2.5-7B-Instruct needs a GPU, this machine has none: add --model tiny-rl",
        ),
        (LEARNS, 1, "line 16: 2 GPUs an engine, this machine has 1"),
        (
            SERVED.replace("256", "0"),
            1,
            "line 13: generator.sampling_params.max_generate_length is 0, which is too small",
        ),
        (LEARNS.replace("batch_size: 24", "batch_size: -1"), 2, "trainer.train_batch_size is -1, which is too small"),
        (LEARNS.replace("gae", "maxrl"), 2, "line 5: trainer.algorithm.advantage_estimator is 'maxrl', which is not"),
        (
            LEARNS.replace("all: true", "all: false").replace("size: 2", "size: 1"),
            1,
            "apart from the engine needs 2 GPUs",
        ),
    ],
)
def test_what_this_machine_cannot_measure(file: Path, text: str, gpus: int, words: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        of_file(file, gpus)
    assert words in str(refused.value)


def test_every_block_of_the_guide_is_a_case() -> None:
    for path in GUIDE.glob("*.yaml"):
        if "-to-" not in path.stem:
            assert of_file(path, gpus=1)[1].gpus == 1


def test_run_measures_it(results: Path) -> None:
    done = rollbench("run", "--config", str(GUIDE / "gsm8k.yaml"), "-e", "fake", "--launches", "1")
    assert done.returncode == 0, done.stderr
    assert "gsm8k.yaml: measured as single_turn/config-gsm8k\n" in done.stdout
    ((_, record),) = list(store.scan(results))
    assert isinstance(record, Record)
    assert (record.case, record.params["samples"]) == ("single_turn/config-gsm8k", 4)


def test_run_takes_the_files_own_engine(tmp_path: Path, results: Path) -> None:
    nothing = {"ROLLBENCH_HOME": str(tmp_path / "empty"), "ROLLBENCH_VLLM_PYTHON": "", "ROLLBENCH_SGLANG_PYTHON": ""}
    done = rollbench("run", "--config", str(GUIDE / "vllm.yaml"), "--dry-run", **nothing)
    assert "nox -s env-vllm" in done.stderr
    done = rollbench("run", "--config", str(GUIDE / "sglang.yaml"), "--dry-run", **nothing)
    assert "nox -s env-sglang" in done.stderr
