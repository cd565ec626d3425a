// The operator RingAttention.
#pragma once

#include <memory>

#include "operators.h"

namespace sc2onnx {

// Grouped-query attention over a ring of keys and values, rotary embedding included.
//
// Inputs: qkv float (tokens, (heads + 2 kv_heads) * head_dim), input_ids int64 (batch, step) of
// which only the shape is read, tokens = batch * step; past_lengths int64 (runs,), cos_cache and
// sin_cache float (positions, head_dim / 2), past_key and past_value uint8 (rows, kv_heads,
// capacity, slot_bytes); step_lengths and cache_rows int64 (runs,) or empty.
//
// A run is so many tokens of step_lengths after past_lengths others in row cache_rows of the cache,
// one run after the other. Empty step_lengths: each row of the batch is a run; empty cache_rows:
// run i is in row i. Runs of the same row follow each other in the sequence too.
//
// Outputs: mixed float (tokens, heads * head_dim), present_key and present_value, which may be the
// past's memory. Attributes: num_heads, num_kv_heads, window (0: none). slot_bytes of head_dim + 4
// are int8 codes with a scale, 4 * head_dim are float32. Position p lies in slot p % capacity.
std::unique_ptr<Operator> ring_attention();

}  // namespace sc2onnx
