// Products with matrices of 4 or 8 bits. Included inside a namespace, after its lanes, math.inl,
// rows.inl and adapters.inl.
//
// A tile is 16 outputs: the codes of a block of inputs or of two, then 16 scales for each. With 8
// bits each 64-byte vector holds 4 consecutive inputs of 16 outputs. With 4 bits the low nibbles
// do, and the high ones hold the 4 inputs half a block further on. Products of a block are summed
// as int32, exactly; then one conversion and one fused multiply-add take them to float32. So a
// row's sums have one order, whatever rows are beside it.

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
  factor = 1.f / ::sqrtf(sum(squares) / (float)n + a.epsilon);
}

// One block of a row to int8: x / scale to the nearest, where the scale is the largest size / 127.
// rest: null, or gets x - scale * code.
SC2ONNX_LANES void round_block(const float *x, int block, int8_t *codes, float &scale,
                               int32_t &total, float *rest) {
  F size = splat(0.f), poison = splat(0.f);
  for (int i = 0; i < block; i += 16) {
    const F v = load(x + i);
    size = max(size, abs(v));
    poison = fma(v, splat(0.f), poison);  // not a number if any of them is not finite
  }
  const float most = largest(size);
  if (!(sum(poison) == 0.f)) {  // then neither is anything that is computed of them
    memset(codes, 0, (size_t)block);
    if (rest) memset(rest, 0, (size_t)block * sizeof(float));
    scale = NAN;
    total = 0;
    return;
  }
  const float factor = most > kSmallest ? 127.f / most : 0.f;
  scale = most > kSmallest ? most / 127.f : 0.f;
  I codes_sum = isplat(0);
  for (int i = 0; i < block; i += 16) {
    const F v = load(x + i);
    const I code = to_int(mul(v, splat(factor)));
    codes_sum = iadd(codes_sum, code);
    store_bytes(codes + i, code);
    if (rest) store(rest + i, fma(to_float(code), splat(-scale), v));
  }
  total = isum(codes_sum);
}

static int64_t code_at(const MatrixShape &matrix, int64_t rows, int64_t row, int64_t input) {
  return RowPlace::of(rows, row).codes(matrix.inputs, input / 4 * 4) + input % 4;
}
static int64_t scale_at(const MatrixShape &matrix, int64_t rows, int64_t row, int64_t block) {
  return RowPlace::of(rows, row).numbers(matrix.blocks(), block);
}

static void round_rows(const Rounding &a, int64_t first, int64_t end) {
  const int block = a.matrix.block;
  const int64_t blocks = a.matrix.blocks(), inputs = a.matrix.inputs;
  const int32_t zero = a.matrix.bits == 4 ? 8 : kBiased ? 128 : 0;
  alignas(64) float here[256];
  alignas(64) int8_t codes[256];
  for (int64_t row = first; row < end; row++) {
    const float *x = a.x + row * inputs;
    const RowPlace place = RowPlace::of(a.rows, row);
    float mean = 0, factor = 1;
    if (a.norm_weight) normalise(a, x, mean, factor);
    for (int64_t b = 0; b < blocks; b++) {
      const float *part = x + b * block;
      if (a.norm_weight) {
        for (int i = 0; i < block; i += 16) {
          const F centred = mul(sub(load(part + i), splat(mean)), splat(factor));
          const int64_t at = b * block + i;
          store(here + i, fma(centred, load(a.norm_weight + at), load(a.norm_bias + at)));
        }
        part = here;
      }
      int32_t total;
      const int64_t number = place.numbers(blocks, b);
      float *rest = a.rest ? a.rest + row * inputs + b * block : nullptr;
      round_block(part, block, codes, a.scales[number], total, rest);
      a.starts[number] = -zero * total;
      int8_t *to = a.codes + place.codes(inputs, b * block);
      for (int i = 0; i < block; i += 4, to += 4 * place.together) memcpy(to, codes + i, 4);
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

// Asks for where the tiles that come next begin, while adapters are added: otherwise memory would
// rest until then. The first of them lies behind what was just read, and is there. How many bytes
// are best was measured.
SC2ONNX_LANES void fetch_tiles(const Product &a, int64_t tile, int tiles, int bytes) {
  for (int n = 1; n < tiles; n++) {
    const uint8_t *at = a.weights + (tile + n) * a.matrix.tile_bytes();
    for (int i = 0; i < bytes; i += 64) SC2ONNX_PREFETCH(at + i);
  }
}

// 16 scales of block `number` of those whose scales lie together.
template <bool kBrain>
SC2ONNX_LANES F load_scales(const uint8_t *at, int number) {
  if constexpr (kBrain)
    return load_brain((const uint16_t *)at, number);
  else
    return load((const float *)at);
}

// Adds what any adapters add, by way of memory.
template <int kM, int kN>
SC2ONNX_LANES void expand_stored(const Adapters &a, int64_t row, int64_t tile, F (&sums)[kM][kN]) {
  alignas(64) float added[kM][kN][16];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) store(added[m][n], sums[m][n]);
  expand(a, row, kM, tile, kN, added[0][0]);
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) sums[m][n] = load(added[m][n]);
}

// The sums of one block of kM rows and kN tiles, from codes at w and x on, which it moves on.
// Where a processor has registers for that, sums of high nibbles are apart: these stay where they
// lie in their bytes, so that their sums are sixteen times as large, and nothing is shifted before.
template <int kBits, int kM, int kN, bool kFetch>
SC2ONNX_LANES void dot_block(const MatrixShape &matrix, const int32_t *starts, const uint8_t *&w,
                             const int8_t *&x, I (&acc)[kM][kN]) {
  const int64_t tile_bytes = matrix.tile_bytes();
  const int half = matrix.block / 2 * kM;
  constexpr bool kApart = kBits == 4 && kM * kN <= kSumsApart;
  I sixteenfold[kM][kN];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) {
      acc[m][n] = isplat(starts[m]);
      if (kApart) sixteenfold[m][n] = isplat(0);
    }
  for (const uint8_t *end = w + matrix.block_bytes(); w < end; w += 64, x += 4 * kM) {
    B codes[kN], high[kN];
    for (int n = 0; n < kN; n++) {
      const uint8_t *at = w + n * tile_bytes;
      if (kFetch) SC2ONNX_PREFETCH(at + kAhead);
      codes[n] = load_bytes(at);
      if (kBits == 4) {
        if constexpr (kApart)
          high[n] = high_in_place(codes[n]);
        else
          high[n] = high_nibbles(codes[n]);
        codes[n] = low_nibbles(codes[n]);
      }
    }
    for (int m = 0; m < kM; m++) {
      const int8_t *of_low = x + 4 * m, *of_high = of_low + half;
      if constexpr (kBits == 4 && kNibblesTogether) {
        for (int n = 0; n < kN; n++)
          acc[m][n] = dot_nibbles(acc[m][n], codes[n], of_low, high[n], of_high);
        continue;
      }
      for (int n = 0; n < kN; n++)
        acc[m][n] = kBits == 4 ? dot_nibble(acc[m][n], codes[n], of_low)
                               : dot_byte(acc[m][n], codes[n], of_low);
      if (kBits == 4)
        for (int n = 0; n < kN; n++) {
          I &sum = kApart ? sixteenfold[m][n] : acc[m][n];
          sum = dot_nibble(sum, high[n], of_high);
        }
    }
  }
  if (kBits == 4) x += half;
  if constexpr (kApart)
    for (int m = 0; m < kM; m++)
      for (int n = 0; n < kN; n++)
        acc[m][n] = iadd(acc[m][n], ishift_right<4>(sixteenfold[m][n]));
}

// A whole group of kM rows from `row` on, and kN tiles. kBrain: scales are bfloat16. kFetch:
// whether the weights come from memory, and are asked for before they are wanted. `end`: tiles
// that the same thread computes.
template <int kBits, bool kBrain, int kM, int kN, bool kFetch>
SC2ONNX_LANES void part(const Product &a, int64_t row, int64_t tile, int64_t end) {
  constexpr int kTogether = kBrain ? 2 : 1;
  const int64_t blocks = a.matrix.blocks(), tile_bytes = a.matrix.tile_bytes();
  const uint8_t *w = a.weights + tile * tile_bytes;
  const int8_t *x = a.codes + row * a.matrix.inputs;
  const float *scales = a.scales + row * blocks;
  const int32_t *starts = a.starts + row * blocks;
  F sums[kM][kN];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) sums[m][n] = splat(0.f);
  for (int64_t first = 0; first < blocks; first += kTogether, w += 64) {
    const int count = kTogether == 1 || first + 1 == blocks ? 1 : kTogether;
    const uint8_t *at = w + count * a.matrix.block_bytes();
    for (int b = 0; b < count; b++, scales += kM, starts += kM) {
      I acc[kM][kN];
      dot_block<kBits, kM, kN, kFetch>(a.matrix, starts, w, x, acc);
      for (int n = 0; n < kN; n++) {
        const F size = load_scales<kBrain>(at + n * tile_bytes, b);
        for (int m = 0; m < kM; m++)
          sums[m][n] = fma(to_float(acc[m][n]), mul(size, splat(scales[m])), sums[m][n]);
      }
    }
  }
  if (a.adapters) {
    if (kFetch && tile + 2 * kN <= end) fetch_tiles(a, tile + kN, kN, kM == 1 ? 512 : 1536);
    if (is_simple(*a.adapters, row, kM, tile, kN))
      expand_simple(*a.adapters, row, tile, sums);
    else
      expand_stored<kM, kN>(*a.adapters, row, tile, sums);
  }
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) finish(a, sums[m][n], row + m, tile + n);
}

// A group of `rows` rows from `row` on, kMost at most.
template <int kBits, bool kBrain, int kN, bool kFetch, int kMost>
SC2ONNX_LANES void group(const Product &a, int64_t row, int64_t rows, int64_t tile, int64_t end) {
  if constexpr (kMost > 0) {
    if (rows == kMost)
      part<kBits, kBrain, kMost, kN, kFetch>(a, row, tile, end);
    else
      group<kBits, kBrain, kN, kFetch, kMost - 1>(a, row, rows, tile, end);
  }
}

// All rows: the first group brings the weights; the others find them in a cache.
template <int kBits, bool kBrain, int kN>
SC2ONNX_LANES void all_rows(const Product &a, int64_t tile, int64_t end) {
  group<kBits, kBrain, kN, true, kFewRows>(a, 0, first_of(a.rows, 1), tile, end);
  const int64_t groups = groups_of(a.rows);
  for (int64_t g = 1; g < groups; g++) {
    const int64_t first = first_of(a.rows, g);
    group<kBits, kBrain, kN, false, kFewRows>(a, first, first_of(a.rows, g + 1) - first, tile, end);
  }
}

template <int kBits, bool kBrain>
static void tiles_of(const Product &a, int64_t tile, int64_t end) {
  if (a.rows == 1)
    for (; tile + kTilesOfOneRow <= end; tile += kTilesOfOneRow)
      part<kBits, kBrain, 1, kTilesOfOneRow, true>(a, 0, tile, end);
  for (; tile + kTiles <= end; tile += kTiles) all_rows<kBits, kBrain, kTiles>(a, tile, end);
  for (; kTiles > 1 && tile < end; tile++) all_rows<kBits, kBrain, 1>(a, tile, end);
}

static void product(const Product &a, int64_t first_tile, int64_t end) {
  if (a.rows == 0) return;
  if (a.adapters) fetch_adapters(*a.adapters, a.rows, first_tile, end);
  const bool brain = a.matrix.scale_bytes == 2;
  if (a.matrix.bits == 4)
    brain ? tiles_of<4, true>(a, first_tile, end) : tiles_of<4, false>(a, first_tile, end);
  else
    brain ? tiles_of<8, true>(a, first_tile, end) : tiles_of<8, false>(a, first_tile, end);
}
