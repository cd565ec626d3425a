// Products with few bits: against arithmetic in double, and to the bit between
// processors, companies and cuts.

#include <stdio.h>
#include <string.h>

#include <cmath>
#include <vector>

#include "instructions.h"
#include "linear_case.h"
#include "rounded_rows.h"

using namespace sc2onnx;

static int g_failures = 0;
constexpr int64_t kMost = 23;  // rows: beyond what any processor takes at once

static void fail(const char *what, const MatrixShape &m, const char *name, int64_t rows) {
  g_failures++;
  printf("FAILED %s: %lld x %lld, %d bits, blocks of %d, %s, %lld rows\n", what,
         (long long)m.outputs, (long long)m.inputs, m.bits, m.block, name, (long long)rows);
}

struct Options {
  bool norm = false, gelu = false, residual = false;
};


static void norm(Rounding &rounding, const Case &c) {
  rounding.norm_weight = c.norm_weight.data();
  rounding.norm_bias = c.norm_bias.data();
  rounding.epsilon = 1e-5f;
}

static std::vector<float> compute(const LinearKernels &kernels, const Case &c, int64_t first,
                                  int64_t rows, Options options, RoundedRows *keep = nullptr,
                                  int64_t tiles_at_a_time = 3) {
  RoundedRows r;
  std::vector<float> y((size_t)(rows * c.matrix.outputs));
  Rounding rounding = r.rounding(c.x.data() + first * c.matrix.inputs, rows, c.matrix);
  if (options.norm) norm(rounding, c);
  kernels.round_rows(rounding, 0, rows);
  Product product = r.product(c.packed, rows, c.matrix, y.data());
  product.bias = c.bias.data();
  if (options.residual) product.residual = c.residual.data() + first * c.matrix.outputs;
  product.gelu = options.gelu;
  for (int64_t t = 0; t < c.matrix.tiles(); t += tiles_at_a_time)
    kernels.product(product, t, std::min(c.matrix.tiles(), t + tiles_at_a_time));
  if (keep) *keep = r;
  return y;
}

// Activations rounded twice, and both products added: as BlockwiseLinear does with 16 bits.
static std::vector<float> compute_finely(const LinearKernels &kernels, const Case &c,
                                         int64_t first, int64_t rows) {
  RoundedRows coarse, fine;
  std::vector<float> rest((size_t)(rows * c.matrix.inputs)), y((size_t)(rows * c.matrix.outputs));
  Rounding rounding = coarse.rounding(c.x.data() + first * c.matrix.inputs, rows, c.matrix);
  norm(rounding, c);
  rounding.rest = rest.data();
  kernels.round_rows(rounding, 0, rows);
  kernels.round_rows(fine.rounding(rest.data(), rows, c.matrix), 0, rows);
  const Product product = coarse.product(c.packed, rows, c.matrix, y.data());
  Product more = fine.product(c.packed, rows, c.matrix, y.data());
  more.residual = y.data();
  for (int64_t t = 0; t < c.matrix.tiles(); t++) {
    kernels.product(product, t, t + 1);
    kernels.product(more, t, t + 1);
  }
  return y;
}

// The normed row in double.
static std::vector<double> normed(const Case &c, int64_t row) {
  const int64_t n = c.matrix.inputs;
  std::vector<double> x(c.x.begin() + row * n, c.x.begin() + (row + 1) * n);
  double mean = 0, square = 0;
  for (double v : x) mean += v / (double)n;
  for (double v : x) square += (v - mean) * (v - mean) / (double)n;
  for (int64_t i = 0; i < n; i++)
    x[(size_t)i] = (x[(size_t)i] - mean) / std::sqrt(square + 1e-5) * c.norm_weight[(size_t)i] +
                   c.norm_bias[(size_t)i];
  return x;
}

// Against activations that nothing rounded: 2^-16 of the largest of a block, which int8 misses.
static void fine_against_double(const Instructions &with, const Case &c, int64_t rows) {
  const MatrixShape &m = c.matrix;
  const std::vector<float> y = compute_finely(with.linear, c, 0, rows);
  double worst = 0, size = 0;
  for (int64_t row = 0; row < rows; row++) {
    const std::vector<double> x = normed(c, row);
    for (int64_t o = 0; o < m.outputs; o++) {
      double sum = 0, bound = 0;
      for (int64_t i = 0; i < m.inputs; i++) {
        const double scale = c.scales[(size_t)(o * m.blocks() + i / m.block)];
        const double term = c.code(o, i) * scale * x[(size_t)i];
        sum += term, bound += std::abs(term);
      }
      worst = std::max(worst, std::abs(sum - y[(size_t)(row * m.outputs + o)]));
      size = std::max(size, bound);
    }
  }
  if (!(worst <= 2e-5 * size))
    fail("16 bits against double", m, with.name, rows), printf("  %.2e of %.2e\n", worst, size);
}

static void against_double(const Instructions &with, const Case &c, int64_t rows, Options options) {
  RoundedRows r;
  const std::vector<float> y = compute(with.linear, c, 0, rows, options, &r);
  const MatrixShape &m = c.matrix;
  double worst = 0, size = 0, rounding = 0;
  for (int64_t row = 0; row < rows; row++) {
    std::vector<double> x(c.x.begin() + row * m.inputs, c.x.begin() + (row + 1) * m.inputs);
    if (options.norm) x = normed(c, row);
    for (int64_t i = 0; i < m.inputs; i++) {  // half a step at most, and what float32 loses
      const double scale = r.scales[(size_t)with.linear.scale_at(m, rows, row, i / m.block)];
      const double rounded = scale * r.codes[(size_t)with.linear.code_at(m, rows, row, i)];
      rounding = std::max(rounding, std::abs(rounded - x[(size_t)i]) / (scale * 0.5 + 1e-30));
    }
    for (int64_t o = 0; o < m.outputs; o++) {
      double sum = 0;
      for (int64_t i = 0; i < m.inputs; i++)
        sum += (double)c.code(o, i) * c.scales[(size_t)(o * m.blocks() + i / m.block)] *
               r.codes[(size_t)with.linear.code_at(m, rows, row, i)] *
               r.scales[(size_t)with.linear.scale_at(m, rows, row, i / m.block)];
      sum += c.bias[(size_t)o];
      if (options.gelu)
        sum = 0.5 * sum * (1 + std::tanh(std::sqrt(2 / M_PI) * (sum + 0.044715 * sum * sum * sum)));
      if (options.residual) sum += c.residual[(size_t)(row * m.outputs + o)];
      worst = std::max(worst, std::abs(sum - y[(size_t)(row * m.outputs + o)]));
      size = std::max(size, std::abs(sum));
    }
  }
  if (!(worst <= 2e-6 * size))
    fail("against double", m, with.name, rows), printf("  %.2e of %.2e\n", worst, size);
  if (!(rounding <= 1.001))
    fail("rounding", m, with.name, rows), printf("  %.4f of half a step\n", rounding);
}

int main() {
  const auto all = available_instructions();
  for (const auto *each : all) printf("%s\n", each->name);
  const Instructions &portable = *all.back();
  const int blocks[] = {16, 32, 64, 128, 256};
  const int64_t outputs[] = {15, 16, 1, 48, 77};
  unsigned seed = 1;
  uint64_t digest = 1469598103934665603ull;  // of the portable results: the same on every machine
  for (int bits : {4, 8})
    for (int block : blocks)
      for (int64_t n : outputs)
        for (int how = 0; how < 4; how++) {
          const Options options{how % 2 == 1, how == 2, how >= 2};
          seed++;
          const int32_t scale_bytes = seed % 5 < 2 ? 2 : 4;
          const Case c({n, block * (1 + (int64_t)seed % 3), bits, block, scale_bytes}, kMost, seed);
          against_double(portable, c, 4, options);
          if (how == 0) {
            fine_against_double(portable, c, 4);
            const auto finely = compute_finely(portable.linear, c, 0, kMost);
            for (const auto *each : all)
              for (int64_t rows : {(int64_t)1, (int64_t)2, (int64_t)7, kMost})
                if (memcmp(compute_finely(each->linear, c, kMost - rows, rows).data(),
                           &finely[(size_t)((kMost - rows) * n)], (size_t)(rows * n) * 4) != 0)
                  fail("16 bits to the bit", c.matrix, each->name, rows);
          }
          const auto expected = compute(portable.linear, c, 0, kMost, options);
          for (float value : expected) {
            uint32_t word;
            memcpy(&word, &value, 4);
            digest = (digest ^ word) * 1099511628211ull;
          }
          // every number of rows; every third where something comes before or after the product
          for (const auto *each : all)
            for (int64_t rows = how == 0 ? 1 : 1 + seed % 3; rows <= kMost; rows += how == 0 ? 1 : 3)
              for (int64_t first : {(int64_t)0, kMost - rows}) {
                const auto y =
                    compute(each->linear, c, first, rows, options, nullptr, 1 + rows % 4);
                if (memcmp(y.data(), &expected[(size_t)(first * n)], y.size() * 4) != 0)
                  fail("to the bit", c.matrix, each->name, rows);
              }
        }
  constexpr uint64_t kDigest = 0x3f38acdd2198b8eaull;
  if (digest != kDigest) {
    g_failures++;
    printf("FAILED: the digest of the results is %016llx, on other machines %016llx\n",
           (unsigned long long)digest, (unsigned long long)kDigest);
  }

  for (const auto *each : all) {  // nothing, zeros, and what is not finite
    Case c({32, 128, 4, 32}, 3, 99);
    std::fill(c.x.begin(), c.x.begin() + 128, 0.f);
    c.x[128 + 5] = NAN;
    c.x[256 + 7] = INFINITY;
    const auto y = compute(each->linear, c, 0, 3, {});
    for (int64_t o = 0; o < 32; o++) {
      if (y[(size_t)o] != c.bias[(size_t)o]) fail("zeros", c.matrix, each->name, 1);
      if (std::isfinite(y[(size_t)(32 + o)]) || std::isfinite(y[(size_t)(64 + o)]))
        fail("not finite", c.matrix, each->name, 3);
    }
    if (!compute(each->linear, c, 0, 0, {}).empty()) fail("no rows", c.matrix, each->name, 0);
  }
  const MatrixShape odd[] = {
      {16, 100, 4, 32}, {16, 64, 3, 32}, {16, 64, 4, 48},
      {0, 64, 4, 32},   {16, 0, 8, 32},  {16, 64, 4, 32, 3}};
  for (const auto &shape : odd)
    if (shape.fits()) fail("refusing", shape, "", 0);
  printf(g_failures ? "%d failures\n" : "all well\n", g_failures);
  return g_failures != 0;
}
