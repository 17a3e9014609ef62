from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.devices.arm64.convolutions import bounds, check_convolutions
from edgeprune.devices.arm64.snapshots import Counts
from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.errors import DeviceError
from edgeprune.export.segments import read_graph


def conv(
    folder: Path, shape=(1, 8, 7, 7), weight=(24, 8, 3, 3), name="conv", then=(), **attributes
) -> Path:
    """A convolution, and operators on its output, in a file."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y0"], name=name, **attributes)]
    for number, operator in enumerate(then):
        nodes.append(helper.make_node(operator, [f"y{number}"], [f"y{number + 1}"], name=operator))
    weights = numpy_helper.from_array(np.ones(weight, np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"y{len(then)}", TensorProto.FLOAT, None)],
        [weights],
    )
    path = folder / "conv.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def limits(path: Path) -> tuple[float, float]:
    return tuple(bounds(read_graph(path).segments[0]))


def test_bounds_without_padding(tmp_path: Path) -> None:
    """25 pixels are computed as 32, and the sums of K = 72 products are added once."""
    macs = 25 * 24 * 72
    assert limits(conv(tmp_path)) == pytest.approx((macs, 32 * 24 * (72 + 1)))


def test_products_with_the_padding_may_be_left_out(tmp_path: Path) -> None:
    """Of 3 x 7 products along an axis of 7 pixels padded by 1, two lie outside."""
    macs = 49 * 24 * 72
    low, high = limits(conv(tmp_path, pads=[1] * 4))
    assert (low, high) == pytest.approx((macs * (19 / 21) ** 2, 56 * 24 * (72 + 1)))
    assert limits(conv(tmp_path, auto_pad="SAME_UPPER"))[0] == pytest.approx(low)


def test_long_sums_are_added_in_blocks(tmp_path: Path) -> None:
    """K = 288 is summed up in three blocks of at most 128."""
    high = limits(conv(tmp_path, (1, 32, 10, 10), (16, 32, 3, 3)))[1]
    assert high == pytest.approx(64 * 16 * (288 + 3))


def test_one_output_a_group_is_a_product_with_a_vector(tmp_path: Path) -> None:
    """7 pixels take a vector of four, one for two and one for the last."""
    high = limits(conv(tmp_path, (1, 16, 9), (16, 1, 3), group=16))[1]
    assert high == pytest.approx(12 * 16 * (3 + 1))


def test_an_activation_may_be_a_polynomial(tmp_path: Path) -> None:
    plain = limits(conv(tmp_path, then=["Relu"]))[1]
    assert limits(conv(tmp_path, then=["Sigmoid"]))[1] == pytest.approx(plain + 16 * 32 * 24)


def answer(*names: str, operator: str = "FusedConv") -> ModelAnswer:
    nodes = tuple(
        NodeCosts(name=n, operator=operator, provider=None, values=(1.0,), starts=(0.0,))
        for n in names
    )
    return ModelAnswer(name="m", load_seconds=0.0, nodes=nodes)


def counts(macs: float) -> list[Counts]:
    return [Counts(total=10_000, fmla=int(macs) // 4, fmadd=int(macs) % 4, dot=0)]


MACS = 25 * 24 * 72


@pytest.mark.parametrize("share", [1.0, 1.28, 0.995])
def test_counts_that_a_convolution_can_have_are_taken(tmp_path: Path, share: float) -> None:
    ratios = check_convolutions(conv(tmp_path), answer("conv"), [counts(share * MACS)])
    assert ratios == pytest.approx([share], rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98, 1.35, 4.0])
def test_counts_of_something_else_are_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(DeviceError, match=r"conv: .* 43,200 to 56,064 are possible") as caught:
        check_convolutions(conv(tmp_path), answer("conv"), [counts(share * MACS)])
    assert caught.value.exit_code == 3


def test_every_run_is_checked(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="do not belong"):
        check_convolutions(conv(tmp_path), answer("conv"), [[*counts(MACS), *counts(0)]])


def test_a_node_without_a_name_is_checked_too(tmp_path: Path) -> None:
    path = conv(tmp_path, name="")
    assert check_convolutions(path, answer("Conv_0"), [counts(MACS)]) == pytest.approx([1.0])
    with pytest.raises(DeviceError, match="convolutions without a name"):
        check_convolutions(path, answer("Conv_0"), [counts(2 * MACS)])


def test_what_is_no_convolution_is_not_judged(tmp_path: Path) -> None:
    assert check_convolutions(conv(tmp_path), answer("r", operator="Relu"), [counts(0)]) == []
