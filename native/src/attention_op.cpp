#include "attention_op.h"

#include <string.h>

#include <algorithm>

#include "attention_run.h"
#include "instructions.h"

namespace sc2onnx {

namespace {

enum Input { kQkv, kIds, kPast, kCos, kSin, kPastKey, kPastValue, kInputs };

std::string shown(int64_t value) { return std::to_string(value); }

[[noreturn]] void refuse(const std::string &what) { throw Refused("RingAttention: " + what); }

void expect(const Tensor &tensor, const std::vector<int64_t> &shape, const char *name) {
  if (tensor.shape == shape) return;
  Tensor expected;
  expected.shape = shape;
  refuse(std::string(name) + " is " + tensor.shown() + ", expected " + expected.shown());
}

class RingAttention : public Kernel {
 public:
  explicit RingAttention(const NodeInfo &node)
      : heads_(node.integer("num_heads")),
        kv_heads_(node.integer("num_kv_heads")),
        window_(node.integer("window", 0)) {
    if (heads_ < 1 || heads_ > 65536 || kv_heads_ < 1 || heads_ % kv_heads_ != 0 || window_ < 0)
      refuse("num_heads = " + shown(heads_) + ", num_kv_heads = " + shown(kv_heads_) +
             ", window = " + shown(window_) +
             ", expected heads that are a multiple of heads of keys and values, and a window of 0 or more");
  }

  void compute(const Call &call) const override {
    const Tensor past_key = call.input(kPastKey), past_value = call.input(kPastValue);
    Attention a = sizes(call, past_key);
    expect(past_value, past_key.shape, "past_value");
    check_positions(a, call.input(kCos).shape[0]);
    const Tensor mixed = call.output(0, {a.batch * a.step, heads_ * a.head_dim});
    const Tensor key = call.output(1, past_key.shape), value = call.output(2, past_key.shape);
    a.mixed = mixed.as<float>();
    a.keys = key.as<uint8_t>();
    a.values = value.as<uint8_t>();
    copy(call, past_key, key);
    copy(call, past_value, value);
    run_attention(a, instructions().attention, [&](int64_t count, const auto &work) {
      call.parallel(count, work);
    });
  }

 private:
  // Everything but what the step's tokens need; throws Refused.
  Attention sizes(const Call &call, const Tensor &cache) const {
    const Tensor qkv = call.input(kQkv), ids = call.input(kIds), past = call.input(kPast);
    const Tensor cos = call.input(kCos), sin = call.input(kSin);
    if (ids.shape.size() != 2) refuse("input_ids is " + ids.shown() + ", expected (batch, step)");
    if (cos.shape.size() != 2) refuse("cos_cache is " + cos.shown() + ", expected (positions, head_dim / 2)");
    if (cache.shape.size() != 4)
      refuse("past_key is " + cache.shown() + ", expected (batch, kv_heads, capacity, slot_bytes)");
    Attention a;
    a.batch = ids.shape[0];
    a.step = ids.shape[1];
    a.heads = (int)heads_;
    a.kv_heads = (int)kv_heads_;
    a.window = window_;
    a.capacity = cache.shape[2];
    const int64_t head_dim = 2 * cos.shape[1], slot_bytes = cache.shape[3];
    if (head_dim < 16 || head_dim > kMostHeadDim || head_dim % 16 != 0)
      refuse("head_dim = " + shown(head_dim) + ", expected a multiple of 16 up to " + shown(kMostHeadDim));
    if (slot_bytes != head_dim + 4 && slot_bytes != 4 * head_dim)
      refuse("slots of " + shown(slot_bytes) + " bytes, expected " + shown(head_dim + 4) + " (int8) or " +
             shown(4 * head_dim) + " (float32)");
    a.head_dim = (int)head_dim;
    a.slot_bytes = (int)slot_bytes;
    expect(qkv, {a.batch * a.step, (heads_ + 2 * kv_heads_) * head_dim}, "qkv");
    expect(past, {a.batch}, "past_lengths");
    expect(sin, cos.shape, "sin_cache");
    expect(cache, {a.batch, kv_heads_, a.capacity, slot_bytes}, "past_key");
    a.qkv = qkv.as<float>();
    a.past = past.as<int64_t>();
    a.cos = cos.as<float>();
    a.sin = sin.as<float>();
    return a;
  }

  // Whether the rotary tables have the step's positions and the ring holds all that its queries see.
  void check_positions(const Attention &a, int64_t positions) const {
    if (a.step == 0) return;
    if (a.capacity < 16 || a.capacity % 16 != 0)
      refuse("a capacity of " + shown(a.capacity) + " slots, expected a multiple of 16");
    for (int64_t row = 0; row < a.batch; row++) {
      const int64_t past = a.past[row];
      if (past < 0 || past > positions - a.step)
        refuse("past_lengths[" + shown(row) + "] = " + shown(past) + " with a step of " + shown(a.step) +
               " tokens, expected positions of 0 to " + shown(positions - 1));
      const int64_t all = past + a.step;
      const int64_t needed = a.window > 0 && a.window <= past ? a.window + a.step - 1 : all;
      if (a.capacity < needed)
        refuse("a capacity of " + shown(a.capacity) + " slots, expected " + shown(needed) + " for " +
               shown(past) + " past and " + shown(a.step) + " new tokens and a window of " +
               shown(a.window));
    }
  }

  static void copy(const Call &call, const Tensor &from, const Tensor &to) {
    constexpr int64_t kPart = 1 << 20;
    if (from.data == to.data) return;
    const int64_t bytes = from.size();
    call.parallel((bytes + kPart - 1) / kPart, [&](int64_t i) {
      memcpy(to.as<uint8_t>() + i * kPart, from.as<uint8_t>() + i * kPart,
             (size_t)std::min(kPart, bytes - i * kPart));
    });
  }

  int64_t heads_, kv_heads_, window_;
};

}  // namespace

std::unique_ptr<Operator> ring_attention() {
  constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  constexpr auto kBytes = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  return std::make_unique<Operator>(
      "RingAttention",
      Ports{{kFloat, kInt64, kInt64, kFloat, kFloat, kBytes, kBytes}, {kFloat, kBytes, kBytes}, kInputs},
      [](const NodeInfo &node) { return std::make_unique<RingAttention>(node); });
}

}  // namespace sc2onnx
