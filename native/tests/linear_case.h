// A product with few bits, of numbers that are the same on every machine.
#pragma once

#include <string.h>

#include <random>
#include <vector>

#include "packing.h"

namespace sc2onnx {

struct Case {
  MatrixShape matrix;
  std::vector<uint8_t> codes;
  std::vector<float> scales, bias, norm_weight, norm_bias, x, residual;
  std::vector<uint8_t> memory;
  const uint8_t *packed = nullptr;

  Case(MatrixShape shape, int64_t rows, unsigned seed) : matrix(shape) {
    std::mt19937 random(seed);
    auto normal = [](std::mt19937 &bits) {  // nearly, and the same on every machine
      float total = 0;
      for (int i = 0; i < 4; i++) total += (float)(bits() >> 8) * 0x1p-24f - 0.5f;
      return total * 1.7f;
    };
    codes.resize((size_t)(shape.outputs * shape.inputs * shape.bits / 8));
    for (auto &code : codes) code = (uint8_t)random();
    auto fill = [&](std::vector<float> &v, int64_t n, float size) {
      v.resize((size_t)n);
      for (auto &each : v) each = size * normal(random);
    };
    fill(scales, shape.outputs * shape.blocks(), 0.01f);
    fill(bias, shape.outputs, 1);
    fill(norm_weight, shape.inputs, 1);
    fill(norm_bias, shape.inputs, 1);
    fill(x, rows * shape.inputs, 1);
    fill(residual, rows * shape.outputs, 1);
    memory.resize((size_t)shape.bytes() + 64);
    auto *at = (uint8_t *)(((uintptr_t)memory.data() + 63) / 64 * 64);
    std::vector<uint16_t> brains;  // bfloat16
    for (auto &each : scales) {
      if (shape.scale_bytes == 4) break;
      uint32_t bits;
      memcpy(&bits, &each, 4);
      brains.push_back((uint16_t)(bits >> 16));
      bits = (uint32_t)brains.back() << 16;
      memcpy(&each, &bits, 4);
    }
    const void *given = shape.scale_bytes == 2 ? (const void *)brains.data() : scales.data();
    pack(shape, codes.data(), given, 2, at);
    packed = at;
  }

  int code(int64_t output, int64_t input) const {
    const int64_t i = output * matrix.inputs + input;
    if (matrix.bits == 8) return codes[(size_t)i] - 128;
    return (codes[(size_t)(i / 2)] >> (i % 2 * 4) & 15) - 8;
  }
};

}  // namespace sc2onnx
