// Adapters of products: against arithmetic in double, to the bit between processors, companies and
// cuts, and what is refused before anything is read.

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "adapter_rows.h"
#include "instructions.h"
#include "linear_case.h"
#include "rounded_rows.h"

using namespace sc2onnx;

static int g_failures = 0;
constexpr int64_t kMost = 23;  // rows
constexpr int64_t kProducts = 3, kProduct = 1, kSegments = 3;

static void fail(const char *what, const char *name, int64_t detail) {
  g_failures++;
  printf("FAILED %s: %s, %lld\n", what, name, (long long)detail);
}

static double value_of(uint16_t half) {
  const int exponent = half >> 10 & 31, digits = half & 1023;
  const double size = exponent ? std::ldexp(1024 + digits, exponent - 25) : std::ldexp(digits, -24);
  return half >> 15 ? -size : size;
}

// Bytes with a matrix at multiples of 64.
struct Bytes {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(64);

  int64_t place(int64_t count) {
    const auto at = (int64_t)(bytes.size() + 63) / 64 * 64;
    bytes.resize((size_t)(at + count));
    return at;
  }
};

// Adapters of one product of a few, with the rows that have them.
struct Adapted {
  std::vector<int64_t> table, of_token;
  Bytes weights;
  std::vector<float> scales;

  Adapted(const MatrixShape &m, int64_t rows, unsigned seed)
      : table(4 * kProducts * kSegments * 5) {
    std::mt19937 random(seed);
    const int64_t tiles = m.outputs / 16, ranks[] = {1, 16, 5, 33};
    for (int64_t adapter = 0; adapter < 3; adapter++)  // the fourth adds nothing
      for (int64_t s = 0; s < kSegments; s++) {
        const int64_t first = s == 1 ? 0 : (int64_t)random() % tiles;  // the second: all outputs
        const int64_t count = s == 1 ? tiles : 1 + (int64_t)random() % (tiles - first);
        const int64_t rank = s == 2 && adapter < 2 ? 0 : ranks[(adapter + s) % 4];
        const int64_t a = fill_a(rank, m.inputs, random), b = fill_b(rank * count * 16, random);
        const int64_t entry[] = {first * 16, count * 16, rank, a, b};
        std::copy(entry, entry + 5, &table[index(adapter, s)]);
      }
    for (int64_t row = 0; row < rows; row++) {
      of_token.push_back((int64_t)(random() % 5) - 1);
      scales.push_back((float)(random() % 5) * 0.5f);
    }
  }

  // Codes of all values, also of ranks that are none, and scales of up to 1 / 256.
  int64_t fill_a(int64_t rank, int64_t inputs, std::mt19937 &random) {
    const int64_t at = weights.place(bytes_of_a(rank, inputs));
    for (size_t i = (size_t)at; i < weights.bytes.size(); i++) weights.bytes[i] = (uint8_t)random();
    for (int64_t r = 0; r < (rank + 15) / 16 * 16; r++) {
      const float scale = (float)(random() >> 8) * 0x1p-32f;
      memcpy(&weights.bytes[(size_t)scale_at(at, r, inputs)], &scale, 4);
    }
    return at;
  }

  // Up to 0.5, some of them below the smallest normal number.
  int64_t fill_b(int64_t count, std::mt19937 &random) {
    const int64_t at = weights.place(2 * count);
    for (int64_t i = 0; i < count; i++) {
      const uint32_t size = random();
      const uint32_t most = size >> 8 & 7 ? 0x3800 : 0x0400;
      const auto half = (uint16_t)((size >> 16 & 0x8000) | size % most);
      memcpy(&weights.bytes[(size_t)(at + 2 * i)], &half, 2);
    }
    return at;
  }

  static int64_t scale_at(int64_t a, int64_t rank, int64_t inputs) {
    return a + rank / 16 * rank_tile_bytes(inputs) + 16 * inputs + rank % 16 * 4;
  }
  double a(int64_t at, int64_t rank, int64_t input, int64_t inputs) const {
    float scale;
    memcpy(&scale, &weights.bytes[(size_t)scale_at(at, rank, inputs)], 4);
    const int64_t tile = at + rank / 16 * rank_tile_bytes(inputs);
    return (weights.bytes[(size_t)(tile + input / 4 * 64 + rank % 16 * 4 + input % 4)] - 128) *
           (double)scale;
  }
  double b(int64_t at, int64_t i) const {
    uint16_t half;
    memcpy(&half, &weights.bytes[(size_t)(at + 2 * i)], 2);
    return value_of(half);
  }

  static size_t index(int64_t adapter, int64_t segment) {
    return (size_t)(((adapter * kProducts + kProduct) * kSegments + segment) * 5);
  }

  AdapterInputs inputs(int64_t first, int64_t rows) {
    return {{{rows}, of_token.data() + first},
            {{rows}, scales.data() + first},
            {{4, kProducts, kSegments, 5}, table.data()},
            {{(int64_t)weights.bytes.size()}, weights.bytes.data()}};
  }
};

struct Options {
  bool norm = false, gelu = false, residual = false;
};

static std::vector<float> compute(const LinearKernels &kernels, const Case &c, Adapted *with,
                                  int64_t first, int64_t rows, Options options, int64_t together) {
  const MatrixShape &m = c.matrix;
  RoundedRows rounded;
  std::vector<float> y((size_t)(rows * m.outputs));
  AdapterRows adapters;
  const bool adapted = with && adapters.read(with->inputs(first, rows), rows, kProduct, m);
  Rounding rounding = rounded.rounding(c.x.data() + first * m.inputs, rows, m);
  if (options.norm)
    rounding.norm_weight = c.norm_weight.data(), rounding.norm_bias = c.norm_bias.data();
  rounding.epsilon = 1e-5f;
  kernels.round_rows(rounding, 0, rows);
  Product product = rounded.product(c.packed, rows, m, y.data());
  product.bias = c.bias.data();
  if (options.residual) product.residual = c.residual.data() + first * m.outputs;
  product.gelu = options.gelu;
  if (adapted) product.adapters = &adapters.begin(product, true);
  for (int64_t i = 0; adapted && i < adapters.shares(); i++) adapters.shrink(kernels, i);
  for (int64_t t = 0; t < m.tiles(); t += together)
    kernels.product(product, t, std::min(m.tiles(), t + together));
  return y;
}

// What an adapter adds to a row's outputs.
static std::vector<double> added(const Case &c, const Adapted &with, int64_t row, bool norm) {
  const MatrixShape &m = c.matrix;
  std::vector<double> x(c.x.begin() + row * m.inputs, c.x.begin() + (row + 1) * m.inputs);
  if (norm) {
    double mean = 0, square = 0;
    for (double v : x) mean += v / (double)m.inputs;
    for (double v : x) square += (v - mean) * (v - mean) / (double)m.inputs;
    for (int64_t i = 0; i < m.inputs; i++)
      x[(size_t)i] = (x[(size_t)i] - mean) / std::sqrt(square + 1e-5) * c.norm_weight[(size_t)i] +
                     c.norm_bias[(size_t)i];
  }
  for (int64_t i = 0; i < m.inputs; i += m.block) {  // to int8
    double most = 0;
    for (int64_t j = i; j < i + m.block; j++) most = std::max(most, std::abs(x[(size_t)j]));
    for (int64_t j = i; j < i + m.block; j++)
      x[(size_t)j] = std::rint(x[(size_t)j] * 127 / most) * most / 127;
  }
  std::vector<double> y((size_t)m.outputs);
  const int64_t adapter = with.of_token[(size_t)row];
  for (int64_t s = 0; adapter >= 0 && s < kSegments; s++) {
    const int64_t *entry = &with.table[Adapted::index(adapter, s)];
    for (int64_t r = 0; r < entry[2]; r++) {
      double inner = 0;
      for (int64_t i = 0; i < m.inputs; i++)
        inner += with.a(entry[3], r, i, m.inputs) * x[(size_t)i];
      for (int64_t o = 0; o < entry[1]; o++)
        y[(size_t)(entry[0] + o)] +=
            with.b(entry[4], (o / 16 * entry[2] + r) * 16 + o % 16) * inner *
            with.scales[(size_t)row];
    }
  }
  return y;
}

static void against_double(const Instructions &with, const Case &c, Adapted &adapted, bool norm) {
  const int64_t n = c.matrix.outputs;
  const auto without = compute(with.linear, c, nullptr, 0, kMost, {norm}, 3);
  const auto y = compute(with.linear, c, &adapted, 0, kMost, {norm}, 3);
  double worst = 0, size = 0;
  for (int64_t row = 0; row < kMost; row++) {
    const auto expected = added(c, adapted, row, norm);
    for (int64_t o = 0; o < n; o++) {
      const auto i = (size_t)(row * n + o);
      const double found = (double)y[i] - without[i];
      worst = std::max(worst, std::abs(found - expected[(size_t)o]));
      size = std::max({size, std::abs(expected[(size_t)o]), std::abs((double)without[i])});
      if (adapted.of_token[(size_t)row] < 0 && y[i] != without[i])
        fail("no adapter, to the bit", with.name, row);
    }
  }
  if (!(size > 1 && worst <= 3e-6 * size))
    fail("against double", with.name, n), printf("  %.2e of %.2e\n", worst, size);
}

static void every_company(const Instructions &with, const Case &c, Adapted &adapted,
                          Options options, const std::vector<float> &expected) {
  for (int64_t rows : {1, 2, 3, 4, 6, 7, 9, 10, 11, 16, 23})
    for (int64_t first = 0; first + rows <= kMost; first += 1 + rows / 2) {
      const auto y = compute(with.linear, c, &adapted, first, rows, options, 1 + rows % 4);
      if (memcmp(y.data(), &expected[(size_t)(first * c.matrix.outputs)], y.size() * 4) != 0)
        fail("to the bit", with.name, rows);
    }
}

static void products() {
  const auto all = available_instructions();
  uint64_t digest = 1469598103934665603ull;
  unsigned seed = 1;
  for (int bits : {4, 8})
    for (int block : {16, 32, 128})
      for (int64_t outputs : {16, 48, 112}) {
        seed++;
        const Options options{seed % 2 == 1, seed % 3 == 0, seed % 4 < 2};
        const Case c({outputs, block * (1 + (int64_t)seed % 3), bits, block}, kMost, seed);
        Adapted adapted(c.matrix, kMost, seed);
        for (bool norm : {false, true}) against_double(*all.back(), c, adapted, norm);
        const auto expected = compute(all.back()->linear, c, &adapted, 0, kMost, options, 2);
        for (float value : expected) {
          uint32_t word;
          memcpy(&word, &value, 4);
          digest = (digest ^ word) * 1099511628211ull;
        }
        for (const auto *each : all) every_company(*each, c, adapted, options, expected);
      }
  constexpr uint64_t kDigest = 0x3b260347d44e686bull;
  if (digest != kDigest) {
    g_failures++;
    printf("FAILED: the digest of the results is %016llx, on other machines %016llx\n",
           (unsigned long long)digest, (unsigned long long)kDigest);
  }
}

// All numbers of float16 in B, times A x of 1.
static void numbers() {
  const MatrixShape m{65536, 16, 8, 16};
  Bytes weights;
  const int64_t a = weights.place(bytes_of_a(1, 16)), b = weights.place(2 * 65536);
  std::vector<int64_t> table{0, 65536, 1, a, b}, of_token{0};
  const float one = 1;
  memset(&weights.bytes[(size_t)a], 128, (size_t)bytes_of_a(1, 16));
  weights.bytes[(size_t)a] = 129;
  memcpy(&weights.bytes[(size_t)(a + 256)], &one, 4);
  for (int64_t i = 0; i < 65536; i++) {
    const auto half = (uint16_t)i;
    memcpy(&weights.bytes[(size_t)(b + 2 * i)], &half, 2);
  }
  const std::vector<uint8_t> nothing((size_t)m.bytes() + 64);
  const std::vector<float> x{127, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  for (const auto *each : available_instructions()) {
    AdapterRows adapters;
    adapters.read({{{1}, of_token.data()}, {}, {{1, 1, 1, 5}, table.data()},
                   {{(int64_t)weights.bytes.size()}, weights.bytes.data()}},
                  1, 0, m);
    RoundedRows rounded;
    std::vector<float> y(65536);
    each->linear.round_rows(rounded.rounding(x.data(), 1, m), 0, 1);
    const auto *packed = (const uint8_t *)(((uintptr_t)nothing.data() + 63) / 64 * 64);
    Product product = rounded.product(packed, 1, m, y.data());
    product.adapters = &adapters.begin(product, true);
    for (int64_t i = 0; i < adapters.shares(); i++) adapters.shrink(each->linear, i);
    each->linear.product(product, 0, m.tiles());
    for (int64_t i = 0; i < 65536; i++) {
      const bool finite = (i >> 10 & 31) < 31;
      if (finite ? y[(size_t)i] != 127 * value_of((uint16_t)i) : std::isfinite(y[(size_t)i]))
        fail("float16", each->name, i);
    }
  }
}

// Threads that wait for each other's shares.
static void together() {
  const Case c({112, 256, 4, 32}, kMost, 5);
  Adapted adapted(c.matrix, kMost, 5);
  AdapterRows adapters;
  adapters.read(adapted.inputs(0, kMost), kMost, kProduct, c.matrix);
  const LinearKernels &kernels = instructions().linear;
  const MatrixShape &m = c.matrix;
  RoundedRows rounded;
  const Rounding rounding = rounded.rounding(c.x.data(), kMost, m);
  const Product product = rounded.product(c.packed, kMost, m, nullptr);
  for (int turn = 0; turn < 200; turn++) {
    const Adapters &a = adapters.begin(product, false);
    std::fill(a.inner, a.inner + kMost * a.width, NAN);
    std::fill(rounded.scales.begin(), rounded.scales.end(), NAN);
    std::atomic<int64_t> next{-1};
    auto work = [&] {
      for (int64_t i; (i = next.fetch_add(1)) < adapters.shares();) {
        if (i >= 0) adapters.shrink(kernels, i);
        if (i < 0) kernels.round_rows(rounding, 0, kMost), adapters.rounded();
      }
      a.wait(a.waits_for);
      for (int64_t row = 0; row < kMost; row++)
        for (const Segment *s = a.of_row[row].begin; s < a.of_row[row].end; s++)
          for (int64_t r = 0; r < s->rank; r++)
            if (!std::isfinite(a.inner[(s->place + r) * a.rows + row])) fail("waiting", "", turn);
    };
    std::thread other(work);
    work();
    other.join();
  }
}

static void refused(const char *expected, int number, int64_t value, AdapterInputs inputs,
                    std::vector<int64_t> &table, int64_t product = kProduct) {
  const MatrixShape m{48, 64, 4, 32};
  int64_t &entry = table[Adapted::index(1, 1) + (size_t)number];
  const int64_t before = entry;
  entry = value;
  try {
    AdapterRows().read(inputs, 2, product, m);
    fail("not refused", expected, value);
  } catch (const Refused &error) {
    if (!strstr(error.what(), expected)) fail(error.what(), expected, value);
  }
  entry = before;
}

static void refusing() {
  const MatrixShape m{48, 64, 4, 32};
  Adapted adapted(m, 2, 3);
  adapted.of_token = {1, -1};
  const auto bytes = (int64_t)adapted.weights.bytes.size();
  const int64_t most = INT64_MAX, least = INT64_MIN;
  const AdapterInputs good = adapted.inputs(0, 2);
  if (!AdapterRows().read(good, 2, kProduct, m)) fail("an adapter", "", 0);
  auto entry = [&](const char *expected, int number, std::initializer_list<int64_t> values) {
    for (int64_t value : values) refused(expected, number, value, good, adapted.table);
  };
  entry("expected multiples of 16 within 48", 0, {-16, 8, 16, 48, most, most - 15, least});
  entry("expected multiples of 16 within 48", 1, {0, -16, 24, 64, most, most - 15, least});
  entry("has a rank of", 2, {-1, 65537, most, least});
  entry("of adapter_weights", 2, {65536});
  for (int64_t at : {(int64_t)-64, bytes / 64 * 64, most / 64 * 64, least, (int64_t)1, (int64_t)32})
    entry("has A at", 3, {at}), entry("has B at", 4, {at});

  auto inputs = [&](const char *expected, AdapterInputs changed, int64_t product = kProduct) {
    refused(expected, 2, 16, changed, adapted.table, product);
  };
  AdapterInputs changed = good;
  changed.of_token.shape = {1};
  inputs("adapter_of_token is (1), expected (2)", changed);
  changed = good, changed.of_token.shape = {1, 2};
  inputs("adapter_of_token is (1, 2)", changed);
  for (int64_t id : {(int64_t)-2, (int64_t)4, most, least}) {
    std::vector<int64_t> ids{1, id};
    changed = good, changed.of_token.data = ids.data();
    inputs("expected -1 to 3", changed);
  }
  changed = good, changed.scales.shape = {1};
  inputs("adapter_scales is (1), expected (2)", changed);
  changed = good, changed.table.shape = {4, 3, 15};
  inputs("expected (adapters, products, segments, 5)", changed);
  changed = good, changed.table.shape = {4, 9, 1, 4};
  inputs("expected (adapters, products, segments, 5)", changed);
  changed = good, changed.table.shape = {1, 3, 65, 5};
  inputs("with at most 64 segments", changed);
  changed = good, changed.table.shape = {0, 3, 3, 5};
  inputs("expected -1 to -1", changed);
  inputs("expected more than 3 products", good, 3);
  changed = good, changed.weights.shape = {0};
  inputs("the 0 of adapter_weights", changed);

  std::vector<int64_t> nobody{-1, -1}, nothing{3, -1};
  changed = {};
  changed.of_token = {{2}, nobody.data()};
  if (AdapterRows().read(changed, 2, kProduct, m)) fail("nobody has one", "", 0);
  changed = good, changed.of_token.data = nothing.data();
  if (AdapterRows().read(changed, 2, kProduct, m)) fail("one that adds nothing", "", 0);
}

int main() {
  for (const auto *each : available_instructions()) printf("%s\n", each->name);
  products();
  numbers();
  together();
  refusing();
  printf(g_failures ? "%d failures\n" : "all well\n", g_failures);
  return g_failures != 0;
}
