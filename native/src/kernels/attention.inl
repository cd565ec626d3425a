// Attention over a ring of keys and values. Included inside a namespace, after its lanes and math.inl.
//
// A tile of 16 slots, for int8: keys as head_dim / 4 vectors of 64 bytes (16 slots by 4 channels, codes
// plus 128), values as 4 groups of 4 slots, each head_dim / 16 vectors (16 channels by 4 slots); after
// either, 16 scales. For float32: keys as head_dim vectors of 16 slots, values slot by slot.
//
// Queries become int8 in two planes, 128 high + low, and so do the weights of the softmax, relative to
// the largest of a span. So products are exact in int32, and their order does not matter.

namespace attend {

constexpr float kLeast = 1e-33f;         // factor / x is finite above it
constexpr float kNothing = -3.4e38f;     // a score below all others
constexpr int kGroups = kSpan / 16;      // tiles of slots in a span
constexpr int kPlanes = 2;               // of a query
constexpr float kQueryCodes = 127 * 128, kKeyCodes = 127, kWeightCodes = 127 * 128 + 127;

// Sums that fit into registers, and how scores and values share them among rows, tiles and vectors.
constexpr int kHeld = 2 * kRows * kTiles;
constexpr int kByteScoreRows = kHeld / (kPlanes * kTiles), kFloatScoreRows = kHeld / kTiles;
constexpr int kValueRows = kHeld < 6 ? 1 : 3;
constexpr int kByteValueVectors = kHeld / (2 * kValueRows);
constexpr int kFloatValueRows = kHeld < 24 ? kValueRows : 6, kFloatValueVectors = kHeld / kFloatValueRows;

// e^x for x <= 0, and for x below -87 what it is there. Not a number stays what it is.
SC2ONNX_LANES F exp_below(F x) { return exponential_within(max(splat(-87.f), x)); }

SC2ONNX_LANES F load_some(const float *p, int64_t count) {
  if (count >= 16) return load(p);
  alignas(64) float lanes[16] = {};
  for (int64_t i = 0; i < count; i++) lanes[i] = p[i];
  return load(lanes);
}
SC2ONNX_LANES void store_some(float *p, F x, int64_t count) {
  if (count >= 16) return store(p, x);
  alignas(64) float lanes[16];
  store(lanes, x);
  for (int64_t i = 0; i < count; i++) p[i] = lanes[i];
}

// Channels i and i + half of x, turned by an angle of which cos and sin are given, times factor.
SC2ONNX_LANES void rotate(const float *x, const float *cos, const float *sin, int half, float factor,
                          float *y) {
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

// Spreads what is large in a few channels over all of them, or over those of blocks whose size is the
// largest power of two that divides `count`: a scale for all of them is then small. It is its own
// inverse but for a factor, the size of a block, which is returned as its reciprocal.
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

// The factor that takes x to whole numbers of at most `codes`; `scale` takes them back.
SC2ONNX_LANES float code_factor(const float *x, int count, float codes, float &scale) {
  F size = splat(0.f);
  for (int i = 0; i < count; i += 16) size = max(size, abs(load(x + i)));
  const float most = largest(size);
  scale = (most > kLeast ? most / codes : 0.f) + taint(x, count);
  return most > kLeast ? codes / most : 0.f;
}

// What a row of the batch and a head have in a cache.
SC2ONNX_LANES uint8_t *ring(const Attention &a, const AttentionBlock &b, uint8_t *cache) {
  return cache + (b.row * a.kv_heads + b.head) * a.capacity * a.slot_bytes;
}

// Tiles of a span of positions, from `start` on; what lies in them may be of other positions. `later`
// are the keys of the next span, which are fetched while values are summed, as values are fetched while
// scores are: a cache that lies in memory is read all the time, not only between computations.
struct Span {
  const uint8_t *keys[kGroups], *values[kGroups], *later[kGroups];
};
static Span span_at(const Attention &a, const AttentionBlock &b, int64_t start, bool is_last) {
  const uint8_t *keys = ring(a, b, a.keys), *values = ring(a, b, a.values);
  Span span;
  int64_t slot = start % a.capacity;
  for (int g = 0; g < kGroups; g++) {
    span.keys[g] = keys + slot * a.slot_bytes;
    span.values[g] = values + slot * a.slot_bytes;
    slot = slot + 16 == a.capacity ? 0 : slot + 16;
  }
  for (int g = 0; g < kGroups; g++) {
    span.later[g] = is_last ? span.keys[g] : keys + slot * a.slot_bytes;
    slot = slot + 16 == a.capacity ? 0 : slot + 16;
  }
  return span;
}

// Rows that see slots from .. to - 1 of a span.
struct View {
  const Attention &a;
  const AttentionScratch &s;
  const AttentionSums &sums;
  const Span &span;
  int64_t first, rows;
  int from, to;

  SC2ONNX_INLINE int first_group() const { return from / 16; }
  SC2ONNX_INLINE int end_group() const { return (to + 15) / 16; }
  SC2ONNX_INLINE bool whole() const { return from == 0 && to == kSpan; }
};

// Part::rows<n> for all rows of a view, in groups of at most kMost that differ by one at most.
template <int kMost, class Part>
SC2ONNX_LANES void one_group(const View &v, int64_t row, int rows) {
  if constexpr (kMost > 0) {
    if (rows == kMost)
      Part::template rows<kMost>(v, row);
    else
      one_group<kMost - 1, Part>(v, row, rows);
  }
}
template <int kMost, class Part>
static void all_groups(const View &v) {
  const int64_t groups = (v.rows + kMost - 1) / kMost;
  for (int64_t i = 0; i < groups; i++) {
    const int64_t from = v.rows * i / groups, to = v.rows * (i + 1) / groups;
    one_group<kMost, Part>(v, v.first + from, (int)(to - from));
  }
}

struct ByteScores {
  template <int kR, int kN>
  SC2ONNX_LANES void part(const View &v, int64_t row, int group) {
    const int channels = v.a.head_dim;
    const int8_t *codes = (const int8_t *)v.s.queries + row * kPlanes * kMostHeadDim;
    I acc[kR][kPlanes][kN];
    for (int r = 0; r < kR; r++)
      for (int p = 0; p < kPlanes; p++)
        for (int n = 0; n < kN; n++)
          acc[r][p][n] = isplat(kBiased ? v.s.starts[(row + r) * kPlanes + p] : 0);
    const uint8_t *at[kN], *values[kN];
    for (int n = 0; n < kN; n++) {
      at[n] = v.span.keys[group + n];
      values[n] = v.span.values[group + n];
    }
    for (const int8_t *end = codes + channels; codes < end; codes += 4) {
      B key[kN];
      for (int n = 0; n < kN; n++) {
        SC2ONNX_PREFETCH(values[n]);
        key[n] = load_bytes(at[n]);
        at[n] += 64;
        values[n] += 64;
      }
      for (int r = 0; r < kR; r++)
        for (int p = 0; p < kPlanes; p++)
          for (int n = 0; n < kN; n++)
            acc[r][p][n] = dot_byte(acc[r][p][n], key[n], codes + (r * kPlanes + p) * kMostHeadDim);
    }
    for (int n = 0; n < kN; n++) {
      SC2ONNX_PREFETCH(values[n]);
      const F scales = load((const float *)(v.span.keys[group + n] + 16 * channels));
      for (int r = 0; r < kR; r++) {
        I whole = acc[r][0][n];
        for (int p = 1; p < kPlanes; p++) whole = iadd(ishift_left<7>(whole), acc[r][p][n]);
        const F scale = mul(scales, splat(v.s.scale[row + r]));
        store(v.s.scores + (row + r) * kSpan + 16 * (group + n), mul(to_float(whole), scale));
      }
    }
  }
  template <int kR>
  SC2ONNX_LANES void rows(const View &v, int64_t row) {
    int g = v.first_group();
    for (; g + kTiles <= v.end_group(); g += kTiles) part<kR, kTiles>(v, row, g);
    if (kTiles > 1)
      for (; g < v.end_group(); g++) part<kR, 1>(v, row, g);
  }
};

struct FloatScores {
  template <int kR, int kN>
  SC2ONNX_LANES void part(const View &v, int64_t row, int group) {
    const int channels = v.a.head_dim;
    const float *queries = v.s.queries + row * kMostHeadDim;
    F acc[kR][kN];
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kN; n++) acc[r][n] = splat(0.f);
    const float *at[kN], *values[kN];
    for (int n = 0; n < kN; n++) {
      at[n] = (const float *)v.span.keys[group + n];
      values[n] = (const float *)v.span.values[group + n];
    }
    for (const float *end = queries + channels; queries < end; queries++) {
      F key[kN];
      for (int n = 0; n < kN; n++) {
        SC2ONNX_PREFETCH(values[n]);
        key[n] = load(at[n]);
        at[n] += 16;
        values[n] += 16;
      }
      for (int r = 0; r < kR; r++) {
        const F x = splat(queries[r * kMostHeadDim]);
        for (int n = 0; n < kN; n++) acc[r][n] = fma(key[n], x, acc[r][n]);
      }
    }
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kN; n++)
        store(v.s.scores + (row + r) * kSpan + 16 * (group + n), acc[r][n]);
  }
  template <int kR>
  SC2ONNX_LANES void rows(const View &v, int64_t row) {
    int g = v.first_group();
    for (; g + kTiles <= v.end_group(); g += kTiles) part<kR, kTiles>(v, row, g);
    if (kTiles > 1)
      for (; g < v.end_group(); g++) part<kR, 1>(v, row, g);
  }
};

SC2ONNX_LANES float largest_of(F (&x)[kGroups]) {
  for (int w = kGroups / 2; w; w /= 2)
    for (int g = 0; g < w; g++) x[g] = max(x[g], x[g + w]);
  return largest(x[0]);
}
SC2ONNX_LANES float sum_of(F (&x)[kGroups]) {
  for (int w = kGroups / 2; w; w /= 2)
    for (int g = 0; g < w; g++) x[g] = add(x[g], x[g + w]);
  return sum(x[0]);
}

// The steps of a softmax each go over all rows: a row is a long chain, and several overlap.
template <bool kEdge>
static void largest_scores(const View &v, const float *mask) {
  for (int64_t row = v.first; row < v.first + v.rows; row++) {
    float *scores = v.s.scores + row * kSpan;
    if (kEdge)
      for (int i = 0; i < kSpan; i++)
        if (mask[i] == 0.f) scores[i] = kNothing;
    F x[kGroups];
    for (int g = 0; g < kGroups; g++) x[g] = load(scores + 16 * g);
    v.s.largest[row] = largest_of(x);
  }
}

// Weights relative to the largest score in place of scores, with kEdge only those that mask (1 or 0)
// leaves, and their sums. With kScaled weights times scales, and the largest of them as factors.
template <bool kEdge, bool kScaled>
static void softmax(const View &v, const float *mask, const float *scales) {
  largest_scores<kEdge>(v, mask);
  for (int64_t row = v.first; row < v.first + v.rows; row++) {
    float *scores = v.s.scores + row * kSpan;
    const F top = splat(v.s.largest[row]);
    F weights[kGroups], scaled[kGroups];
    for (int g = 0; g < kGroups; g++) {
      weights[g] = exp_below(sub(load(scores + 16 * g), top));
      if (kEdge) weights[g] = mul(weights[g], load(mask + 16 * g));
      scaled[g] = kScaled ? mul(weights[g], load(scales + 16 * g)) : weights[g];
      store(scores + 16 * g, scaled[g]);
    }
    v.s.total[row] = sum_of(weights);
    v.s.factor[row] = kScaled ? largest_of(scaled) : 1.f;
  }
}

// The same as two planes of seven bits.
template <bool kEdge>
static void byte_weights(const View &v, const float *mask, const float *scales) {
  softmax<kEdge, true>(v, mask, scales);
  const float spoilt = taint(scales, kSpan);
  for (int64_t row = v.first; row < v.first + v.rows; row++) {
    const float *weights = v.s.scores + row * kSpan, top = v.s.factor[row];
    const F factor = splat(top > kLeast ? kWeightCodes / top : 0.f);
    v.s.factor[row] = (top > kLeast ? top / kWeightCodes : 0.f) + spoilt;
    int8_t *high = (int8_t *)v.s.weights + row * 2 * kSpan, *low = high + kSpan;
    for (int g = 0; g < kGroups; g++) {
      const I code = to_int(mul(load(weights + 16 * g), factor));
      store_bytes(high + 16 * g, ishift_right<7>(code));
      store_bytes(low + 16 * g, iand(code, isplat(127)));
    }
  }
}

// How much of what rows have seen, and of what they see now (times factor), is left relative to the
// larger score of both: keep and factor. Brings the largest scores and the sums of weights up to date.
static void weigh(const AttentionScratch &s, const AttentionSums &sums, const float *largest,
                  const float *total, int64_t first, int64_t rows) {
  for (int64_t i = 0; i < rows; i += 16) {
    const int64_t row = first + i, count = rows - i;
    const F before = load_some(sums.largest + row, count), now = load_some(largest + row, count);
    const F top = max(before, now);
    const F keep = exp_below(sub(before, top)), take = exp_below(sub(now, top));
    const F kept = mul(load_some(sums.total + row, count), keep);
    store_some(sums.total + row, fma(load_some(total + row, count), take, kept), count);
    store_some(sums.largest + row, top, count);
    store_some(s.keep + row, keep, count);
    store_some(s.factor + row, mul(load_some(s.factor + row, count), take), count);
  }
}

SC2ONNX_LANES void accumulate(const View &v, int64_t row, int vector, F x) {
  float *at = v.sums.values + row * v.a.head_dim + 16 * vector;
  store(at, fma(x, splat(v.s.factor[row]), mul(load(at), splat(v.s.keep[row]))));
}

struct ByteValues {
  template <int kR, int kV>
  SC2ONNX_LANES void part(const View &v, int64_t row, int vector) {
    const int channels = v.a.head_dim;
    I acc[kR][2][kV];
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kV; n++) acc[r][0][n] = acc[r][1][n] = isplat(0);
    const int8_t *high = (const int8_t *)v.s.weights + row * 2 * kSpan + 16 * v.first_group();
    for (int g = v.first_group(); g < v.end_group(); g++) {
      const uint8_t *at = v.span.values[g] + 64 * vector, *later = v.span.later[g] + 64 * vector;
      SC2ONNX_PREFETCH(v.span.later[g] + 16 * channels);
      for (const uint8_t *end = at + 16 * channels; at < end;
           at += 4 * channels, later += 4 * channels, high += 4) {
        B value[kV];
        for (int n = 0; n < kV; n++) {
          SC2ONNX_PREFETCH(later + 64 * n);
          value[n] = load_bytes(at + 64 * n);
        }
        for (int r = 0; r < kR; r++)
          for (int plane = 0; plane < 2; plane++)
            for (int n = 0; n < kV; n++)
              acc[r][plane][n] = dot_seven(acc[r][plane][n], value[n], high + (2 * r + plane) * kSpan);
      }
    }
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kV; n++)
        accumulate(v, row + r, vector + n,
                   to_float(iadd(ishift_left<7>(acc[r][0][n]), acc[r][1][n])));
  }
  template <int kR>
  SC2ONNX_LANES void rows(const View &v, int64_t row) {
    int n = 0;
    for (; n + kByteValueVectors <= v.a.head_dim / 16; n += kByteValueVectors)
      part<kR, kByteValueVectors>(v, row, n);
    if (kByteValueVectors > 1)
      for (; n < v.a.head_dim / 16; n++) part<kR, 1>(v, row, n);
  }
};

struct FloatValues {
  template <int kR, int kV>
  SC2ONNX_LANES void part(const View &v, int64_t row, int vector) {
    const int channels = v.a.head_dim;
    F acc[kR][kV];
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kV; n++) acc[r][n] = splat(0.f);
    const float *weights = v.s.scores + row * kSpan + v.from;
    for (int g = v.first_group(); g < v.end_group(); g++) {
      const int first = g * 16 < v.from ? v.from % 16 : 0, end = v.to - g * 16 < 16 ? v.to - g * 16 : 16;
      const float *at = (const float *)v.span.values[g] + first * channels + 16 * vector;
      const float *later = (const float *)v.span.later[g] + first * channels + 16 * vector;
      for (int slot = first; slot < end; slot++, weights++, at += channels, later += channels) {
        F value[kV];
        for (int n = 0; n < kV; n++) {
          SC2ONNX_PREFETCH(later + 16 * n);
          value[n] = load(at + 16 * n);
        }
        for (int r = 0; r < kR; r++) {
          const F weight = splat(weights[r * kSpan]);
          for (int n = 0; n < kV; n++) acc[r][n] = fma(weight, value[n], acc[r][n]);
        }
      }
    }
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kV; n++) accumulate(v, row + r, vector + n, acc[r][n]);
  }
  template <int kR>
  SC2ONNX_LANES void rows(const View &v, int64_t row) {
    int n = 0;
    for (; n + kFloatValueVectors <= v.a.head_dim / 16; n += kFloatValueVectors)
      part<kR, kFloatValueVectors>(v, row, n);
    if (kFloatValueVectors > 1)
      for (; n < v.a.head_dim / 16; n++) part<kR, 1>(v, row, n);
  }
};

// The two formats of a slot.
struct Bytes {
  static void store_key(const Attention &a, float *x, uint8_t *tile, int lane) {
    spread(x, a.head_dim);
    alignas(64) int8_t codes[kMostHeadDim];
    float scale;
    const F factor = splat(code_factor(x, a.head_dim, kKeyCodes, scale));
    for (int c = 0; c < a.head_dim; c += 16) store_bytes(codes + c, to_int(mul(load(x + c), factor)));
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
    const F factor = splat(code_factor(x, a.head_dim, kKeyCodes, scale));
    for (int c = 0; c < a.head_dim; c += 16) store_bytes(codes + c, to_int(mul(load(x + c), factor)));
    uint8_t *at = tile + lane / 4 * 4 * a.head_dim + lane % 4;
    for (int c = 0; c < a.head_dim; c++) at[4 * c] = (uint8_t)codes[c];
    memcpy(tile + 16 * a.head_dim + 4 * lane, &scale, 4);
  }
  static void store_query(const Attention &a, const AttentionScratch &s, int64_t row, float *x) {
    const float less = spread(x, a.head_dim);
    int8_t *codes = (int8_t *)s.queries + row * kPlanes * kMostHeadDim;
    const F factor = splat(code_factor(x, a.head_dim, kPlanes == 2 ? kQueryCodes : 127, s.scale[row]));
    s.scale[row] *= less;
    I total[kPlanes];
    for (int p = 0; p < kPlanes; p++) total[p] = isplat(0);
    for (int c = 0; c < a.head_dim; c += 16) {
      I code[kPlanes];
      code[0] = to_int(mul(load(x + c), factor));
      if (kPlanes == 2) {
        const I moved = iadd(code[0], isplat(64));
        code[kPlanes - 1] = iadd(iand(moved, isplat(127)), isplat(-64));
        code[0] = ishift_right<7>(moved);
      }
      for (int p = 0; p < kPlanes; p++) {
        store_bytes(codes + p * kMostHeadDim + c, code[p]);
        total[p] = iadd(total[p], code[p]);
      }
    }
    for (int p = 0; p < kPlanes; p++) s.starts[row * kPlanes + p] = (int32_t)(-128u * (uint32_t)isum(total[p]));
  }
  static void scores(const View &v) { all_groups<kByteScoreRows, ByteScores>(v); }
  static void weights(const View &v, const float *mask) {
    alignas(64) float scales[kSpan] = {};
    for (int g = v.first_group(); g < v.end_group(); g++)
      store(scales + 16 * g, load((const float *)(v.span.values[g] + 16 * v.a.head_dim)));
    if (v.whole()) return byte_weights<false>(v, mask, scales);
    for (int i = 0; i < kSpan; i++)
      if (mask[i] == 0.f) scales[i] = 0.f;
    byte_weights<true>(v, mask, scales);
  }
  static void values(const View &v) { all_groups<kValueRows, ByteValues>(v); }
};

struct Floats {
  static void store_key(const Attention &a, const float *x, uint8_t *tile, int lane) {
    const float spoilt = taint(x, a.head_dim);
    for (int c = 0; c < a.head_dim; c++) ((float *)tile)[16 * c + lane] = x[c] + spoilt;
  }
  static void store_value(const Attention &a, const float *x, uint8_t *tile, int lane) {
    const float spoilt = taint(x, a.head_dim);
    for (int c = 0; c < a.head_dim; c++) ((float *)tile)[lane * a.head_dim + c] = x[c] + spoilt;
  }
  static void store_query(const Attention &a, const AttentionScratch &s, int64_t row, const float *x) {
    const F spoilt = splat(taint(x, a.head_dim));
    for (int c = 0; c < a.head_dim; c += 16)
      store(s.queries + row * kMostHeadDim + c, add(load(x + c), spoilt));
  }
  static void scores(const View &v) { all_groups<kFloatScoreRows, FloatScores>(v); }
  static void weights(const View &v, const float *mask) {
    v.whole() ? softmax<false, false>(v, mask, nullptr) : softmax<true, false>(v, mask, nullptr);
  }
  static void values(const View &v) { all_groups<kFloatValueRows, FloatValues>(v); }
};

// What of qkv is a token's head, counted over queries, keys and values.
SC2ONNX_LANES const float *head_of(const Attention &a, const AttentionBlock &b, int64_t token,
                                   int64_t head) {
  const int64_t heads = a.heads + 2 * a.kv_heads;
  return a.qkv + ((b.row * a.step + b.first + token) * heads + head) * a.head_dim;
}

template <class Format>
static void store_tokens(const Attention &a, const AttentionBlock &b) {
  const int half = a.head_dim / 2;
  alignas(64) float turned[kMostHeadDim];
  for (int64_t t = 0; t < b.tokens; t++) {
    const int64_t position = a.past[b.row] + b.first + t, slot = position % a.capacity;
    const int64_t tile = slot / 16 * 16 * a.slot_bytes;
    const float *key = head_of(a, b, t, a.heads + b.head);
    rotate(key, a.cos + position * half, a.sin + position * half, half, 1.f, turned);
    Format::store_key(a, turned, ring(a, b, a.keys) + tile, (int)(slot % 16));
    memcpy(turned, key + (int64_t)a.kv_heads * a.head_dim, a.head_dim * sizeof(float));
    Format::store_value(a, turned, ring(a, b, a.values) + tile, (int)(slot % 16));
  }
}

template <class Format>
static void prepare(const Attention &a, const AttentionBlock &b, const AttentionScratch &s) {
  const int group = a.group(), half = a.head_dim / 2;
  const float factor = 1.f / __builtin_sqrtf((float)a.head_dim);
  alignas(64) float turned[kMostHeadDim];
  for (int64_t t = 0; t < b.tokens; t++) {
    const int64_t position = a.past[b.row] + b.first + t;
    for (int g = 0; g < group; g++) {
      const float *query = head_of(a, b, t, b.head * group + g);
      rotate(query, a.cos + position * half, a.sin + position * half, half, factor, turned);
      Format::store_query(a, s, t * group + g, turned);
    }
  }
}

static void begin(const Attention &a, const AttentionBlock &b, const AttentionSums &sums) {
  const int64_t rows = b.tokens * a.group();
  for (int64_t row = 0; row < rows; row++) {
    sums.largest[row] = kNothing;
    sums.total[row] = 0.f;
  }
  for (int64_t i = 0; i < rows * a.head_dim; i += 16) store(sums.values + i, splat(0.f));
}

template <class Format>
static void see(const View &v) {
  alignas(64) float mask[kSpan];
  if (!v.whole())
    for (int i = 0; i < kSpan; i++) mask[i] = i >= v.from && i < v.to ? 1.f : 0.f;
  Format::scores(v);
  Format::weights(v, mask);
  weigh(v.s, v.sums, v.s.largest, v.s.total, v.first, v.rows);
  Format::values(v);
}

// Tokens that see all of a span go together; one that sees a part of it goes by itself, with the
// heads of its group: so nobody meets what lies in slots that it does not see.
template <class Format>
static void see_span(const Attention &a, const AttentionBlock &b, const AttentionScratch &s,
                     int64_t start, const AttentionSums &sums) {
  const int64_t next = start + kSpan, seen = a.past[b.row] + b.first + b.tokens;
  const Span span = span_at(a, b, start, next % kSegment == 0 || next >= seen);
  const int64_t group = a.group(), position = a.past[b.row] + b.first;
  const auto from = [&](int64_t t) { return a.first_seen(position + t) - start; };
  const auto to = [&](int64_t t) { return position + t + 1 - start; };
  const auto whole = [&](int64_t t) { return from(t) <= 0 && to(t) >= kSpan; };
  for (int64_t t = 0, end; t < b.tokens; t = end) {
    end = t + 1;
    if (whole(t))
      while (end < b.tokens && whole(end)) end++;
    const int64_t low = from(t) < 0 ? 0 : from(t), high = to(t) < kSpan ? to(t) : kSpan;
    if (low < high)
      see<Format>({a, s, sums, span, t * group, (end - t) * group, (int)low, (int)high});
  }
}

template <class Format>
static void segment(const Attention &a, const AttentionBlock &b, const AttentionScratch &s,
                    int64_t which, const AttentionSums &sums) {
  begin(a, b, sums);
  for (int64_t start = which * kSegment; start < (which + 1) * kSegment; start += kSpan)
    see_span<Format>(a, b, s, start, sums);
}

// Rows that see nothing of the segment stay as they are.
static void merge(const Attention &a, const AttentionBlock &b, const AttentionScratch &s, int64_t which,
                  const AttentionSums &part, const AttentionSums &total) {
  const int64_t start = which * kSegment, end = start + kSegment;
  const int64_t position = a.past[b.row] + b.first;
  int64_t from = 0, to = b.tokens;
  while (from < to && position + from < start) from++;
  while (from < to && a.first_seen(position + to - 1) >= end) to--;
  const int64_t first = from * a.group(), rows = (to - from) * a.group();
  for (int64_t row = first; row < first + rows; row++) s.factor[row] = 1.f;
  weigh(s, total, part.largest, part.total, first, rows);
  for (int64_t row = first; row < first + rows; row++)
    for (int64_t c = row * a.head_dim; c < (row + 1) * a.head_dim; c += 16) {
      const F kept = mul(load(total.values + c), splat(s.keep[row]));
      store(total.values + c, fma(load(part.values + c), splat(s.factor[row]), kept));
    }
}

static void finish(const Attention &a, const AttentionBlock &b, const AttentionSums &total) {
  const int64_t group = a.group();
  for (int64_t t = 0; t < b.tokens; t++)
    for (int64_t g = 0; g < group; g++) {
      const int64_t row = t * group + g, token = b.row * a.step + b.first + t;
      float *y = a.mixed + (token * a.heads + b.head * group + g) * a.head_dim;
      for (int c = 0; c < a.head_dim; c += 16)
        store(y + c, div(load(total.values + row * a.head_dim + c), splat(total.total[row])));
      if (a.bytes()) {
        const float less = spread(y, a.head_dim);
        for (int c = 0; c < a.head_dim; c += 16) store(y + c, mul(load(y + c), splat(less)));
      }
    }
}

}  // namespace attend

// Kernels for slots of int8, or else of float32.
SC2ONNX_LANES AttentionKernels attention_kernels() {
  using namespace attend;
  return {{store_tokens<Bytes>, prepare<Bytes>, segment<Bytes>},
          {store_tokens<Floats>, prepare<Floats>, segment<Floats>}, begin, merge, finish};
}
