// The operator BlockwiseLinear.
#pragma once

#include <memory>

#include "operators.h"
#include "weights.h"

namespace sc2onnx {

// y = [gelu](round([layer norm](x)) W^T + bias) [+ residual], W of 4 or 8 bits in blocks of inputs.
//
// Inputs: x float (tokens, K), codes uint8 (N, K / block_size, block_size * bits / 8), scales
// float (N, K / block_size), and bias (N,), norm_weight (K,), norm_bias (K,), residual
// (tokens, N), all of which may be left out. Attributes: N, K, bits, block_size, epsilon,
// gelu. Rows of x are rounded to int8 with a scale for each block. A row of y has the same
// bits whatever other rows there are.
std::unique_ptr<Operator> blockwise_linear(std::shared_ptr<const Weights> weights);

}  // namespace sc2onnx
