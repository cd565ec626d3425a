// linear_bench [layers] [bits] [block] [rows...]: ms of the products of a StarCoder2-3B for some
// numbers of rows, on two threads, in turns.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "instructions.h"
#include "packing.h"
#include "pair.h"

using namespace sc2onnx;

int main(int argc, char **argv) {
  const int layers = argc > 1 ? atoi(argv[1]) : 30, bits = argc > 2 ? atoi(argv[2]) : 4,
            block = argc > 3 ? atoi(argv[3]) : 128;
  const int64_t most = 512, together = getenv("TOGETHER") ? atoi(getenv("TOGETHER")) : 8;
  struct Matrix {
    MatrixShape shape;
    uint8_t *data;
  };
  std::vector<Matrix> matrices;
  double gigabytes = 0, weights = 0;
  for (int layer = 0; layer < layers; layer++)
    for (auto size :
         {std::pair<int64_t, int64_t>{3584, 3072}, {3072, 3072}, {12288, 3072}, {3072, 12288}}) {
      const MatrixShape shape{size.first, size.second, bits, block};
      auto *data = (uint8_t *)aligned_alloc(4096, (size_t)(shape.bytes() + 4095) / 4096 * 4096);
      uint32_t x = 1;
      for (int64_t i = 0; i < shape.bytes(); i += 4)
        x = x * 1664525 + 1013904223, memcpy(data + i, &x, 4);
      for (int64_t i = 0; i < shape.bytes(); i += shape.block_bytes())
        for (int j = 0; j < 16; j++) {
          const float scale = 0.01f;
          memcpy(data + i + 64 * shape.vectors() + 4 * j, &scale, 4);
        }
      matrices.push_back({shape, data});
      gigabytes += (double)shape.bytes() / 1e9;
      weights += (double)shape.outputs * (double)shape.inputs / 1e9;
    }
  std::vector<float> x((size_t)(most * 12288)), y((size_t)(most * 12288)),
      scales((size_t)(most * 12288 / block));
  std::vector<int8_t> codes((size_t)(most * 12288));
  std::vector<int32_t> starts((size_t)(most * 12288 / block));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (auto &each : x) each = normal(random);
  printf("%s, %.3f GB, %.3f G weights\n", instructions().name, gigabytes, weights);
  const LinearKernels kernels = instructions().linear;
  Pair pair;
  std::vector<int64_t> counts;
  for (int i = 4; i < argc; i++) counts.push_back(std::min<int64_t>(most, atoi(argv[i])));
  if (counts.empty()) counts = {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 256, 512};
  std::vector<std::vector<double>> times(counts.size());
  for (int turn = 0; turn < 7; turn++)
    for (size_t c = 0; c < counts.size(); c++) {
      const int64_t rows = counts[c];
      if (turn > 2 && rows > 64) continue;
      const auto began = std::chrono::steady_clock::now();
      for (const auto &m : matrices) {
        Rounding rounding{x.data(), rows,         m.shape,       nullptr,      nullptr,
                          0,        codes.data(), scales.data(), starts.data()};
        if (rows <= 8)
          kernels.round_rows(rounding, 0, rows);
        else
          pair((rows + 7) / 8, [&](int64_t i) {
            kernels.round_rows(rounding, 8 * i, std::min(rows, 8 * i + 8));
          });
        Product product{m.shape,        m.data,  rows,    codes.data(), scales.data(),
                        starts.data(), nullptr, nullptr, false,        y.data()};
        pair((m.shape.tiles() + together - 1) / together, [&](int64_t i) {
          const int64_t first = i * together;
          kernels.product(product, first, std::min(m.shape.tiles(), first + together));
        });
      }
      times[c].push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() * 1e3);
    }
  for (size_t c = 0; c < counts.size(); c++) {
    std::sort(times[c].begin(), times[c].end());
    const double ms = times[c][times[c].size() / 2], rows = (double)counts[c];
    printf("%4.0f rows %8.1f ms  %5.2f x  %6.1f GB/s  %6.0f G/s  %7.0f rows/s\n", rows, ms,
           ms / times[0][times[0].size() / 2], gigabytes / ms * 1e3, weights * rows / ms * 1e3,
           rows / ms * 1e3);
  }
}
