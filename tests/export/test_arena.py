from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from edgeprune.export.arena import Buffer, liveness, plan


@st.composite
def lives(draw: st.DrawFn) -> list[Buffer]:
    steps = draw(st.integers(1, 20))
    buffers = []
    for index in range(draw(st.integers(0, 24))):
        first = draw(st.integers(0, steps - 1))
        last = draw(st.integers(first, steps - 1))
        buffers.append(Buffer(f"t{index}", draw(st.integers(1, 4000)), first, last))
    return buffers


@given(lives())
def test_tensors_that_live_together_never_overlap(buffers: list[Buffer]) -> None:
    planned = plan(buffers)
    assert [buffer for buffer, _ in planned.placed] == buffers
    for (a, at_a), (b, at_b) in combinations(planned.placed, 2):
        together = any(a.first <= s <= a.last and b.first <= s <= b.last for s in range(20))
        assert not together or at_a + a.bytes <= at_b or at_b + b.bytes <= at_a


@given(lives())
def test_the_arena_lies_between_the_liveness_bound_and_the_sum(buffers: list[Buffer]) -> None:
    bound = max(sum(b.bytes for b in buffers if b.first <= s <= b.last) for s in range(20))
    assert liveness(buffers) == bound
    assert bound <= plan(buffers).bytes <= sum(b.bytes for b in buffers)


@given(lives())
def test_the_plan_does_not_depend_on_the_order_given(buffers: list[Buffer]) -> None:
    forward, backward = dict(plan(buffers).placed), dict(plan(buffers[::-1]).placed)
    assert forward == backward


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [100, 400, 300, 200, 10]
    chain = [Buffer(str(i), size, max(i - 1, 0), i) for i, size in enumerate(sizes)]
    assert liveness(chain) == plan(chain).bytes == 700


def test_where_order_by_size_misses_the_bound_another_order_finds_it() -> None:
    # By size alone b comes to lie at 0 and c behind it, which leaves no room for d below 16.
    buffers = [
        Buffer("a", 6, 0, 1),
        Buffer("b", 5, 1, 2),
        Buffer("c", 4, 2, 3),
        Buffer("d", 7, 3, 4),
    ]
    assert plan(buffers).bytes == liveness(buffers) == 11
