// Low-rank adapters of a product (LoRA): what a kernel is given.
#pragma once

#include <stdint.h>

namespace sc2onnx {

// B (A x) for some outputs of a product, A and B in float16.
struct Segment {
  int64_t first_tile = 0, end_tile = 0;  // of 16 outputs each
  int64_t rank = 0;
  const uint16_t *a = nullptr;  // (rank, inputs)
  const uint16_t *b = nullptr;  // (end_tile - first_tile, rank, 16)
  int64_t place = 0;            // of its first rank in Adapters::inner
};

// An adapter's part in a product, whose segments are added in order. None: they are equal.
struct Segments {
  const Segment *begin = nullptr, *end = nullptr;
};

// The adapters of a product's rows.
struct Adapters {
  const Segments *of_row = nullptr;  // (rows,)
  const float *x = nullptr;          // (rows, inputs): activations behind the norm
  int64_t rows = 0, inputs = 0;
  const float *scales = nullptr;  // (rows,) or null: 1
  float *inner = nullptr;         // (width, rows): scale * A x
  int64_t width = 0;
};

// Some of these A x, which a thread computes: of rows with the same adapter, and of the ranks
// first_rank .. end_rank - 1 that a segment has.
struct Shrinking {
  Segments segments;
  const int64_t *rows = nullptr;
  int64_t count = 0;  // of rows
  int64_t first_rank = 0, end_rank = 0;
};

}  // namespace sc2onnx
