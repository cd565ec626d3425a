// Where packed matrices come from: a file that is mapped, or private memory.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "linear.h"

namespace sc2onnx {

constexpr int32_t kLayout = 2;  // of packed matrices and of the file: raised when either changes

// A packed matrix, alive as long as this is held.
using PackedMatrix = std::shared_ptr<const uint8_t>;

// A file of packed matrices, mapped: processes share its pages, and the system can drop them.
class PackedFile {
 public:
  explicit PackedFile(const std::string &path);  // throws Refused
  ~PackedFile();
  PackedFile(const PackedFile &) = delete;
  PackedFile &operator=(const PackedFile &) = delete;

  // The matrix of this name and shape; throws Refused where there is none.
  const uint8_t *find(const std::string &name, const MatrixShape &shape) const;

 private:
  struct Entry {
    MatrixShape shape;
    int64_t offset;
  };
  void read_table();
  std::string path_;
  const uint8_t *data_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, Entry> entries_;
};

// The weights of one session. The matrices that its kernels hold keep the file mapped, and nobody
// else: these weights outlive the session, of whose end nobody is told.
class Weights {
 public:
  // path: "" packs into private memory; throws Refused
  Weights(const std::string &path, int threads);

  // The matrix `name`: as the file has it, or packed from codes and scales as MatMulNBits has them.
  PackedMatrix matrix(const std::string &name, const MatrixShape &shape, const uint8_t *codes,
                      const void *scales) const;

 private:
  std::shared_ptr<const PackedFile> file() const;
  std::string path_;
  int threads_;
  mutable std::mutex lock_;
  mutable std::weak_ptr<const PackedFile> file_;
};

}  // namespace sc2onnx
