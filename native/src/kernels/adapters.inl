// Low-rank adapters of a product. Included inside a namespace, after its lanes and rows.inl.
//
// A x is computed from the activations' int8 codes: exactly within a block, then block by block.
// What it adds to an output is summed in the order of segments and ranks. So it has the same bits
// whatever rows are beside it.

constexpr int kShrinkAhead = 4096;  // bytes that are fetched before they are wanted

// A x of a group of kM rows, and a tile of ranks: scale * sum of its blocks.
template <int kM>
SC2ONNX_LANES void shrink_part(const Adapters &a, int64_t first_row, const uint8_t *w, F *sums) {
  constexpr int kChains = kM > 4 ? 1 : 2;  // dot products that do not wait for each other
  const int64_t blocks = a.inputs / a.block;
  const bool fetch = a.rows <= kFewRows;
  const int32_t times = !kBiased ? 0 : a.bits == 4 ? 16 : 1;  // starts are of another bias
  const int8_t *x = a.codes + first_row * a.inputs;
  const float *scales = a.code_scales + first_row * blocks;
  const int32_t *starts = a.starts + first_row * blocks;
  for (int m = 0; m < kM; m++) sums[m] = splat(0.f);
  for (int64_t b = 0; b < blocks; b++, scales += kM, starts += kM) {
    I acc[kM][kChains];
    for (int m = 0; m < kM; m++) {
      for (int c = 1; c < kChains; c++) acc[m][c] = isplat(0);
      acc[m][0] = isplat(starts[m] * times);
    }
    for (const uint8_t *end = w + a.block * kRankTile; w < end;)
      for (int c = 0; c < kChains; c++, w += 64, x += 4 * kM) {
        if (fetch) SC2ONNX_PREFETCH(w + kShrinkAhead);
        const B codes = load_bytes(w);
        for (int m = 0; m < kM; m++) acc[m][c] = dot_byte(acc[m][c], codes, x + 4 * m);
      }
    for (int m = 0; m < kM; m++) {
      for (int c = 1; c < kChains; c++) acc[m][0] = iadd(acc[m][0], acc[m][c]);
      sums[m] = fma(to_float(acc[m][0]), splat(scales[m]), sums[m]);
    }
  }
  const F rank_scales = load((const float *)w);
  for (int m = 0; m < kM; m++) sums[m] = mul(sums[m], rank_scales);
}

// The same of `rows` rows, kM at most.
template <int kM>
SC2ONNX_LANES void shrink_group(const Adapters &a, int64_t first_row, int64_t rows,
                                const uint8_t *w, F *sums) {
  if constexpr (kM > 0) {
    if (rows < kM)
      shrink_group<kM - 1>(a, first_row, rows, w, sums);
    else
      shrink_part<kM>(a, first_row, w, sums);
  }
}

// Whether a row of a group has these segments.
SC2ONNX_LANES bool any_has(const Adapters &a, int64_t first, int64_t end, Segments segments) {
  for (int64_t row = first; row < end; row++)
    if (a.of_row[row].begin == segments.begin) return true;
  return false;
}

// scale * A x of the rows of a group that have these segments, and a tile of a segment's ranks.
static void shrink_tile(const Adapters &a, int64_t first, int64_t end, Segments segments,
                        const Segment &s, int64_t tile) {
  if (!any_has(a, first, end, segments)) return;
  F sums[kFewRows];
  shrink_group<kFewRows>(a, first, end - first, s.a + tile * rank_tile_bytes(a.inputs), sums);
  const int64_t rank = tile * kRankTile;
  const int64_t ranks = s.rank - rank < kRankTile ? s.rank - rank : kRankTile;
  for (int64_t row = first; row < end; row++) {
    if (a.of_row[row].begin != segments.begin) continue;
    alignas(64) float values[16];
    store(values, sums[row - first]);
    const float scale = a.scales ? a.scales[row] : 1.f;
    float *to = a.inner + (s.place + rank) * a.rows + row;
    for (int64_t r = 0; r < ranks; r++) to[r * a.rows] = scale * values[r];
  }
}

static void shrink(const Adapters &a, const Shrinking &part) {
  int64_t before = 0;  // tiles of the segments before
  for (const Segment *s = part.segments.begin; s < part.segments.end; s++) {
    const int64_t tiles = s->rank_tiles();
    for (int64_t tile = 0; tile < tiles; tile++) {
      if (before + tile < part.first_tile || before + tile >= part.end_tile) continue;
      for (int64_t g = 0; g < groups_of(a.rows); g++) {
        const int64_t first = first_of(a.rows, g);
        if (first >= part.first_row && first < part.end_row)
          shrink_tile(a, first, first_of(a.rows, g + 1), part.segments, *s, tile);
      }
    }
    before += tiles;
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
// of the first row and rank.
template <int kM, int kN>
SC2ONNX_LANES void add_expanded(const Segment &segment, int64_t tile, const float *inner,
                                int64_t rows, F (&total)[kM][kN]) {
  const int64_t rank = segment.rank;
  const uint16_t *weights = segment.b + (tile - segment.first_tile) * rank * 16;
  for (int64_t r = 0; r < rank; r++, weights += 16, inner += rows) {
    F part[kN];
    for (int n = 0; n < kN; n++) part[n] = load_half(weights + n * rank * 16);
    for (int m = 0; m < kM; m++)
      for (int n = 0; n < kN; n++) total[m][n] = fma(part[n], splat(inner[m]), total[m][n]);
  }
}

// The same; sums of a row are `stride` floats behind those of the row before.
template <int kM, int kN>
SC2ONNX_LANES void expand_part(const Segment &segment, int64_t tile, const float *inner,
                               int64_t rows, float *sums, int stride) {
  F total[kM][kN];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) total[m][n] = load(sums + m * stride + 16 * n);
  add_expanded(segment, tile, inner, rows, total);
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

// Whether `rows` rows from `row` on have the same adapter, none of whose segments ends within the
// tiles.
SC2ONNX_LANES bool is_simple(const Adapters &a, int64_t row, int rows, int64_t tile, int tiles) {
  const Segments segments = a.of_row[row];
  for (int m = 1; m < rows; m++)
    if (a.of_row[row + m].begin != segments.begin) return false;
  for (const Segment *s = segments.begin; s < segments.end; s++) {
    const bool outside = s->end_tile <= tile || s->first_tile >= tile + tiles;
    if (!outside && (s->first_tile > tile || s->end_tile < tile + tiles)) return false;
  }
  return true;
}

// Adds what these adapters add, to sums that stay where they are.
template <int kM, int kN>
SC2ONNX_LANES void expand_simple(const Adapters &a, int64_t row, int64_t tile, F (&sums)[kM][kN]) {
  a.wait(a.waits_for);
  const Segments segments = a.of_row[row];
  for (const Segment *s = segments.begin; s < segments.end; s++)
    if (s->first_tile <= tile && tile < s->end_tile)
      add_expanded(*s, tile, a.inner + s->place * a.rows + row, a.rows, sums);
}

// Adds what the adapters of rows row .. row + rows - 1 add to tiles tile .. tile + tiles - 1.
// sums: (rows, tiles, 16).
static SC2ONNX_NOINLINE void expand(const Adapters &a, int64_t row, int64_t rows, int64_t tile,
                                    int tiles, float *sums) {
  a.wait(a.waits_for);
  for (int64_t first = 0, end; first < rows; first = end) {
    const Segments &segments = a.of_row[row + first];
    for (end = first + 1; end < rows && end - first < kExpandRows; end++)
      if (a.of_row[row + end].begin != segments.begin) break;
    for (const Segment *s = segments.begin; s < segments.end; s++)
      expand_tiles(*s, a.inner + s->place * a.rows + row + first, a.rows, end - first, tile, tiles,
                   sums + first * tiles * 16);
  }
}
