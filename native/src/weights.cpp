#include "weights.h"

#include <string.h>

#include <new>

#include "ort.h"
#include "packing.h"

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace sc2onnx {

namespace {

constexpr char kMagic[8] = {'S', 'C', '2', 'O', 'N', 'N', 'X', 'P'};
constexpr int64_t kPage = 4096;
constexpr uint32_t kMostMatrices = 1 << 16;

// Reads values one after the other, never beyond the end.
class Reader {
 public:
  Reader(const uint8_t *data, size_t size) : data_(data), left_(size) {}
  const uint8_t *bytes(size_t count) {
    if (count > left_) throw Refused("it ends within its table");
    const uint8_t *at = data_;
    data_ += count;
    left_ -= count;
    return at;
  }
  template <class T>
  T value() {
    T result;
    memcpy(&result, bytes(sizeof(T)), sizeof(T));
    return result;
  }

 private:
  const uint8_t *data_;
  size_t left_;
};

#if defined(_WIN32)

const uint8_t *mapped(const std::string &path, size_t &size) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide((size_t)length, L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), length);
  HANDLE file = CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE,
                            nullptr, OPEN_EXISTING, 0, nullptr);
  if (file == INVALID_HANDLE_VALUE) throw Refused("it cannot be opened");
  LARGE_INTEGER bytes{};
  GetFileSizeEx(file, &bytes);
  HANDLE mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
  CloseHandle(file);
  if (mapping == nullptr) throw Refused("it cannot be mapped");
  const void *view = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
  CloseHandle(mapping);
  if (view == nullptr) throw Refused("it cannot be mapped");
  size = (size_t)bytes.QuadPart;
  return static_cast<const uint8_t *>(view);
}
void unmap(const uint8_t *data, size_t) { UnmapViewOfFile(data); }

#else

const uint8_t *mapped(const std::string &path, size_t &size) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Refused(std::string("it cannot be opened (") + strerror(errno) + ")");
  struct stat about {};
  void *view = MAP_FAILED;
  if (fstat(file, &about) == 0 && about.st_size > 0)
    view = mmap(nullptr, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (view == MAP_FAILED) throw Refused("it cannot be mapped");
  size = (size_t)about.st_size;
  return static_cast<const uint8_t *>(view);
}
void unmap(const uint8_t *data, size_t size) { munmap(const_cast<uint8_t *>(data), size); }

#endif

bool same(const MatrixShape &a, const MatrixShape &b) {
  return a.outputs == b.outputs && a.inputs == b.inputs && a.bits == b.bits &&
         a.block == b.block && a.scale_bytes == b.scale_bytes;
}

std::string shown(const MatrixShape &shape) {
  return std::to_string(shape.outputs) + " x " + std::to_string(shape.inputs) + " of " +
         std::to_string(shape.bits) + " bits in blocks of " + std::to_string(shape.block) +
         " with scales of " + std::to_string(shape.scale_bytes) + " bytes";
}

}  // namespace

PackedFile::PackedFile(const std::string &path) : path_(path) {
  try {
    data_ = mapped(path, size_);
    read_table();
  } catch (const Refused &error) {
    if (data_ != nullptr) unmap(data_, size_);
    throw Refused("the packed weights " + path + " cannot be used: " + error.what());
  }
}

PackedFile::~PackedFile() { unmap(data_, size_); }

void PackedFile::read_table() {
  Reader reader(data_, size_);
  if (memcmp(reader.bytes(sizeof kMagic), kMagic, sizeof kMagic) != 0)
    throw Refused("it is no file of packed weights");
  const uint32_t layout = reader.value<uint32_t>(), count = reader.value<uint32_t>();
  if (layout != (uint32_t)kLayout)
    throw Refused("its layout is " + std::to_string(layout) + ", expected " +
                  std::to_string(kLayout));
  if (count > kMostMatrices)
    throw Refused("it says that it has " + std::to_string(count) + " matrices");
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t length = reader.value<uint32_t>();
    std::string name(reinterpret_cast<const char *>(reader.bytes(length)), length);
    Entry entry;
    entry.shape.outputs = reader.value<int64_t>();
    entry.shape.inputs = reader.value<int64_t>();
    entry.shape.bits = reader.value<int32_t>();
    entry.shape.block = reader.value<int32_t>();
    entry.shape.scale_bytes = reader.value<int32_t>();
    entry.offset = reader.value<int64_t>();
    const int64_t bytes = reader.value<int64_t>();
    if (!entry.shape.fits() || bytes != entry.shape.bytes() || entry.offset % kPage != 0 ||
        entry.offset < 0 || bytes > (int64_t)size_ || entry.offset > (int64_t)size_ - bytes)
      throw Refused("its matrix " + name + " does not lie in it");
    entries_.emplace(std::move(name), entry);
  }
}

const uint8_t *PackedFile::find(const std::string &name, const MatrixShape &shape) const {
  const auto found = entries_.find(name);
  if (found == entries_.end())
    throw Refused("the packed weights " + path_ + " have no " + name + ": pack the bundle again");
  if (!same(found->second.shape, shape))
    throw Refused("the packed weights " + path_ + " have " + name + " as " +
                  shown(found->second.shape) + ", expected " + shown(shape) +
                  ": pack the bundle again");
  return data_ + found->second.offset;
}

Weights::Weights(const std::string &path, int threads)
    : path_(path), threads_(threads < 1 ? 1 : threads) {
  if (!path_.empty()) PackedFile whole(path_);  // told of now, before any kernel is made
}

std::shared_ptr<const PackedFile> Weights::file() const {
  const std::lock_guard<std::mutex> held(lock_);
  std::shared_ptr<const PackedFile> file = file_.lock();
  if (file == nullptr) {
    file = std::make_shared<PackedFile>(path_);
    file_ = file;
  }
  return file;
}

PackedMatrix Weights::matrix(const std::string &name, const MatrixShape &shape,
                             const uint8_t *codes, const void *scales) const {
  if (!path_.empty()) {
    const std::shared_ptr<const PackedFile> file = this->file();
    return {file, file->find(name, shape)};
  }
  constexpr std::align_val_t kAligned{64};
  auto *memory = static_cast<uint8_t *>(::operator new((size_t)shape.bytes(), kAligned));
  PackedMatrix matrix(memory, [kAligned](uint8_t *p) { ::operator delete(p, kAligned); });
  pack(shape, codes, scales, threads_, memory);
  return matrix;
}

}  // namespace sc2onnx
