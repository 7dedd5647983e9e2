// Chromium: what a page of ours fetches.

import { X509Certificate, createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { quicFlags, start, version } from "./chromium.mjs";
import { authority, converse, host, port } from "./conversation.mjs";

const fetchAll = (0, eval)(readFileSync(new URL("./page.js", import.meta.url), "utf8"));
const key = new X509Certificate(readFileSync(authority)).publicKey;
const pin = createHash("sha256").update(key.export({ type: "spki", format: "der" }));
const flags = quicFlags(host, port, pin.digest("base64"));
let browser;

async function evaluate(requests) {
  if (browser === undefined) {
    browser = await start(flags);
    await browser.page.goto(`https://${host}:${port}/page`);
  }
  return browser.page.evaluate(fetchAll, { requests });
}

converse({
  name: version,
  get: (urls) => evaluate(urls.map((url) => ({ url }))),
  post: (url, size) => evaluate([{ url, size }]),
  close: () => browser?.close(),
});
