// Attention over a ring of keys and values: what a kernel is given.
//
// Sums have an order that is bound to positions, not to slots, steps or other sequences: weights
// and values of kSpan consecutive positions are summed on their own, spans of a segment are merged
// in ascending order, and so are segments. Position p lies in slot p % capacity; slots lie in tiles
// of 16.
#pragma once

#include <stdint.h>

#include "lanes/inline.h"

namespace sc2onnx {

constexpr int kSpan = 128;     // positions that share a softmax and its largest score
constexpr int kSegment = 512;  // positions that one thread takes at a time, if there are few rows
constexpr int kMostHeadDim = 256;

// Consecutive tokens of one sequence in a step: `count` of them, from `first` on in the step, which
// stand after `past` others in the sequence, in this ring.
struct Run {
  int64_t past = 0, count = 0, first = 0, ring = 0;
};

// One step: the tokens of some runs, one run after the other. Runs of the same ring follow each
// other in the sequence as well.
struct Attention {
  const float *qkv = nullptr;                  // (tokens, heads + 2 kv_heads, head_dim)
  const float *cos = nullptr, *sin = nullptr;  // (positions, head_dim / 2)
  const Run *runs = nullptr;                   // (run_count,)
  uint8_t *keys = nullptr, *values = nullptr;  // (rings, kv_heads, capacity, slot_bytes)
  float *mixed = nullptr;                      // (tokens, heads, head_dim)
  int64_t run_count = 0, capacity = 0;
  int64_t window = 0;  // positions that a query sees, its own the last; 0: all
  int heads = 0, kv_heads = 0, head_dim = 0, slot_bytes = 0;

  SC2ONNX_INLINE int group() const { return heads / kv_heads; }
  // Slots of int8, else of float32.
  SC2ONNX_INLINE bool bytes() const { return slot_bytes == head_dim + 4; }
  SC2ONNX_INLINE int64_t first_seen(int64_t position) const {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
};

// Some consecutive tokens of a run, with all query heads of one head of keys and values. Rows are
// (token, head of the group).
struct AttentionBlock {
  int64_t run = 0, head = 0, first = 0, tokens = 0;  // first: of the run's tokens
  bool onwards = false;  // whether the thread goes on from segment to segment
};

// What rows have seen so far: the largest score, the sum of weights relative to it, and the
// weighted sum of values. Room for `rows` rows, of which the first of each array is aligned to 64
// bytes.
struct AttentionSums {
  float *largest, *total, *values;  // (rows,), (rows,), (rows, head_dim)

  static SC2ONNX_INLINE int64_t padded(int64_t rows) { return (rows + 15) / 16 * 16; }
  static SC2ONNX_INLINE int64_t floats(int64_t rows, int head_dim) {
    return 2 * padded(rows) + rows * head_dim;
  }
  static SC2ONNX_INLINE AttentionSums at(float *p, int64_t rows) {
    return {p, p + padded(rows), p + 2 * padded(rows)};
  }
};

// What a thread needs beside: queries, scores, weights and numbers of each row.
struct AttentionScratch {
  float *queries, *scores;  // (rows, kMostHeadDim), or int8 in the same place; (rows, kSpan)
  uint8_t *weights;         // (rows, 2, kSpan): planes of seven bits
  float *scale, *largest, *total, *factor, *keep;  // (rows,)
  int32_t *starts;  // (rows,)

  static SC2ONNX_INLINE int64_t floats(int64_t rows) {
    return rows * (kMostHeadDim + kSpan + kSpan / 2) + 6 * AttentionSums::padded(rows);
  }
  static SC2ONNX_INLINE AttentionScratch at(float *p, int64_t rows) {
    const int64_t padded = AttentionSums::padded(rows);
    AttentionScratch s;
    s.queries = p;
    s.scores = s.queries + rows * kMostHeadDim;
    s.weights = (uint8_t *)(s.scores + rows * kSpan);
    s.scale = s.scores + rows * (kSpan + kSpan / 2);
    s.largest = s.scale + padded;
    s.total = s.largest + padded;
    s.factor = s.total + padded;
    s.keep = s.factor + padded;
    s.starts = (int32_t *)(s.keep + padded);
    return s;
  }
};

// What depends on the format of slots.
struct AttentionFormat {
  // Rotates and stores keys and values of a block's tokens (its head of keys and values alone).
  void (*store)(const Attention &, const AttentionBlock &);
  // Rotates a block's queries into scratch.
  void (*prepare)(const Attention &, const AttentionBlock &, const AttentionScratch &);
  // What the block's rows see in one segment, into `sums`, which it begins anew. After prepare().
  void (*segment)(const Attention &, const AttentionBlock &, const AttentionScratch &,
                  int64_t segment, const AttentionSums &sums);
};

struct AttentionKernels {
  AttentionFormat bytes, floats;
  void (*begin)(const Attention &, const AttentionBlock &, const AttentionSums &total);
  // Adds to `total` what the next segment gave.
  void (*merge)(const Attention &, const AttentionBlock &, const AttentionScratch &,
                int64_t segment, const AttentionSums &part, const AttentionSums &total);
  // Writes the step's result.
  void (*finish)(const Attention &, const AttentionBlock &, const AttentionSums &total);
};

}  // namespace sc2onnx
