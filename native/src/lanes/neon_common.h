// Sixteen lanes in four registers of NEON. Included inside a namespace,
// which adds the dot products.

struct F {
  float32x4_t part[4];
};
struct I {
  int32x4_t part[4];
};
struct B {
  uint8x16_t part[4];
};

constexpr int kRows = 3, kFewRows = 4, kTiles = 1, kTilesOfOneRow = 2;
constexpr int kExpandRows = 4;
constexpr int kMultipliedRows = 6, kMultiplied = 1;

#define SC2ONNX_EACH(result, expression)          \
  for (int i = 0; i < 4; i++) result.part[i] = expression

SC2ONNX_LANES F splat(float x) {
  F r;
  SC2ONNX_EACH(r, vdupq_n_f32(x));
  return r;
}
SC2ONNX_LANES F load(const float *p) {
  F r;
  SC2ONNX_EACH(r, vld1q_f32(p + 4 * i));
  return r;
}
SC2ONNX_LANES F load_brain(const uint16_t *p, int number) {
  p += 16 * number;
  F r;
  SC2ONNX_EACH(r, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
  return r;
}
SC2ONNX_LANES F load_half(const uint16_t *p) {
  F r;
  SC2ONNX_EACH(r, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
  return r;
}
SC2ONNX_LANES void store(float *p, F x) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.part[i]);
}
SC2ONNX_LANES F add(F a, F b) {
  SC2ONNX_EACH(a, vaddq_f32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F sub(F a, F b) {
  SC2ONNX_EACH(a, vsubq_f32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F mul(F a, F b) {
  SC2ONNX_EACH(a, vmulq_f32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F div(F a, F b) {
  SC2ONNX_EACH(a, vdivq_f32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F fma(F a, F b, F c) {
  SC2ONNX_EACH(a, vfmaq_f32(c.part[i], a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F max(F a, F b) {
  SC2ONNX_EACH(a, vmaxq_f32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F min(F a, F b) {
  SC2ONNX_EACH(a, vminq_f32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES F abs(F a) {
  SC2ONNX_EACH(a, vabsq_f32(a.part[i]));
  return a;
}
SC2ONNX_LANES float sum(F a) {
  float32x4_t b = vaddq_f32(vaddq_f32(a.part[0], a.part[2]), vaddq_f32(a.part[1], a.part[3]));
  float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
  return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
SC2ONNX_LANES float largest(F a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.part[0], a.part[2]), vmaxq_f32(a.part[1], a.part[3])));
}

SC2ONNX_LANES I isplat(int32_t x) {
  I r;
  SC2ONNX_EACH(r, vdupq_n_s32(x));
  return r;
}
SC2ONNX_LANES I iadd(I a, I b) {
  SC2ONNX_EACH(a, vaddq_s32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES int32_t isum(I a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.part[0], a.part[1]), vaddq_s32(a.part[2], a.part[3])));
}
template <int kBits>
SC2ONNX_LANES I ishift_left(I a) {
  SC2ONNX_EACH(a, vshlq_n_s32(a.part[i], kBits));
  return a;
}
template <int kBits>
SC2ONNX_LANES I ishift_right(I a) {
  SC2ONNX_EACH(a, vshrq_n_s32(a.part[i], kBits));
  return a;
}
SC2ONNX_LANES I iand(I a, I b) {
  SC2ONNX_EACH(a, vandq_s32(a.part[i], b.part[i]));
  return a;
}
SC2ONNX_LANES I to_int(F a) {
  I r;
  SC2ONNX_EACH(r, vcvtnq_s32_f32(a.part[i]));
  return r;
}
SC2ONNX_LANES F to_float(I a) {
  F r;
  SC2ONNX_EACH(r, vcvtq_f32_s32(a.part[i]));
  return r;
}
SC2ONNX_LANES F power_of_two(I n) {
  n = ishift_left<23>(iadd(n, isplat(127)));
  F r;
  SC2ONNX_EACH(r, vreinterpretq_f32_s32(n.part[i]));
  return r;
}
SC2ONNX_LANES void store_bytes(int8_t *p, I a) {
  int16x8_t low = vcombine_s16(vqmovn_s32(a.part[0]), vqmovn_s32(a.part[1]));
  int16x8_t high = vcombine_s16(vqmovn_s32(a.part[2]), vqmovn_s32(a.part[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

SC2ONNX_LANES B load_bytes(const void *p) {
  B r;
  SC2ONNX_EACH(r, vld1q_u8((const uint8_t *)p + 16 * i));
  return r;
}
SC2ONNX_LANES B low_nibbles(B a) {
  SC2ONNX_EACH(a, vandq_u8(a.part[i], vdupq_n_u8(15)));
  return a;
}
SC2ONNX_LANES B high_nibbles(B a) {
  SC2ONNX_EACH(a, vshrq_n_u8(a.part[i], 4));
  return a;
}
SC2ONNX_LANES int8x16_t four_bytes(const int8_t *four) {
  int32_t x;
  memcpy(&x, four, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(x));
}
