// attention_bench [layers] [threads]: ms of the attention of a StarCoder2-3B's layers, on two
// threads or one (then of the processor's time, so that others may be busy).

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "pair.h"
#include "attention_run.h"
#include "instructions.h"

using namespace sc2onnx;

namespace {

constexpr int kHeads = 24, kKvHeads = 2, kHeadDim = 128;
constexpr int64_t kWindow = 4096, kPositions = 8192;

float *aligned(std::vector<uint8_t> &bytes) {
  return (float *)(((uintptr_t)bytes.data() + 63) / 64 * 64);
}

void fill(float *p, int64_t count) {
  static uint32_t x = 1;
  for (int64_t i = 0; i < count; i++) {
    x = x * 1664525 + 1013904223;
    p[i] = (float)(x >> 8) / 8388608.f - 1.f;
  }
}

struct Layer {
  std::vector<uint8_t> keys, values;
};

bool g_alone = false;

double now() {
  if (g_alone) return 1e3 * (double)clock() / CLOCKS_PER_SEC;
  const std::chrono::duration<double, std::milli> time =
      std::chrono::steady_clock::now().time_since_epoch();
  return time.count();
}

double best_of(int times, const std::function<void()> &work) {
  double best = 1e9;
  for (int i = 0; i < times; i++) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

void measure(bool bytes, int layers, Pair *pair) {
  const int64_t most = 512, width = (kHeads + 2 * kKvHeads) * kHeadDim;
  std::vector<float> qkv((size_t)(most * width)), mixed((size_t)(most * kHeads * kHeadDim));
  std::vector<float> cos((size_t)(kPositions * kHeadDim / 2), 0.6f), sin(cos.size(), 0.8f);
  fill(qkv.data(), (int64_t)qkv.size());
  Attention a;
  a.capacity = kWindow + most;
  a.slot_bytes = bytes ? kHeadDim + 4 : 4 * kHeadDim;
  a.qkv = qkv.data();
  a.mixed = mixed.data();
  a.cos = cos.data();
  a.sin = sin.data();
  a.window = kWindow;
  a.heads = kHeads;
  a.kv_heads = kKvHeads;
  a.head_dim = kHeadDim;
  std::vector<Layer> caches((size_t)layers);
  for (Layer &layer : caches) {
    layer.keys.resize((size_t)(kKvHeads * a.capacity * a.slot_bytes + 64));
    layer.values.resize(layer.keys.size());
  }
  const Parallel parallel = [&](int64_t count, const std::function<void(int64_t)> &work) {
    if (pair && count > 1) return (*pair)(count, work);
    for (int64_t i = 0; i < count; i++) work(i);
  };
  const auto step = [&](int64_t past, int64_t tokens) {
    const Run run{past, tokens, 0, 0};
    a.runs = &run;
    a.run_count = 1;
    for (Layer &layer : caches) {
      a.keys = (uint8_t *)aligned(layer.keys);
      a.values = (uint8_t *)aligned(layer.values);
      run_attention(a, instructions().attention, parallel);
    }
  };
  for (int64_t past = 0; past < a.capacity; past += most) step(past, most);
  for (int64_t past : {64, 4096})
    for (int64_t tokens : {1, 4, 16, 64, 256, 512}) {
      const double ms = best_of(tokens > 16 ? 3 : 10, [&] { step(past, tokens); });
      printf("%-8s depth %4d, %3d tokens: %8.3f ms, %.4f a layer\n", bytes ? "int8" : "float32",
             (int)past, (int)tokens, ms, ms / layers);
    }
}

}  // namespace

int main(int argc, char **argv) {
  const int layers = argc > 1 ? atoi(argv[1]) : 30;
  g_alone = argc > 2 && atoi(argv[2]) == 1;
  const std::unique_ptr<Pair> pair(g_alone ? nullptr : new Pair);
  printf("%s, %d layers\n", instructions().name, layers);
  for (bool bytes : {true, false}) measure(bytes, layers, pair.get());
}
