// Imported before onnxruntime-node, which would report home where its library has telemetry; 0, set
// by the user, allows that.
process.env.ORT_DISABLE_TELEMETRY ??= '1';
