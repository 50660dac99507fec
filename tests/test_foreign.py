"""Results of other tools: what is read of each, what is refused and why, where they show and where they never do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness import beside, foreign, machine, store
from harness.errors import UserError
from tests.factory import record
from tests.test_cli import rollbench

SERVE: dict[str, Any] = {
    "date": "20260102-030405", "endpoint_type": "vllm", "backend": "vllm", "label": None,
    "model_id": "Qwen/Qwen2.5-0.5B", "tokenizer_id": "Qwen/Qwen2.5-0.5B", "num_prompts": 512, "request_rate": "inf",
    "burstiness": 1.0, "max_concurrency": None, "duration": 2.0, "completed": 512, "failed": 0,
    "total_input_tokens": 65536, "total_output_tokens": 65536, "request_throughput": 256.0, "request_goodput": None,
    "output_throughput": 32768.0, "total_token_throughput": 65536.0, "max_output_tokens_per_s": 40000.0,
    "max_concurrent_requests": 512, "rtfx": 0.0, "mean_ttft_ms": 300.0, "median_ttft_ms": 250.0, "std_ttft_ms": 9.0,
    "p99_ttft_ms": 400.0, "p99.9_ttft_ms": 410.0, "median_tpot_ms": 12.0, "median_itl_ms": 11.0, "who": "a colleague",
}  # fmt: skip
SGLANG: dict[str, Any] = {
    "tag": None, "backend": "sglang", "dataset_name": "random", "request_rate": float("inf"), "max_concurrency": None,
    "sharegpt_output_len": None, "random_input_len": 128, "random_output_len": 128, "random_range_ratio": 0.0,
    "server_info": {"version": "0.5.20", "model_path": "Qwen/Qwen2.5-0.5B", "api_key": "secret"},
    "duration": 1.5, "completed": 512, "total_input_tokens": 65536, "total_input_text_tokens": 65536,
    "total_input_vision_tokens": 0, "total_output_tokens": 65536, "total_output_tokens_retokenized": 65500,
    "request_throughput": 341.0, "input_throughput": 43690.0, "output_throughput": 43690.0, "total_throughput": 87381.0,
    "median_e2e_latency_ms": 1400.0, "p90_e2e_latency_ms": 1450.0, "p99_e2e_latency_ms": 1480.0,
    "median_ttft_ms": 350.0, "median_tpot_ms": 8.0, "median_itl_ms": 0.0, "concurrency": 480.0, "accept_length": None,
    "max_output_tokens_per_s": 50000.0, "max_concurrent_requests": 512,
}  # fmt: skip
THROUGHPUT = {"model_id": "m", "elapsed_time": 2.0, "num_requests": 8, "total_num_tokens": 2048,
              "requests_per_second": 4.0, "tokens_per_second": 1024.0}  # fmt: skip
LATENCY = {"avg_latency": 0.51, "latencies": [0.5, 0.52], "percentiles": {"50": 0.51}}


def file(folder: Path, *parts: dict[str, Any], name: str = "bench.json") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, parts)))
    return path


def only(folder: Path, part: dict[str, Any]) -> foreign.Foreign:
    (found,) = foreign.parse(file(folder, part))
    return found


@pytest.mark.parametrize(
    ("part", "tool", "engine", "model", "figures"),
    [
        (SERVE, "vllm bench serve", "vllm", "Qwen/Qwen2.5-0.5B",
         {"output_throughput": [32768.0], "total_throughput": [65536.0], "step_time": [2.0], "ttft": [0.25],
          "tpot": [0.012], "itl": [0.011], "ttft_p99": [0.4]}),
        (SGLANG, "SGLang bench_serving", "sglang", "Qwen/Qwen2.5-0.5B",
         {"output_throughput": [43690.0], "total_throughput": [87381.0], "step_time": [1.5], "ttft": [0.35],
          "tpot": [0.008], "latency": [1.4], "latency_p90": [1.45], "latency_p99": [1.48]}),
        (THROUGHPUT, "vllm bench throughput", "vllm", "m", {"total_throughput": [1024.0], "step_time": [2.0]}),
        (LATENCY, "vllm bench latency", "vllm", "", {"step_time": [0.5, 0.52]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_figures_in_our_names_and_units(
    tmp_path: Path, part: dict[str, Any], tool: str, engine: str, model: str, figures: dict[str, list[float]]
) -> None:
    one = only(tmp_path, part)
    assert (one.tool, one.engine, one.model) == (tool, engine, model)
    assert one.figures.keys() == figures.keys()
    assert all(one.figures[name] == pytest.approx(values) for name, values in figures.items())


def test_a_path_is_told_by_its_last_part(tmp_path: Path) -> None:
    one = only(tmp_path, SERVE | {"model_id": "/home/me/models/tiny"})
    assert one.model == one.params["model_id"] == "tiny"


def test_what_is_kept_besides(tmp_path: Path) -> None:
    serve, sglang = only(tmp_path, SERVE), only(tmp_path, SGLANG)
    assert (serve.measured, serve.params["who"], serve.params["num_prompts"]) == ("20260102-030405", "a colleague", 512)
    assert (sglang.version, sglang.params["request_rate"]) == ("0.5.20", "inf")
    assert "secret" not in sglang.model_dump_json(), "of what a server says of itself two fields are taken"
    assert only(tmp_path, SERVE | {"backend": "openai"}).engine == "", "any server may answer that"
    assert beside.about(only(tmp_path, SERVE | {"failed": 3})).endswith(
        "machine not said, no case named, failed requests: 3"
    )


def without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (without(SERVE, "failed"), "vllm bench serve: field failed is missing"),
        (without(SGLANG, "total_throughput"), "SGLang bench_serving: field total_throughput is missing"),
        (without(THROUGHPUT, "num_requests"), "vllm bench throughput: field num_requests is missing"),
        (SERVE | {"output_tokens_a_watt": 3.0}, "field output_tokens_a_watt is unknown"),
        (SGLANG | {"note": "text"}, "field note is unknown"),
        (THROUGHPUT | {"schema_version": "2"}, "field schema_version is unknown"),
        (SERVE | {"output_throughput": "fast"}, "field output_throughput is 'fast', no number"),
        (SERVE | {"p99_ttft_ms": [1, 2]}, "field p99_ttft_ms is [1, 2], no number"),
        (SGLANG | {"duration": float("nan")}, "field duration is nan, no number"),
        (LATENCY | {"latencies": []}, "field latencies is no list of numbers"),
        (SERVE | {"completed": 0}, "field completed is 0: no request succeeded"),
        ({"a": 1, "b": 2}, "(it has a, b)"),
        ({}, "(it has no field)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_version_is_refused_by_the_field(tmp_path: Path, results: Path, part: dict[str, Any], why: str) -> None:
    done = rollbench("import", str(file(tmp_path, SERVE, part)))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"rollbench: {tmp_path / 'bench.json'}, line 2: " in done.stderr
    assert why in done.stderr
    assert not (results / store.FOREIGN).exists(), "nothing of a file that is refused is kept"


@pytest.mark.parametrize(("text", "why"), [("", "it is empty"), ("{", "neither JSON"), ("[1]", "no JSON object"),
                                           ("\udcff", "it is no text")])  # fmt: skip
def test_no_result_at_all(tmp_path: Path, results: Path, text: str, why: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    done = rollbench("import", str(path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr


def test_mistakes_of_the_command(tmp_path: Path, results: Path) -> None:
    path = str(file(tmp_path, SERVE))
    for arguments, why in (
        ([str(tmp_path / "none.json")], "cannot be read: No such file"),
        ([path, "--case", "single_turn/tini-16"], "did you mean single_turn/tiny-16?"),
        ([path, "--engine", "vlm"], "did you mean vllm?"),
        ([path, path], "imported already"),
    ):
        done = rollbench("import", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert why in done.stderr
        assert not (results / store.FOREIGN).exists()
    assert rollbench("import", path).returncode == 0
    assert "imported already" in rollbench("import", path).stderr


def test_beside_our_own_and_never_among_them(tmp_path: Path, results: Path) -> None:
    store.save(record("vllm"), results)
    here = machine.fingerprint().id
    path = file(tmp_path, SERVE, SGLANG)
    assert rollbench("import", str(path), "--case", "single_turn/tiny-16", "--machine", here).returncode == 0
    compared = rollbench("compare", "--markdown").stdout
    for text in (compared, (results / "README.md").read_text() if rollbench("report").returncode == 0 else ""):
        vllm = next(line for line in text.splitlines() if "foreign: vllm bench serve, bench.json, vllm, Qwen/" in line)
        assert "| output | 32,768 tok/s | 100.0 tok/s" in vllm, "our own figure of that case on that engine"
        assert "(tiny-qwen3) |" in vllm, "which is of another model"
        other = next(line for line in text.splitlines() if "foreign: SGLang bench_serving" in line)
        assert "| output | 43,690 tok/s |  |" in other, "we have none of SGLang"
        assert "no ratio and no verdict" in text
    assert [path.name for path in store.files(results)] == [p.name for p in results.rglob("vllm-2026*.json")], (
        "no record"
    )
    assert rollbench("report", "--check").returncode == 0
    (kept,) = (results / store.FOREIGN).glob("vllm-*.json")
    for command in (
        ["show", str(kept)],
        ["compare", str(kept), str(kept)],
        ["gate", "--records", str(kept), str(kept)],
    ):
        done = rollbench(*command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "another tool's result" in done.stderr


def test_what_is_elsewhere_or_of_another_case_is_not_shown(tmp_path: Path, results: Path) -> None:
    store.save(record("vllm"), results)
    path = str(file(tmp_path, SERVE))
    assert rollbench("import", path, "--machine", "elsewhere", "--case", "single_turn/tiny-16").returncode == 0
    assert "foreign" not in rollbench("compare", "--markdown").stdout
    assert rollbench("import", str(file(tmp_path, SGLANG))).returncode == 0
    assert "foreign" in rollbench("compare", "--markdown").stdout
    assert "foreign" not in rollbench("compare", "--markdown", "--case", "single_turn/tiny-16").stdout


def test_hostile_text_is_shown_as_text(tmp_path: Path, results: Path) -> None:
    store.save(record("vllm"), results)
    part = SERVE | {"model_id": '<img src=x onerror="alert(1)">|`[x](y)\x1b[31m'}
    assert rollbench("import", str(file(tmp_path, part))).returncode == 0
    assert rollbench("report").returncode == 0
    assert not re.search(r"(?<!\\)<img", (results / "README.md").read_text())
    assert "\x1b" not in rollbench("compare", "--markdown").stdout


def test_a_broken_file_is_passed_over(tmp_path: Path, results: Path) -> None:
    store.save(record("vllm"), results)
    (results / store.FOREIGN).mkdir()
    (results / store.FOREIGN / "x.json").write_text("{}")
    assert "x.json: no foreign result" in rollbench("compare").stderr
    assert "foreign/x.json: no foreign result" in rollbench("report").stderr


def test_every_row_of_the_table_names_metrics(tmp_path: Path) -> None:
    for tool in foreign.TOOLS:
        for name, metric in tool.needs.items():
            assert not metric or metric in foreign.METRICS, name
    with pytest.raises(UserError, match="cannot be read"):
        foreign.parse(tmp_path)
