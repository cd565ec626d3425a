// Greedy decoding of a StarCoder2 bundle with ONNX Runtime's C++ API: token ids in, token ids out.
//
// The cache is a ring of key and value slots (docs/bundle.md): position p lies in slot p mod
// capacity. Outputs are bound to the memory of the inputs, so that ONNX Runtime updates it in
// place, and dropping the latest tokens copies nothing.
//
// With the library of sc2onnx-kernels it runs the bundle's other graph, model.kernels.onnx, in
// whose cache slots are opaque bytes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

namespace {

constexpr int64_t kChunk = 256;  // tokens of a prompt computed at once
constexpr int64_t kFirst = 512;  // slots of a fresh cache, where the window is larger
constexpr int64_t kTile = 16;    // slots of the kernels that are made and copied together

struct Facts {
  int64_t layers, heads, size, vocab, context, window;
  std::vector<int64_t> eos;
  bool standard;  // products are written with standard operators
  bool kernels;   // there is a graph for versions 2 to 4 of the kernels
};

Facts read_facts(const std::string& bundle) {
  std::ifstream file(bundle + "/sc2onnx.json");
  if (!file)
    throw std::runtime_error(
        bundle +
        " is not a bundle (it has no sc2onnx.json): make one with `sc2onnx export CHECKPOINT OUT`");
  const auto manifest = nlohmann::json::parse(file);
  const auto &model = manifest.at("model"), &cache = manifest.at("cache");
  if (cache.at("kind") != "ring-transposed-values" || cache.at("dtype") != "float32")
    throw std::runtime_error("the bundle has a cache of kind " +
                             cache.at("kind").get<std::string>() +
                             ", expected a ring in float32: export it with --target cpu");
  const int64_t context = model.at("context_length");
  const int64_t window =
      model.at("sliding_window").is_null() ? context : model.at("sliding_window").get<int64_t>();
  const int version = manifest.value("kernels", 0);  // earlier bundles have none
  return {model.at("num_layers"),
          model.at("num_kv_heads"),
          model.at("head_dim"),
          model.at("vocab_size"),
          context,
          std::min(window, context),
          model.at("eos_token_ids"),
          manifest.at("target") == "portable",
          version >= 2 && version <= 4};
}

// What a session is made with.
struct Setup {
  int threads;
  std::string library;  // of the kernels; empty: without them
  std::string packed;   // file of weights packed for them; empty: they are packed now
};

// How a buffer of the cache lies in memory: in `rows`, each of all slots one after the other.
struct Layout {
  std::vector<int64_t> shape;
  int64_t rows, slot;  // slot: bytes of one in a row
};

struct Buffer {
  std::string past, present;
  Layout layout;
  std::vector<uint8_t> data;
};

class Sequence {
 public:
  Sequence(const std::string& bundle, const Setup& setup)
      : facts_(read_facts(bundle)),
        kernels_(facts_.kernels && !setup.library.empty()),
        // Room for a chunk, and to rewind as much.
        full_(tiled(std::min(facts_.window + 2 * kChunk - 1, facts_.context))),
        session_(env_, graph(bundle).c_str(), options(setup)),
        memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)),
        logits_(facts_.vocab) {
    capacity_ = std::min(kFirst, full_);
    buffers_ = made(capacity_);
  }

  const Facts& facts() const { return facts_; }
  bool kernels() const { return kernels_; }
  int64_t length() const { return length_; }

  // Computes these tokens and gives the most likely next one.
  int64_t append(const std::vector<int64_t>& tokens) {
    check(tokens);
    for (size_t first = 0; first < tokens.size();) {
      int64_t step = std::min<int64_t>(kChunk, tokens.size() - first);
      if (length_ + step > capacity_ && capacity_ < full_) grow(tiled(length_ + step));
      while (step > 1 && !exact(length_, step)) --step;
      run({tokens.begin() + first, tokens.begin() + first + step});
      first += step;
    }
    return greedy();
  }

  // Drops the last tokens.
  void rewind(int64_t count) {
    if (count > length_ || !exact(length_ - count, 1))
      throw std::runtime_error("cannot rewind " + std::to_string(count) +
                               " tokens: their slots were written over");
    length_ -= count;
  }

 private:
  Ort::SessionOptions options(const Setup& setup) const {
    Ort::SessionOptions found;
    found.SetIntraOpNumThreads(setup.threads);
    found.SetInterOpNumThreads(1);
    found.SetLogSeverityLevel(3);
    if (facts_.standard) found.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "4");
    if (!kernels_) return found;
    // Read while the library is registered.
    found.AddConfigEntry("sc2onnx.threads", std::to_string(setup.threads).c_str());
    if (!setup.packed.empty()) found.AddConfigEntry("sc2onnx.packed", setup.packed.c_str());
    found.RegisterCustomOpsLibrary(setup.library.c_str());
    return found;
  }

  std::string graph(const std::string& bundle) const {
    return bundle + (kernels_ ? "/model.kernels.onnx" : "/model.onnx");
  }

  // So many slots, rounded up to what the kernels make and copy together.
  int64_t tiled(int64_t slots) const {
    return kernels_ ? (slots + kTile - 1) / kTile * kTile : slots;
  }

  void check(const std::vector<int64_t>& tokens) const {
    if (tokens.empty()) throw std::runtime_error("no tokens are given, expected one at least");
    if (length_ + static_cast<int64_t>(tokens.size()) > facts_.context)
      throw std::runtime_error(std::to_string(length_ + tokens.size()) +
                               " tokens, the context has " + std::to_string(facts_.context));
    for (int64_t id : tokens)
      if (id < 0 || id >= facts_.vocab)
        throw std::runtime_error("token id " + std::to_string(id) + ", expected 0 to " +
                                 std::to_string(facts_.vocab - 1));
  }

  // Keys are rows of channels and values are columns, in float32. With the kernels both are rows of
  // uint8: int8 codes and their scale, in an order of their own.
  Layout layout(bool keys, int64_t capacity) const {
    const int64_t heads = facts_.heads, size = facts_.size, number = sizeof(float);
    if (kernels_) return {{1, heads, capacity, size + number}, heads, size + number};
    if (keys) return {{1, heads, capacity, size}, heads, size * number};
    return {{1, heads, size, capacity}, heads * size, number};
  }

  std::vector<Buffer> made(int64_t capacity) const {
    std::vector<Buffer> found;
    for (int64_t layer = 0; layer < facts_.layers; ++layer)
      for (const bool keys : {true, false}) {
        const std::string name = std::to_string(layer) + (keys ? ".key" : ".value");
        const auto lies = layout(keys, capacity);
        std::vector<uint8_t> zeros(lies.rows * capacity * lies.slot);
        found.push_back({"past_key_values." + name, "present." + name, lies, std::move(zeros)});
      }
    return found;
  }

  // A larger cache: as long as nothing has wrapped, a slot keeps its number.
  void grow(int64_t slots) {
    const int64_t capacity = std::min(std::max(slots, 2 * capacity_), full_);
    auto larger = made(capacity);
    for (size_t i = 0; i < larger.size(); ++i) {
      const auto& [shape, rows, slot] = buffers_[i].layout;
      const auto from = buffers_[i].data.begin(), to = larger[i].data.begin();
      for (int64_t row = 0; row < rows; ++row)
        std::copy_n(from + row * capacity_ * slot, capacity_ * slot, to + row * capacity * slot);
    }
    buffers_ = std::move(larger);
    capacity_ = capacity;
  }

  // Whether a step of so many tokens after `length` shows every one of them exactly its window.
  bool exact(int64_t length, int64_t step) const {
    return std::max<int64_t>(0, length - facts_.window + 1) + capacity_ >=
           std::max(written_, length + step);
  }

  void run(std::vector<int64_t> tokens) {
    int64_t past = length_;
    const std::vector<int64_t> shape{1, static_cast<int64_t>(tokens.size())}, one{1},
        result{1, 1, facts_.vocab};
    Ort::IoBinding binding(session_);
    binding.BindInput("input_ids", Ort::Value::CreateTensor<int64_t>(
                                       memory_, tokens.data(), tokens.size(), shape.data(), 2));
    binding.BindInput("past_lengths",
                      Ort::Value::CreateTensor<int64_t>(memory_, &past, 1, one.data(), 1));
    binding.BindOutput("logits", Ort::Value::CreateTensor<float>(memory_, logits_.data(),
                                                                 logits_.size(), result.data(), 3));
    const auto type = kernels_ ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                               : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    for (auto& buffer : buffers_) {
      auto& data = buffer.data;
      auto value = Ort::Value::CreateTensor(memory_, data.data(), data.size(),
                                            buffer.layout.shape.data(), 4, type);
      binding.BindInput(buffer.past.c_str(), value);
      binding.BindOutput(buffer.present.c_str(), value);
    }
    session_.Run(Ort::RunOptions{nullptr}, binding);
    length_ += tokens.size();
    written_ = std::max(written_, length_);
  }

  int64_t greedy() const {
    if (!std::all_of(logits_.begin(), logits_.end(),
                     [](float value) { return std::isfinite(value); }))
      throw std::runtime_error("logits are not numbers: the weights are damaged");
    return std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
  }

  Facts facts_;
  bool kernels_;
  int64_t full_;
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "starcoder2"};
  Ort::Session session_;
  Ort::MemoryInfo memory_;
  std::vector<float> logits_;
  std::vector<Buffer> buffers_;
  // written: one past the highest position that was ever written
  int64_t capacity_ = 0, length_ = 0, written_ = 0;
};

std::string from_environment(const char* name) {
  const char* found = std::getenv(name);
  return found ? found : "";
}

struct Arguments {
  std::string bundle;
  std::vector<int64_t> ids;
  int64_t most = 64;
  Setup setup{static_cast<int>(std::max(1u, std::thread::hardware_concurrency())),
              from_environment("SC2ONNX_KERNELS_LIBRARY"), ""};
  bool ignore_eos = false, json = false;
};

const char* const kUsage = "usage: starcoder2 BUNDLE --ids 1,2,3 [--max-new-tokens N] [--threads N]"
                           " [--kernels LIBRARY] [--packed FILE] [--ignore-eos] [--json]";

Arguments parse(int count, char** words) {
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto next = [&]() -> std::string {
      return i + 1 < count ? words[++i] : throw std::runtime_error(kUsage);
    };
    if (word == "--ids") {
      std::istringstream list(next());
      for (std::string id; std::getline(list, id, ',');) found.ids.push_back(std::stoll(id));
    } else if (word == "--max-new-tokens") found.most = std::stoll(next());
    else if (word == "--threads") found.setup.threads = std::stoi(next());
    else if (word == "--kernels") found.setup.library = next();
    else if (word == "--packed") found.setup.packed = next();
    else if (word == "--ignore-eos") found.ignore_eos = true;
    else if (word == "--json") found.json = true;
    else if (found.bundle.empty() && word[0] != '-') found.bundle = word;
    else throw std::runtime_error(kUsage);
  }
  if (found.bundle.empty() || found.ids.empty()) throw std::runtime_error(kUsage);
  return found;
}

void complete(const Arguments& arguments) {
  Sequence sequence(arguments.bundle, arguments.setup);
  const auto& eos = sequence.facts().eos;
  std::vector<int64_t> tokens, next = arguments.ids;
  std::vector<double> seconds;
  while (static_cast<int64_t>(tokens.size()) < arguments.most &&
         sequence.length() + static_cast<int64_t>(next.size()) <= sequence.facts().context) {
    const auto began = std::chrono::steady_clock::now();
    const int64_t token = sequence.append(next);
    if (!tokens.empty())
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    if (!arguments.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) break;
    tokens.push_back(token);
    next = {token};
    if (!arguments.json) std::cout << token << ' ' << std::flush;
  }
  if (!arguments.json) {
    std::cout << '\n';
    return;
  }
  std::sort(seconds.begin(), seconds.end());
  const std::string runtime =
      sequence.kernels() ? "onnxruntime and kernels, C++" : "onnxruntime, C++";
  const double median = seconds.empty() ? 0.0 : seconds[seconds.size() / 2];
  const nlohmann::json said{{"tokens", tokens}, {"seconds_per_token", median},
                            {"runtime", runtime}, {"version", Ort::GetVersionString()}};
  std::cout << said.dump() << '\n';
}

}  // namespace

// ONNX Runtime reads this when its environment is made, and reports home without it; 0, set
// by the user, allows that.
void turn_telemetry_off() {
#ifdef _WIN32
  if (!std::getenv("ORT_DISABLE_TELEMETRY")) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
}

int main(int count, char** words) {
  turn_telemetry_off();
  try {
    complete(parse(count, words));
    return 0;
  } catch (const std::exception& error) {  // also what ONNX Runtime and the JSON library throw
    std::cerr << error.what() << '\n';
    return 2;
  }
}
