#include "calibration.h"

#include <algorithm>
#include <vector>

#include "instructions.h"
#include "rounded_rows.h"
#include "threads.h"

namespace sc2onnx {

namespace {

constexpr int64_t kRowsOfTask = 128;  // their codes and a few tiles stay in a core's cache

struct StripMemory {
  std::vector<float> errors, codes, target, gradient, bend, steps, shares;

  explicit StripMemory(const Descent &of)
      : errors((size_t)(of.inputs * kStrip)),
        codes((size_t)(of.block * kStrip)),
        target(codes.size()),
        gradient(codes.size()),
        bend(codes.size()),
        steps((size_t)(of.block * of.block)),
        shares(of.shares ? (size_t)(of.outputs * kStrip) : 0) {}

  DescentRoom room() {
    return {errors.data(), codes.data(), target.data(), gradient.data(),
            bend.data(),   steps.data(), shares.data()};
  }
};

// Some rows, from beginning to end.
void multiply_rows(const FreeProduct &whole, int64_t first, RoundedRows &rounded) {
  const LinearKernels kernels = instructions().linear;
  const MatrixShape &matrix = whole.matrix;
  const int64_t rows = std::min(kRowsOfTask, whole.rows - first);
  kernels.round_rows(rounded.rounding(whole.x + first * matrix.inputs, rows, matrix), 0, rows);
  float *y = whole.y + first * matrix.outputs;
  Product product = rounded.product(whole.weights, rows, matrix, y);
  product.bias = whole.bias;
  product.gelu = whole.gelu;
  kernels.product(product, 0, matrix.tiles());
}

}  // namespace

void multiply(const FreeProduct &product, int threads) {
  const int64_t tasks = (product.rows + kRowsOfTask - 1) / kRowsOfTask;
  std::vector<RoundedRows> rounded((size_t)busy_threads(tasks, threads));
  for (RoundedRows &each : rounded)  // here, where somebody hears of memory that is not there
    each.resize(std::min(kRowsOfTask, product.rows), product.matrix);
  in_threads(tasks, threads, [&](int64_t task, int64_t thread) {
    multiply_rows(product, task * kRowsOfTask, rounded[(size_t)thread]);
  });
}

void descend(const Descent &descent, int threads) {
  const int64_t strips = (descent.end - descent.first + kStrip - 1) / kStrip;
  const int64_t size = descent.inputs * kStrip;
  const CalibrationKernels kernels = instructions().calibration;
  std::vector<StripMemory> rooms((size_t)busy_threads(strips, threads), StripMemory(descent));
  std::vector<float> pulls(descent.shares ? (size_t)(strips * size) : 0);
  auto pull = [&](int64_t strip) {
    return descent.shares ? pulls.data() + strip * size : nullptr;
  };
  // before any error changes
  if (descent.shares)
    in_threads(strips, threads, [&](int64_t strip, int64_t thread) {
      kernels.pull(descent, strip, rooms[(size_t)thread].room(), pull(strip));
    });
  in_threads(strips, threads, [&](int64_t strip, int64_t thread) {
    kernels.descend(descent, strip, rooms[(size_t)thread].room(), pull(strip));
  });
}

}  // namespace sc2onnx
