// Sixteen lanes in two registers of AVX2. Included inside a namespace, which adds the dot products.

struct F {
  __m256 low, high;
};
struct I {
  __m256i low, high;
};
struct B {
  __m256i low, high;
};

constexpr int kRows = 3, kFewRows = 4, kTiles = 1, kTilesOfOneRow = 2;
constexpr int kExpandRows = 4;
constexpr int kMultipliedRows = 6, kMultiplied = 1;

SC2ONNX_LANES F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
SC2ONNX_LANES F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SC2ONNX_LANES F load_brain(const uint16_t *p, int number) {
  p += 16 * number;
  auto widened = [](const __m128i *from) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(from)), 16));
  };
  return {widened((const __m128i *)p), widened((const __m128i *)p + 1)};
}
SC2ONNX_LANES F load_half(const uint16_t *p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1))};
}
SC2ONNX_LANES void store(float *p, F x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}

SC2ONNX_LANES F add(F a, F b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
SC2ONNX_LANES F sub(F a, F b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
SC2ONNX_LANES F mul(F a, F b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
SC2ONNX_LANES F div(F a, F b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
SC2ONNX_LANES F fma(F a, F b, F c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
SC2ONNX_LANES F max(F a, F b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
SC2ONNX_LANES F min(F a, F b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
SC2ONNX_LANES F abs(F a) {
  const __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
SC2ONNX_LANES float sum(F a) {
  __m256 b = _mm256_add_ps(a.low, a.high);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
SC2ONNX_LANES float largest(F a) {
  __m256 b = _mm256_max_ps(a.low, a.high);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

SC2ONNX_LANES I isplat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
SC2ONNX_LANES I iadd(I a, I b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
SC2ONNX_LANES int32_t isum(I a) {
  __m256i b = _mm256_add_epi32(a.low, a.high);
  __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
  c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}
template <int kBits>
SC2ONNX_LANES I ishift_left(I a) {
  return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
template <int kBits>
SC2ONNX_LANES I ishift_right(I a) {
  return {_mm256_srai_epi32(a.low, kBits), _mm256_srai_epi32(a.high, kBits)};
}
SC2ONNX_LANES I iand(I a, I b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
SC2ONNX_LANES I to_int(F a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
SC2ONNX_LANES F to_float(I a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
SC2ONNX_LANES F power_of_two(I n) {
  n = ishift_left<23>(iadd(n, isplat(127)));
  return {_mm256_castsi256_ps(n.low), _mm256_castsi256_ps(n.high)};
}
SC2ONNX_LANES void store_bytes(int8_t *p, I a) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i *)p, bytes);
}

SC2ONNX_LANES B load_bytes(const void *p) {
  return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
SC2ONNX_LANES B low_nibbles(B a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.low, mask), _mm256_and_si256(a.high, mask)};
}
SC2ONNX_LANES B high_nibbles(B a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(a.low, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(a.high, 4), mask)};
}
SC2ONNX_LANES __m256i four_bytes(const int8_t *four) {
  int32_t x;
  memcpy(&x, four, 4);
  return _mm256_set1_epi32(x);
}
