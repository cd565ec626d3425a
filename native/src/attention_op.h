// The operator RingAttention.
#pragma once

#include <memory>

#include "operators.h"

namespace sc2onnx {

// Grouped-query attention over a ring of keys and values, rotary embedding included.
//
// Inputs: qkv float (batch * step, (heads + 2 kv_heads) * head_dim), input_ids int64 (batch, step)
// of which only the shape is read, past_lengths int64 (batch,), cos_cache and sin_cache float
// (positions, head_dim / 2), past_key and past_value uint8 (batch, kv_heads, capacity, slot_bytes).
// Outputs: mixed float (batch * step, heads * head_dim), present_key and present_value, which may
// be the past's memory. Attributes: num_heads, num_kv_heads, window (0: none). slot_bytes of
// head_dim + 4 are int8 codes with a scale, 4 * head_dim are float32. Position p lies in slot p %
// capacity.
std::unique_ptr<Operator> ring_attention();

}  // namespace sc2onnx
