// The operator BlockwiseLinear.
#pragma once

#include <memory>

#include "operators.h"
#include "weights.h"

namespace sc2onnx {

// y = [gelu](u W^T + bias [+ adapter]) [+ residual] of u = round([layer norm](x)), where W has 4 or
// 8 bits in blocks of inputs and the adapter is scale B (A u), summed over its segments.
//
// Inputs: x float (tokens, K), codes uint8 (N, K / block_size, block_size * bits / 8), scales
// float or bfloat16 (N, K / block_size), and bias (N,), norm_weight (K,), norm_bias (K,), residual
// (tokens, N), all of which may be left out. Then, all or none, adapter_of_token int64 (tokens,),
// adapter_scales float (tokens,), adapter_table int64 (adapters, products, segments, 5) and
// adapter_weights uint8 (bytes,), which may be empty; sc2onnx/bundle/kernels.py says what
// they hold. Attributes: N, K, bits, block_size, epsilon, gelu, product, activation_bits. Rows of x
// are rounded to int8 with a scale for each block. With activation_bits 16 what that takes away is
// rounded likewise, and its product added; then there are no gelu, residual and adapters. A row of
// y has the same bits whatever other rows there are.
std::unique_ptr<Operator> blockwise_linear(std::shared_ptr<const Weights> weights);

}  // namespace sc2onnx
