// Rows of activations as int8, and the memory that they take.
#pragma once

#include <vector>

#include "linear.h"

namespace sc2onnx {

struct RoundedRows {
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> starts;

  void resize(int64_t rows, const MatrixShape &matrix) {
    codes.resize((size_t)(rows * matrix.inputs));
    scales.resize((size_t)(rows * matrix.blocks()));
    starts.resize(scales.size());
  }

  // How x (rows, inputs of the matrix) comes here, without a norm before.
  Rounding rounding(const float *x, int64_t rows, const MatrixShape &matrix) {
    resize(rows, matrix);
    Rounding rounding;
    rounding.x = x;
    rounding.rows = rows;
    rounding.matrix = matrix;
    rounding.codes = codes.data();
    rounding.scales = scales.data();
    rounding.starts = starts.data();
    return rounding;
  }

  // What becomes y (rows, outputs) by packed weights, and nothing around it.
  Product product(const uint8_t *weights, int64_t rows, const MatrixShape &matrix, float *y) const {
    Product product;
    product.matrix = matrix;
    product.weights = weights;
    product.rows = rows;
    product.codes = codes.data();
    product.scales = scales.data();
    product.starts = starts.data();
    product.y = y;
    return product;
  }
};

}  // namespace sc2onnx
