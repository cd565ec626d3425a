#include "attention_run.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace sc2onnx {

namespace {

constexpr int64_t kRowsTogether = 96;       // of a block: their scores and sums stay in the cache
constexpr int64_t kTokensStored = 32;       // by one task
constexpr int64_t kMostPartials = 4 << 20;  // floats that wait to be merged

// Memory that a thread keeps from step to step: as much as its largest block needed.
class Arena {
 public:
  // Aligned to 64 bytes; null if there is none.
  float *reserve(int64_t floats) noexcept {
    if (floats > size_) {
      size_ = 0;
      memory_.reset(new (std::nothrow) float[(size_t)floats + 16]);
      if (!memory_) return nullptr;
      size_ = floats;
    }
    const uintptr_t address = (uintptr_t)memory_.get();
    return memory_.get() + (64 - address % 64) % 64 / sizeof(float);
  }

 private:
  std::unique_ptr<float[]> memory_;
  int64_t size_ = 0;
};

// What a block's rows see: segments first .. end - 1. Its partial sums lie from `partials` on.
struct Job {
  AttentionBlock block;
  int64_t first, end, partials;
};

int64_t longest_run(const Attention &a) {
  int64_t longest = 0;
  for (int64_t i = 0; i < a.run_count; i++) longest = std::max(longest, a.runs[i].count);
  return longest;
}

struct Step {
  const Attention &a;
  const AttentionKernels &kernels;
  const AttentionFormat &format;
  std::vector<Job> jobs;
  int64_t rows = 0;      // of a block at most
  int64_t partials = 0;  // one for each job and segment
  std::atomic<bool> exhausted{false};

  Step(const Attention &attention, const AttentionKernels &table)
      : a(attention), kernels(table), format(attention.bytes() ? table.bytes : table.floats) {
    const int64_t longest = longest_run(a);
    const int64_t tokens = std::min(longest, std::max<int64_t>(1, kRowsTogether / a.group()));
    rows = tokens * a.group();
    // The last tokens see the most: they come first, so that no thread is left with them in the
    // end.
    for (int64_t first = (longest - 1) / tokens * tokens; first >= 0; first -= tokens)
      for (int64_t run = 0; run < a.run_count; run++) {
        const int64_t left = a.runs[run].count - first;
        for (int64_t head = 0; left > 0 && head < a.kv_heads; head++)
          add({run, head, first, std::min(tokens, left), false});
      }
  }

  void add(const AttentionBlock &b) {
    const int64_t position = a.runs[b.run].past + b.first;
    const Job job{b, a.first_seen(position) / kSegment, (position + b.tokens - 1) / kSegment + 1,
                  partials};
    partials += job.end - job.first;
    jobs.push_back(job);
  }

  int64_t sums() const { return AttentionSums::padded(AttentionSums::floats(rows, a.head_dim)); }

  // Scratch of a thread, then room for two sums.
  float *reserve() {
    static thread_local Arena arena;
    const int64_t scratch = AttentionScratch::floats(rows);
    float *p = arena.reserve(AttentionSums::padded(scratch) + 2 * sums());
    if (p == nullptr) exhausted = true;
    return p;
  }
  AttentionScratch scratch(float *p) const { return AttentionScratch::at(p, rows); }
  AttentionSums sums_at(float *p) const { return AttentionSums::at(p, rows); }
  float *after_scratch(float *p) const {
    return p + AttentionSums::padded(AttentionScratch::floats(rows));
  }

  void whole(Job job) {
    job.block.onwards = true;
    float *p = reserve();
    if (p == nullptr) return;
    const AttentionScratch s = scratch(p);
    const AttentionSums total = sums_at(after_scratch(p));
    const AttentionSums part = sums_at(after_scratch(p) + sums());
    format.prepare(a, job.block, s);
    kernels.begin(a, job.block, total);
    for (int64_t i = job.first; i < job.end; i++) {
      format.segment(a, job.block, s, i, part);
      kernels.merge(a, job.block, s, i, part, total);
    }
    kernels.finish(a, job.block, total);
  }

  // Queries that several threads share, and what each of them has beside.
  int64_t queries() const { return AttentionSums::padded(AttentionScratch::floats(rows)); }
  AttentionScratch shared(float *p, float *queries) const {
    AttentionScratch s = scratch(p);
    const AttentionScratch common = scratch(queries);
    s.queries = common.queries;
    s.scale = common.scale;
    s.starts = common.starts;
    return s;
  }

  void segment(const Job &job, int64_t i, float *queries, float *part) {
    if (float *p = reserve()) format.segment(a, job.block, shared(p, queries), i, sums_at(part));
  }

  void together(const Job &job, float *parts) {
    float *p = reserve();
    if (p == nullptr) return;
    const AttentionScratch s = scratch(p);
    const AttentionSums total = sums_at(after_scratch(p));
    kernels.begin(a, job.block, total);
    for (int64_t i = job.first; i < job.end; i++) {
      const AttentionSums part = sums_at(parts + (job.partials + i - job.first) * sums());
      kernels.merge(a, job.block, s, i, part, total);
    }
    kernels.finish(a, job.block, total);
  }
};

void store(const Attention &a, const AttentionFormat &format, const Parallel &parallel) {
  const int64_t cuts = (longest_run(a) + kTokensStored - 1) / kTokensStored;
  const int64_t lines = a.run_count * a.kv_heads;
  int64_t tokens = 0;
  for (int64_t i = 0; i < a.run_count; i++) tokens += a.runs[i].count;
  const auto work = [&](int64_t i) {
    const int64_t line = i / cuts, run = line / a.kv_heads, first = i % cuts * kTokensStored;
    const int64_t left = a.runs[run].count - first;
    if (left > 0)
      format.store(a, {run, line % a.kv_heads, first, std::min(kTokensStored, left), false});
  };
  if (tokens * a.kv_heads > kTokensStored) return parallel(lines * cuts, work);
  for (int64_t i = 0; i < lines * cuts; i++) work(i);
}

// Segments apart, for few rows: whoever is last with a job's segments puts them together.
void run_segments(Step &step, const Parallel &parallel) {
  static thread_local Arena arena;
  const int64_t jobs = (int64_t)step.jobs.size();
  float *parts = arena.reserve(step.partials * step.sums() + jobs * step.queries());
  if (parts == nullptr) throw std::bad_alloc();
  float *queries = parts + step.partials * step.sums();
  const auto prepare = [&](int64_t j) {
    const Job &job = step.jobs[(size_t)j];
    step.format.prepare(step.a, job.block, step.scratch(queries + j * step.queries()));
  };
  if (jobs * step.rows > kRowsTogether)
    parallel(jobs, prepare);
  else
    for (int64_t j = 0; j < jobs; j++) prepare(j);
  std::vector<int32_t> job_of((size_t)step.partials);
  std::vector<std::atomic<int64_t>> left(step.jobs.size());
  for (size_t j = 0; j < step.jobs.size(); j++) {
    const Job &job = step.jobs[j];
    left[j] = job.end - job.first;
    std::fill_n(job_of.begin() + job.partials, job.end - job.first, (int32_t)j);
  }
  parallel(step.partials, [&](int64_t i) {
    const int32_t j = job_of[(size_t)i];
    const Job &job = step.jobs[(size_t)j];
    step.segment(job, job.first + i - job.partials, queries + j * step.queries(),
                 parts + i * step.sums());
    if (left[(size_t)j].fetch_sub(1) == 1) step.together(job, parts);
  });
}

}  // namespace

void run_attention(const Attention &a, const AttentionKernels &kernels, const Parallel &parallel) {
  if (longest_run(a) == 0) return;
  Step step(a, kernels);
  store(a, step.format, parallel);
  static const int64_t enough = 2 * std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t jobs = (int64_t)step.jobs.size();
  if (jobs < enough && step.partials > jobs && step.partials * step.sums() <= kMostPartials)
    run_segments(step, parallel);
  else
    parallel(jobs, [&](int64_t i) { step.whole(step.jobs[(size_t)i]); });
  if (step.exhausted) throw std::bad_alloc();
}

}  // namespace sc2onnx
