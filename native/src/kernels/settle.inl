// Rounding of a few columns, each making up for the errors of those behind it. Included inside a
// namespace, after its lanes.
//
// Each operation is rounded by itself, in the order of the exporter's own arithmetic in numpy: codes
// are the same to the bit.

// Sixteen outputs; aims, errors and the like are of these.
template <int kColumns>
SC2ONNX_LANES void settle_lanes(const Settling &a, int64_t first) {
  const F scale = load(a.scales + first);
  const F lowest = splat(a.lowest), highest = splat(a.highest);
  F aims[kColumns];
  for (int j = 0; j < kColumns; j++) aims[j] = load(a.aims + j * a.outputs + first);
  for (int j = kColumns - 1; j >= 0; j--) {
    const int64_t at = j * a.stride + first;
    const F wanted = min(max(div(aims[j], scale), lowest), highest);
    const F code = to_float(to_int(wanted));
    const F error = sub(load(a.target + at), mul(code, scale));
    const F change = sub(error, load(a.errors + at));
    store(a.codes + at, code);
    store(a.errors + at, error);
    store(a.changes + j * a.changes_stride + first, change);
    const float *steps = a.steps + j * a.steps_stride;
    for (int i = 0; i < j; i++) aims[i] = add(aims[i], mul(splat(steps[i]), change));
  }
}

template <int kColumns>
static void settle_columns(const Settling &a) {
  int64_t first = 0;
  for (; first + 16 <= a.outputs; first += 16) settle_lanes<kColumns>(a, first);
  const int64_t left = a.outputs - first;
  if (left == 0) return;
  // the last outputs, among zeros
  float aims[kColumns][16] = {}, target[kColumns][16] = {}, codes[kColumns][16],
        errors[kColumns][16] = {}, changes[kColumns][16], scales[16];
  for (int i = 0; i < 16; i++) scales[i] = i < left ? a.scales[first + i] : 1;
  const size_t bytes = (size_t)left * sizeof(float);
  Settling few = a;
  for (int j = 0; j < kColumns; j++) {
    memcpy(aims[j], a.aims + j * a.outputs + first, bytes);
    memcpy(target[j], a.target + j * a.stride + first, bytes);
    memcpy(errors[j], a.errors + j * a.stride + first, bytes);
  }
  few.outputs = few.stride = few.changes_stride = 16;
  few.aims = aims[0], few.target = target[0], few.codes = codes[0], few.errors = errors[0];
  few.changes = changes[0], few.scales = scales;
  settle_lanes<kColumns>(few, 0);
  for (int j = 0; j < kColumns; j++) {
    memcpy(a.codes + j * a.stride + first, codes[j], bytes);
    memcpy(a.errors + j * a.stride + first, errors[j], bytes);
    memcpy(a.changes + j * a.changes_stride + first, changes[j], bytes);
  }
}

template <int kColumns>
static void settle_some(const Settling &a) {
  if constexpr (kColumns > 0) {
    if (a.columns == kColumns)
      settle_columns<kColumns>(a);
    else
      settle_some<kColumns - 1>(a);
  }
}

static void settle(const Settling &a) { settle_some<kSettled>(a); }
