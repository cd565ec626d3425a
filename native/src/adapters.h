// Low-rank adapters of a product (LoRA): what a kernel is given.
#pragma once

#include <stdint.h>

#include "lanes/inline.h"

namespace sc2onnx {

constexpr int64_t kRankTile = 16;  // ranks that lie side by side in A

SC2ONNX_INLINE int64_t rank_tiles_of(int64_t rank) { return (rank + kRankTile - 1) / kRankTile; }

// B (A x) for some outputs of a product: A in int8 with a scale for each rank, B in float16.
struct Segment {
  int64_t first_tile = 0, end_tile = 0;  // of 16 outputs each
  int64_t rank = 0;
  const uint8_t *a = nullptr;   // tiles of ranks: (inputs / 4, 16, 4) codes + 128, then 16 scales
  const uint16_t *b = nullptr;  // (end_tile - first_tile, rank, 16)
  int64_t place = 0;            // of its first rank in Adapters::inner

  SC2ONNX_INLINE int64_t rank_tiles() const { return rank_tiles_of(rank); }
};

// Bytes of a tile of A, and of all of it.
SC2ONNX_INLINE int64_t rank_tile_bytes(int64_t inputs) { return kRankTile * (inputs + 4); }
SC2ONNX_INLINE int64_t bytes_of_a(int64_t rank, int64_t inputs) {
  return rank_tiles_of(rank) * rank_tile_bytes(inputs);
}

// An adapter's part in a product, whose segments are added in order. None: they are equal.
struct Segments {
  const Segment *begin = nullptr, *end = nullptr;
};

// The adapters of a product's rows. Codes, scales and starts are those of the product.
struct Adapters {
  const Segments *of_row = nullptr;  // (rows,)
  int64_t rows = 0, inputs = 0;
  int32_t bits = 0, block = 0;  // of the product's weights
  const int8_t *codes = nullptr;
  const float *code_scales = nullptr;
  const int32_t *starts = nullptr;
  const float *scales = nullptr;  // (rows,) or null: 1
  float *inner = nullptr;         // (width, rows): scale * A x
  int64_t width = 0;
  // Called before inner is read: returns when all of it is there.
  void (*wait)(const void *) = nullptr;
  const void *waits_for = nullptr;
};

// Some of these A x, which a thread computes: of the groups of rows that begin in first_row ..
// end_row - 1, where they have these segments, and of some tiles of ranks, counted over all of
// them.
struct Shrinking {
  Segments segments;
  int64_t first_row = 0, end_row = 0;
  int64_t first_tile = 0, end_tile = 0;
};

}  // namespace sc2onnx
