// Sixteen lanes in two registers of AVX2, dot products by pairs of bytes.
#pragma once

#include <immintrin.h>

#include "lanes/common.h"

namespace sc2onnx::avx2 {

#include "lanes/avx2_common.h"

constexpr bool kBiased = false;
constexpr bool kNibblesTogether = true;
constexpr int kSumsApart = 0;

// acc + the sums of four products: pairs are summed in 16 bits, where nothing saturates
// (15 * 127 * 4, 128 * 127 * 2 and 127 * 127 * 2 are below 2^15), and pairs of pairs in 32.
SC2ONNX_LANES __m256i sum_pairs(__m256i acc, __m256i pairs) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
SC2ONNX_LANES __m256i dot(__m256i acc, __m256i unsigned_bytes, __m256i signed_bytes) {
  return sum_pairs(acc, _mm256_maddubs_epi16(unsigned_bytes, signed_bytes));
}
SC2ONNX_LANES I dot_nibbles(I acc, B low, const int8_t *of_low, B high, const int8_t *of_high) {
  const __m256i x = four_bytes(of_low), y = four_bytes(of_high);
  auto pairs = [&](__m256i a, __m256i b) {
    return _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
  };
  return {sum_pairs(acc.low, pairs(low.low, high.low)),
          sum_pairs(acc.high, pairs(low.high, high.high))};
}
SC2ONNX_LANES I dot_nibble(I acc, B codes, const int8_t *four) {
  const __m256i x = four_bytes(four);
  return {dot(acc.low, codes.low, x), dot(acc.high, codes.high, x)};
}
// Signed by signed: the size of one, and the other with its sign.
SC2ONNX_LANES __m256i dot_signed(__m256i acc, __m256i code, __m256i x) {
  return dot(acc, _mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
}
SC2ONNX_LANES I dot_byte(I acc, B codes, const int8_t *four) {
  const __m256i x = four_bytes(four), bias = _mm256_set1_epi8(-128);
  return {dot_signed(acc.low, _mm256_xor_si256(codes.low, bias), x),
          dot_signed(acc.high, _mm256_xor_si256(codes.high, bias), x)};
}
SC2ONNX_LANES I dot_seven(I acc, B values, const int8_t *four) {
  const __m256i x = four_bytes(four);
  return {dot(acc.low, x, values.low), dot(acc.high, x, values.high)};
}

}  // namespace sc2onnx::avx2
