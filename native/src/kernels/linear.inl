// Products with matrices of 4 or 8 bits. Included inside a namespace, after its lanes and math.inl.
//
// A block of a tile is 16 outputs by `block` inputs. With 8 bits each 64-byte vector holds 4 consecutive
// inputs of 16 outputs. With 4 bits the low nibbles do, and the high ones hold the 4 inputs half a block
// further on. Products of a block are summed as int32, exactly; then one conversion and one fused
// multiply-add take them to float32. So a row's sums have one order, whatever rows are beside it.

constexpr float kSmallest = 1e-36f;  // 127 / x is finite above it

SC2ONNX_LANES void normalise(const Rounding &a, const float *x, float &mean, float &factor) {
  const int64_t n = a.matrix.inputs;
  F total = splat(0.f), squares = splat(0.f);
  for (int64_t i = 0; i < n; i += 16) total = add(total, load(x + i));
  mean = sum(total) / (float)n;
  const F centre = splat(mean);
  for (int64_t i = 0; i < n; i += 16) {
    const F d = sub(load(x + i), centre);
    squares = fma(d, d, squares);
  }
  factor = 1.f / __builtin_sqrtf(sum(squares) / (float)n + a.epsilon);
}

// One block of a row to int8: x / scale to the nearest, where the scale is the largest size / 127.
SC2ONNX_LANES void round_block(const float *x, int block, int8_t *codes, float &scale, int32_t &total) {
  F size = splat(0.f), poison = splat(0.f);
  for (int i = 0; i < block; i += 16) {
    const F v = load(x + i);
    size = max(size, abs(v));
    poison = fma(v, splat(0.f), poison);  // not a number if any of them is not finite
  }
  const float most = largest(size);
  if (!(sum(poison) == 0.f)) {  // then neither is anything that is computed of them
    memset(codes, 0, (size_t)block);
    scale = __builtin_nanf("");
    total = 0;
    return;
  }
  const float factor = most > kSmallest ? 127.f / most : 0.f;
  scale = most > kSmallest ? most / 127.f : 0.f;
  I codes_sum = isplat(0);
  for (int i = 0; i < block; i += 16) {
    const I code = to_int(mul(load(x + i), splat(factor)));
    codes_sum = iadd(codes_sum, code);
    store_bytes(codes + i, code);
  }
  total = isum(codes_sum);
}

static void round_rows(const Rounding &a, int64_t first, int64_t end) {
  const int block = a.matrix.block;
  const int64_t blocks = a.matrix.blocks(), inputs = a.matrix.inputs;
  const int32_t zero = a.matrix.bits == 4 ? 8 : kBiased ? 128 : 0;
  alignas(64) float normed[256];
  for (int64_t row = first; row < end; row++) {
    const float *x = a.x + row * inputs;
    float mean = 0, factor = 1;
    if (a.norm_weight) normalise(a, x, mean, factor);
    for (int64_t b = 0; b < blocks; b++) {
      const float *part = x + b * block;
      if (a.norm_weight) {
        for (int i = 0; i < block; i += 16) {
          const F centred = mul(sub(load(part + i), splat(mean)), splat(factor));
          const int64_t at = b * block + i;
          store(normed + i, fma(centred, load(a.norm_weight + at), load(a.norm_bias + at)));
        }
        part = normed;
      }
      int32_t total;
      const int64_t at = row * blocks + b;
      round_block(part, block, a.codes + row * inputs + b * block, a.scales[at], total);
      a.starts[at] = -zero * total;
    }
  }
}

SC2ONNX_LANES void finish(const Product &a, F sums, int64_t row, int64_t tile) {
  const int64_t first = tile * 16, at = row * a.matrix.outputs + first;
  const int64_t count = a.matrix.outputs - first < 16 ? a.matrix.outputs - first : 16;
  alignas(64) float bias[16] = {}, residual[16] = {}, y[16];
  if (count == 16) {
    if (a.bias) sums = add(sums, load(a.bias + first));
    if (a.gelu) sums = gelu(sums);
    if (a.residual) sums = add(sums, load(a.residual + at));
    store(a.y + at, sums);
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    if (a.bias) bias[i] = a.bias[first + i];
    if (a.residual) residual[i] = a.residual[at + i];
  }
  if (a.bias) sums = add(sums, load(bias));
  if (a.gelu) sums = gelu(sums);
  if (a.residual) sums = add(sums, load(residual));
  store(y, sums);
  for (int64_t i = 0; i < count; i++) a.y[at + i] = y[i];
}

constexpr int kAhead = 4096;  // bytes that are fetched before they are wanted

// kFetch: whether the weights come from memory, and are asked for before they are wanted.
template <int kBits, int kM, int kN, bool kFetch>
SC2ONNX_LANES void part(const Product &a, int64_t row, int64_t tile) {
  const int64_t blocks = a.matrix.blocks(), inputs = a.matrix.inputs;
  const int64_t tile_bytes = a.matrix.tile_bytes();
  const int vectors = (int)a.matrix.vectors(), half = a.matrix.block / 2;
  const uint8_t *w = a.weights + tile * tile_bytes;
  F sums[kM][kN];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) sums[m][n] = splat(0.f);
  const int8_t *x = a.codes + row * inputs;
  for (int64_t b = 0; b < blocks; b++) {
    I acc[kM][kN];
    for (int m = 0; m < kM; m++)
      for (int n = 0; n < kN; n++) acc[m][n] = isplat(a.starts[(row + m) * blocks + b]);
    for (int g = 0; g < vectors; g++) {
      B codes[kN], high[kN];
      for (int n = 0; n < kN; n++) {
        const uint8_t *at = w + n * tile_bytes + g * 64;
        if (kFetch) SC2ONNX_PREFETCH(at + kAhead);
        codes[n] = load_bytes(at);
        if (kBits == 4) {
          high[n] = high_nibbles(codes[n]);
          codes[n] = low_nibbles(codes[n]);
        }
      }
      for (int m = 0; m < kM; m++) {
        const int8_t *four = x + m * inputs + 4 * g;
        for (int n = 0; n < kN; n++)
          acc[m][n] = kBits == 4 ? dot_nibble(acc[m][n], codes[n], four)
                                 : dot_byte(acc[m][n], codes[n], four);
        if (kBits == 4)
          for (int n = 0; n < kN; n++) acc[m][n] = dot_nibble(acc[m][n], high[n], four + half);
      }
    }
    for (int n = 0; n < kN; n++) {
      const F scales = load((const float *)(w + n * tile_bytes + vectors * 64));
      for (int m = 0; m < kM; m++) {
        const F scale = mul(scales, splat(a.scales[(row + m) * blocks + b]));
        sums[m][n] = fma(to_float(acc[m][n]), scale, sums[m][n]);
      }
    }
    w += vectors * 64 + 64;
    x += a.matrix.block;
  }
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) finish(a, sums[m][n], row + m, tile + n);
}

// `rows` rows from `row` on, of which as many at a time as fit into registers.
template <int kBits, int kN, bool kFetch, int kM>
SC2ONNX_LANES void rows_of(const Product &a, int64_t row, int rows, int64_t tile) {
  if constexpr (kM > 0) {
    if (rows == kM)
      part<kBits, kM, kN, kFetch>(a, row, tile);
    else
      rows_of<kBits, kN, kFetch, kM - 1>(a, row, rows, tile);
  }
}

// All rows, in groups that differ by one at most: 8 rows are 4 and 4, not 6 and 2. The first group
// brings the weights; the others find them in a cache. Few rows are worth larger groups, which read the weights
// less often, though not all of their sums stay in registers.
template <int kBits, int kN>
static void all_rows(const Product &a, int64_t tile) {
  const int64_t most = a.rows <= 2 * kRowsAtMost ? kRowsAtMost : kRows;
  const int64_t groups = (a.rows + most - 1) / most;
  rows_of<kBits, kN, true, kRowsAtMost>(a, 0, (int)(a.rows / groups), tile);
  for (int64_t group = 1; group < groups; group++) {
    const int64_t first = a.rows * group / groups, end = a.rows * (group + 1) / groups;
    rows_of<kBits, kN, false, kRowsAtMost>(a, first, (int)(end - first), tile);
  }
}

template <int kBits>
static void tiles_of(const Product &a, int64_t tile, int64_t end) {
  if (a.rows == 1)
    for (; tile + kTilesOfOneRow <= end; tile += kTilesOfOneRow)
      part<kBits, 1, kTilesOfOneRow, true>(a, 0, tile);
  for (; tile + kTiles <= end; tile += kTiles) all_rows<kBits, kTiles>(a, tile);
  for (; tile < end; tile++) all_rows<kBits, 1>(a, tile);
}

static void product(const Product &a, int64_t first_tile, int64_t end) {
  if (a.rows == 0) return;
  if (a.matrix.bits == 4)
    tiles_of<4>(a, first_tile, end);
  else
    tiles_of<8>(a, first_tile, end);
}
