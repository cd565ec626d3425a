// linear_bench [layers] [bits] [block] [rank] [rows...]: ms of the products of a StarCoder2-3B for
// some numbers of rows, on two threads, in turns; with a rank, also with an adapter for all rows.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "adapter_rows.h"
#include "instructions.h"
#include "packing.h"
#include "pair.h"

using namespace sc2onnx;

constexpr int64_t kMost = 512;  // rows

static uint8_t *random_matrix(const MatrixShape &shape) {
  auto *data = (uint8_t *)aligned_alloc(4096, (size_t)(shape.bytes() + 4095) / 4096 * 4096);
  uint32_t x = 1;
  for (int64_t i = 0; i < shape.bytes(); i += 4)
    x = x * 1664525 + 1013904223, memcpy(data + i, &x, 4);
  const float scale = 0.0078125f;  // whose upper half is a bfloat16
  const int64_t blocks = shape.blocks(), together = shape.together();
  uint8_t *at = data;
  for (int64_t tile = 0; tile < shape.tiles(); tile++)
    for (int64_t b = 0; b < blocks; b += together, at += 64) {
      at += std::min(together, blocks - b) * shape.block_bytes();
      for (int i = 0; i < 64; i += shape.scale_bytes)
        memcpy(at + i, (const uint8_t *)&scale + 4 - shape.scale_bytes, (size_t)shape.scale_bytes);
    }
  return data;
}

// An adapter of all products: three segments in the first of a layer, one in the others.
struct Adapter {
  int64_t rank;
  std::vector<int64_t> table;  // (1, products, 3, 5)
  std::vector<uint8_t> weights;
  int64_t products = 0;

  int64_t place(int64_t bytes) {
    const auto at = (int64_t)(weights.size() + 63) / 64 * 64;
    weights.resize((size_t)(at + bytes), 0x2b);
    return at;
  }

  void add(const MatrixShape &shape) {
    const bool three = products++ % 4 == 0;
    const int64_t keys = 256, queries = shape.outputs - 2 * keys;
    const int64_t firsts[] = {0, queries, queries + keys};
    for (int i = 0; i < 3; i++) {
      const int64_t outputs = !three ? shape.outputs : i == 0 ? queries : keys;
      if (i > 0 && !three) {
        table.insert(table.end(), 5, 0);
        continue;
      }
      const int64_t a = place(bytes_of_a(rank, shape.inputs)), b = place(2 * rank * outputs);
      table.insert(table.end(), {three ? firsts[i] : 0, outputs, rank, a, b});
    }
  }

  AdapterInputs inputs(std::vector<int64_t> &of_token) {
    return {{{(int64_t)of_token.size()}, of_token.data()},
            {{0}, table.data()},
            {{1, products, 3, 5}, table.data()},
            {{(int64_t)weights.size()}, weights.data()}};
  }
};

struct Bench {
  struct Matrix {
    MatrixShape shape;
    uint8_t *data;
  };
  std::vector<Matrix> matrices;
  Adapter adapter;
  std::vector<float> x, y, norm, scales;
  std::vector<int8_t> codes;
  std::vector<int32_t> starts;
  int64_t together = getenv("TOGETHER") ? atoi(getenv("TOGETHER")) : 8;
  double gigabytes = 0, weights = 0;
  Pair pair;

  Bench(int layers, int bits, int block, int64_t rank) : adapter{rank, {}, {}} {
    for (int layer = 0; layer < layers; layer++)
      for (auto size :
           {std::pair<int64_t, int64_t>{3584, 3072}, {3072, 3072}, {12288, 3072}, {3072, 12288}}) {
        const int32_t scale_bytes = getenv("SCALE_BYTES") ? atoi(getenv("SCALE_BYTES")) : 2;
        const MatrixShape shape{size.first, size.second, bits, block, scale_bytes};
        matrices.push_back({shape, random_matrix(shape)});
        adapter.add(shape);
        gigabytes += (double)shape.bytes() / 1e9;
        weights += (double)shape.outputs * (double)shape.inputs / 1e9;
      }
    x.resize((size_t)(kMost * 12288));
    y.resize(x.size());
    codes.resize(x.size());
    scales.resize(x.size() / (size_t)block);
    starts.resize(scales.size());
    norm.resize(12288, 1);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto &each : x) each = normal(random);
  }

  void round(const Rounding &rounding, int64_t rows) {
    const LinearKernels kernels = instructions().linear;
    if (rows <= 8)
      kernels.round_rows(rounding, 0, rows);
    else
      pair((rows + 7) / 8, [&](int64_t i) {
        kernels.round_rows(rounding, 8 * i, std::min(rows, 8 * i + 8));
      });
  }

  void run(int64_t rows, bool adapted) {
    const LinearKernels kernels = instructions().linear;
    static AdapterRows adapters;
    for (size_t number = 0; number < matrices.size(); number++) {
      const Matrix &m = matrices[number];
      std::vector<int64_t> of_token((size_t)rows, 0);
      const bool normed = number % 2 == 0;
      adapted = adapted && adapters.read(adapter.inputs(of_token), rows, (int64_t)number, m.shape);
      Rounding rounding;
      rounding.x = x.data();
      rounding.rows = rows;
      rounding.matrix = m.shape;
      if (normed) rounding.norm_weight = rounding.norm_bias = norm.data();
      rounding.codes = codes.data();
      rounding.scales = scales.data();
      rounding.starts = starts.data();
      const bool early = !adapted || rows > 8;  // as the operator does it
      if (early) round(rounding, rows);
      Product product;
      product.matrix = m.shape;
      product.weights = m.data;
      product.rows = rows;
      product.codes = codes.data();
      product.scales = scales.data();
      product.starts = starts.data();
      product.y = y.data();
      if (adapted) product.adapters = &adapters.begin(product, early);
      const int64_t begun = early ? 0 : 1, shares = begun + (adapted ? adapters.shares() : 0);
      pair(shares + (m.shape.tiles() + together - 1) / together, [&](int64_t i) {
        if (i < begun) return round(rounding, rows), adapters.rounded();
        if (i < shares) return adapters.shrink(kernels, i - begun);
        if (adapted) adapters.wait_for_rows();
        const int64_t first = (i - shares) * together;
        kernels.product(product, first, std::min(m.shape.tiles(), first + together));
      });
    }
  }

  double timed(int64_t rows, bool adapted) {
    const auto began = std::chrono::steady_clock::now();
    run(rows, adapted);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() * 1e3;
  }
};

static double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int main(int argc, char **argv) {
  auto argument = [&](int i, int otherwise) { return argc > i ? atoi(argv[i]) : otherwise; };
  const int rank = argument(4, 0), turns = getenv("TURNS") ? atoi(getenv("TURNS")) : 7;
  Bench bench(argument(1, 30), argument(2, 4), argument(3, 128), rank);
  printf("%s, %.3f GB, %.3f G weights, adapter of %.3f GB\n", instructions().name, bench.gigabytes,
         bench.weights, (double)bench.adapter.weights.size() * 1e-9);
  std::vector<int64_t> counts;
  for (int i = 5; i < argc; i++) counts.push_back(std::min<int64_t>(kMost, atoi(argv[i])));
  if (counts.empty()) counts = {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 256, 512};
  std::vector<std::vector<double>> times(counts.size()), ratios(counts.size());
  for (int turn = 0; turn < turns; turn++)
    for (size_t c = 0; c < counts.size(); c++) {
      if (turn > 2 && counts[c] > 64 && rank == 0) continue;
      times[c].push_back(bench.timed(counts[c], false));
      if (rank > 0) ratios[c].push_back(bench.timed(counts[c], true) / times[c].back());
    }
  for (size_t c = 0; c < counts.size(); c++) {
    const double ms = median(times[c]), rows = (double)counts[c];
    printf("%4.0f rows %8.1f ms  %5.2f x  %6.1f GB/s  %6.0f G/s  %7.0f rows/s", rows, ms,
           ms / median(times[0]), bench.gigabytes / ms * 1e3, bench.weights * rows / ms * 1e3,
           rows / ms * 1e3);
    if (rank > 0) printf("  with an adapter %+.1f %%", (median(ratios[c]) - 1) * 100);
    printf("\n");
  }
}
