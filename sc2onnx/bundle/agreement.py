"""Where a step of several tokens can give, to the last bit, what as many steps of one give.

Activations are rounded to int8 before every integer product, so the last bit of a float32 decides on
which side of a boundary a value falls, and moves logits by up to a per cent a few layers on. Sums must
therefore be formed in one order, however many tokens a step has. What is known of ONNX Runtime 1.32
on x86-64, and why: docs/decisions/0009-speculation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SCHEMES: Final = frozenset({"int4 in blocks of 32", "int8 in blocks of 32", "int8 in blocks of 64"})
"""Schemes whose products are the same for one row of activations and for several: longer blocks are
summed in another order for one row."""

PANEL: Final = 16
"""Columns of a product up to which ONNX Runtime sums 1,024 terms in one go. It then adds such partial
sums; of up to 32, 64 and more columns they have 512, 256 and 128 terms."""

_DEPTH: Final = 128
"""Terms that are summed in one go whatever the number of columns is."""


def steps_can_agree(schemes: Iterable[str], heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether steps of any length can agree with steps of one, in a bundle of integers.

    ``schemes``: of its matrices. The scores are sums over ``head_dim``, which must be one partial sum;
    a single query head to a key-value head makes a product of one row, which has a kernel of its own.
    """
    return set(schemes) <= _SCHEMES and head_dim <= _DEPTH and heads > kv_heads
