// What calibrating asks of the kernels: rounding of columns against plain arithmetic, free products
// against the kernels' own; both to the bit, on all instruction sets.

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "calibration.h"
#include "instructions.h"
#include "linear_case.h"

using namespace sc2onnx;

static int g_failures = 0;

static void expect(bool holds, const char *what, const char *name, int64_t a, int64_t b) {
  if (holds) return;
  g_failures++;
  printf("FAILED %s, %s: %lld, %lld\n", what, name, (long long)a, (long long)b);
}

static bool same(const std::vector<float> &a, const std::vector<float> &b) {
  return memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Columns {
  int64_t columns, outputs, stride, changes_stride;
  std::vector<float> aims, target, codes, errors, changes, scales, steps;

  Columns(int64_t columns, int64_t outputs)
      : columns(columns), outputs(outputs), stride(outputs + 5), changes_stride(outputs + 3) {
    std::mt19937 random(7);
    auto filled = [&](int64_t n, float size) {
      std::vector<float> v((size_t)n);
      for (auto &each : v) each = size * ((float)(random() >> 8) * 0x1p-23f - 1);
      return v;
    };
    aims = filled(columns * outputs, 1);
    target = filled(columns * stride, 1);
    codes = filled(columns * stride, 0);
    errors = filled(columns * stride, 0.1f);
    changes = filled(columns * changes_stride, 0);
    scales = filled(outputs, 0.2f);  // of both signs; some weights are beyond the last code
    steps = filled(columns * columns, 0.3f);
  }

  Settling settling() {
    return {columns, outputs, aims.data(), target.data(), codes.data(), errors.data(),
            changes.data(), scales.data(), steps.data(), stride, changes_stride, columns, -8, 7};
  }

  void plainly() {
    for (int64_t j = columns - 1; j >= 0; j--)
      for (int64_t o = 0; o < outputs; o++) {
        const float scale = scales[(size_t)o];
        const float wanted = rintf(aims[(size_t)(j * outputs + o)] / scale);
        const float code = std::min(std::max(wanted, -8.f), 7.f);
        const auto at = (size_t)(j * stride + o);
        const float error = target[at] - code * scale, change = error - errors[at];
        codes[at] = code + 0.f;  // no negative zero
        errors[at] = error;
        changes[(size_t)(j * changes_stride + o)] = change;
        for (int64_t i = 0; i < j; i++)
          aims[(size_t)(i * outputs + o)] += steps[(size_t)(j * columns + i)] * change;
      }
  }
};

static void test_settle(const Instructions &set) {
  for (int64_t columns = 1; columns <= kSettled; columns++)
    for (int64_t outputs : {1, 15, 16, 17, 96}) {
      Columns expected(columns, outputs), found(columns, outputs);
      expected.plainly();
      set.calibration.settle(found.settling());
      expect(same(found.codes, expected.codes), "codes", set.name, columns, outputs);
      expect(same(found.errors, expected.errors), "errors", set.name, columns, outputs);
      expect(same(found.changes, expected.changes), "changes", set.name, columns, outputs);
    }
}

// Outputs 3 .. 73 of 80 by 192 inputs in blocks of 64; whether others' errors count.
struct Rounding80 {
  static constexpr int64_t kInputs = 192, kOutputs = 80, kBlock = 64, kFirst = 3, kEnd = 73;
  std::vector<float> covariance, target, codes, errors, scales, shares;

  Rounding80() {
    std::mt19937 random(11);
    auto filled = [&](int64_t n, float size) {
      std::vector<float> v((size_t)n);
      for (auto &each : v) each = size * ((float)(random() >> 8) * 0x1p-23f - 1);
      return v;
    };
    const std::vector<float> x = filled(kInputs * kInputs, 0.1f);
    covariance.resize(x.size());
    for (int64_t i = 0; i < kInputs; i++)
      for (int64_t j = 0; j <= i; j++) {
        float sum = i == j ? 0.3f : 0;
        for (int64_t k = 0; k < kInputs; k++)
          sum += x[(size_t)(i * kInputs + k)] * x[(size_t)(j * kInputs + k)];
        covariance[(size_t)(i * kInputs + j)] = covariance[(size_t)(j * kInputs + i)] = sum;
      }
    target = filled(kInputs * kOutputs, 1);
    scales.assign((size_t)(kInputs / kBlock * kOutputs), 0.125f);
    for (float each : target) {
      codes.push_back(std::min(std::max(rintf(each / 0.125f), -8.f), 7.f));
      errors.push_back(each - codes.back() * 0.125f);
    }
    shares = filled(kOutputs * (kEnd - kFirst), 0.05f);
    for (int64_t o = kFirst; o < kEnd; o++)
      for (int64_t other = kFirst; other < kEnd; other++)
        shares[(size_t)(other * (kEnd - kFirst) + o - kFirst)] = other == o;
  }

  Descent descent(bool shared) {
    return {kInputs,      kOutputs,      kBlock,        kFirst,
            kEnd,         covariance.data(), target.data(), codes.data(),
            errors.data(), scales.data(), shared ? shares.data() : nullptr, -8,
            7};
  }

  double lost() const {  // of outputs kFirst .. kEnd
    double total = 0;
    for (int64_t o = kFirst; o < kEnd; o++)
      for (int64_t i = 0; i < kInputs; i++)
        for (int64_t j = 0; j < kInputs; j++)
          total += (double)errors[(size_t)(i * kOutputs + o)] *
                   covariance[(size_t)(i * kInputs + j)] * errors[(size_t)(j * kOutputs + o)];
    return total;
  }
};

// By the functions of one instruction set, strip after strip.
static void descend_by(const CalibrationKernels &kernels, const Descent &d) {
  const size_t inputs = (size_t)d.inputs, block = (size_t)d.block;
  std::vector<float> errors(inputs * kStrip), steps(block * block), codes(block * kStrip),
      target(codes), gradient(codes), bend(codes), shares((size_t)d.outputs * kStrip);
  const DescentRoom room{errors.data(), codes.data(), target.data(), gradient.data(),
                         bend.data(),   steps.data(), shares.data()};
  const int64_t strips = (d.end - d.first + kStrip - 1) / kStrip;
  std::vector<float> pulls((size_t)strips * inputs * kStrip);
  auto pull = [&](int64_t strip) { return pulls.data() + (size_t)strip * inputs * kStrip; };
  for (int64_t strip = 0; d.shares && strip < strips; strip++)
    kernels.pull(d, strip, room, pull(strip));
  for (int64_t strip = 0; strip < strips; strip++)
    kernels.descend(d, strip, room, d.shares ? pull(strip) : nullptr);
}

static void test_descend() {
  for (bool shared : {false, true}) {
    const Rounding80 before;
    Rounding80 expected;
    descend_by(available_instructions().back()->calibration, expected.descent(shared));
    if (!shared) expect(expected.lost() < 0.8 * before.lost(), "descent", "portable", 0, 0);
    for (int64_t i = 0; i < Rounding80::kInputs; i++)
      for (int64_t o : {0, 2, 73, 79})  // the others stay as they are
        expect(expected.codes[(size_t)(i * Rounding80::kOutputs + o)] ==
                   before.codes[(size_t)(i * Rounding80::kOutputs + o)],
               "beside", "portable", i, o);
    for (size_t at = 0; at < expected.codes.size(); at++) {
      const size_t row = at / Rounding80::kOutputs / Rounding80::kBlock;
      const float scale = expected.scales[row * Rounding80::kOutputs + at % Rounding80::kOutputs];
      const float error = expected.target[at] - expected.codes[at] * scale;
      expect(fabsf(error - expected.errors[at]) < 1e-5f, "errors", "portable", (int64_t)at, shared);
    }
    for (const Instructions *set : available_instructions()) {
      Rounding80 found;
      descend_by(set->calibration, found.descent(shared));
      expect(same(found.codes, expected.codes), "codes", set->name, 0, shared);
      expect(same(found.scales, expected.scales), "scales", set->name, 0, shared);
      expect(same(found.errors, expected.errors), "errors", set->name, 0, shared);
    }
    for (int threads : {1, 3}) {
      Rounding80 found;
      descend(found.descent(shared), threads);
      expect(same(found.codes, expected.codes), "codes", "threads", threads, shared);
      expect(same(found.errors, expected.errors), "errors", "threads", threads, shared);
    }
  }
}

static std::vector<float> computed(const Case &c, int64_t rows, bool gelu) {
  const LinearKernels kernels = instructions().linear;
  std::vector<int8_t> codes((size_t)(rows * c.matrix.inputs));
  std::vector<float> scales((size_t)(rows * c.matrix.blocks()));
  std::vector<int32_t> starts(scales.size());
  std::vector<float> y((size_t)(rows * c.matrix.outputs));
  Rounding rounding;
  rounding.x = c.x.data();
  rounding.rows = rows;
  rounding.matrix = c.matrix;
  rounding.codes = codes.data();
  rounding.scales = scales.data();
  rounding.starts = starts.data();
  kernels.round_rows(rounding, 0, rows);
  Product product;
  product.matrix = c.matrix;
  product.weights = c.packed;
  product.rows = rows;
  product.codes = codes.data();
  product.scales = scales.data();
  product.starts = starts.data();
  product.bias = c.bias.data();
  product.gelu = gelu;
  product.y = y.data();
  kernels.product(product, 0, c.matrix.tiles());
  return y;
}

static void test_multiply() {
  const int64_t most = 300;
  const Case c({53, 256, 4, 64, 2}, most, 3);
  for (bool gelu : {false, true})
    for (int64_t rows : {0, 1, 127, 128, 129, 300})
      for (int threads : {1, 2, 5}) {
        std::vector<float> y((size_t)(rows * c.matrix.outputs));
        multiply({c.matrix, c.packed, c.x.data(), rows, c.bias.data(), gelu, y.data()}, threads);
        if (rows > 0) expect(same(y, computed(c, rows, gelu)), "product", "all", rows, threads);
      }
}

int main() {
  for (const Instructions *set : available_instructions()) test_settle(*set);
  test_descend();
  test_multiply();
  if (g_failures == 0) printf("calibration: passed\n");
  return g_failures != 0;
}
