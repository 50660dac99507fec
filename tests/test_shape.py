"""Imports point one way: from what measures down to what is known, and never from trainers to harness."""

import ast
from pathlib import Path

import pytest

from harness.paths import PROJECT

LEVELS = {  # a module imports only from lower levels, or from its own where that makes no circle
    0: (
        "errors",
        "gpus",
        "markdown",
        "metrics",
        "paths",
        "rollouts",
        "shapes",
        "stats",
        "wire",
        "progress",
        "segments",
        "skyrl_keys",
        "efficiency",
    ),
    1: ("client", "lock", "together", "gate", "machine", "models", "workload", "worker", "cards", "skyrl"),
    2: ("envs", "record", "senders", "sampler", "memory", "migrate"),
    3: ("troubles", "audit", "link", "crew", "ownlink", "adapterlink", "commit", "store", "series", "mistakes"),
    4: ("cells", "evidence", "scenario", "rig", "fresh", "proof", "speed", "pending", "plan", "rates", "trace"),
    5: (
        "export",
        "foreign",
        "measure",
        "inference",
        "inflight",
        "groups",
        "calibrate",
        "compare",
        "history",
        "doctor",
        "config_case",
    ),
    6: (
        "beside",
        "probes",
        "standings",
        "asv_history",
        "rivals",
        "screen",
        "trees",
        "shift",
        "tables",
        "selfcheck",
        "clientcheck",
        "crosscheck",
    ),
    7: ("asv_environment", "findings", "matrix", "plots", "runner", "session", "verdicts"),
    8: ("claims", "draw", "gate_commands", "history_commands", "config_commands"),
    9: ("page", "recommend", "report"),
    10: ("guide",),
    11: ("exchange_commands", "matrix_commands", "recommend_commands", "report_commands", "run_commands"),
    12: ("cli",),
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}
SAME_LEVEL = {
    ("rig", "scenario"), ("record", "machine"), ("groups", "inference"), ("ownlink", "link"), ("adapterlink", "link"),
    ("crew", "link"),     ("proof", "fresh"),   ("efficiency", "shapes"),
}  # fmt: skip
FILES = sorted((PROJECT / "harness").rglob("*.py"))
TRAINERS = sorted((PROJECT / "trainers").rglob("*.py"))


def imports(path: Path, lazily: bool = True) -> set[str]:
    """Full names of the modules that a file imports; `lazily` counts those inside functions too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazily else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts(path: Path) -> set[str]:
    """The modules of harness/ that a file imports at its top, `worker` standing for all below it."""
    names = {name.split(".")[1] for name in imports(path, lazily=False) if name.startswith("harness.")}
    return names & LEVEL.keys()


def test_every_module_has_its_level() -> None:
    modules = {p.stem for p in (PROJECT / "harness").glob("*.py")} - {"__init__"}
    assert modules | {"worker"} == LEVEL.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_point_down(path: Path) -> None:
    name = path.relative_to(PROJECT / "harness").parts[0].removesuffix(".py")
    if name != "__init__":
        upward = {p for p in parts(path) if LEVEL[p] >= LEVEL[name] and p != name and (name, p) not in SAME_LEVEL}
        assert not upward, f"{name} imports {upward}"


def test_workers_need_nothing_of_the_light_environment() -> None:
    light = {"pydantic", "typer", "rich", "scipy", "statsmodels", "pandas", "psutil", "pynvml"}
    shared = [PROJECT / "harness" / f"{name}.py" for name in ("wire", "rollouts", "efficiency", "shapes", "__init__")]
    for path in [*shared, *(PROJECT / "harness" / "worker").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imports(path)} & light, path
        allowed = {"harness.wire", "harness.rollouts", "harness.efficiency", "harness.shapes", "harness.worker"}
        ours = {name for name in imports(path) if name.startswith("harness")}
        assert all(any(name == a or name.startswith(f"{a}.") for a in allowed) for name in ours), (path, ours)


def test_trainers_know_nothing_of_harness() -> None:
    for path in TRAINERS:
        assert not {name for name in imports(path) if name.startswith(("harness", "benchmarks"))}, path


def test_light_side_never_imports_torch() -> None:
    for path in FILES:
        if "worker" not in path.parts:
            assert not {name for name in imports(path) if name.split(".")[0] in ("torch", "vllm", "sglang")}, path


@pytest.mark.parametrize("path", FILES + TRAINERS, ids=lambda p: str(p.relative_to(PROJECT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.body[0].lineno < 40, f"{node.name} is long"
