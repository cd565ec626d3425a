"""Codes and scales: what they mean, to ONNX Runtime too, that no simpler choice comes nearer, and
the numbers at the edges.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from sc2onnx.bundle.schemes import BITS, BLOCK_SIZES, Scheme
from sc2onnx.errors import RequestError
from sc2onnx.export.graph.ops import CONTRIB, OPSET
from sc2onnx.export.quantize import codec
from sc2onnx.export.quantize.codec import (
    Codes,
    Floats,
    Quantised,
    by_tiles,
    dequantise,
    pack,
    quantise,
    unpack,
)
from tests.export.quantize.definition import meaning, numbers

Doubles = npt.NDArray[np.float64]
Inputs = dict[str, npt.NDArray[Any]]

SCHEMES = [Scheme(bits, size) for bits in BITS for size in BLOCK_SIZES]
ROWS, COLUMNS = 24, 512
TINIEST = float(np.finfo(np.float32).smallest_subnormal)
LARGEST = float(np.finfo(np.float32).max)

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)
both_bits = pytest.mark.parametrize("bits", BITS)


def same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Bit for bit, whatever the strides: -0 is not 0."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
    )


def weights(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> Floats:
    """Of several magnitudes, with a row and a block of zeros, and blocks whose peak is positive
    as well as negative ones.
    """
    random = np.random.default_rng(seed)
    made = (
        random.standard_normal((rows, columns)) * 10.0 ** random.integers(-4, 3, (rows, 1))
    ).astype(np.float32)
    made[1], made[0, : columns // 2] = 0, 0
    return made


def some(scheme: Scheme) -> tuple[Quantised, Floats]:
    """A rounded matrix and what it means."""
    found = quantise(weights(), scheme)
    return found, meaning(found.codes, found.scales, scheme.block_size)


@every_scheme
def test_what_codes_and_scales_mean(scheme: Scheme) -> None:
    found, expected = some(scheme)
    assert found.codes.dtype == np.int8
    assert found.codes.shape == (ROWS, COLUMNS)
    assert found.scales.dtype == np.float32
    assert found.scales.shape == (ROWS, COLUMNS // scheme.block_size)
    assert found.codes.min() == -(2 ** (scheme.bits - 1))
    assert found.codes.max() <= 2 ** (scheme.bits - 1) - 1
    assert (found.scales < 0).any()
    assert (found.scales > 0).any()
    same(dequantise(found), expected)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (4, [1, -8], [0x09]),
        (4, [-8, 1], [0x90]),
        (4, [0, 0, 7, -1], [0x88, 0x7F]),
        (8, [-128, -1, 0, 1, 127], [0, 127, 128, 129, 255]),
    ],
)
def test_bytes_of_codes(bits: int, codes: list[int], expected: list[int]) -> None:
    given = np.array([codes, codes], dtype=np.int8)
    packed = pack(given, Scheme(bits, 16))
    assert packed.dtype == np.uint8
    assert packed.tolist() == [expected, expected]
    same(unpack(packed, Scheme(bits, 16)), given)


@settings(deadline=None)
@given(data=st.data(), bits=st.sampled_from(BITS), rows=st.integers(1, 5), pairs=st.integers(1, 40))
def test_packed_codes_are_those_of_the_operator_and_come_back(
    data: st.DataObject, bits: int, rows: int, pairs: int
) -> None:
    half = 2 ** (bits - 1)
    codes: Codes = data.draw(
        hnp.arrays(np.int8, (rows, 2 * pairs), elements=st.integers(-half, half - 1))
    )
    packed = pack(codes, Scheme(bits, 16))
    assert packed.shape == (rows, 2 * pairs * bits // 8)
    np.testing.assert_array_equal(
        numbers(packed.tobytes(), bits, signed=False).reshape(codes.shape), codes
    )
    same(unpack(packed, Scheme(bits, 16)), codes)


def run(node: Any, initializers: list[Any], inputs: Inputs) -> Floats:
    """A graph of one node, by ONNX Runtime."""
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in inputs.items()
    ]
    graph = helper.make_graph(
        [node],
        "test",
        infos,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return np.asarray(
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["y"], inputs
        )[0]
    )


@every_scheme
def test_what_they_mean_to_gather_block_quantized(scheme: Scheme) -> None:
    found, expected = some(scheme)
    how: dict[str, Any] = {
        "gather_axis": 0,
        "quantize_axis": 1,
        "bits": scheme.bits,
        "block_size": scheme.block_size,
    }
    node = helper.make_node(
        "GatherBlockQuantized", ["codes", "ids", "scales"], ["y"], domain=CONTRIB, **how
    )
    stored = [
        numpy_helper.from_array(pack(found.codes, scheme), "codes"),
        numpy_helper.from_array(found.scales, "scales"),
    ]
    ids = np.random.default_rng(0).integers(0, ROWS, 50)
    same(run(node, stored, {"ids": ids}), expected[ids])


@every_scheme
def test_what_they_mean_to_dequantize_linear(scheme: Scheme) -> None:
    """Signed, on the transpose, packed by the onnx package."""
    found, expected = some(scheme)
    node = helper.make_node(
        "DequantizeLinear", ["codes", "scales"], ["y"], axis=0, block_size=scheme.block_size
    )
    signed = TensorProto.INT4 if scheme.bits == 4 else TensorProto.INT8
    codes = helper.make_tensor("codes", signed, [COLUMNS, ROWS], found.codes.T.reshape(-1).tolist())
    same(
        run(
            node,
            [codes, numpy_helper.from_array(np.ascontiguousarray(found.scales.T), "scales")],
            {},
        ).T,
        expected,
    )


@pytest.mark.parametrize("rows_at_once", [COLUMNS, 1], ids=["all rows", "row by row"])
@pytest.mark.parametrize(("accuracy_level", "tolerance"), [(0, 0.0), (1, 0.0), (4, 2.0**-21)])
@every_scheme
def test_what_they_mean_to_matmul_nbits(
    scheme: Scheme, accuracy_level: int, tolerance: float, rows_at_once: int
) -> None:
    """Of an identity matrix it makes the weights: exactly where activations stay floats.

    At level 4 the 1 of each row becomes 127 times float32(1 / 127): off by a few roundings of the
    largest number that a block can hold. More than one row goes another way (panels of dequantised
    weights) than one (dot products).
    """
    found, expected = some(scheme)
    sizes: dict[str, Any] = {
        "N": ROWS,
        "K": COLUMNS,
        "bits": scheme.bits,
        "block_size": scheme.block_size,
        "accuracy_level": accuracy_level,
    }
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain=CONTRIB, **sizes)
    codes = pack(found.codes, scheme).reshape(ROWS, COLUMNS // scheme.block_size, -1)
    stored = [
        numpy_helper.from_array(codes, "codes"),
        numpy_helper.from_array(found.scales, "scales"),
    ]
    identity = np.eye(COLUMNS, dtype=np.float32)
    bounds = tolerance * scheme.half * np.abs(np.repeat(found.scales, scheme.block_size, axis=1))
    for first in range(0, COLUMNS, 37) if rows_at_once == 1 else [0]:
        inputs = slice(first, first + rows_at_once)
        made = run(node, stored, {"x": identity[inputs]}).T
        assert (np.abs(made - expected[:, inputs]) <= bounds[:, inputs]).all()


@pytest.mark.parametrize("rows", [1, 8])
@every_scheme
def test_what_matmul_nbits_does_to_activations(scheme: Scheme, rows: int) -> None:
    """At level 4 they become the nearest multiples of a block's largest magnitude / 127, and
    nothing else happens to the product.

    Zeros leave nothing, but for what the kernel's subtraction of the zero point leaves of a
    scale of next to nothing.
    """
    found, expected = some(scheme)
    sizes: dict[str, Any] = {
        "N": ROWS,
        "K": COLUMNS,
        "bits": scheme.bits,
        "block_size": scheme.block_size,
        "accuracy_level": 4,
    }
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain=CONTRIB, **sizes)
    codes = pack(found.codes, scheme).reshape(ROWS, COLUMNS // scheme.block_size, -1)
    x = np.random.default_rng(5).standard_normal((rows, COLUMNS)).astype(np.float32)
    made = run(
        node,
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(found.scales, "scales")],
        {"x": x},
    )
    blocks = x.astype(np.float64).reshape(rows, -1, scheme.block_size)
    steps = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    rounded = (np.rint(blocks / steps) * steps).reshape(rows, COLUMNS)
    wanted, unrounded = (
        activations @ expected.T.astype(np.float64)
        for activations in (rounded, x.astype(np.float64))
    )
    sizes_of_both = np.linalg.norm(x, axis=1, keepdims=True) * np.maximum(
        np.linalg.norm(expected, axis=1), 1e-20
    )
    assert (np.abs(made - wanted) / sizes_of_both).max() <= 2e-6
    assert (np.abs(made - unrounded) / sizes_of_both).max() > 1e-4
    assert not expected[1].any()
    assert np.abs(made[:, 1]).max() < 1e-25


def squared_errors(
    given: Floats, represented: npt.NDArray[Any], importance: npt.NDArray[Any], block_size: int
) -> Doubles:
    """By block, in float64."""
    errors = (
        importance.astype(np.float64)
        * (given.astype(np.float64) - represented.astype(np.float64)) ** 2
    )
    return np.asarray(errors.reshape(len(given), -1, block_size).sum(axis=-1))


def by_largest_magnitude(given: Floats, scheme: Scheme) -> Doubles:
    """Nearest codes under the scale, as it is stored, that takes the value of largest magnitude
    to -half: what is stored then, in float64.
    """
    blocks = given.astype(np.float64).reshape(len(given), -1, scheme.block_size)
    peaks = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
    scales = np.where(peaks == 0, 1, peaks / -scheme.half).astype(ml_dtypes.bfloat16)
    scales = np.where(scales == 0, 1, scales.astype(np.float64))
    return np.asarray(
        (np.clip(np.rint(blocks / scales), -scheme.half, scheme.half - 1) * scales).reshape(
            given.shape
        )
    )


def assert_never_loses(given: Floats, scheme: Scheme, importance: Floats | None) -> None:
    """Up to float32's rounding of each weight and, below 1e-30, where a block
    counts as zeros, up to that.
    """
    found = quantise(given, scheme, importance)
    by_column = np.ones(given.shape[1]) if importance is None else importance
    represented = meaning(found.codes, found.scales, scheme.block_size)
    assert np.isfinite(found.scales).all()
    assert np.isfinite(represented).all()
    assert (found.scales != 0).all()
    ours, simple = (
        squared_errors(given, stored, by_column, scheme.block_size)
        for stored in (represented, by_largest_magnitude(given, scheme))
    )
    rounding = squared_errors(
        given * np.float32(2.0**-20), np.zeros_like(given), by_column, scheme.block_size
    )
    tiny = squared_errors(
        np.full_like(given, 1e-30), np.zeros_like(given), by_column, scheme.block_size
    )
    assert (ours <= 1.0001 * simple + rounding + tiny).all()


@settings(deadline=None, max_examples=150)
@given(
    scheme=st.sampled_from([Scheme(4, 16), Scheme(4, 32), Scheme(8, 16)]),
    blocks=hnp.arrays(
        np.float32,
        (2, 64),
        elements=st.one_of(
            st.floats(-1, 1, width=32), st.sampled_from([0.0, 1.0, -1.0, 0.9375, 0.8])
        ),
    ),
    importance=st.none()
    | hnp.arrays(np.float32, 64, elements=st.floats(2.0**-10, 2.0**10, width=32)),
    exponent=st.integers(-140, 127),
)
def test_no_block_loses_to_the_largest_magnitude(
    scheme: Scheme, blocks: Floats, importance: Floats | None, exponent: int
) -> None:
    assert_never_loses(np.ldexp(blocks, exponent), scheme, importance)


@every_scheme
@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_far_less_than_by_the_largest_magnitude_at_4_bits(
    scheme: Scheme, weighted: bool
) -> None:
    random = np.random.default_rng(0)
    given = random.standard_normal((200, COLUMNS)).astype(np.float32)
    importance = (
        np.exp(2 * random.standard_normal(COLUMNS)).astype(np.float32) if weighted else None
    )
    assert_never_loses(given, scheme, importance)
    found, by_column = (
        quantise(given, scheme, importance),
        np.ones(COLUMNS) if importance is None else importance,
    )
    ours = squared_errors(
        given, meaning(found.codes, found.scales, scheme.block_size), by_column, scheme.block_size
    ).sum()
    simple = squared_errors(
        given, by_largest_magnitude(given, scheme), by_column, scheme.block_size
    ).sum()
    assert ours <= (0.92 if scheme.bits == 4 else 1.0001) * simple
    if weighted and scheme.bits == 4:
        blind = quantise(given, scheme)
        assert (
            ours
            < 0.97
            * squared_errors(
                given,
                meaning(blind.codes, blind.scales, scheme.block_size),
                by_column,
                scheme.block_size,
            ).sum()
        )


def test_a_common_factor_of_the_importances_changes_nothing() -> None:
    given, scheme = weights(), Scheme(4, 32)
    importance = np.random.default_rng(0).uniform(0.5, 2, COLUMNS).astype(np.float32)
    first, second = (
        quantise(given, scheme, importance),
        quantise(given, scheme, importance * np.float32(2.0**-20)),
    )
    same(first.codes, second.codes)
    same(first.scales, second.scales)
    assert not np.array_equal(first.scales, quantise(given, scheme).scales)


@every_scheme
def test_blocks_of_zeros(scheme: Scheme) -> None:
    """Exact, under a scale that is a normal number, and without a trace
    in the blocks beside them.
    """
    size = scheme.block_size
    given = weights(4, 3 * size, seed=1)
    given[0], given[1] = np.random.default_rng(2).standard_normal((2, 3 * size))
    given[1, size : 2 * size] = 0
    given[2], given[3] = 0, -0.0
    found = quantise(given, scheme)
    zeros = np.array(
        [[False, False, False], [False, True, False], [True, True, True], [True, True, True]]
    )
    np.testing.assert_array_equal(found.zeros, zeros)
    assert not found.codes.reshape(4, 3, size)[zeros].any()
    assert (
        (found.scales[zeros] > np.finfo(np.float32).smallest_normal) & (found.scales[zeros] < 1e-29)
    ).all()
    assert (meaning(found.codes, found.scales, size)[np.repeat(zeros, size, axis=1)] == 0).all()
    alone = quantise(np.ascontiguousarray(given[1:2, :size]), scheme)
    same(found.scales[1:2, :1], alone.scales)
    same(found.codes[1:2, :size], alone.codes)


@both_bits
def test_one_weight_that_is_not_zero_is_a_block_that_is_not(bits: int) -> None:
    given = np.zeros((32, 32), dtype=np.float32)
    given[np.arange(16), np.arange(16)] = np.float32(1e-30)
    found = quantise(given, Scheme(bits, 16))
    np.testing.assert_array_equal(found.zeros, [[row >= 16, True] for row in range(32)])
    np.testing.assert_allclose(dequantise(found), given, rtol=2.0**-8)


@both_bits
@pytest.mark.parametrize(
    "peak",
    [LARGEST, 3e38, 1e38, 1e25, 1e19, 1e-19, 1e-29, 2e-30, 9e-31, 1e-37, 1e-38, 1e-42, TINIEST],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_and_tiny_weights_stay_finite(bits: int, peak: float, sign: int) -> None:
    """No sum of squares overflows or vanishes on the way, which the same
    numbers of middling size show.
    """
    scheme = Scheme(bits, 32)
    middling = np.random.default_rng(0).uniform(-1, 1, (8, 64))
    middling[:, ::32] = sign
    given = (middling * peak).astype(np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = quantise(given, scheme, np.full(64, 1e-3, dtype=np.float32))
        represented = dequantise(found)
    assert np.isfinite(represented).all()
    assert np.isfinite(found.scales).all()
    assert (np.abs(found.scales) > np.finfo(np.float32).smallest_normal).all()
    if peak < 1e-30:
        assert found.zeros.all()
    else:
        assert np.abs(represented / peak - middling).max() <= (0.23 if bits == 4 else 0.012)
    if 1e-29 < peak < LARGEST:
        power = np.float32(2.0 ** np.floor(np.log2(peak)))
        importance, floats = np.full(64, 1e-3, dtype=np.float32), middling.astype(np.float32)
        usual, moved = (quantise(each, scheme, importance) for each in (floats, floats * power))
        same(moved.codes, usual.codes)
        same(moved.scales, usual.scales * power)
    if peak < LARGEST:  # beyond bfloat16's largest number the least scale is too small
        assert_never_loses(given, scheme, None)


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.375, -(2.0**-20) * 1.25, 2.0**90, -(2.0**-90)])
@every_scheme
def test_weights_on_a_grid_come_back_exactly(scheme: Scheme, scale: float) -> None:
    """Whatever the sign of the extreme one, with importances too."""
    random = np.random.default_rng(0)
    codes = random.integers(-scheme.half, scheme.half, (ROWS, COLUMNS)).astype(np.int8)
    codes[:, :: scheme.block_size] = -scheme.half
    given = (codes * np.float64(scale)).astype(np.float32)
    for importance in (None, random.uniform(0.1, 10, COLUMNS).astype(np.float32)):
        found = quantise(given, scheme, importance)
        np.testing.assert_array_equal(meaning(found.codes, found.scales, scheme.block_size), given)
        same(found.codes, codes)
        assert (found.scales == np.float32(scale)).all()


@both_bits
@pytest.mark.parametrize("value", [0.1, -0.1, 3e-20, -LARGEST, LARGEST])
def test_weights_that_are_all_the_same_come_back_as_bfloat16(bits: int, value: float) -> None:
    given = np.full((2, 64), value, dtype=np.float32)
    found = quantise(given, Scheme(bits, 32))
    np.testing.assert_allclose(meaning(found.codes, found.scales, 32), given, rtol=2.0**-8)


def test_scales_are_numbers_of_bfloat16() -> None:
    given = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    for importance in (None, np.linspace(1, 2, COLUMNS, dtype=np.float32)):
        found = quantise(given, Scheme(4, 32), importance).scales
        same(found, found.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_opposite_weights_give_the_same_codes_and_opposite_scales() -> None:
    given = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    first, second = quantise(given, Scheme(4, 32)), quantise(-given, Scheme(4, 32))
    same(first.codes, second.codes)
    same(first.scales, -second.scales)


@pytest.mark.parametrize(("rows", "columns"), [(700, 512), (3, 70_400), (1, 131_072), (129, 1024)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_matrix_beyond_a_tile_is_rounded_as_its_rows_are(
    rows: int, columns: int, weighted: bool
) -> None:
    """Tiles are rounded at once, on all processors."""
    scheme, random = Scheme(4, 64), np.random.default_rng(0)
    given = random.standard_normal((rows, columns)).astype(np.float32)
    importance = random.uniform(0.1, 10, columns).astype(np.float32) if weighted else None
    whole = quantise(given, scheme, importance)
    assert rows * columns > codec.TILE
    for row in range(0, rows, max(1, rows // 40)):
        alone = quantise(given[row : row + 1], scheme, importance)
        same(whole.codes[row : row + 1], alone.codes)
        same(whole.scales[row : row + 1], alone.scales)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (1, 1 << 17), (64, 1024), (65, 1024), (640, 1000), (5, 1 << 15)]
)
def test_every_row_is_in_one_tile(rows: int, columns: int) -> None:
    seen = np.zeros(rows, dtype=np.int64)

    def work(first: int, stop: int) -> None:
        assert 0 <= first < stop <= rows
        assert (stop - first) * columns <= max(codec.TILE, columns)
        seen[first:stop] += 1

    by_tiles(work, rows, columns)
    assert (seen == 1).all()


def test_a_tile_that_fails_is_not_passed_over() -> None:
    def work(first: int, stop: int) -> None:
        if first:
            raise ArithmeticError("tile")

    with pytest.raises(ArithmeticError, match="tile"):
        by_tiles(work, 1000, 1024)


@pytest.mark.parametrize(
    ("bits", "block_size"),
    [(3, 32), (2, 32), (16, 32), (0, 32), (4, 8), (4, 48), (8, 512), (8, 0), (4, -32)],
)
def test_schemes_that_do_not_exist(bits: int, block_size: int) -> None:
    message = (
        rf"quantisation is {bits} bits in blocks of {block_size}, expected 4 or 8 bits in blocks "
        r"of 16, 32, 64, 128, 256"
    )
    with pytest.raises(RequestError, match=message):
        Scheme(bits, block_size)


@pytest.mark.parametrize(
    ("columns", "size", "fitting"),
    [(96, 64, "16, 32"), (16, 32, "16"), (192, 128, "16, 32, 64"), (384, 256, "16, 32, 64, 128")],
)
def test_columns_that_blocks_do_not_divide(columns: int, size: int, fitting: str) -> None:
    message = (
        rf"^the\.matrix has {columns} inputs, which blocks of {size} do not divide: .* \(those "
        rf"that do: {fitting}\)$"
    )
    with pytest.raises(RequestError, match=message):
        Scheme(4, size).check_columns("the.matrix", columns)


@pytest.mark.parametrize("columns", [0, 32, 64, 3072])
def test_columns_that_blocks_divide(columns: int) -> None:
    Scheme(4, 32).check_columns("the.matrix", columns)


@every_scheme
def test_bytes_are_counted_as_they_are(scheme: Scheme) -> None:
    found, _ = some(scheme)
    assert scheme.nbytes(ROWS, COLUMNS) == pack(found.codes, scheme).nbytes + found.scales.nbytes
    assert str(scheme) == f"int{scheme.bits} in blocks of {scheme.block_size}"


def test_columns_that_no_block_divides() -> None:
    with pytest.raises(
        RequestError,
        match=(
            r"has 72 inputs, which blocks of 32 do not divide: no block size "
            r"does, export it in floats$"
        ),
    ):
        Scheme(4, 32).check_columns("the.matrix", 72)


@pytest.mark.parametrize("size", [1e-36, 1.0, 1e38])
def test_only_ratios_of_importance_count(size: float) -> None:
    random = np.random.default_rng(0)
    weights, importance = (
        random.standard_normal((16, 64)).astype(np.float32),
        (0.1 + random.random(64)).astype(np.float32),
    )
    exact = np.float32(2.0 ** round(np.log2(size)))
    with np.errstate(all="raise", under="ignore"):
        found, expected = (
            quantise(weights, Scheme(4, 32), of) for of in (importance * exact, importance)
        )
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.scales, expected.scales)
