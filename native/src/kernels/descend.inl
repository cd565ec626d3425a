// Coordinate descent of codes and scales. Included inside a namespace, after its lanes.
//
// Outputs have nothing to do with each other, so a thread takes a strip of them through all blocks;
// what a block's gradient sums up is the strip's errors of all inputs. A strip lies in vectors of
// sixteen outputs, (kWide, inputs, 16): what is read in turn lies together.

constexpr int kWide = kStrip / 16;  // vectors of a strip
constexpr int64_t kDeep = 128;      // inputs whose errors stay in the nearest cache

// Where a row of the n-th vector begins.
SC2ONNX_INLINE int64_t strip_at(int64_t rows, int64_t row, int n) { return (n * rows + row) * 16; }

// sums, kM rows of `sums_rows`, += a (kM, deep; rows `stride` apart) times b, `deep` rows of
// `b_rows`; kN vectors of the strip.
template <int kM, int kN>
SC2ONNX_LANES void add_products(const float *a, int64_t stride, const float *b, int64_t b_rows,
                                int64_t deep, float *sums, int64_t sums_rows) {
  F acc[kM][kN];
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) acc[m][n] = load(sums + strip_at(sums_rows, m, n));
  for (int64_t k = 0; k < deep; k++) {
    F here[kN];
    for (int n = 0; n < kN; n++) here[n] = load(b + strip_at(b_rows, k, n));
    for (int m = 0; m < kM; m++) {
      const F factor = splat(a[m * stride + k]);
      for (int n = 0; n < kN; n++) acc[m][n] = fma(factor, here[n], acc[m][n]);
    }
  }
  for (int m = 0; m < kM; m++)
    for (int n = 0; n < kN; n++) store(sums + strip_at(sums_rows, m, n), acc[m][n]);
}

// sums (rows) = a (rows, depth; rows `stride` apart) times b (depth): strips, of which the first
// `wide` vectors count.
static void multiply_strip(const float *a, int64_t stride, int64_t rows, const float *b,
                           int64_t depth, int wide, float *sums) {
  memset(sums, 0, (size_t)(rows * kStrip) * sizeof(float));
  for (int64_t k = 0; k < depth; k += kDeep) {
    const int64_t deep = depth - k < kDeep ? depth - k : kDeep;
    for (int n = 0; n < wide; n += kMultiplied) {
      const float *from = b + strip_at(depth, k, n);
      int64_t row = 0;
      for (; row + kMultipliedRows <= rows; row += kMultipliedRows)
        add_products<kMultipliedRows, kMultiplied>(a + row * stride + k, stride, from, depth, deep,
                                                   sums + strip_at(rows, row, n), rows);
      for (; row < rows; row++)
        add_products<1, kMultiplied>(a + row * stride + k, stride, from, depth, deep,
                                     sums + strip_at(rows, row, n), rows);
    }
  }
}

// The nearest bfloat16, halves to the even one.
static float to_brain(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits += 0x7fff + (bits >> 16 & 1);
  bits &= 0xffff0000u;
  memcpy(&x, &bits, 4);
  return x;
}

// One block of a strip in the making: the arrays of the strip, of which it is `block` rows.
struct Block {
  int64_t inputs, block, column;
  const float *inner;  // (block, block) of the covariance, rows `inputs` apart
  int wide;            // vectors that count
  const DescentRoom &room;
  float *scales;  // (kStrip,)

  SC2ONNX_INLINE float *errors(int64_t row, int n) const {
    return room.errors + strip_at(inputs, column + row, n);
  }
  SC2ONNX_INLINE int64_t at(int64_t row, int n) const { return strip_at(block, row, n); }
};

// The best scale of each output for its codes moves scales, errors and the gradient together.
static void improve_scales(const Block &a) {
  const float *codes = a.room.codes, *bend = a.room.bend;
  float *gradient = a.room.gradient;
  multiply_strip(a.inner, a.inputs, a.block, codes, a.block, a.wide, a.room.bend);
  for (int n = 0; n < a.wide; n++) {
    F power = splat(0.f), along = splat(0.f);
    for (int64_t i = 0; i < a.block; i++) {
      const F code = load(codes + a.at(i, n));
      power = fma(load(bend + a.at(i, n)), code, power);
      along = fma(load(gradient + a.at(i, n)), code, along);
    }
    alignas(64) float powers[16], steps[16];
    store(powers, power);
    store(steps, along);
    for (int o = 0; o < 16; o++) {
      float &scale = a.scales[16 * n + o];
      const float moved = powers[o] > 0 ? to_brain(scale + steps[o] / powers[o]) : 0.f;
      steps[o] = moved == 0 ? 0.f : moved - scale;
      scale = moved == 0 ? scale : moved;
    }
    const F step = load(steps);
    for (int64_t i = 0; i < a.block; i++) {
      const int64_t at = a.at(i, n);
      float *error = a.errors(i, n);
      store(error, sub(load(error), mul(load(codes + at), step)));
      store(gradient + at, sub(load(gradient + at), mul(load(bend + at), step)));
    }
  }
}

// Codes of a block from its last input to its first: the gradient becomes the weights to aim at.
static void improve_codes(const Block &a, float least, float most) {
  float *aims = a.room.gradient, *codes = a.room.codes, *steps = a.room.steps;
  const float *target = a.room.target;
  for (int64_t i = 0; i < a.block; i++) {
    // the error at which the gradient would be 0, and with it the weight
    const float diagonal = a.inner[i * a.inputs + i];
    for (int n = 0; n < a.wide; n++) {
      float *aim = aims + a.at(i, n);
      const F moved = fma(load(aim), splat(1.f / diagonal), load(target + a.at(i, n)));
      store(aim, sub(moved, load(a.errors(i, n))));
    }
    for (int64_t j = i + 1; j < a.block; j++)
      steps[j * a.block + i] = a.inner[j * a.inputs + i] / diagonal;
  }
  const F lowest = splat(least), highest = splat(most);
  for (int n = 0; n < a.wide; n++) {
    const F scale = load(a.scales + 16 * n);
    for (int64_t j = a.block - 1; j >= 0; j--) {
      const int64_t at = a.at(j, n);
      float *error = a.errors(j, n);
      const F code = to_float(to_int(min(max(div(load(aims + at), scale), lowest), highest)));
      const F off = sub(load(target + at), mul(code, scale)), change = sub(off, load(error));
      store(codes + at, code);
      store(error, off);
      for (int64_t i = 0; i < j; i++) {
        float *aim = aims + a.at(i, n);
        store(aim, fma(splat(steps[j * a.block + i]), change, load(aim)));
      }
    }
  }
}

// Some outputs of a matrix whose rows are `stride` apart as a strip, filled up with `beyond`.
static void take_strip(const float *from, int64_t stride, int64_t rows, int64_t width, float beyond,
                       float *to) {
  for (int64_t o = 0; o < kStrip; o += 16, to += 16 * rows)
    for (int64_t i = 0; i < rows; i++) {
      const int64_t count = width - o < 16 ? width - o > 0 ? width - o : 0 : 16;
      if (count > 0) memcpy(to + 16 * i, from + i * stride + o, (size_t)count * sizeof(float));
      for (int64_t rest = count; rest < 16; rest++) to[16 * i + rest] = beyond;
    }
}
static void give_strip(const float *from, int64_t stride, int64_t rows, int64_t width, float *to) {
  for (int64_t o = 0; o < width; o += 16, from += 16 * rows)
    for (int64_t i = 0; i < rows; i++) {
      const int64_t count = width - o < 16 ? width - o : 16;
      memcpy(to + i * stride + o, from + 16 * i, (size_t)count * sizeof(float));
    }
}

// The outputs of a strip.
struct Width {
  int64_t first, width;
  int wide;  // vectors

  SC2ONNX_LANES Width of(const Descent &a, int64_t strip) {
    const int64_t first = a.first + strip * kStrip, left = a.end - first;
    const int64_t width = left < kStrip ? left : kStrip;
    return {first, width, (int)(width + 15) / 16};
  }
};

// a += b or a -= b, of strips of so many rows.
static void add_strip(float *a, const float *b, int64_t rows, float sign) {
  for (int64_t i = 0; i < rows * kStrip; i += 16)
    store(a + i, fma(splat(sign), load(b + i), load(a + i)));
}

static void pull(const Descent &a, int64_t strip, const DescentRoom &room, float *to) {
  const auto [first, width, wide] = Width::of(a, strip);
  take_strip(a.shares + first - a.first, a.end - a.first, a.outputs, width, 0, room.shares);
  multiply_strip(a.errors, a.outputs, a.inputs, room.shares, a.outputs, wide, to);
  // of these outputs themselves the share is all
  take_strip(a.errors + first, a.outputs, a.inputs, width, 0, room.errors);
  add_strip(to, room.errors, a.inputs, -1);
}

static void descend(const Descent &a, int64_t strip, const DescentRoom &room, const float *pull) {
  const auto [first, width, wide] = Width::of(a, strip);
  const int64_t n = a.outputs;
  alignas(64) float scales[kStrip];
  float *errors = room.errors;
  take_strip(a.errors + first, n, a.inputs, width, 0, errors);
  if (pull) add_strip(errors, pull, a.inputs, 1);
  for (int64_t b = a.inputs / a.block - 1; b >= 0; b--) {
    const int64_t column = b * a.block, at = column * n + first;
    const float *rows = a.covariance + column * a.inputs;
    const Block block{a.inputs, a.block, column, rows + column, wide, room, scales};
    take_strip(a.codes + at, n, a.block, width, 0, room.codes);
    take_strip(a.target + at, n, a.block, width, 0, room.target);
    for (int v = 0; pull && v < kWide; v++)
      for (int64_t i = 0; i < a.block; i++) {
        float *target = room.target + strip_at(a.block, i, v);
        store(target, add(load(target), load(pull + strip_at(a.inputs, column + i, v))));
      }
    take_strip(a.scales + b * n + first, n, 1, width, 1, scales);
    multiply_strip(rows, a.inputs, a.block, errors, a.inputs, wide, room.gradient);
    improve_scales(block);
    improve_codes(block, a.lowest, a.highest);
    give_strip(room.codes, n, a.block, width, a.codes + at);
    give_strip(scales, n, 1, width, a.scales + b * n + first);
  }
  if (pull) add_strip(errors, pull, a.inputs, -1);
  give_strip(errors, n, a.inputs, width, a.errors + first);
}
