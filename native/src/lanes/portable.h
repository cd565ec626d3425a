// Sixteen lanes in plain C++: what the other processors' files must agree with to the bit.
#pragma once

#include <math.h>

#include "lanes/common.h"

namespace sc2onnx::portable {

struct F {
  float lane[16];
};
struct I {
  int32_t lane[16];
};
struct B {
  uint8_t byte[64];
};

// Whether dot_byte multiplies codes as they lie (0..255), so that sums begin at -128 times the
// sum of the other factor; otherwise it takes the 128 off by itself.
constexpr bool kBiased = false;
// Whether products of low and of high nibbles are summed before they become int32: dot_nibbles.
constexpr bool kNibblesTogether = false;
// Up to so many sums of a block have others beside them, of high nibbles as they lie.
constexpr int kSumsApart = 2;
// What a product computes at once: kRows rows, or kFewRows if there are at most two groups of
// these, by kTiles tiles of sixteen outputs; a single row has its own number of tiles.
constexpr int kRows = 2, kFewRows = 2, kTiles = 1, kTilesOfOneRow = 1;
// What an adapter computes at once: B of so many rows.
constexpr int kExpandRows = 2;
// What calibration multiplies at once: so many rows by so many times sixteen columns.
constexpr int kMultipliedRows = 2, kMultiplied = 1;

SC2ONNX_LANES F splat(float x) {
  F r;
  for (int i = 0; i < 16; i++) r.lane[i] = x;
  return r;
}
SC2ONNX_LANES F load(const float *p) {
  F r;
  memcpy(r.lane, p, sizeof r.lane);
  return r;
}
// Of bfloat16, exactly: the first or the second sixteen of a vector of them.
SC2ONNX_LANES F load_brain(const uint16_t *p, int number) {
  p += 16 * number;
  F r;
  for (int i = 0; i < 16; i++) {
    const uint32_t bits = (uint32_t)p[i] << 16;
    memcpy(&r.lane[i], &bits, 4);
  }
  return r;
}
// Of float16, exactly.
SC2ONNX_LANES F load_half(const uint16_t *p) {
  F r;
  for (int i = 0; i < 16; i++) {
    const uint32_t exponent = p[i] >> 10 & 31, digits = p[i] & 1023;
    uint32_t bits = (exponent + 112) << 23 | digits << 13;
    const float small = (float)digits * 0x1p-24f;
    if (exponent == 0) memcpy(&bits, &small, 4);
    if (exponent == 31) bits = 0x7f800000u | digits << 13;
    bits |= (uint32_t)(p[i] >> 15) << 31;
    memcpy(&r.lane[i], &bits, 4);
  }
  return r;
}
SC2ONNX_LANES void store(float *p, F x) { memcpy(p, x.lane, sizeof x.lane); }

SC2ONNX_LANES F add(F a, F b) {
  for (int i = 0; i < 16; i++) a.lane[i] += b.lane[i];
  return a;
}
SC2ONNX_LANES F sub(F a, F b) {
  for (int i = 0; i < 16; i++) a.lane[i] -= b.lane[i];
  return a;
}
SC2ONNX_LANES F mul(F a, F b) {
  for (int i = 0; i < 16; i++) a.lane[i] *= b.lane[i];
  return a;
}
SC2ONNX_LANES F div(F a, F b) {
  for (int i = 0; i < 16; i++) a.lane[i] /= b.lane[i];
  return a;
}
// a * b + c, rounded once.
SC2ONNX_LANES F fma(F a, F b, F c) {
  for (int i = 0; i < 16; i++) a.lane[i] = ::fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return a;
}
SC2ONNX_LANES F max(F a, F b) {
  for (int i = 0; i < 16; i++) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
SC2ONNX_LANES F min(F a, F b) {
  for (int i = 0; i < 16; i++) a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
SC2ONNX_LANES F abs(F a) {
  for (int i = 0; i < 16; i++) a.lane[i] = ::fabsf(a.lane[i]);
  return a;
}
// Sums and maxima over lanes: i with i + 8, then i + 4, i + 2, i + 1.
SC2ONNX_LANES float sum(F a) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) a.lane[i] += a.lane[i + w];
  return a.lane[0];
}
SC2ONNX_LANES float largest(F a) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) a.lane[i] = a.lane[i] > a.lane[i + w] ? a.lane[i] : a.lane[i + w];
  return a.lane[0];
}

SC2ONNX_LANES I isplat(int32_t x) {
  I r;
  for (int i = 0; i < 16; i++) r.lane[i] = x;
  return r;
}
SC2ONNX_LANES I iadd(I a, I b) {
  for (int i = 0; i < 16; i++) a.lane[i] += b.lane[i];
  return a;
}
SC2ONNX_LANES int32_t isum(I a) {
  int32_t s = 0;
  for (int i = 0; i < 16; i++) s += a.lane[i];
  return s;
}
template <int kBits>
SC2ONNX_LANES I ishift_left(I a) {
  for (int i = 0; i < 16; i++) a.lane[i] = (int32_t)((uint32_t)a.lane[i] << kBits);
  return a;
}
template <int kBits>
SC2ONNX_LANES I ishift_right(I a) {
  for (int i = 0; i < 16; i++) a.lane[i] >>= kBits;
  return a;
}
SC2ONNX_LANES I iand(I a, I b) {
  for (int i = 0; i < 16; i++) a.lane[i] &= b.lane[i];
  return a;
}
// To the nearest whole number, halves to the even one. |a| < 2^31.
SC2ONNX_LANES I to_int(F a) {
  I r;
  for (int i = 0; i < 16; i++) r.lane[i] = (int32_t)::lrintf(a.lane[i]);
  return r;
}
SC2ONNX_LANES F to_float(I a) {
  F r;
  for (int i = 0; i < 16; i++) r.lane[i] = (float)a.lane[i];
  return r;
}
// 2^n for -126 <= n <= 127.
SC2ONNX_LANES F power_of_two(I n) {
  F r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits = (uint32_t)(n.lane[i] + 127) << 23;
    memcpy(&r.lane[i], &bits, 4);
  }
  return r;
}
// Sixteen whole numbers of -128..127 as bytes.
SC2ONNX_LANES void store_bytes(int8_t *p, I a) {
  for (int i = 0; i < 16; i++) p[i] = (int8_t)a.lane[i];
}

SC2ONNX_LANES B load_bytes(const void *p) {
  B r;
  memcpy(r.byte, p, 64);
  return r;
}
SC2ONNX_LANES B low_nibbles(B a) {
  for (int i = 0; i < 64; i++) a.byte[i] &= 15;
  return a;
}
SC2ONNX_LANES B high_nibbles(B a) {
  for (int i = 0; i < 64; i++) a.byte[i] >>= 4;
  return a;
}
// Sixteen times these.
SC2ONNX_LANES B high_in_place(B a) {
  for (int i = 0; i < 64; i++) a.byte[i] &= 0xf0;
  return a;
}
// Lane i: acc + the four products of codes 4 i .. 4 i + 3 (0..15, or 0..240) with the four signed bytes.
SC2ONNX_LANES I dot_nibble(I acc, B codes, const int8_t *four) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) acc.lane[i] += (int32_t)codes.byte[4 * i + j] * four[j];
  return acc;
}
// The same with codes of 0..255, of which each stands for itself less 128 (see
// kBiased); four: -127..127.
SC2ONNX_LANES I dot_byte(I acc, B codes, const int8_t *four) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) acc.lane[i] += ((int32_t)codes.byte[4 * i + j] - 128) * four[j];
  return acc;
}
// The same with signed bytes and four bytes of 0..127.
SC2ONNX_LANES I dot_seven(I acc, B values, const int8_t *four) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) acc.lane[i] += (int32_t)(int8_t)values.byte[4 * i + j] * four[j];
  return acc;
}

}  // namespace sc2onnx::portable
