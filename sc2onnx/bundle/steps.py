"""Which steps give, to the last bit, what other steps over the same tokens
give, in bundles of integers.

Activations are rounded to int8 before every integer product, so the last bit of a float32 decides
on which side of a boundary a value falls, and moves logits by up to a per cent a few layers on.
Sums must therefore be formed in one order, however many tokens a step has. What is known of ONNX
Runtime 1.32 on x86-64, and why: docs/decisions/0009-speculation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sc2onnx.bundle.schemes import Scheme

ANY: Final = "any"
"""Steps of any length agree with each other."""

EVEN: Final = "even"
"""Steps of an even number of tokens agree with each other, but not with steps of one."""

NONE: Final = "none"
"""Nothing is known. Of float32 too: there steps differ by rounding
alone, which keeps the tokens.
"""

_FOR_ANY: Final = frozenset({Scheme(4, 32), Scheme(8, 32), Scheme(8, 64)})
"""Schemes whose kernels sum one row of activations in the order in which they sum several."""

_BY_PAIRS: Final = frozenset(Scheme(bits, size) for bits in (4, 8) for size in (64, 128, 256))
"""Schemes whose kernels take two rows at a time, and the last of an odd number in another order."""

PANEL: Final = 16
"""Columns of a float product up to which ONNX Runtime sums 1,024 terms in one go. Longer sums are
made of such parts; with up to 32, 64 and more columns, the parts have 512, 256 and 128 terms.
"""

_DEPTH: Final = 128
"""Terms that are one part whatever the number of columns is."""


def agreeing_steps(schemes: Iterable[Scheme], heads: int, kv_heads: int, head_dim: int) -> str:
    """What a graph over a ring can promise if its attention goes token by token.

    :data:`ANY`, :data:`EVEN` or :data:`NONE`. ``schemes`` are those of the matrices. The scores of
    attention are sums over ``head_dim``, which must be one part; and one query head to a key-value
    head would make a product of one row, which has a kernel of its own.
    """
    used = set(schemes)
    if head_dim > _DEPTH or heads <= kv_heads or not used <= _FOR_ANY | _BY_PAIRS:
        return NONE
    return ANY if used <= _FOR_ANY else EVEN
