// Functions of sixteen lanes that more than one kernel takes. Included inside a
// namespace, after its lanes.

// e^x for -87 <= x <= 87, with a relative error of about 2e-7.
SC2ONNX_LANES F exponential_within(F x) {
  const I n = to_int(mul(x, splat(1.44269504f)));
  const F whole = to_float(n);
  F r = fma(whole, splat(-0.693145752f), x);  // ln 2 in two parts, the first of few digits
  r = fma(whole, splat(-1.42860677e-6f), r);
  F p = splat(1.9875691e-4f);
  p = fma(p, r, splat(1.3981999e-3f));
  p = fma(p, r, splat(8.3334519e-3f));
  p = fma(p, r, splat(4.1665796e-2f));
  p = fma(p, r, splat(1.6666666e-1f));
  p = fma(p, r, splat(0.5f));
  p = fma(mul(p, r), r, add(r, splat(1.f)));
  return mul(p, power_of_two(n));
}

// The same; outside, what it is at the nearer end. Not a number stays what it is.
SC2ONNX_LANES F exponential(F x) {
  const F zero = splat(0.f), end = splat(-87.f);
  x = max(end, x);
  return exponential_within(sub(zero, max(end, sub(zero, x))));
}

// x / 2 (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3), as x / (1 + e^(-2 u)).
SC2ONNX_LANES F gelu(F x) {
  const F cubed = mul(mul(x, x), x);
  const F u = fma(cubed, splat(0.044715f), x);
  const F e = exponential(mul(u, splat(-1.59576912f)));
  return div(x, add(e, splat(1.f)));
}
