// Attention over a ring of keys and values. Included inside a namespace, after its lanes and
// math.inl.
//
// The weights of a span's softmax are relative to its largest score, and with int8 they are numbers
// of 14 bits, relative to the largest weight: two planes of seven bits that go through the byte
// products.

namespace attend {

#include "kernels/attention/view.inl"

#include "kernels/attention/products.inl"
#include "kernels/attention/slots.inl"
#include "kernels/attention/softmax.inl"

// The two formats of a slot.
struct Bytes : ByteSlots {
  static void scores(const View &v) { all_groups<kScoreRows, ByteScores>(v); }
  static void weights(const View &v, const float *mask) {
    alignas(64) float scales[kSpan] = {};
    for (int g = v.first_group(); g < v.end_group(); g++)
      store(scales + 16 * g, load((const float *)(v.span.values[g] + 16 * v.a.head_dim)));
    if (v.whole()) return byte_weights<false>(v, mask, scales);
    for (int i = 0; i < v.from; i++) scales[i] = 0.f;
    for (int i = v.to; i < kSpan; i++) scales[i] = 0.f;
    byte_weights<true>(v, mask, scales);
  }
  static void values(const View &v) { all_groups<kValueRows, ByteValues>(v); }
};

struct Floats : FloatSlots {
  static void scores(const View &v) { all_groups<kScoreRows, FloatScores>(v); }
  static void weights(const View &v, const float *mask) {
    v.whole() ? softmax<false, false>(v, mask, nullptr) : softmax<true, false>(v, mask, nullptr);
  }
  static void values(const View &v) { all_groups<kFloatValueRows, FloatValues>(v); }
};

// What of qkv is a token's head, counted over queries, keys and values.
SC2ONNX_LANES const float *head_of(const Attention &a, const AttentionBlock &b, int64_t token,
                                   int64_t head) {
  const int64_t heads = a.heads + 2 * a.kv_heads;
  return a.qkv + ((a.runs[b.run].first + b.first + token) * heads + head) * a.head_dim;
}

template <class Format>
static void store_tokens(const Attention &a, const AttentionBlock &b) {
  const int half = a.head_dim / 2;
  alignas(64) float turned[kMostHeadDim];
  for (int64_t t = 0; t < b.tokens; t++) {
    const int64_t position = a.runs[b.run].past + b.first + t, slot = position % a.capacity;
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
  const float factor = 1.f / ::sqrtf((float)a.head_dim);
  alignas(64) float turned[kMostHeadDim];
  for (int64_t t = 0; t < b.tokens; t++) {
    const int64_t position = a.runs[b.run].past + b.first + t;
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
  const int64_t next = start + kSpan, seen = a.runs[b.run].past + b.first + b.tokens;
  const Span span = span_at(a, b, start, (next % kSegment == 0 && !b.onwards) || next >= seen);
  const int64_t group = a.group(), position = a.runs[b.run].past + b.first;
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
static void merge(const Attention &a, const AttentionBlock &b, const AttentionScratch &s,
                  int64_t which, const AttentionSums &part, const AttentionSums &total) {
  const int64_t start = which * kSegment, end = start + kSegment;
  const int64_t position = a.runs[b.run].past + b.first;
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

// Where no score was a number that float32 has, nothing is known of the weights.
static void finish(const Attention &a, const AttentionBlock &b, const AttentionSums &total) {
  const int64_t group = a.group();
  for (int64_t t = 0; t < b.tokens; t++)
    for (int64_t g = 0; g < group; g++) {
      const int64_t row = t * group + g, token = a.runs[b.run].first + b.first + t;
      float *y = a.mixed + (token * a.heads + b.head * group + g) * a.head_dim;
      const F weights = splat(total.largest[row] > kNothing ? total.total[row] : NAN);
      for (int c = 0; c < a.head_dim; c += 16)
        store(y + c, div(load(total.values + row * a.head_dim + c), weights));
      if (a.bytes()) {
        const float less = spread(y, a.head_dim);
        for (int c = 0; c < a.head_dim; c += 16) store(y + c, mul(load(y + c), splat(less)));
      }
    }
}

}  // namespace attend

// Kernels for slots of int8, or else of float32.
SC2ONNX_LANES constexpr AttentionKernels attention_kernels() {
  using namespace attend;
  return {{store_tokens<Bytes>, prepare<Bytes>, segment<Bytes>},
          {store_tokens<Floats>, prepare<Floats>, segment<Floats>}, begin, merge, finish};
}
