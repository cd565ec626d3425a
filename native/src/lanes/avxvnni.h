// Sixteen lanes in two registers of AVX2, with the dot products of AVX-VNNI.
#pragma once

#include <immintrin.h>

#include "lanes/common.h"

namespace sc2onnx::avxvnni {

#include "lanes/avx2_common.h"

constexpr bool kBiased = true;
constexpr bool kNibblesTogether = false;
constexpr int kSumsApart = 0;

SC2ONNX_LANES I dot_nibble(I acc, B codes, const int8_t *four) {
  const __m256i x = four_bytes(four);
  return {_mm256_dpbusd_avx_epi32(acc.low, codes.low, x),
          _mm256_dpbusd_avx_epi32(acc.high, codes.high, x)};
}
SC2ONNX_LANES I dot_byte(I acc, B codes, const int8_t *four) {
  return dot_nibble(acc, codes, four);
}
SC2ONNX_LANES I dot_seven(I acc, B values, const int8_t *four) {
  const __m256i x = four_bytes(four);
  return {_mm256_dpbusd_avx_epi32(acc.low, x, values.low),
          _mm256_dpbusd_avx_epi32(acc.high, x, values.high)};
}

}  // namespace sc2onnx::avxvnni
