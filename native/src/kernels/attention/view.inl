// What rows look at: spans of positions in a ring, and the numbers that all of attention shares.

constexpr float kLeast = 1e-33f;      // factor / x is finite above it
constexpr float kNothing = -3.4e38f;  // a score below all others
constexpr int kGroups = kSpan / 16;   // tiles of slots in a span
constexpr float kCodes = 127, kWeightCodes = 127 * 128 + 127;

// Sums that fit into registers, and how scores and values share them among rows, tiles and vectors.
constexpr int kHeld = 2 * kRows * kTiles;
constexpr int kScoreRows = kHeld / kTiles;
constexpr int kValueRows = kHeld < 6 ? 1 : 3;
constexpr int kByteValueVectors = kHeld / (2 * kValueRows);
constexpr int kFloatValueRows = kHeld < 24 ? kValueRows : 6;
constexpr int kFloatValueVectors = kHeld / kFloatValueRows;

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

// What a run and a head have in a cache.
SC2ONNX_LANES uint8_t *ring(const Attention &a, const AttentionBlock &b, uint8_t *cache) {
  return cache + (a.runs[b.run].ring * a.kv_heads + b.head) * a.capacity * a.slot_bytes;
}

// Tiles of a span of positions, from `start` on; what lies in them may be of other positions.
// `later` are the keys of the next span, which are fetched while values are summed, as values are
// fetched while scores are: a cache that lies in memory is read all the time, not only between
// computations.
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
