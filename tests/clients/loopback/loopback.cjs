// Programs that Node.js runs with this preloaded reach this machine only, and what else they try is
// written down. SC2ONNX_OUTSIDE: the file to write to.
const fs = require("node:fs");
const net = require("node:net");

const HERE = new Set(["127.0.0.1", "localhost", "::1"]);
const connect = net.Socket.prototype.connect;

net.Socket.prototype.connect = function (...given) {
  const [first] = Array.isArray(given[0]) ? given[0] : given; // http gives what it has normalised
  const host = typeof first === "object" ? first.host : given[1]; // connect(options), (port, host)
  if (typeof host === "string" && !HERE.has(host)) {
    fs.appendFileSync(process.env.SC2ONNX_OUTSIDE, `${process.argv[1]} tried ${host}\n`);
    throw new Error(`${host} is not this machine, expected a loopback address`);
  }
  return connect.apply(this, given);
};
