#include "attention_op.h"

#include <string.h>

#include <algorithm>

#include "attention_run.h"
#include "instructions.h"

namespace sc2onnx {

namespace {

enum Input { kQkv, kIds, kPast, kCos, kSin, kPastKey, kPastValue, kLengths, kRows, kInputs };

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
             ", expected heads that are a multiple of heads of keys and values, and a window of 0 "
             "or more");
  }

  void compute(const Call &call) const override {
    const Tensor past_key = call.input(kPastKey), past_value = call.input(kPastValue);
    Attention a = sizes(call, past_key);
    expect(past_value, past_key.shape, "past_value");
    const int64_t tokens = call.input(kQkv).shape[0];
    const std::vector<Run> runs = step(call, tokens, past_key.shape[0]);
    a.runs = runs.data();
    a.run_count = (int64_t)runs.size();
    check_positions(a, call.input(kCos).shape[0], past_key.shape[0]);
    const Tensor mixed = call.output(0, {tokens, heads_ * a.head_dim});
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
  // Everything but the runs; throws Refused.
  Attention sizes(const Call &call, const Tensor &cache) const {
    const Tensor qkv = call.input(kQkv), ids = call.input(kIds);
    const Tensor cos = call.input(kCos), sin = call.input(kSin);
    if (ids.shape.size() != 2) refuse("input_ids is " + ids.shown() + ", expected (batch, step)");
    if (cos.shape.size() != 2)
      refuse("cos_cache is " + cos.shown() + ", expected (positions, head_dim / 2)");
    if (cache.shape.size() != 4)
      refuse("past_key is " + cache.shown() + ", expected (rows, kv_heads, capacity, slot_bytes)");
    Attention a;
    a.heads = (int)heads_;
    a.kv_heads = (int)kv_heads_;
    a.window = window_;
    a.capacity = cache.shape[2];
    const int64_t head_dim = 2 * cos.shape[1], slot_bytes = cache.shape[3];
    if (head_dim < 16 || head_dim > kMostHeadDim || head_dim % 16 != 0)
      refuse("head_dim = " + shown(head_dim) + ", expected a multiple of 16 up to " +
             shown(kMostHeadDim));
    if (slot_bytes != head_dim + 4 && slot_bytes != 4 * head_dim)
      refuse("slots of " + shown(slot_bytes) + " bytes, expected " + shown(head_dim + 4) +
             " (int8) or " + shown(4 * head_dim) + " (float32)");
    a.head_dim = (int)head_dim;
    a.slot_bytes = (int)slot_bytes;
    expect(qkv, {ids.shape[0] * ids.shape[1], (heads_ + 2 * kv_heads_) * head_dim}, "qkv");
    expect(sin, cos.shape, "sin_cache");
    expect(cache, {cache.shape[0], kv_heads_, a.capacity, slot_bytes}, "past_key");
    a.qkv = qkv.as<float>();
    a.cos = cos.as<float>();
    a.sin = sin.as<float>();
    return a;
  }

  // The runs of the step: rows of input_ids, or as many of its tokens as step_lengths says.
  std::vector<Run> step(const Call &call, int64_t tokens, int64_t rings) const {
    const Tensor ids = call.input(kIds), past = call.input(kPast);
    const Tensor lengths = call.input(kLengths), rows = call.input(kRows);
    const bool ragged = lengths.size() > 0;
    const int64_t count = ragged ? lengths.size() : ids.shape[0];
    expect(past, {count}, "past_lengths");
    if (ragged) expect(lengths, {count}, "step_lengths");
    if (rows.size() > 0) expect(rows, {count}, "cache_rows");
    if (rows.size() == 0 && count > rings)
      refuse("past_key has " + shown(rings) + " rows, expected " + shown(count));
    std::vector<Run> runs((size_t)count);
    int64_t first = 0;
    for (size_t i = 0; i < runs.size(); i++) {
      Run &run = runs[i];
      run.past = past.as<int64_t>()[i];
      run.count = ragged ? lengths.as<int64_t>()[i] : ids.shape[1];
      run.first = first;
      run.ring = rows.size() > 0 ? rows.as<int64_t>()[i] : (int64_t)i;
      if (run.count < 0 || run.count > tokens - first)
        refuse("step_lengths[" + shown((int64_t)i) + "] = " + shown(run.count) +
               ", expected 0 to " + shown(tokens - first) + " tokens, which are left of the step");
      if (run.ring < 0 || run.ring >= rings)
        refuse("cache_rows[" + shown((int64_t)i) + "] = " + shown(run.ring) + ", expected 0 to " +
               shown(rings - 1));
      first += run.count;
    }
    if (first != tokens)
      refuse("step_lengths are " + shown(first) + " tokens, expected " + shown(tokens));
    return runs;
  }

  // Whether the rotary tables have the step's positions and each ring holds all that its queries
  // see.
  void check_positions(const Attention &a, int64_t positions, int64_t rings) const {
    std::vector<const Run *> begun((size_t)rings), latest((size_t)rings);  // of each ring
    for (const Run *run = a.runs; run < a.runs + a.run_count; run++) {
      if (run->count == 0) continue;
      if (a.capacity < 16 || a.capacity % 16 != 0)
        refuse("a capacity of " + shown(a.capacity) + " slots, expected a multiple of 16");
      const std::string name = "past_lengths[" + shown(run - a.runs) + "]";
      if (run->past < 0 || run->past > positions - run->count)
        refuse(name + " = " + shown(run->past) + " with a step of " + shown(run->count) +
               " tokens, expected positions of 0 to " + shown(positions - 1));
      const Run *&first = begun[(size_t)run->ring], *&last = latest[(size_t)run->ring];
      if (last != nullptr && run->past != last->past + last->count)
        refuse(name + " = " + shown(run->past) + ", expected " + shown(last->past + last->count) +
               ", where the run before it in row " + shown(run->ring) + " ends");
      if (first == nullptr) first = run;
      last = run;
      const int64_t past = first->past, all = run->past + run->count;
      const int64_t needed = a.window > 0 && a.window <= past ? a.window + all - past - 1 : all;
      if (a.capacity < needed)
        refuse("a capacity of " + shown(a.capacity) + " slots, expected " + shown(needed) +
               " for " + shown(past) + " past and " + shown(all - past) +
               " new tokens and a window of " + shown(a.window));
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
      Ports{{kFloat, kInt64, kInt64, kFloat, kFloat, kBytes, kBytes, kInt64, kInt64},
            {kFloat, kBytes, kBytes},
            kInputs},
      [](const NodeInfo &node) { return std::make_unique<RingAttention>(node); });
}

}  // namespace sc2onnx
