// Matrices as MatMulNBits has them, and as the kernels read them.
#pragma once

#include "linear.h"

namespace sc2onnx {

// codes (outputs, blocks, block * bits / 8), scales (outputs, blocks) of matrix.scale_bytes each ->
// tiles first_tile .. end of out, which is matrix.bytes() long. Outputs beyond the matrix are
// zeros.
void pack(const MatrixShape &matrix, const uint8_t *codes, const void *scales, int64_t first_tile,
          int64_t end, uint8_t *out);

// All of it, with so many threads.
void pack(const MatrixShape &matrix, const uint8_t *codes, const void *scales, int threads,
          uint8_t *out);

}  // namespace sc2onnx
