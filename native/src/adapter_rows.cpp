#include "adapter_rows.h"

#include <algorithm>
#include <numeric>
#include <thread>

#include "lanes/common.h"

namespace sc2onnx {

namespace {

constexpr int64_t kEntry = 5;  // numbers of a segment in the table
constexpr int64_t kMostSegments = 64, kMostRank = 1 << 16;
constexpr int64_t kAlignment = 64;     // of places in the weights
constexpr int64_t kMostTogether = 10;  // rows of a group, which kernels compute at once
constexpr int64_t kRowsTogether = 24;  // of a share; of as many rows tiles are shared out as well

std::string shown(int64_t value) { return std::to_string(value); }

template <class Done>
void wait_until(const Done &done) {
  for (int tries = 0; !done(); tries++)
    if (tries > 1000) std::this_thread::yield();
}

int64_t elements(const Tensor &tensor) { return tensor ? tensor.size() : 0; }

[[noreturn]] void refuse(const std::string &what) { throw Refused("BlockwiseLinear: " + what); }

// A segment's entry in the table.
struct Entry {
  int64_t first_output, outputs, rank, a, b;

  std::string text() const {
    return "(" + shown(first_output) + ", " + shown(outputs) + ", " + shown(rank) + ", " +
           shown(a) + ", " + shown(b) + ")";
  }
};

void check_table(const Tensor &table, int64_t product) {
  const std::vector<int64_t> &shape = table.shape;
  if (shape.size() != 4 || shape[2] > kMostSegments || shape[3] != kEntry)
    refuse("adapter_table is " + table.shown() + ", expected (adapters, products, segments, " +
           shown(kEntry) + ") with at most " + shown(kMostSegments) + " segments");
  if (product >= shape[1])
    refuse("adapter_table is " + table.shown() + ", expected more than " + shown(product) +
           " products, which is this product's number");
}

// Throws Refused unless all that the entry says lies in the weights and in the product.
void check(const Entry &entry, int64_t adapter, const MatrixShape &matrix, int64_t available) {
  const std::string name = "the entry " + entry.text() + " of adapter " + shown(adapter);
  if (entry.rank < 0 || entry.rank > kMostRank)
    refuse(name + " has a rank of " + shown(entry.rank) + ", expected 0 to " + shown(kMostRank));
  if (entry.first_output < 0 || entry.outputs < 1 || entry.first_output % 16 != 0 ||
      entry.outputs % 16 != 0 || entry.outputs > matrix.outputs ||
      entry.first_output > matrix.outputs - entry.outputs)
    refuse(name + " is for outputs from " + shown(entry.first_output) + " on, " +
           shown(entry.outputs) + " of them, expected multiples of 16 within " +
           shown(matrix.outputs));
  for (auto [what, at, size] : {std::tuple("A", entry.a, bytes_of_a(entry.rank, matrix.inputs)),
                                std::tuple("B", entry.b, 2 * entry.rank * entry.outputs)})
    if (at < 0 || at % kAlignment != 0 || size > available || at > available - size)
      refuse(name + " has " + what + " at " + shown(at) + ", " + shown(size) +
             " bytes long, expected a multiple of " + shown(kAlignment) +
             " and a place within the " + shown(available) + " of adapter_weights");
}

}  // namespace

bool AdapterRows::read(const AdapterInputs &inputs, int64_t rows, int64_t product,
                       const MatrixShape &matrix) {
  if (inputs.of_token.shape != std::vector<int64_t>{rows})
    refuse("adapter_of_token is " + inputs.of_token.shown() + ", expected (" + shown(rows) + ")");
  const int64_t *of_token = inputs.of_token.as<int64_t>();
  if (std::all_of(of_token, of_token + rows, [](int64_t adapter) { return adapter == -1; }))
    return false;
  check_table(inputs.table, product);
  if (elements(inputs.scales) > 0 && inputs.scales.shape != inputs.of_token.shape)
    refuse("adapter_scales is " + inputs.scales.shown() + ", expected (" + shown(rows) + ")");
  const int64_t adapters = inputs.table.shape[0];
  for (int64_t row = 0; row < rows; row++)
    if (of_token[row] < -1 || of_token[row] >= adapters)
      refuse("adapter_of_token[" + shown(row) + "] = " + shown(of_token[row]) +
             ", expected -1 to " + shown(adapters - 1));
  order_.resize((size_t)rows);
  std::iota(order_.begin(), order_.end(), 0);
  if (!std::is_sorted(of_token, of_token + rows))
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t one, int64_t other) { return of_token[one] < of_token[other]; });
  adapters_.scales = elements(inputs.scales) > 0 ? inputs.scales.as<float>() : nullptr;
  return read_adapters(inputs, product, matrix);
}

// The segments of the adapters that rows have, and whose they are.
bool AdapterRows::read_adapters(const AdapterInputs &inputs, int64_t product,
                                const MatrixShape &matrix) {
  const int64_t *of_token = inputs.of_token.as<int64_t>();
  segments_.clear();
  segments_.reserve(order_.size() * (size_t)inputs.table.shape[2]);  // so that addresses stay
  of_row_.assign(order_.size(), {});
  shares_.clear();
  adapters_.width = 0;
  distinct_.clear();
  for (size_t first = 0, end; first < order_.size(); first = end) {
    const int64_t adapter = of_token[order_[first]];
    for (end = first; end < order_.size() && of_token[order_[end]] == adapter;) end++;
    if (adapter < 0) continue;
    const Segments segments = read_segments(inputs, adapter, product, matrix);
    if (segments.begin == segments.end) continue;
    for (size_t i = first; i < end; i++) of_row_[(size_t)order_[i]] = segments;
    distinct_.push_back(segments);
  }
  for (const Segments &segments : distinct_) share(segments);
  return adapters_.width > 0;
}

Segments AdapterRows::read_segments(const AdapterInputs &inputs, int64_t adapter, int64_t product,
                                    const MatrixShape &matrix) {
  const std::vector<int64_t> &shape = inputs.table.shape;
  const int64_t number = (adapter * shape[1] + product) * shape[2];
  const auto *table = inputs.table.as<int64_t>() + number * kEntry;
  const auto *weights = inputs.weights.as<uint8_t>();
  const size_t before = segments_.size();
  int64_t place = 0;
  for (int64_t i = 0; i < shape[2]; i++, table += kEntry) {
    const Entry entry{table[0], table[1], table[2], table[3], table[4]};
    if (entry.rank == 0) continue;
    check(entry, adapter, matrix, elements(inputs.weights));
    const int64_t first = entry.first_output / 16;
    segments_.push_back({first, first + entry.outputs / 16, entry.rank, weights + entry.a,
                         reinterpret_cast<const uint16_t *>(weights + entry.b), place});
    place += entry.rank;
  }
  adapters_.width = std::max(adapters_.width, place);
  return {segments_.data() + before, segments_.data() + segments_.size()};
}

// Cuts A x of rows that have these segments into what a thread computes at a time: by rows where
// there are many, else by tiles of ranks.
void AdapterRows::share(Segments segments) {
  const auto rows = (int64_t)order_.size();
  int64_t tiles = 0;
  for (const Segment *s = segments.begin; s < segments.end; s++) tiles += s->rank_tiles();
  if (rows <= kRowsTogether) {
    for (int64_t i = 0; i < tiles; i++) shares_.push_back({segments, 0, rows, i, i + 1});
    return;
  }
  for (int64_t i = 0; i < rows; i += kRowsTogether) {
    const int64_t end = std::min(rows, i + kRowsTogether + kMostTogether);
    const auto *of_row = of_row_.data();
    if (std::any_of(of_row + i, of_row + end,
                    [&](const Segments &each) { return each.begin == segments.begin; }))
      shares_.push_back({segments, i, i + kRowsTogether, 0, tiles});
  }
}

const Adapters &AdapterRows::begin(const Product &product, bool there) {
  adapters_.rows = (int64_t)of_row_.size();
  inner_.resize((size_t)(adapters_.rows * adapters_.width));
  adapters_.of_row = of_row_.data();
  adapters_.inputs = product.matrix.inputs;
  adapters_.bits = product.matrix.bits;
  adapters_.block = product.matrix.block;
  adapters_.codes = product.codes;
  adapters_.code_scales = product.scales;
  adapters_.starts = product.starts;
  adapters_.inner = inner_.data();
  adapters_.wait = [](const void *rows) { static_cast<const AdapterRows *>(rows)->wait(); };
  adapters_.waits_for = this;
  rounded_ = there;
  left_ = shares();
  return adapters_;
}

// Asks for a share's weights, as long as activations are not there.
void AdapterRows::fetch(const Shrinking &share) const {
  const int64_t bytes = rank_tile_bytes(adapters_.inputs);
  int64_t tile = 0;
  for (const Segment *s = share.segments.begin; s < share.segments.end; s++)
    for (int64_t i = 0; i < s->rank_tiles(); i++, tile++) {
      if (tile < share.first_tile || tile >= share.end_tile) continue;
      const uint8_t *at = s->a + i * bytes;
      for (const uint8_t *end = at + bytes; at < end && !is_rounded(); at += 64)
        SC2ONNX_PREFETCH(at);
    }
}

void AdapterRows::wait_for_rows() const {
  wait_until([&] { return is_rounded(); });
}

void AdapterRows::shrink(const LinearKernels &kernels, int64_t share) {
  fetch(shares_[(size_t)share]);
  wait_for_rows();
  kernels.shrink(adapters_, shares_[(size_t)share]);
  left_.fetch_sub(1, std::memory_order_release);
}

void AdapterRows::wait() const {
  wait_until([&] { return left_.load(std::memory_order_acquire) <= 0; });
}

}  // namespace sc2onnx
