// A page in Chromium: `node chromium_page.mjs URL CERTIFICATE [h3]`, driven by `browser.py`.
//
// A person has no flags: the page is opened through the warning about its certificate, over TCP.
// With `h3` it is opened over HTTP/3, and so are its WebSockets; the certificate is trusted.

import { X509Certificate, createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { quicFlags, start } from "./chromium.mjs";

const [url, certificate, h3] = process.argv.slice(2);
const { hostname, port } = new URL(url);

function trusting() {
  const key = new X509Certificate(readFileSync(certificate)).publicKey;
  const pin = createHash("sha256").update(key.export({ type: "spki", format: "der" }));
  const flags = quicFlags(hostname, port, pin.digest("base64"));
  return [...flags, "--enable-features=EnableWebsocketsOverHttp3"];
}

async function open(page) {
  if (h3) return page.goto(url);
  await page.goto(url).catch((error) => {
    if (!String(error).includes("ERR_CERT_AUTHORITY_INVALID")) throw error;
  });
  await page.click("#details-button");
  return Promise.all([page.waitForURL(url), page.click("#proceed-link")]);
}

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const browser = await start(h3 ? trusting() : []);
try {
  await open(browser.page);
  say({ value: null });
  for await (const line of createInterface({ input: process.stdin })) {
    say({ value: (await browser.page.evaluate(JSON.parse(line))) ?? null });
  }
} catch (error) {
  say({ error: String(error?.stack ?? error) });
} finally {
  await browser.close();
}
