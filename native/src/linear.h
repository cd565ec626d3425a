// The product of activations with a matrix of few bits: what a kernel is given.
#pragma once

#include <stdint.h>

#include "adapters.h"
#include "lanes/inline.h"

namespace sc2onnx {

// How a matrix lies: outputs in tiles of 16, inputs in blocks that share a scale.
struct MatrixShape {
  int64_t outputs = 0, inputs = 0;
  int32_t bits = 0, block = 0;
  int32_t scale_bytes = 4;  // 4: float32, 2: bfloat16

  SC2ONNX_INLINE int64_t tiles() const { return (outputs + 15) / 16; }
  SC2ONNX_INLINE int64_t blocks() const { return inputs / block; }
  // of 64 bytes, in a block of a tile
  SC2ONNX_INLINE int64_t vectors() const { return (int64_t)block * bits / 32; }
  SC2ONNX_INLINE int64_t block_bytes() const { return 64 * vectors(); }
  // Blocks whose scales, 16 each, lie in one vector behind the last of them.
  SC2ONNX_INLINE int64_t together() const { return 4 / scale_bytes; }
  SC2ONNX_INLINE int64_t tile_bytes() const {
    return blocks() * block_bytes() + (blocks() + together() - 1) / together() * 64;
  }
  SC2ONNX_INLINE int64_t bytes() const { return tiles() * tile_bytes(); }
  bool fits() const;  // whether it is a matrix that the kernels compute with
};

// Rows of activations, and where they go as int8 with a scale for each row and block.
struct Rounding {
  const float *x = nullptr;  // (rows, inputs)
  int64_t rows = 0;
  MatrixShape matrix;
  // (inputs,); null: no layer norm before
  const float *norm_weight = nullptr, *norm_bias = nullptr;
  float epsilon = 0;
  int8_t *codes = nullptr;    // rows x inputs, in the order of LinearKernels::code_at
  float *scales = nullptr;    // rows x blocks, in the order of LinearKernels::scale_at
  int32_t *starts = nullptr;  // likewise: where the sums of a block's products begin
  float *rest = nullptr;      // (rows, inputs) or null: what is taken away
};

// A product of such rows, and what becomes of it.
struct Product {
  MatrixShape matrix;
  const uint8_t *weights = nullptr;  // as pack() writes them, aligned to 64 bytes
  int64_t rows = 0;
  const int8_t *codes = nullptr;
  const float *scales = nullptr;
  const int32_t *starts = nullptr;
  const float *bias = nullptr;      // (outputs,) or null
  const float *residual = nullptr;  // (rows, outputs) or null, added last
  const Adapters *adapters = nullptr;  // null: no row has one
  bool gelu = false;
  float *y = nullptr;  // (rows, outputs)
};

struct LinearKernels {
  void (*round_rows)(const Rounding &, int64_t first, int64_t end);   // rows
  void (*product)(const Product &, int64_t first_tile, int64_t end);  // tiles of 16 outputs
  int64_t (*code_at)(const MatrixShape &, int64_t rows, int64_t row, int64_t input);
  int64_t (*scale_at)(const MatrixShape &, int64_t rows, int64_t row, int64_t block);
  void (*shrink)(const Adapters &, const Shrinking &);
};

}  // namespace sc2onnx
