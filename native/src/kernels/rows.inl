// Rows of activations as products take them. Included inside a namespace, after its lanes.

// Rows that are computed at once, and where they begin: groups that differ by one row at most, 8
// rows are 4 and 4, not 6 and 2. Few rows make larger groups, though not all of their sums stay in
// registers: they read the weights less often, and reading overlaps with computing.
SC2ONNX_LANES int64_t groups_of(int64_t rows) {
  const int64_t most = rows <= 2 * kFewRows ? kFewRows : kRows;
  return (rows + most - 1) / most;
}
SC2ONNX_LANES int64_t first_of(int64_t rows, int64_t group) {
  return rows * group / groups_of(rows);
}

// Where a row's codes lie: those of a group by fours of inputs, row after row, so that one pointer
// serves all of them. (Scales and starts: by blocks, row after row.)
struct RowPlace {
  int64_t first, together, number;  // of its group: first row and rows; the row's number in it

  SC2ONNX_LANES RowPlace of(int64_t rows, int64_t row) {
    const int64_t group = ((row + 1) * groups_of(rows) - 1) / rows, first = first_of(rows, group);
    return {first, first_of(rows, group + 1) - first, row - first};
  }
  SC2ONNX_INLINE int64_t codes(int64_t inputs, int64_t input) const {
    return first * inputs + input * together + number * 4;  // input: a multiple of 4
  }
  SC2ONNX_INLINE int64_t numbers(int64_t blocks, int64_t block) const {
    return first * blocks + block * together + number;
  }
};
