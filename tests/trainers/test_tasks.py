"""Tasks: their rewards, their two sides, the calculator, and GSM8K's loader and check of answers. No torch needed."""

import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.tasks import TASKS, Arithmetic, Calculator, Copying, Example, Gsm8k, gsm8k
from trainers.tasks.calculator import compute
from trainers.tasks.task import Alphabet

TINY = [Copying(), Arithmetic(), Calculator()]
EVERY = pytest.mark.parametrize("task", TINY, ids=lambda task: type(task).__name__)


@EVERY
def test_examples_are_the_same_for_a_seed_and_no_prompt_is_on_both_sides(task: Copying) -> None:
    taught, held = task.examples(400, 0), task.examples(100, 0, held_out=True)
    assert (len(taught), len(held)) == (400, 100)
    assert taught == task.examples(400, 0)
    assert taught != task.examples(400, 1)
    assert not {example.prompt for example in taught} & {example.prompt for example in held}


@EVERY
def test_the_right_answer_is_worth_one_and_an_empty_one_nothing(task: Copying) -> None:
    for example in task.examples(50, 0):
        said = f"={example.answer}" if isinstance(task, Calculator) else example.answer
        assert task.reward(example, [said]) == 1
        assert task.reward(example, [""]) == 0
        assert task.reply(example, [said]) is None


@EVERY
def test_all_that_is_said_is_written_with_32_symbols(task: Copying) -> None:
    alphabet = Alphabet()
    assert len(set(alphabet.SYMBOLS)) == 32
    for example in task.examples(50, 0):
        for text in (example.prompt, example.answer):
            assert alphabet.decode(alphabet.encode(text)) == text


def test_an_output_ends_at_its_end_and_strange_tokens_are_no_symbols() -> None:
    alphabet = Alphabet()
    assert alphabet.decode([*alphabet.encode("ab"), alphabet.end, *alphabet.encode("c")]) == "ab"
    assert alphabet.decode([0, 40, -1]) == "___"
    with pytest.raises(ValueError, match="holds 'z'"):
        alphabet.encode("az")


def test_a_task_with_too_few_prompts_says_so() -> None:
    with pytest.raises(ValueError, match="0 of 1 examples with held_out=True"):
        Copying(letters="a", shortest=1, longest=1).examples(1, 0, held_out=True)


@pytest.mark.parametrize(
    ("said", "reward"), [("abcd", 1), ("abca", 0.75), ("abc", 0.75), ("abcdd", 0.8), ("dcba", 0), ("", 0), ("bcd", 0)]
)
def test_copying_counts_the_share_of_symbols_in_their_place(said: str, reward: float) -> None:
    assert Copying().reward(Example("abcd>", "abcd"), [said]) == reward


def test_copies_fit_into_eight_tokens_with_their_end() -> None:
    assert max(len(example.answer) for example in Copying().examples(500, 0)) + 1 == 6


@pytest.mark.parametrize(
    ("said", "reward"),
    [("-12", 1), (" -12 ", 1), ("-012", 1), ("12", 0), ("-1_2", 0), ("-12=", 0), ("- 12", 0), ("", 0)],
)
def test_arithmetic_wants_the_number_and_nothing_else(said: str, reward: float) -> None:
    assert Arithmetic().reward(Example("8-20=", "-12"), [said]) == reward


def test_the_calculator_answers_until_the_policy_does() -> None:
    task, example = Calculator(turns=3), Example("31*(7+46)-5?", "1638")
    assert task.reply(example, ["<31*(7+46)>"]) == "1643?"
    assert task.reply(example, ["<31*(7+46)>", "<31*>"]) == "?"
    assert task.reply(example, ["<1>", "<1>", "<1>"]) is None  # no turn is left
    assert task.reply(example, ["<31*(7+46)>", "=1638"]) is None
    assert task.reward(example, ["<31*(7+46)>", "=1638"]) == 1
    assert task.reward(example, ["=1638", "<1638>"]) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("2+3*4", 14), ("-(2-5)", 3), (" 7 ", 7), ("2**9", None), ("1/2", None), ("a", None), ("", None), ("007", None),
     ("(3)(4)", None), ("True", None), ("1 2", None), ("1.5", None), ("(" * 60 + "1", None)],
)  # fmt: skip
def test_the_calculator_computes_whole_numbers_only(text: str, value: int | None) -> None:
    assert compute(text) == value


@given(
    st.recursive(
        st.integers(0, 999).map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda x: f"({''.join(x)})"),
    )
)
def test_the_calculator_agrees_with_python(text: str) -> None:
    assert compute(text) == eval(text)  # the text is this test's own


@given(st.text())
def test_no_text_breaks_the_calculator_or_a_reward(text: str) -> None:
    assert compute(text) is None or isinstance(compute(text), int)
    for task in TINY:
        example = task.examples(1, 0)[0]
        task.reply(example, [text, f"<{text}>"])
        assert 0 <= task.reward(example, [text]) <= 1
    gsm8k.final("#### " + text)
    gsm8k.last_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 6 * 7 = 42\n#### 42", "42"),
        ("####42", "42"),
        ("#### 1,234,567", "1234567"),
        ("#### 1,234.50", "1234.5"),
        ("#### $18.", "18"),
        ("#### -7", "-7"),
        ("#### −7", "-7"),
        ("#### -$7", "-7"),
        ("#### $-7", "-7"),
        ("#### .5 miles", "0.5"),
        ("#### 10%", "10"),
        ("#### 3\nno, #### 4", "4"),
        ("#### 18, because", "18"),
        ("the answer is 42", None),
        ("#### forty-two", None),
        ("### 42", None),
        ("", None),
    ],
)
def test_the_final_answer(text: str, value: str | None) -> None:
    assert gsm8k.final(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(("text", "value"), [("12 apples, no, 1,300.", "1300"), ("5-3", "3"), ("it is -3", "-3")])
def test_the_last_number(text: str, value: str) -> None:
    assert gsm8k.last_number(text) == Decimal(value)


def test_only_a_lenient_task_takes_an_answer_without_its_mark() -> None:
    example = Example("How many?", "1234")
    assert Gsm8k().reward(example, ["#### 1,234.0"]) == 1
    assert Gsm8k().reward(example, ["It is 1,234."]) == 0
    assert Gsm8k(lenient=True).reward(example, ["It is 1,234."]) == 1
    assert Gsm8k(lenient=True).reward(example, ["It is 1,234. #### 5"]) == 0
    assert Gsm8k().reply(example, [""]) is None


def rows(split: str, count: int) -> list[dict[str, str]]:
    return [{"question": f"{split} {n}?", "answer": f"It is\u2028<<{n}={n}>>.\n#### {n},000"} for n in range(count)]


def write(path: Path, found: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(found), path)
    return path


@pytest.mark.parametrize(
    "names",
    [("{}.jsonl", "{}_socratic.jsonl"), ("main/{}-00000-of-00001.parquet", "socratic/{}-00000-of-00001.parquet")],
)
def test_a_folder_has_its_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    """As on GitHub (lines of JSON) and as on the hub (parquet), both beside another variant of the same problems."""
    for split, count in (("train", 30), ("test", 20)):
        write(tmp_path / names[0].format(split), rows(split, count))
        write(tmp_path / names[1].format(split), rows(f"socratic {split}", 5))
    task = Gsm8k(str(tmp_path))
    taught, held = task.examples(30, 0), task.examples(20, 0, held_out=True)
    assert {example.prompt for example in taught} == {f"train {n}?{gsm8k.INSTRUCTION}" for n in range(30)}
    assert {example.prompt for example in held} == {f"test {n}?{gsm8k.INSTRUCTION}" for n in range(20)}
    assert taught != task.examples(30, 1)
    assert {example.answer for example in held} == {str(1000 * n) for n in range(20)}
    assert task.reward(held[0], [f"#### {held[0].answer}"]) == 1
    with pytest.raises(ValueError, match="has 30 problems with held_out=False, not 31"):
        task.examples(31, 0)


@pytest.mark.parametrize("name", ["some.jsonl", "some.parquet"])
def test_a_lone_file_is_split_without_overlap(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, rows("some", 200))
    every = {example.prompt for example in gsm8k.load(str(path), "train")}
    held = {example.prompt for example in Gsm8k(str(path)).examples(10, 0, held_out=True)}
    taught = {example.prompt for example in Gsm8k(str(path)).examples(150, 0)}
    assert len(every) == 200
    assert not held & taught


def test_a_name_on_the_hub_is_loaded_by_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(name: str, variant: str, split: str) -> list[dict[str, str]]:
        asked.append((name, variant, split))
        return rows(split, 3)

    monkeypatch.setattr(gsm8k, "_package", {"datasets": SimpleNamespace(load_dataset=load_dataset)}.get)
    assert len(Gsm8k().examples(3, 0, held_out=True)) == 3
    assert asked == [("openai/gsm8k", "main", "test")]


def test_without_its_packages_the_loader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.parquet").touch()
    monkeypatch.setattr(gsm8k, "_package", lambda name: None)
    with pytest.raises(ValueError, match="install pyarrow"):
        gsm8k.load(str(tmp_path / "some.parquet"), "train")
    with pytest.raises(ValueError, match="needs the package datasets"):
        gsm8k.load("openai/gsm8k", "train")


def test_what_is_no_gsm8k_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        gsm8k.load(str(tmp_path / "nowhere"), "train")
    with pytest.raises(ValueError, match=r"has no train.jsonl"):
        gsm8k.load(str(tmp_path), "train")
    (tmp_path / "some.csv").touch()
    with pytest.raises(ValueError, match=r"none of .parquet, .jsonl"):
        gsm8k.load(str(tmp_path / "some.csv"), "train")
    with pytest.raises(ValueError, match=r"row 1 of .* is it GSM8K"):
        gsm8k.load(str(write(tmp_path / "bad.jsonl", [*rows("a", 1), {"question": "?", "answer": "5"}])), "train")


def test_the_table_names_every_task() -> None:
    assert {type(task) for task in TINY} | {Gsm8k} == set(TASKS.values())
