// Sixteen lanes in four registers of NEON, with its dot product of unsigned by signed bytes (i8mm).
#pragma once

#include <arm_neon.h>

#include "lanes/common.h"

namespace sc2onnx::neoni8mm {

#include "lanes/neon_common.h"

constexpr bool kBiased = true;
constexpr bool kNibblesTogether = false;
constexpr int kSumsApart = 0;

SC2ONNX_LANES I dot_nibble(I acc, B codes, const int8_t *four) {
  const int8x16_t x = four_bytes(four);
  SC2ONNX_EACH(acc, vusdotq_s32(acc.part[i], codes.part[i], x));
  return acc;
}
SC2ONNX_LANES I dot_byte(I acc, B codes, const int8_t *four) {
  return dot_nibble(acc, codes, four);
}
SC2ONNX_LANES I dot_seven(I acc, B values, const int8_t *four) {
  const int8x16_t x = four_bytes(four);
  SC2ONNX_EACH(acc, vdotq_s32(acc.part[i], vreinterpretq_s8_u8(values.part[i]), x));
  return acc;
}

}  // namespace sc2onnx::neoni8mm
