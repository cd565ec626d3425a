#include "packing.h"

#include <string.h>

#include <algorithm>

#include "threads.h"

namespace sc2onnx {

bool MatrixShape::fits() const {
  const bool block_fits = block == 16 || block == 32 || block == 64 || block == 128 || block == 256;
  const int64_t most = (int64_t)1 << 31;
  return (bits == 4 || bits == 8) && (scale_bytes == 2 || scale_bytes == 4) && block_fits &&
         outputs > 0 && outputs < most && inputs > 0 && inputs < most && inputs % block == 0;
}

namespace {

// The eight nibbles of four bytes, each in a byte of its own.
uint64_t spread(uint32_t nibbles) {
  uint64_t x = nibbles;
  x = (x | x << 16) & 0x0000ffff0000ffffULL;
  x = (x | x << 8) & 0x00ff00ff00ff00ffULL;
  return (x | x << 4) & 0x0f0f0f0f0f0f0f0fULL;
}

// One output's share of a block: four bytes of every 64-byte vector.
void pack_nibbles(const uint8_t *codes, int block, uint8_t *out) {
  const int quarter = block / 4;  // bytes of half a block
  for (int i = 0; i < quarter; i += 4) {
    uint32_t low, high;
    memcpy(&low, codes + i, 4);
    memcpy(&high, codes + quarter + i, 4);
    const uint64_t eight = spread(low) | spread(high) << 4;
    memcpy(out, &eight, 4);
    memcpy(out + 64, (const uint8_t *)&eight + 4, 4);
    out += 128;
  }
}

void pack_bytes(const uint8_t *codes, int block, uint8_t *out) {
  for (int i = 0; i < block; i += 4, out += 64) memcpy(out, codes + i, 4);
}

}  // namespace

void pack(const MatrixShape &matrix, const uint8_t *codes, const void *scales, int64_t first_tile,
          int64_t end, uint8_t *out) {
  const int64_t blocks = matrix.blocks(), code_bytes = (int64_t)matrix.block * matrix.bits / 8;
  const int64_t size = matrix.scale_bytes;
  for (int64_t tile = first_tile; tile < end; tile++) {
    const int64_t count = std::min<int64_t>(16, matrix.outputs - tile * 16);
    uint8_t *at = out + tile * matrix.tile_bytes();
    if (count < 16 || blocks % matrix.together()) memset(at, 0, (size_t)matrix.tile_bytes());
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t number = b % matrix.together(), first = b - number;
      const int64_t together = std::min(matrix.together(), blocks - first);
      uint8_t *to = at + (together - number) * matrix.block_bytes() + number * 16 * size;
      for (int64_t i = 0; i < count; i++) {
        const int64_t from = (tile * 16 + i) * blocks + b;
        if (matrix.bits == 4)
          pack_nibbles(codes + from * code_bytes, matrix.block, at + 4 * i);
        else
          pack_bytes(codes + from * code_bytes, matrix.block, at + 4 * i);
        memcpy(to + i * size, (const uint8_t *)scales + from * size, (size_t)size);
      }
      at += matrix.block_bytes() + (number + 1 == together ? 64 : 0);
    }
  }
}

void pack(const MatrixShape &matrix, const uint8_t *codes, const void *scales, int threads,
          uint8_t *out) {
  constexpr int64_t kTogether = 16;  // tiles
  in_threads((matrix.tiles() + kTogether - 1) / kTogether, threads, [&](int64_t task, int64_t) {
    const int64_t first = task * kTogether;
    pack(matrix, codes, scales, first, std::min(matrix.tiles(), first + kTogether), out);
  });
}

}  // namespace sc2onnx
