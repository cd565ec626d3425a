// Low-rank adapters of a product. Included inside a namespace, after its lanes.
//
// A row's A x is summed lane by lane over the inputs, then across lanes; what it adds to an output
// is summed in the order of segments and ranks. So it has the same bits whatever rows are beside
// it.

// scale * A x of kM rows and kR ranks of a segment, from `rank` on.
template <int kM, int kR>
SC2ONNX_LANES void shrink_part(const Adapters &a, const Segment &segment, const int64_t *rows,
                               int64_t rank) {
  F sums[kM][kR];
  const float *x[kM];
  for (int m = 0; m < kM; m++) {
    x[m] = a.x + rows[m] * a.inputs;
    for (int r = 0; r < kR; r++) sums[m][r] = splat(0.f);
  }
  const uint16_t *weights = segment.a + rank * a.inputs;
  for (int64_t i = 0; i < a.inputs; i += 16) {
    F part[kR];
    for (int r = 0; r < kR; r++) part[r] = load_half(weights + r * a.inputs + i);
    for (int m = 0; m < kM; m++) {
      const F values = load(x[m] + i);
      for (int r = 0; r < kR; r++) sums[m][r] = fma(values, part[r], sums[m][r]);
    }
  }
  for (int m = 0; m < kM; m++) {
    const float scale = a.scales ? a.scales[rows[m]] : 1.f;
    float *to = a.inner + rows[m] * a.width + segment.place + rank;
    for (int r = 0; r < kR; r++) to[r] = scale * sum(sums[m][r]);
  }
}

// The same for `count` rows, kM at most, and `ranks` ranks, kR at most.
template <int kM, int kR>
SC2ONNX_LANES void shrink_some(const Adapters &a, const Segment &segment, const int64_t *rows,
                               int64_t count, int64_t rank, int64_t ranks) {
  if constexpr (kM > 0 && kR > 0) {
    if (ranks < kR)
      shrink_some<kM, kR - 1>(a, segment, rows, count, rank, ranks);
    else if (count < kM)
      shrink_some<kM - 1, kR>(a, segment, rows, count, rank, ranks);
    else
      shrink_part<kM, kR>(a, segment, rows, rank);
  }
}

static void shrink(const Adapters &a, const Shrinking &part) {
  for (int64_t first = 0; first < part.count; first += kShrinkRows) {
    const int64_t count = part.count - first < kShrinkRows ? part.count - first : kShrinkRows;
    for (const Segment *s = part.segments.begin; s < part.segments.end; s++) {
      const int64_t end = s->rank < part.end_rank ? s->rank : part.end_rank;
      for (int64_t rank = part.first_rank; rank < end; rank += kShrinkRanks) {
        const int64_t ranks = end - rank < kShrinkRanks ? end - rank : kShrinkRanks;
        shrink_some<kShrinkRows, kShrinkRanks>(a, *s, part.rows + first, count, rank, ranks);
      }
    }
  }
}

// Asks for B of these tiles, which is added when their products are summed.
static void fetch_adapters(const Adapters &a, int64_t rows, int64_t tile, int64_t end_tile) {
  const Segment *before = nullptr;
  for (int64_t row = 0; row < rows; row++) {
    const Segments &segments = a.of_row[row];
    if (segments.begin == before) continue;
    before = segments.begin;
    for (const Segment *s = segments.begin; s < segments.end; s++) {
      const int64_t first = tile > s->first_tile ? tile : s->first_tile;
      const int64_t end = end_tile < s->end_tile ? end_tile : s->end_tile;
      const uint16_t *at = s->b + (first - s->first_tile) * s->rank * 16;
      for (int64_t left = (end - first) * s->rank; left > 0; left -= 2, at += 32)
        SC2ONNX_PREFETCH(at);
    }
  }
}

// Adds B inner to the sums of kM rows, which have the same adapter, and one tile. `sums` of a row
// are `stride` floats behind those of the row before.
template <int kM>
SC2ONNX_LANES void expand_part(const Segment &segment, int64_t tile, const float *inner,
                               int64_t width, float *sums, int stride) {
  F total[kM];
  for (int m = 0; m < kM; m++) total[m] = load(sums + m * stride);
  const uint16_t *weights = segment.b + (tile - segment.first_tile) * segment.rank * 16;
  for (int64_t r = 0; r < segment.rank; r++) {
    const F part = load_half(weights + 16 * r);
    for (int m = 0; m < kM; m++) total[m] = fma(part, splat(inner[m * width + r]), total[m]);
  }
  for (int m = 0; m < kM; m++) store(sums + m * stride, total[m]);
}

template <int kM>
SC2ONNX_LANES void expand_rows(const Segment &segment, int64_t tile, int64_t rows,
                               const float *inner, int64_t width, float *sums, int stride) {
  if constexpr (kM > 0) {
    if (rows < kM)
      expand_rows<kM - 1>(segment, tile, rows, inner, width, sums, stride);
    else
      expand_part<kM>(segment, tile, inner, width, sums, stride);
  }
}

// Adds what the adapters of rows row .. row + rows - 1 add to tiles tile .. tile + tiles - 1.
// sums: (rows, tiles, 16).
static SC2ONNX_NOINLINE void expand(const Adapters &a, int64_t row, int64_t rows, int64_t tile,
                                    int tiles, float *sums) {
  for (int64_t first = 0, end; first < rows; first = end) {
    const Segments &segments = a.of_row[row + first];
    for (end = first + 1; end < rows && end - first < kExpandRows; end++)
      if (a.of_row[row + end].begin != segments.begin) break;
    for (const Segment *s = segments.begin; s < segments.end; s++) {
      const float *inner = a.inner + (row + first) * a.width + s->place;
      for (int n = 0; n < tiles; n++)
        if (s->first_tile <= tile + n && tile + n < s->end_tile)
          expand_rows<kExpandRows>(*s, tile + n, end - first, inner, a.width,
                                   sums + (first * tiles + n) * 16, tiles * 16);
    }
  }
}
