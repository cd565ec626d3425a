// What calibrating asks of the kernels: a step of rounding, and products outside of any graph.
#pragma once

#include "linear.h"

namespace sc2onnx {

// A few columns of a matrix that are rounded one after the other, from the last to the first. All
// arrays are columns first: an output's number is the last index; a stride is of columns.
struct Settling {
  int64_t columns = 0, outputs = 0;
  float *aims = nullptr;          // the weights to come near, given the errors so far
  const float *target = nullptr;  // the weights themselves
  float *codes = nullptr;         // out, whole numbers
  float *errors = nullptr;        // target - code * scale, before and out
  float *changes = nullptr;       // out: by how much errors changed
  const float *scales = nullptr;  // (outputs,)
  const float *steps = nullptr;   // what a change of column j's error adds to the aim of i < j
  int64_t stride = 0;             // of target, codes and errors
  int64_t changes_stride = 0, steps_stride = 0;
  float lowest = 0, highest = 0;  // code
};

constexpr int64_t kSettled = 16;  // columns at once, at most

// A matrix whose codes and scales are improved for the covariance of its inputs, columns first;
// outputs first .. end of it.
struct Descent {
  int64_t inputs = 0, outputs = 0, block = 0;
  int64_t first = 0, end = 0;
  const float *covariance = nullptr;  // (inputs, inputs), symmetric
  const float *target = nullptr;      // (inputs, outputs), as are codes and errors
  float *codes = nullptr;             // whole numbers
  float *errors = nullptr;            // target - code * scale
  float *scales = nullptr;            // (inputs / block, outputs), values of bfloat16
  // (outputs, end - first): how much these outputs make up for the errors of all, themselves
  // included with a share of 1; null: each for its own only.
  const float *shares = nullptr;
  float lowest = 0, highest = 0;  // code
};

constexpr int64_t kStrip = 64;  // outputs that one thread takes at once
constexpr int64_t kWidestBlock = 256;

// What a thread needs for a strip.
struct DescentRoom {
  float *errors;                           // a strip of all inputs
  float *codes, *target, *gradient, *bend;  // strips of a block
  float *steps;                            // (block, block)
  float *shares;                           // a strip of all outputs
};

// One round of coordinate descent on tr(E H E^T), E the errors and H the covariance: for each block
// of inputs from the last to the first its scales, then its codes, given all the rest.
void descend(const Descent &descent, int threads);

struct CalibrationKernels {
  void (*settle)(const Settling &);
  // by how much what others lack moves a strip's weights: a strip of all inputs
  void (*pull)(const Descent &, int64_t strip, const DescentRoom &, float *pull);
  void (*descend)(const Descent &, int64_t strip, const DescentRoom &, const float *pull);  // or null
};

// x (rows, inputs) times packed weights, plus bias where there is one, and through GELU where that
// is asked for: y (rows, outputs), with so many threads. To the bit what the operator computes.
struct FreeProduct {
  MatrixShape matrix;
  const uint8_t *weights = nullptr;  // aligned to 64 bytes
  const float *x = nullptr;
  int64_t rows = 0;
  const float *bias = nullptr;
  bool gelu = false;
  float *y = nullptr;
};
void multiply(const FreeProduct &product, int threads);

}  // namespace sc2onnx
