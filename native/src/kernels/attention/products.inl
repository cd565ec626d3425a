// Products of queries with keys, and of weights with values. Integer sums are exact: their order
// does not matter. Those of float32 go over channels, and over slots, in ascending order.

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
    const int8_t *codes = (const int8_t *)v.s.queries + row * kMostHeadDim;
    I acc[kR][kN];
    for (int r = 0; r < kR; r++)
      for (int n = 0; n < kN; n++) acc[r][n] = isplat(kBiased ? v.s.starts[row + r] : 0);
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
        for (int n = 0; n < kN; n++)
          acc[r][n] = dot_byte(acc[r][n], key[n], codes + r * kMostHeadDim);
    }
    for (int n = 0; n < kN; n++) {
      SC2ONNX_PREFETCH(values[n]);
      const F scales = load((const float *)(v.span.keys[group + n] + 16 * channels));
      for (int r = 0; r < kR; r++) {
        const F scale = mul(scales, splat(v.s.scale[row + r]));
        store(v.s.scores + (row + r) * kSpan + 16 * (group + n), mul(to_float(acc[r][n]), scale));
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
              acc[r][plane][n] =
                  dot_seven(acc[r][plane][n], value[n], high + (2 * r + plane) * kSpan);
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
      const int first = g * 16 < v.from ? v.from % 16 : 0;
      const int end = v.to - g * 16 < 16 ? v.to - g * 16 : 16;
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
