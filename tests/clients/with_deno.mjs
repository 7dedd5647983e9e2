// deno (quinn): HTTP/3 by hand on its QUIC, since its `fetch` has none. Only what the matrix needs:
// requests without Huffman codes, and of responses the status, x-pid and the body.

import { readFileSync } from "node:fs";
import { answer, authority, converse, failure, host, port, randomBody } from "./conversation.mjs";

const [DATA, HEADERS, SETTINGS] = [0x0, 0x1, 0x4];
// RFC 9204 Appendix A: the static table's lines that say a status, and those for a request.
const STATUSES = [103, 200, 304, 404, 503];
const [METHOD_GET, METHOD_POST, SCHEME_HTTPS] = [17, 20, 23];
const [AUTHORITY, PATH, FIRST_STATUS] = [0, 1, 24];
// RFC 7541 Appendix B: "x-pid", and the codes of digits.
const PID = [0xf2, 0xb5, 0x66, 0x93].join();
const DIGITS = new Map(
  ["00000", "00001", "00010", "011001", "011010", "011011", "011100", "011101", "011110", "011111"]
    .map((code, digit) => [code, String(digit)]),
);

let connecting;
let control;

/** The one connection, however many ask for it at once. */
function connect() {
  connecting ??= (async () => {
    const connection = await Deno.connectQuic({
      hostname: host,
      port: Number(port),
      caCerts: [readFileSync(authority, "utf8")],
      alpnProtocols: ["h3"],
    });
    // It stays open as long as the connection (RFC 9114 §6.2.1), so it must not be collected.
    control = (await connection.createUnidirectionalStream()).getWriter();
    await control.write(new Uint8Array([0x0, SETTINGS, 0]));
    drainAll(connection.incomingUnidirectionalStreams).catch(() => {});
    return connection;
  })();
  return connecting;
}

/** The server's control streams end with the connection. */
async function drainAll(streams) {
  for await (const stream of streams) drain(stream).catch(() => {});
}

async function drain(stream) {
  for await (const _ of stream);
}

async function request(url, body) {
  try {
    const connection = await connect();
    const stream = await connection.createBidirectionalStream();
    const sending = send(stream.writable.getWriter(), new URL(url), body);
    const pieces = [];
    for await (const piece of stream.readable) pieces.push(piece);
    await sending;
    return parse(concatenate(pieces));
  } catch (error) {
    return failure(error);
  }
}

async function send(writer, url, body) {
  const text = new TextEncoder();
  const fields = concatenate([
    [0, 0, 0xc0 | (body ? METHOD_POST : METHOD_GET), 0xc0 | SCHEME_HTTPS],
    ...[[AUTHORITY, url.host], [PATH, url.pathname + url.search]].flatMap(([name, value]) => {
      const bytes = text.encode(value);
      return [[0x50 | name], prefixed(bytes.length, 7), bytes];
    }),
  ]);
  try {
    await writer.write(frame(HEADERS, fields));
    if (body) await writer.write(frame(DATA, body));
    await writer.close();
  } catch (error) {
    // The server wants no more of it (RFC 9114 §4.1): the response says why.
    if (!body) throw error;
  }
}

function parse(data) {
  let [status, pid] = [0, 0];
  const body = [];
  for (let at = 0; at < data.length; ) {
    const [type, afterType] = variable(data, at);
    const [length, begin] = variable(data, afterType);
    at = begin + length;
    if (at > data.length) throw new Error("the response is cut off");
    const payload = data.subarray(begin, at);
    if (type === HEADERS) [status, pid] = readFields(payload);
    if (type === DATA) body.push(payload);
  }
  return answer(status, pid, concatenate(body));
}

/** RFC 9204 §4.5, with the static table alone: the status and x-pid. */
function readFields(data) {
  let [status, pid] = [0, 0];
  for (let at = 2; at < data.length; ) {
    const first = data[at];
    if (first & 0x80) {
      let index;
      [index, at] = integer(data, at, 6);
      status ||= STATUSES[index - FIRST_STATUS] ?? 0;
      continue;
    }
    let [name, value] = [];
    if (first & 0x40) [name, at] = integer(data, at, 4);
    else [name, at] = string(data, at, 3);
    [value, at] = string(data, at, 7);
    if (name === FIRST_STATUS) status = digits(value);
    if (name.bytes?.join() === PID) pid = digits(value);
  }
  return [status, pid];
}

function string(data, at, bits) {
  const coded = Boolean(data[at] & (1 << bits));
  const [length, begin] = integer(data, at, bits);
  return [{ coded, bytes: data.subarray(begin, begin + length) }, begin + length];
}

function digits({ coded, bytes }) {
  if (!coded) return Number(new TextDecoder().decode(bytes));
  let [text, code] = ["", ""];
  for (const bit of [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("")) {
    code += bit;
    if (!DIGITS.has(code)) continue;
    text += DIGITS.get(code);
    code = "";
  }
  return Number(text);
}

/** RFC 7541 §5.1. */
function integer(data, at, bits) {
  const most = (1 << bits) - 1;
  let value = data[at++] & most;
  if (value < most) return [value, at];
  for (let shift = 0; ; shift += 7) {
    const byte = data[at++];
    value += (byte & 0x7f) << shift;
    if (!(byte & 0x80)) return [value, at];
  }
}

function prefixed(value, bits) {
  const most = (1 << bits) - 1;
  if (value < most) return [value];
  const bytes = [most];
  for (value -= most; value >= 0x80; value >>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}

function frame(type, payload) {
  // RFC 9000 §16, in four bytes, whatever the length.
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, (0x80000000 | payload.length) >>> 0);
  return concatenate([[type], length, payload]);
}

function variable(data, at) {
  const size = 1 << (data[at] >> 6);
  let value = data[at] & 0x3f;
  for (const byte of data.subarray(at + 1, at + size)) value = value * 256 + byte;
  return [value, at + size];
}

function concatenate(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

converse({
  name: `deno/${Deno.version.deno}`,
  can: ["open"],
  open: connect,
  async get(urls) {
    return { answers: await Promise.all(urls.map((url) => request(url))) };
  },
  async post(url, size) {
    const { body, sent } = randomBody(size);
    return { answers: [await request(url, body)], sent };
  },
});
