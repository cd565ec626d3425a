// Low-rank adapters of a product. Included inside a namespace, after its lanes.
//
// A row's A x is summed lane by lane over the inputs, then across lanes; what it adds to an output
// is summed in the order of segments and ranks. So it has the same bits whatever rows are beside
// it.

constexpr int kSection = 512;  // inputs that are summed for several rows and ranks, one by one
constexpr int kShrinkTogether = 24, kRankBlock = 16;  // rows and ranks that are

// Sums of a share, lane by lane: (kShrinkTogether, kRankBlock, 16).
using Lanes = float[kShrinkTogether][kRankBlock][16];

// What is summed: inputs first .. end - 1 of rows from `row` on and of ranks from `rank` on.
struct Section {
  const float *const *x;
  const uint16_t *weights;  // of all ranks
  int64_t inputs, first, end;
  int row, rank;
  int64_t ahead;  // elements that are fetched before they are wanted; 0: nothing
};

template <int kM, int kR>
SC2ONNX_LANES void shrink_part(const Section &s, Lanes &lanes) {
  F sums[kM][kR];
  for (int m = 0; m < kM; m++)
    for (int r = 0; r < kR; r++)
      sums[m][r] = s.first ? load(lanes[s.row + m][s.rank + r]) : splat(0.f);
  const float *const *x = s.x + s.row;
  const uint16_t *weights = s.weights + s.rank * s.inputs;
  for (int64_t i = s.first; i < s.end; i += 16) {
    F part[kR];
    for (int r = 0; r < kR; r++) {
      const uint16_t *at = weights + r * s.inputs + i;
      if (s.ahead) SC2ONNX_PREFETCH(at + s.ahead);
      part[r] = load_half(at);
    }
    for (int m = 0; m < kM; m++) {
      const F values = load(x[m] + i);
      for (int r = 0; r < kR; r++) sums[m][r] = fma(values, part[r], sums[m][r]);
    }
  }
  for (int m = 0; m < kM; m++)
    for (int r = 0; r < kR; r++) store(lanes[s.row + m][s.rank + r], sums[m][r]);
}

// The same for `rows` rows, kM at most, and `ranks` ranks, kR at most.
template <int kM, int kR>
SC2ONNX_LANES void shrink_some(const Section &s, int rows, int ranks, Lanes &lanes) {
  if constexpr (kM > 0 && kR > 0) {
    if (ranks < kR)
      shrink_some<kM, kR - 1>(s, rows, ranks, lanes);
    else if (rows < kM)
      shrink_some<kM - 1, kR>(s, rows, ranks, lanes);
    else
      shrink_part<kM, kR>(s, lanes);
  }
}

SC2ONNX_LANES int least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

// Sums over all inputs, of `rows` rows and `ranks` ranks. Inputs in sections, so that what several
// rows or ranks take stays in the nearest cache; one row takes nothing twice.
SC2ONNX_LANES void sum_inputs(Section s, int rows, int ranks, Lanes &lanes) {
  const int64_t section = rows > 1 ? kSection : s.inputs;
  for (s.first = 0; s.first < s.inputs; s.first = s.end) {
    s.end = s.first + least(section, s.inputs - s.first);
    for (s.row = 0; s.row < rows; s.row += kShrinkRows) {
      s.ahead = s.row == 0 ? kSection : 0;
      for (s.rank = 0; s.rank < ranks; s.rank += kShrinkRanks)
        shrink_some<kShrinkRows, kShrinkRanks>(s, least(rows - s.row, kShrinkRows),
                                               least(ranks - s.rank, kShrinkRanks), lanes);
    }
  }
}

// scale * A x of some rows and ranks.
static void shrink_block(const Adapters &a, const Segment &segment, const int64_t *numbers,
                         int rows, int64_t rank, int ranks) {
  alignas(64) Lanes lanes;
  const float *x[kShrinkTogether];
  for (int m = 0; m < rows; m++) x[m] = a.x + numbers[m] * a.inputs;
  sum_inputs({x, segment.a + rank * a.inputs, a.inputs, 0, 0, 0, 0, 0}, rows, ranks, lanes);
  for (int m = 0; m < rows; m++) {
    const float scale = a.scales ? a.scales[numbers[m]] : 1.f;
    float *to = a.inner + (segment.place + rank) * a.rows + numbers[m];
    for (int r = 0; r < ranks; r++) to[r * a.rows] = scale * sum(load(lanes[m][r]));
  }
}

static void shrink(const Adapters &a, const Shrinking &part) {
  for (int64_t row = 0; row < part.count; row += kShrinkTogether)
    for (const Segment *s = part.segments.begin; s < part.segments.end; s++) {
      const int64_t end = s->rank < part.end_rank ? s->rank : part.end_rank;
      for (int64_t rank = part.first_rank; rank < end; rank += kRankBlock)
        shrink_block(a, *s, part.rows + row, least(part.count - row, kShrinkTogether), rank,
                     least(end - rank, kRankBlock));
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

// Adds B inner to the sums of kM rows, which have the same adapter, and kN tiles. `inner` is that
// of the first row and rank; `sums` of a row are `stride` floats behind those of the row before.
template <int kM, int kN>
SC2ONNX_LANES void expand_part(const Segment &segment, int64_t tile, const float *inner,
                               int64_t rows, float *sums, int stride) {
  const int64_t rank = segment.rank;
  const uint16_t *weights = segment.b + (tile - segment.first_tile) * rank * 16;
  F total[kM][kN];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) total[m][n] = load(sums + m * stride + 16 * n);
  for (int64_t r = 0; r < rank; r++, weights += 16, inner += rows) {
    F part[kN];
    for (int n = 0; n < kN; n++) part[n] = load_half(weights + n * rank * 16);
    for (int m = 0; m < kM; m++)
      for (int n = 0; n < kN; n++) total[m][n] = fma(part[n], splat(inner[m]), total[m][n]);
  }
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) store(sums + m * stride + 16 * n, total[m][n]);
}

// The same for `count` rows, kM at most.
template <int kM, int kN>
SC2ONNX_LANES void expand_rows(const Segment &segment, int64_t tile, int64_t count,
                               const float *inner, int64_t rows, float *sums, int stride) {
  if constexpr (kM > 0) {
    if (count < kM)
      expand_rows<kM - 1, kN>(segment, tile, count, inner, rows, sums, stride);
    else
      expand_part<kM, kN>(segment, tile, inner, rows, sums, stride);
  }
}

// What `count` rows, which have the same adapter, get in these tiles of a segment.
SC2ONNX_LANES void expand_tiles(const Segment &s, const float *inner, int64_t rows, int64_t count,
                                int64_t tile, int tiles, float *sums) {
  const int64_t end = tile + tiles < s.end_tile ? tile + tiles : s.end_tile;
  const int stride = tiles * 16;
  int64_t at = tile > s.first_tile ? tile : s.first_tile;
  for (; count == 1 && at + kTilesOfOneRow <= end; at += kTilesOfOneRow)
    expand_part<1, kTilesOfOneRow>(s, at, inner, rows, sums + (at - tile) * 16, stride);
  for (; at + kTiles <= end; at += kTiles)
    expand_rows<kExpandRows, kTiles>(s, at, count, inner, rows, sums + (at - tile) * 16, stride);
  for (; at < end; at++)
    expand_rows<kExpandRows, 1>(s, at, count, inner, rows, sums + (at - tile) * 16, stride);
}

// Adds what the adapters of rows row .. row + rows - 1 add to tiles tile .. tile + tiles - 1.
// sums: (rows, tiles, 16).
static SC2ONNX_NOINLINE void expand(const Adapters &a, int64_t row, int64_t rows, int64_t tile,
                                    int tiles, float *sums) {
  for (int64_t first = 0, end; first < rows; first = end) {
    const Segments &segments = a.of_row[row + first];
    for (end = first + 1; end < rows && end - first < kExpandRows; end++)
      if (a.of_row[row + end].begin != segments.begin) break;
    for (const Segment *s = segments.begin; s < segments.end; s++)
      expand_tiles(*s, a.inner + s->place * a.rows + row + first, a.rows, end - first, tile, tiles,
                   sums + first * tiles * 16);
  }
}
