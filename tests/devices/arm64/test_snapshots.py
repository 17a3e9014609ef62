from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.devices.arm64.snapshots import Counts, Snapshots
from edgeprune.devices.protocol import NodeCosts
from edgeprune.errors import DeviceError

# clock, instructions, FMLA, FMADD, SDOT: the profiler starts at 1000, nodes at 1100 and 1500
TEXT = """\
edgeprune-arm64 1 1
1 900 0 0 0
0 1000 5 0 0
0 1100 5 1 0
0 1400 55 3 0
0 1500 55 3 0
0 1700 55 3 8
"""
READINGS = [Counts(*map(int, line.split()[1:])) for line in TEXT.splitlines()[1:]]


def snapshots() -> Snapshots:
    return Snapshots({reading.total: reading for reading in READINGS})


def node(name: str, *runs: tuple[float, float]) -> NodeCosts:
    return NodeCosts(
        name=name,
        operator="Conv",
        provider=None,
        values=tuple(value for _, value in runs),
        starts=tuple(start for start, _ in runs),
    )


def test_what_the_counter_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text(TEXT)
    assert Snapshots.read(tmp_path / "snapshots") == snapshots()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("1 1\n", "1 2\n", 1), "had 2 threads"),
        (TEXT.replace("1500", "1300"), "do not rise"),
        (TEXT.replace("arm64 1", "arm64 2"), "cannot be read"),
        (TEXT.replace("55 3 0", "55 3"), "cannot be read"),
        (TEXT.replace("1700", "x"), "cannot be read"),
        ("", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_snapshots_that_cannot_be_trusted_are_refused(tmp_path: Path, text, message) -> None:
    if text is not None:
        (tmp_path / "snapshots").write_text(text)
    with pytest.raises(DeviceError, match=message) as caught:
        Snapshots.read(tmp_path / "snapshots")
    assert caught.value.exit_code == 3
    assert "make arm64" in caught.value.hint


def test_a_node_gets_what_was_executed_between_its_start_and_its_end() -> None:
    conv, other = node("conv", (100, 300)), node("other", (500, 200))
    assert snapshots().pair([conv, other]) == [[Counts(300, 50, 2, 0)], [Counts(200, 0, 0, 8)]]


def test_several_runs_of_a_node_are_kept_apart() -> None:
    assert snapshots().pair([node("n", (100, 300), (500, 200))]) == [
        [Counts(300, 50, 2, 0), Counts(200, 0, 0, 8)]
    ]


def test_an_optimised_model_without_nodes_pairs_with_nothing() -> None:
    assert snapshots().pair([]) == []


@pytest.mark.parametrize(
    "nodes",
    [
        [node("conv", (100, 301))],  # ends at no reading
        [node("conv", (101, 300))],  # starts at none
        [node("conv", (100, 300)), node("other", (510, 200))],
    ],
)
def test_times_that_are_no_readings_are_refused(nodes: list[NodeCosts]) -> None:
    with pytest.raises(DeviceError, match="are not readings of the emulator's clock"):
        snapshots().pair(nodes)


def test_a_snapshot_that_was_lost_or_moved_is_noticed() -> None:
    nodes = [node("conv", (100, 300)), node("other", (500, 200))]
    for reading in READINGS[1:]:
        left = {r.total: r for r in READINGS if r != reading}
        with pytest.raises(DeviceError, match="are not readings"):
            Snapshots(left).pair(nodes)
        moved = {(r.total + (r == reading)): r for r in READINGS}
        with pytest.raises(DeviceError, match="are not readings"):
            Snapshots(moved).pair(nodes)


def test_a_worker_that_tells_no_starts_is_refused() -> None:
    with pytest.raises(DeviceError, match="when each node started"):
        snapshots().pair([NodeCosts(name="n", operator=None, provider=None, values=(300.0,))])
