// bun (lsquic): the HTTP/3 of its `fetch`. It trusts NODE_EXTRA_CA_CERTS.

import { answer, converse, failure, randomBody } from "./conversation.mjs";

async function request(url, options = {}) {
  try {
    const response = await fetch(url, { ...options, protocol: "http3" });
    const body = await response.bytes();
    return answer(response.status, response.headers.get("x-pid"), body);
  } catch (error) {
    return failure(error);
  }
}

converse({
  name: `bun/${Bun.version}`,
  async get(urls) {
    return { answers: await Promise.all(urls.map((url) => request(url))) };
  },
  async post(url, size) {
    const { body, sent } = randomBody(size);
    return { answers: [await request(url, { method: "POST", body })], sent };
  },
});
