// Threads for what runs outside of ONNX Runtime, which has its own.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace sc2onnx {

// How many of the threads there is work for.
inline int64_t busy_threads(int64_t tasks, int threads) {
  return std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
}

// work(task, thread) for all tasks; `thread` counts from 0 to busy_threads. It must not throw.
template <class Work>
void in_threads(int64_t tasks, int threads, const Work &work) {
  std::atomic<int64_t> next{0};
  auto run = [&](int64_t thread) {
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) work(task, thread);
  };
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < busy_threads(tasks, threads); i++) others.emplace_back(run, i);
  } catch (...) {  // the system gives no more: those that are there do everything
  }
  run(0);
  for (auto &thread : others) thread.join();
}

}  // namespace sc2onnx
