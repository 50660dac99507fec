"""Arrays of prompts and rollouts, and how they travel."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.rollouts import Finished, Prompts, Rollouts, gather, lengths, padded, token_hash

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=9), max_size=6)


@given(ROWS)
def test_padding_keeps_every_row(rows: list[list[int]]) -> None:
    ids = padded(rows)
    assert lengths(ids).tolist() == [len(row) for row in rows]
    assert Prompts(ids, np.zeros(len(rows), np.int32)).lists == rows


@given(ROWS, ROWS)
def test_hash_tells_rows_apart(a: list[list[int]], b: list[list[int]]) -> None:
    assert (token_hash(padded(a)) == token_hash(padded(b))) == (padded(a).tolist() == padded(b).tolist())


def test_hash_sees_where_a_row_ends() -> None:
    assert token_hash(padded([[1, 2], [3]])) != token_hash(padded([[1], [2, 3]]))


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    done = [Finished([5, 6, 7], 4, 2, 0.1, 0.5, [-1.0, -2.0, -3.0]), Finished([8], 3, 0, 0.2, 0.3, [-4.0])]
    sent = gather(done, [[1, 2, 3, 4], [1, 2, 3]], 0.6)
    back = Rollouts.load(tmp_path / "x", sent.save(tmp_path / "x"))
    for name, value in vars(sent).items():
        np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
    assert back.output_B.tolist() == [3, 1]
    assert np.isnan(back.logprobs_BT[1, 1:]).all()
    assert back.seconds.shape == ()


def test_logprobs_not_asked_for_take_no_room() -> None:
    assert gather([Finished([1], 1, 0, 0.0, 0.0)], [[1]], 1.0).logprobs_BT.shape == (1, 0)
