// How keys, values and queries are stored.
//
// A tile of 16 slots, for int8: keys as head_dim / 4 vectors of 64 bytes (16 slots by 4 channels,
// codes plus 128), values as 4 groups of 4 slots, each head_dim / 16 vectors (16 channels by 4
// slots); after either, 16 scales. For float32: keys as head_dim vectors of 16 slots, values slot
// by slot.

// Channels i and i + half of x, turned by an angle of which cos and sin are given, times factor.
SC2ONNX_LANES void rotate(const float *x, const float *cos, const float *sin, int half,
                          float factor, float *y) {
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half], c = cos[i], s = sin[i];
    const float left = a * c, right = b * s, up = b * c, down = a * s;
    y[i] = (left - right) * factor;
    y[i + half] = (up + down) * factor;
  }
}

// One turn of a Hadamard transform: sums and differences of numbers that are kStride apart.
template <int kStride>
SC2ONNX_LANES void butterfly(float *x, int count) {
  for (int i = 0; i < count; i += 2 * kStride)
    for (int j = i; j < i + kStride; j++) {
      const float a = x[j], b = x[j + kStride];
      x[j] = a + b;
      x[j + kStride] = a - b;
    }
}

// Spreads what is large in a few channels over all of them, or over those of blocks whose size is
// the largest power of two that divides `count`: a scale for all of them is then small. It is its
// own inverse but for a factor, the size of a block, which is returned as its reciprocal.
static float spread(float *x, int count) {
  const int block = count & -count;
  butterfly<1>(x, count);
  butterfly<2>(x, count);
  butterfly<4>(x, count);
  butterfly<8>(x, count);
  for (int stride = 16; stride < block; stride *= 2)
    for (int i = 0; i < count; i += 2 * stride)
      for (int j = i; j < i + stride; j += 16) {
        const F a = load(x + j), b = load(x + j + stride);
        store(x + j, add(a, b));
        store(x + j + stride, sub(a, b));
      }
  return 1.f / (float)block;
}

// 0, or not a number if one of x is not finite.
SC2ONNX_LANES float taint(const float *x, int count) {
  F spoilt = splat(0.f);
  for (int i = 0; i < count; i += 16) spoilt = fma(load(x + i), splat(0.f), spoilt);
  return sum(spoilt);
}

// The factor that takes x to whole numbers of at most `codes`; `scale` takes them back. What is not
// finite becomes zeros of a scale that is not a number: the same codes on every processor.
SC2ONNX_LANES float code_factor(float *x, int count, float codes, float &scale) {
  if (!(taint(x, count) == 0.f)) {
    memset(x, 0, count * sizeof(float));
    scale = NAN;
    return 0.f;
  }
  F size = splat(0.f);
  for (int i = 0; i < count; i += 16) size = max(size, abs(load(x + i)));
  const float most = largest(size);
  scale = most > kLeast ? most / codes : 0.f;
  return most > kLeast ? codes / most : 0.f;
}

struct ByteSlots {
  static void store_key(const Attention &a, float *x, uint8_t *tile, int lane) {
    spread(x, a.head_dim);
    alignas(64) int8_t codes[kMostHeadDim];
    float scale;
    const F factor = splat(code_factor(x, a.head_dim, kCodes, scale));
    for (int c = 0; c < a.head_dim; c += 16)
      store_bytes(codes + c, to_int(mul(load(x + c), factor)));
    for (int c = 0; c < a.head_dim; c += 4) {
      uint32_t four;
      memcpy(&four, codes + c, 4);
      four ^= 0x80808080u;
      memcpy(tile + 16 * c + 4 * lane, &four, 4);
    }
    memcpy(tile + 16 * a.head_dim + 4 * lane, &scale, 4);
  }
  static void store_value(const Attention &a, float *x, uint8_t *tile, int lane) {
    spread(x, a.head_dim);
    alignas(64) int8_t codes[kMostHeadDim];
    float scale;
    const F factor = splat(code_factor(x, a.head_dim, kCodes, scale));
    for (int c = 0; c < a.head_dim; c += 16)
      store_bytes(codes + c, to_int(mul(load(x + c), factor)));
    uint8_t *at = tile + lane / 4 * 4 * a.head_dim + lane % 4;
    for (int c = 0; c < a.head_dim; c++) at[4 * c] = (uint8_t)codes[c];
    memcpy(tile + 16 * a.head_dim + 4 * lane, &scale, 4);
  }
  static void store_query(const Attention &a, const AttentionScratch &s, int64_t row, float *x) {
    const float less = spread(x, a.head_dim);
    int8_t *codes = (int8_t *)s.queries + row * kMostHeadDim;
    const F factor = splat(code_factor(x, a.head_dim, kCodes, s.scale[row]));
    s.scale[row] *= less;
    I total = isplat(0);
    for (int c = 0; c < a.head_dim; c += 16) {
      const I code = to_int(mul(load(x + c), factor));
      store_bytes(codes + c, code);
      total = iadd(total, code);
    }
    s.starts[row] = (int32_t)(-128u * (uint32_t)isum(total));
  }
};

struct FloatSlots {
  static void store_key(const Attention &a, const float *x, uint8_t *tile, int lane) {
    const float spoilt = taint(x, a.head_dim);
    for (int c = 0; c < a.head_dim; c++) ((float *)tile)[16 * c + lane] = x[c] + spoilt;
  }
  static void store_value(const Attention &a, const float *x, uint8_t *tile, int lane) {
    const float spoilt = taint(x, a.head_dim);
    for (int c = 0; c < a.head_dim; c++) ((float *)tile)[lane * a.head_dim + c] = x[c] + spoilt;
  }
  static void store_query(const Attention &a, const AttentionScratch &s, int64_t row,
                          const float *x) {
    const F spoilt = splat(taint(x, a.head_dim));
    for (int c = 0; c < a.head_dim; c += 16)
      store(s.queries + row * kMostHeadDim + c, add(load(x + c), spoilt));
  }
};
