"""The flat buffer is laid out as rollbench's receivers are told."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from harness.shapes import SHAPES, configuration, tensors
from harness.worker import flat as receivers
from tests.trainers.small import KINDS, folder
from trainers import names
from trainers.flat import Slot, Stored, extent, held, layout, shares, views
from trainers.model import load

SHAPE = st.lists(st.integers(1, 7), min_size=1, max_size=3)
TENSORS = st.lists(SHAPE, min_size=1, max_size=6).map(lambda found: [(f"t{i}", shape) for i, shape in enumerate(found)])


def plain(slots: Sequence[Slot]) -> list[Stored]:
    return [Stored(slot.shape[0], (slot,)) for slot in slots]


@given(TENSORS, st.sampled_from([1, 2, 4]))
def test_the_layout_is_the_receivers(found: list[tuple[str, list[int]]], itemsize: int) -> None:
    ours, theirs = layout(found, itemsize), receivers.layout(found, itemsize)
    assert [tuple(one) for one in ours] == [(one.name, one.shape, one.offset, one.bytes) for one in theirs]
    assert extent(ours) == receivers.extent(theirs)


@given(TENSORS, st.sampled_from([2, 4]), st.integers(1, 5))
def test_shares_are_the_receivers(found: list[tuple[str, list[int]]], itemsize: int, ranks: int) -> None:
    slots = layout(found, itemsize)
    for rank in range(ranks):
        ours = [piece for pieces in shares(plain(slots), rank, ranks) for piece in pieces]
        theirs = receivers.shares(receivers.layout(found, itemsize), rank, ranks)
        assert [tuple(one) for one in ours] == [(one.flat, one.bytes, one.local, one.row) for one in theirs]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
def test_a_receiver_finds_a_stack_of_experts_again(experts: int, members: int, ranks: int) -> None:
    found = [("first", (5, 3)), *((f"e{i}.{j}", (2, 3)) for i in range(experts) for j in range(members))]
    slots = layout(found, 4)
    stored = [Stored(5, tuple(slots[:1])), Stored(experts, tuple(slots[1:]))]
    flat = torch.arange(extent(slots), dtype=torch.int32).to(torch.uint8)
    segments = []
    for rank in range(ranks):
        pieces = [piece for those in shares(stored, rank, ranks) for piece in those]
        buffer = torch.zeros(held(pieces), dtype=torch.uint8)
        for one in pieces:
            buffer[one.local : one.local + one.bytes] = flat[one.flat : one.flat + one.bytes]
        told = [receivers.Piece(*one) for one in pieces]
        assert all(piece.bytes % piece.row == 0 for piece in told)
        segments += receivers.segments(told, 0, buffer) if told else []
    for slot in receivers.layout(found, 4):
        whole = torch.full((slot.bytes,), 255, dtype=torch.uint8)
        parts = receivers.overlaps(segments, slot)
        for begin, part in parts:
            whole[begin : begin + part.numel()] = part
        assert sum(part.numel() for _, part in parts) == slot.bytes
        assert torch.equal(whole, flat[slot.offset : slot.offset + slot.bytes])


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_their_order_are_those_of_the_harness(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configuration(SHAPES[name])))
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    found = names.ordered(model)
    names.check(model, found)
    ours = names.slots(names.stored(found, 2))
    theirs = receivers.layout(list(tensors(SHAPES[name])), 2)
    assert [tuple(one) for one in ours] == [(one.name, one.shape, one.offset, one.bytes) for one in theirs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_has_these_tensors(kind: str, tied: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from trainers.weights import Arena

    model = load(folder(tmp_path / "model", kind, tied), torch.float32, torch.device("cpu"))
    model.save_pretrained(tmp_path / "saved")
    written = load_file(tmp_path / "saved" / "model.safetensors")
    found = names.ordered(model)
    arena = Arena(found, names.stored(found, 4), torch.float32, torch.device("cpu"))
    ours = dict(views(arena.buffer, arena.slots, torch.float32))
    assert ours.keys() == written.keys()
    assert all(torch.equal(ours[name], written[name]) for name in ours)
    assert ("lm_head.weight" in ours) != tied


def test_a_model_that_is_stored_otherwise_is_refused(tmp_path: Path) -> None:
    model = load(folder(tmp_path), torch.float32, torch.device("cpu"))
    model.model.register_buffer("table", torch.zeros(3))
    with pytest.raises(ValueError, match=r"model\.table \[3\]\): teach trainers/names\.py"):
        names.check(model, names.ordered(model))
