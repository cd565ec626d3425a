// Sixteen lanes in one register of AVX-512, with the dot products of VNNI.
#pragma once

#include <immintrin.h>

#include "lanes/common.h"

namespace sc2onnx::avx512vnni {

using F = __m512;
using I = __m512i;
using B = __m512i;

constexpr bool kBiased = true;
constexpr bool kNibblesTogether = false;
constexpr int kSumsApart = 8;
constexpr int kRows = 6, kFewRows = 10, kTiles = 2, kTilesOfOneRow = 4;
constexpr int kExpandRows = 10;
constexpr int kMultipliedRows = 6, kMultiplied = 4;

SC2ONNX_LANES F splat(float x) { return _mm512_set1_ps(x); }
SC2ONNX_LANES F load(const float *p) { return _mm512_loadu_ps(p); }
// By one instruction, which takes numbers 0 .. 15 or 16 .. 31 to the upper halves of lanes.
alignas(64) constexpr uint16_t kBrains[2][32] = {
    {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
     0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15},
    {0, 16, 0, 17, 0, 18, 0, 19, 0, 20, 0, 21, 0, 22, 0, 23,
     0, 24, 0, 25, 0, 26, 0, 27, 0, 28, 0, 29, 0, 30, 0, 31}};
SC2ONNX_LANES F load_brain(const uint16_t *p, int number) {
  return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(
      0xaaaaaaaa, _mm512_load_si512(kBrains[number]), _mm512_loadu_si512(p)));
}
SC2ONNX_LANES F load_half(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
SC2ONNX_LANES void store(float *p, F x) { _mm512_storeu_ps(p, x); }

SC2ONNX_LANES F add(F a, F b) { return _mm512_add_ps(a, b); }
SC2ONNX_LANES F sub(F a, F b) { return _mm512_sub_ps(a, b); }
SC2ONNX_LANES F mul(F a, F b) { return _mm512_mul_ps(a, b); }
SC2ONNX_LANES F div(F a, F b) { return _mm512_div_ps(a, b); }
SC2ONNX_LANES F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
SC2ONNX_LANES F max(F a, F b) { return _mm512_max_ps(a, b); }
SC2ONNX_LANES F min(F a, F b) { return _mm512_min_ps(a, b); }
SC2ONNX_LANES F abs(F a) { return _mm512_abs_ps(a); }
SC2ONNX_LANES float sum(F a) {
  __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
SC2ONNX_LANES float largest(F a) {
  __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

SC2ONNX_LANES I isplat(int32_t x) { return _mm512_set1_epi32(x); }
SC2ONNX_LANES I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
SC2ONNX_LANES int32_t isum(I a) { return _mm512_reduce_add_epi32(a); }
template <int kBits>
SC2ONNX_LANES I ishift_left(I a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
SC2ONNX_LANES I ishift_right(I a) {
  return _mm512_srai_epi32(a, kBits);
}
SC2ONNX_LANES I iand(I a, I b) { return _mm512_and_si512(a, b); }
SC2ONNX_LANES I to_int(F a) { return _mm512_cvtps_epi32(a); }
SC2ONNX_LANES F to_float(I a) { return _mm512_cvtepi32_ps(a); }
SC2ONNX_LANES F power_of_two(I n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
SC2ONNX_LANES void store_bytes(int8_t *p, I a) {
  _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(a));
}

SC2ONNX_LANES B load_bytes(const void *p) { return _mm512_loadu_si512(p); }
SC2ONNX_LANES B low_nibbles(B a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
SC2ONNX_LANES B high_nibbles(B a) {
  return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}
SC2ONNX_LANES B high_in_place(B a) {
  return _mm512_and_si512(a, _mm512_set1_epi8((char)0xf0));
}
SC2ONNX_LANES I four_bytes(const int8_t *four) {
  int32_t x;
  memcpy(&x, four, 4);
  return _mm512_set1_epi32(x);
}
// As an instruction rather than its intrinsic where that can be written: GCC copies the sums of the
// intrinsic from register to register in long loops.
SC2ONNX_LANES I dot(I acc, __m512i unsigned_bytes, __m512i signed_bytes) {
#if defined(__GNUC__) || defined(__clang__)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "v"(signed_bytes));
  return acc;
#else
  return _mm512_dpbusd_epi32(acc, unsigned_bytes, signed_bytes);
#endif
}
SC2ONNX_LANES I dot_nibble(I acc, B codes, const int8_t *four) {
  return dot(acc, codes, four_bytes(four));
}
SC2ONNX_LANES I dot_byte(I acc, B codes, const int8_t *four) {
  return dot(acc, codes, four_bytes(four));
}
SC2ONNX_LANES I dot_seven(I acc, B values, const int8_t *four) {
  return dot(acc, four_bytes(four), values);
}

}  // namespace sc2onnx::avx512vnni
