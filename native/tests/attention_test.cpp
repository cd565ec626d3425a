// Attention against float64, and against itself: the same bits on every instruction set, in any
// steps, in any ring, beside any other rows and with any number of threads.

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "attention_run.h"
#include "instructions.h"

using namespace sc2onnx;

namespace {

int g_failures = 0, g_checks = 0;

void check(bool good, const std::string &what) {
  g_checks++;
  if (good) return;
  g_failures++;
  printf("FAILED: %s\n", what.c_str());
}

Parallel threads(int count) {
  return [count](int64_t tasks, const std::function<void(int64_t)> &work) {
    std::atomic<int64_t> next{0};
    const auto take = [&] {
      for (int64_t i; (i = next.fetch_add(1)) < tasks;) work(i);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < count; i++) others.emplace_back(take);
    take();
    for (auto &each : others) each.join();
  };
}

struct Model {
  int heads, kv_heads, head_dim;
  int64_t window;
  bool bytes;

  int64_t width() const { return (int64_t)(heads + 2 * kv_heads) * head_dim; }
  int64_t slot_bytes() const { return bytes ? head_dim + 4 : 4 * head_dim; }
  std::string shown() const {
    return std::string(bytes ? "int8" : "float32") + ", " + std::to_string(heads) + "/" +
           std::to_string(kv_heads) + " heads of " + std::to_string(head_dim) + ", window " +
           std::to_string(window);
  }
};

// About normal, the same for the same place.
float number(uint64_t seed, uint64_t place) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ull + place;
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    x += 0x9e3779b97f4a7c15ull;
    uint64_t z = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    x ^= z ^ (z >> 31);
    sum += (float)(x >> 40) / 16777216.f - 0.5f;
  }
  return sum * 1.7f;
}

// Tokens 0 .. count - 1 of a text as the projections give them, with some large channels in the
// keys and a first token that most queries look at.
std::vector<float> text(const Model &m, uint64_t seed, int64_t count) {
  std::vector<float> qkv((size_t)(count * m.width()));
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < m.width(); i++) {
      float x = number(seed, (uint64_t)(t * m.width() + i));
      const int64_t head = i / m.head_dim, channel = i % m.head_dim;
      if (head >= m.heads && head < m.heads + m.kv_heads && channel == 3) x = 6 + x;
      if (head < m.heads && channel == 3) x = 0.3f * x + (t % 3 == 0 ? 1.f : 0.f);
      if (t == 0 && head >= m.heads && channel == 3) x += 12;
      qkv[(size_t)(t * m.width() + i)] = x;
    }
  return qkv;
}

struct Rotary {
  std::vector<float> cos, sin;
  Rotary(int head_dim, int64_t positions) {
    for (int64_t p = 0; p < positions; p++)
      for (int i = 0; i < head_dim / 2; i++) {
        const double angle = (double)p * pow(1e5, -2.0 * i / head_dim);
        cos.push_back((float)::cos(angle));
        sin.push_back((float)::sin(angle));
      }
  }
};

// Rings of a batch, filled with what nobody may look at.
struct Rings {
  int64_t capacity;
  std::vector<uint8_t> keys, values;
  Rings(const Model &m, int64_t batch, int64_t slots)
      : capacity(slots),
        keys((size_t)(batch * m.kv_heads * slots * m.slot_bytes()), 0xff),
        values(keys) {}
};

struct How {
  const Instructions *instructions = available_instructions().front();
  int threads = 1;
};

// One step of these runs.
std::vector<float> step(const Model &m, const Rotary &rotary, Rings &rings,
                        const std::vector<float> &qkv, const std::vector<Run> &runs,
                        const How &how) {
  Attention a;
  a.qkv = qkv.data();
  a.cos = rotary.cos.data();
  a.sin = rotary.sin.data();
  a.keys = rings.keys.data();
  a.values = rings.values.data();
  a.runs = runs.data();
  a.run_count = (int64_t)runs.size();
  a.capacity = rings.capacity;
  a.window = m.window;
  a.heads = m.heads;
  a.kv_heads = m.kv_heads;
  a.head_dim = m.head_dim;
  a.slot_bytes = (int)m.slot_bytes();
  std::vector<float> mixed(qkv.size() / (size_t)m.width() * (size_t)(m.heads * m.head_dim), -1.f);
  a.mixed = mixed.data();
  run_attention(a, how.instructions->attention, threads(how.threads));
  return mixed;
}

// As many tokens of each row, which have `past` tokens each.
std::vector<Run> even(int64_t tokens, const std::vector<int64_t> &past) {
  const int64_t count = tokens / (int64_t)past.size();
  std::vector<Run> runs;
  for (size_t row = 0; row < past.size(); row++)
    runs.push_back({past[row], count, (int64_t)row * count, (int64_t)row});
  return runs;
}

// All of a text in steps of `cut` tokens.
std::vector<float> in_steps(const Model &m, const std::vector<float> &qkv, int64_t cut,
                            int64_t capacity, const How &how) {
  const int64_t count = (int64_t)qkv.size() / m.width();
  const Rotary rotary(m.head_dim, count);
  Rings rings(m, 1, capacity);
  std::vector<float> all;
  for (int64_t t = 0; t < count; t += cut) {
    const int64_t end = std::min(count, t + cut);
    const std::vector<float> part(qkv.begin() + t * m.width(), qkv.begin() + end * m.width());
    const std::vector<float> mixed = step(m, rotary, rings, part, even(end - t, {t}), how);
    all.insert(all.end(), mixed.begin(), mixed.end());
  }
  return all;
}

std::vector<double> turned(const Model &m, const std::vector<float> &qkv, int64_t t, int64_t head) {
  const float *x = qkv.data() + t * m.width() + head * m.head_dim;
  const int half = m.head_dim / 2;
  std::vector<double> y((size_t)m.head_dim);
  for (int i = 0; i < half; i++) {
    const double angle = (double)t * pow(1e5, -2.0 * i / m.head_dim);
    y[(size_t)i] = x[i] * cos(angle) - x[i + half] * sin(angle);
    y[(size_t)(i + half)] = x[i + half] * cos(angle) + x[i] * sin(angle);
  }
  return y;
}

std::vector<double> reference(const Model &m, const std::vector<float> &qkv) {
  const int64_t count = (int64_t)qkv.size() / m.width(), group = m.heads / m.kv_heads;
  std::vector<double> mixed;
  std::vector<std::vector<double>> keys;
  for (int64_t t = 0; t < count; t++)
    for (int h = 0; h < m.kv_heads; h++) keys.push_back(turned(m, qkv, t, m.heads + h));
  for (int64_t t = 0; t < count; t++)
    for (int64_t h = 0; h < m.heads; h++) {
      const std::vector<double> query = turned(m, qkv, t, h);
      const int64_t first = m.window ? std::max<int64_t>(0, t - m.window + 1) : 0, kv = h / group;
      std::vector<double> scores, y((size_t)m.head_dim);
      for (int64_t p = first; p <= t; p++) {
        double score = 0;
        for (int c = 0; c < m.head_dim; c++)
          score += query[(size_t)c] * keys[(size_t)(p * m.kv_heads + kv)][(size_t)c];
        scores.push_back(score / sqrt((double)m.head_dim));
      }
      const double most = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double &score : scores) total += score = exp(score - most);
      for (int64_t p = first; p <= t; p++) {
        const int64_t value = p * m.width() + (m.heads + m.kv_heads + kv) * m.head_dim;
        for (int c = 0; c < m.head_dim; c++)
          y[(size_t)c] += scores[(size_t)(p - first)] / total * qkv[(size_t)(value + c)];
      }
      mixed.insert(mixed.end(), y.begin(), y.end());
    }
  return mixed;
}

bool same(const std::vector<float> &a, const std::vector<float> &b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The root mean square of the difference, relative to that of the reference.
double error(const std::vector<float> &got, const std::vector<double> &expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size(); i++) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return sqrt(difference / size);
}

void against_reference(const Model &m, int64_t count) {
  const std::vector<float> qkv = text(m, 1, count);
  const double off = error(in_steps(m, qkv, count, (count + 15) / 16 * 16, {}), reference(m, qkv));
  const double bound = m.bytes ? 1.2e-2 : 2e-6;
  check(off < bound, m.shown() + ": error " + std::to_string(off) + " > " + std::to_string(bound));
  printf("%s, %d tokens: error %.2e\n", m.shown().c_str(), (int)count, off);
}

int64_t least_capacity(const Model &m, int64_t cut, int64_t count) {
  const int64_t needed = m.window ? std::min(count, m.window + cut - 1) : count;
  return (needed + 15) / 16 * 16;
}

void same_bits(const Model &m, int64_t count) {
  const std::vector<const Instructions *> all = available_instructions();
  const std::vector<float> qkv = text(m, 2, count);
  const int64_t wide = (count + 15) / 16 * 16 + 32;
  const std::vector<float> whole = in_steps(m, qkv, count, wide, {});
  for (const Instructions *each : all) {
    check(same(whole, in_steps(m, qkv, count, wide, {each, 1})), m.shown() + " on " + each->name);
    check(same(whole, in_steps(m, qkv, 37, least_capacity(m, 37, count), {each, 3})),
          m.shown() + " in steps of 37 on " + each->name);
  }
  int turn = m.bytes ? 0 : 1;
  for (int64_t cut : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 23, 32, 64, 128, 300}) {
    if (turn++ % 2 && !m.bytes) continue;  // float32 is slow where it is emulated
    const int64_t least = least_capacity(m, cut, count);
    const int64_t capacity = turn % 3 == 0 ? wide : turn % 3 == 1 ? least : least + 16;
    check(same(whole, in_steps(m, qkv, cut, capacity, {all.front(), turn % 4 ? 1 : 2})),
          m.shown() + " in steps of " + std::to_string(cut) + ", " + std::to_string(capacity) +
              " slots");
  }
}

// Rows at different depths of different texts, each as if it were alone.
void batches(const Model &m) {
  const std::vector<int64_t> past = {0, 130, 517, 64, 5};
  const Rotary rotary(m.head_dim, 1024);
  for (int64_t fresh : {1, 3, 20}) {
    const int64_t capacity = least_capacity(m, 600, 640);
    Rings together(m, (int64_t)past.size(), capacity);
    const size_t bytes = together.keys.size() / past.size();
    std::vector<float> input, expected;
    for (size_t row = 0; row < past.size(); row++) {
      const std::vector<float> qkv = text(m, 10 + row, past[row] + fresh);
      Rings alone(m, 1, capacity);
      const std::vector<float> before(qkv.begin(), qkv.begin() + past[row] * m.width());
      const std::vector<float> now(qkv.begin() + past[row] * m.width(), qkv.end());
      if (past[row]) step(m, rotary, alone, before, even(past[row], {0}), {});
      memcpy(together.keys.data() + row * bytes, alone.keys.data(), bytes);
      memcpy(together.values.data() + row * bytes, alone.values.data(), bytes);
      const std::vector<float> mixed = step(m, rotary, alone, now, even(fresh, {past[row]}), {});
      input.insert(input.end(), now.begin(), now.end());
      expected.insert(expected.end(), mixed.begin(), mixed.end());
    }
    const How how = {available_instructions().front(), 3};
    const std::vector<Run> runs = even(fresh * (int64_t)past.size(), past);
    check(same(expected, step(m, rotary, together, input, runs, how)),
          m.shown() + ": batch with steps of " + std::to_string(fresh));
  }
}

// Runs of other lengths in rings in any order, some of them parts of one sequence, each as if it
// were alone.
void ragged(const Model &m) {
  struct Part {
    int64_t ring, past, count;
  };
  const std::vector<std::vector<Part>> steps = {
      {{3, 0, 130}, {1, 0, 1}, {0, 0, 7}},
      {{1, 1, 40}, {3, 130, 1}, {2, 0, 0}, {1, 41, 1}, {0, 7, 1}},
      {{0, 8, 5}, {2, 0, 33}, {3, 131, 17}, {1, 42, 3}, {2, 33, 100}, {2, 133, 1}}};
  const int64_t rings = 5, capacity = least_capacity(m, 256, 256), width = m.width();
  const Rotary rotary(m.head_dim, 256);
  std::vector<std::vector<float>> texts, expected;
  for (int64_t ring = 0; ring < rings; ring++) {
    texts.push_back(text(m, 20 + (uint64_t)ring, 256));
    expected.push_back(in_steps(m, texts.back(), 256, capacity, {}));
  }
  for (const Instructions *each : available_instructions()) {
    Rings together(m, rings, capacity);
    for (size_t i = 0; i < steps.size(); i++) {
      std::vector<Run> runs;
      std::vector<float> input, alone;
      int64_t first = 0;
      for (const Part &p : steps[i]) {
        const std::vector<float> &qkv = texts[(size_t)p.ring], &mixed = expected[(size_t)p.ring];
        const int64_t out = m.heads * m.head_dim, end = p.past + p.count;
        runs.push_back({p.past, p.count, first, p.ring});
        input.insert(input.end(), qkv.begin() + p.past * width, qkv.begin() + end * width);
        alone.insert(alone.end(), mixed.begin() + p.past * out, mixed.begin() + end * out);
        first += p.count;
      }
      check(same(alone, step(m, rotary, together, input, runs, {each, i % 2 ? 1 : 3})),
            m.shown() + ": ragged step " + std::to_string(i) + " on " + each->name);
    }
  }
}

// A query, key or value that is not finite spoils those who see it, and nobody else.
void not_finite(const Model &m) {
  const int64_t count = 300, at = 140, window = m.window ? m.window : count;
  int turn = m.bytes ? 0 : 1;
  for (const Instructions *each : available_instructions()) {
    const std::vector<float> clean = in_steps(m, text(m, 3, count), count, 320, {each, 1});
    for (int part = 0; part < 3; part++) {
      const float bad = std::vector<float>{NAN, INFINITY, -INFINITY}[(size_t)(turn++ % 3)];
      std::vector<float> qkv = text(m, 3, count);
      const int64_t head = part == 0 ? 0 : part == 1 ? m.heads : m.heads + m.kv_heads;
      qkv[(size_t)(at * m.width() + head * m.head_dim + 1)] = bad;
      const std::vector<float> got = in_steps(m, qkv, count, 320, {each, 1});
      bool good = true;
      for (int64_t t = 0; t < count; t++)
        for (int64_t h = 0; h < m.heads; h++) {
          const bool sees = part == 0 ? t == at && h == 0
                                      : t >= at && t < at + window && h < m.heads / m.kv_heads;
          for (int64_t c = 0; c < m.head_dim; c++) {
            const size_t i = (size_t)((t * m.heads + h) * m.head_dim + c);
            good = good && (sees ? std::isnan(got[i]) : got[i] == clean[i]);
          }
        }
      check(good, m.shown() + " on " + each->name + ": " + std::to_string(bad) + " in part " +
                      std::to_string(part));
    }
    turn++;
  }
}

// Keys whose products with a query are beyond float32: it has no result if it sees no others, and
// does without them if it does. (Above, not below, they are its result's only weights: unknown.)
void too_large(const Model &m) {
  const int64_t queries = m.heads * m.head_dim, keys = m.kv_heads * m.head_dim;
  for (float sign : {1.f, -1.f})
    for (int64_t count : {1, 20, 129, 140}) {
      std::vector<float> qkv((size_t)(count * m.width()), 1e-19f);
      float *last = qkv.data() + (count - 1) * m.width();
      std::fill(last, last + queries, 3e19f);
      std::fill(last + queries, last + queries + keys, sign * 3e19f);
      const bool known = sign < 0 && count > 1 && m.window != 1;
      for (const Instructions *each : available_instructions()) {
        const std::vector<float> got = in_steps(m, qkv, count, (count + 15) / 16 * 16, {each, 1});
        bool good = true;
        for (size_t i = got.size() - (size_t)queries; i < got.size(); i++)
          good = good && (known ? std::isfinite(got[i]) : std::isnan(got[i]));
        check(good, m.shown() + " on " + each->name + ": too large, " + std::to_string(count));
      }
    }
}

void nothing(const Model &m) {
  Rings rings(m, 2, 32);
  const Rotary rotary(m.head_dim, 4);
  Attention a;
  run_attention(a, available_instructions().front()->attention, threads(1));
  const std::vector<Run> empty(2);
  a.runs = empty.data();
  a.run_count = 2;
  run_attention(a, available_instructions().front()->attention, threads(1));
  std::vector<float> zeros((size_t)(2 * m.width()));
  bool good = true;
  for (float y : step(m, rotary, rings, zeros, even(2, {0, 0}), {})) good = good && y == 0;
  check(good, m.shown() + ": zeros");
}

// All bits of a result, of angles that every machine computes alike: what another processor gives,
// too.
uint64_t digest(const Model &m) {
  const int64_t count = 200;
  Rotary rotary(m.head_dim, 0);
  for (int64_t i = 0; i < count * m.head_dim / 2; i++) {
    const double t = number(4, (uint64_t)i);
    rotary.cos.push_back((float)((1 - t * t) / (1 + t * t)));
    rotary.sin.push_back((float)(2 * t / (1 + t * t)));
  }
  Rings rings(m, 1, 208);
  uint64_t hash = 0xcbf29ce484222325ull;
  for (float y : step(m, rotary, rings, text(m, 5, count), even(count, {0}), {})) {
    uint32_t bits;
    memcpy(&bits, &y, 4);
    hash = (hash ^ bits) * 0x100000001b3ull;
  }
  return hash;
}

}  // namespace

int main() {
  uint64_t hash = 0;
  for (bool bytes : {true, false}) {
    const std::vector<std::pair<Model, int64_t>> models = {
        {{12, 1, 128, 150, bytes}, 200}, {{9, 1, 64, 0, bytes}, 300},
        {{4, 4, 16, 100, bytes}, 420},   {{6, 2, 48, 7, bytes}, 160},
        {{4, 2, 256, 0, bytes}, 140},    {{3, 1, 32, 520, bytes}, 620}};
    for (const auto &[m, count] : models) {
      against_reference(m, std::min<int64_t>(count, 400));
      same_bits(m, count);
      nothing(m);
      too_large(m);
      hash = hash * 31 + digest(m);
      if (m.head_dim > 48) continue;
      batches(m);
      ragged(m);
      not_finite(m);
    }
  }
  constexpr uint64_t kDigest = 0x7c90d599108e223full;
  check(hash == kDigest, "the digest of results, which are of other bits than on other machines");
  printf("digest %016llx\n", (unsigned long long)hash);
  for (const Instructions *each : available_instructions()) printf("%s ", each->name);
  printf("\n%d checks, %d failed\n", g_checks, g_failures);
  return g_failures != 0;
}
