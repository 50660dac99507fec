"""Micro-batches hold every sequence once, keep to their budget, and are as many on every rank."""

from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.small import batch
from trainers.algorithms import ALGORITHMS, prepare
from trainers.micro import cut, inputs, plan

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 120), st.booleans(), st.integers(1, 4))
def test_every_sequence_is_in_one(lengths: list[int], budget: int, pack: bool, ranks: int) -> None:
    found = plan(lengths, budget, pack, ranks)
    assert len(found) == ranks and len({len(one) for one in found}) == 1
    every = [place for one in found for bin in one for place in bin]
    assert sorted(every) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 120), st.booleans(), st.integers(1, 4))
def test_none_is_over_the_budget(lengths: list[int], budget: int, pack: bool, ranks: int) -> None:
    for one in plan(lengths, budget, pack, ranks):
        for bin in one:
            found = [lengths[place] for place in bin]
            tokens = sum(found) if pack else max(found, default=0) * len(found)
            assert tokens <= budget or len(bin) == 1


@given(st.lists(st.integers(40, 50), min_size=8, max_size=40), st.integers(1, 4))
def test_packed_micro_batches_are_even_and_few(lengths: list[int], ranks: int) -> None:
    found = [bin for one in plan(lengths, 200, True, ranks) for bin in one]
    sums = [sum(lengths[place] for place in bin) for bin in found]
    assert max(sums) - min(sums) <= max(lengths)
    assert len(found) <= -(-len(lengths) // 4) + 2 * ranks


def test_rows_are_cut_to_their_width() -> None:
    whole = batch()
    old_BT = -whole.mask_BT.float()
    targets = prepare(ALGORITHMS["dapo"], whole, old_BT)
    part, aims = cut(whole, [3, 0], 6), cut(targets, [3, 0], 6)
    assert part.tokens_BT.tolist() == whole.tokens_BT[[3, 0], :6].tolist()
    assert part.reward_B.tolist() == whole.reward_B[[3, 0]].tolist()
    assert part.limit == whole.limit and aims.reference_BT is None
    assert aims.weight_BT.tolist() == targets.weight_BT[[3, 0], :6].tolist()


def test_inputs_name_the_token_before_each_own_one() -> None:
    whole = batch()
    for pack, total in ((False, 0), (True, 0), (True, 500)):
        found = inputs(whole, pack, total)
        flat = found.tokens_RN.flatten()
        assert flat[found.before_n + 1].tolist() == found.target_n.tolist() == whole.tokens_BT[whole.mask_BT].tolist()
        if pack:
            assert found.tokens_RN.shape == (1, total or int(whole.length_B.sum()))
            assert found.position_RN is not None
            starts = (found.position_RN[0] == 0).nonzero()[:, 0].tolist()
            ends = [0, *whole.length_B.cumsum(0).tolist()]
            assert starts == (ends if total else ends[:-1])
