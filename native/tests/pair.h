// Two threads for the benchmarks.
#pragma once

#include <stdint.h>

#include <atomic>
#include <functional>
#include <thread>

// A second thread that waits actively, as those of a session do.
class Pair {
 public:
  void operator()(int64_t count, const std::function<void(int64_t)> &work) {
    next_ = 0;
    count_ = count;
    work_ = &work;
    const int before = done_;
    begun_++;
    take();
    while (done_ == before) {
    }
  }
  ~Pair() {
    over_ = true;
    other_.join();
  }

 private:
  void take() {
    for (int64_t i; (i = next_.fetch_add(1)) < count_;) (*work_)(i);
  }
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
  const std::function<void(int64_t)> *work_ = nullptr;
  std::atomic<int> begun_{0}, done_{0};
  std::atomic<bool> over_{false};
  std::thread other_{[this] {
    for (int seen = 0;; seen++) {
      while (begun_.load() == seen)
        if (over_) return;
      take();
      done_++;
    }
  }};
};
