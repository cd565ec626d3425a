// Weights of a span, and how spans come together.

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
static void largest_scores(const View &v) {
  for (int64_t row = v.first; row < v.first + v.rows; row++) {
    float *scores = v.s.scores + row * kSpan;
    if (kEdge) {
      for (int i = 0; i < v.from; i++) scores[i] = kNothing;
      for (int i = v.to; i < kSpan; i++) scores[i] = kNothing;
    }
    F x[kGroups];
    for (int g = 0; g < kGroups; g++) x[g] = load(scores + 16 * g);
    const float most = largest_of(x);
    v.s.largest[row] = most > kNothing ? most : kNothing;
  }
}

// Weights relative to the largest score in place of scores, with kEdge only those that mask (1 or
// 0) leaves, and their sums. With kScaled weights times scales, and the largest of them as factors.
template <bool kEdge, bool kScaled>
static void softmax(const View &v, const float *mask, const float *scales) {
  largest_scores<kEdge>(v);
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
// larger score of both: keep and factor. Brings the largest scores and the sums of weights up to
// date.
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
