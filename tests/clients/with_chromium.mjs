// Chromium, headless, driven by playwright-core: what a page of ours fetches.

import { execFileSync } from "node:child_process";
import { X509Certificate, createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { authority, converse, host, port } from "./conversation.mjs";

const require = createRequire(new URL("../../.clients/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const fetchAll = (0, eval)(readFileSync(new URL("./page.js", import.meta.url), "utf8"));
const key = new X509Certificate(readFileSync(authority)).publicKey;
const pin = createHash("sha256").update(key.export({ type: "spki", format: "der" }));
const profile = mkdtempSync(join(tmpdir(), "quicbaton-chromium-"));
const program = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();
const version = execFileSync(program, ["--version"], {
  encoding: "utf8",
  stdio: ["ignore", "pipe", "ignore"],
});
let context;
let page;

async function start() {
  context = await chromium.launchPersistentContext(profile, {
    executablePath: program,
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--enable-quic",
      `--origin-to-force-quic-on=${host}:${port}`,
      `--ignore-certificate-errors-spki-list=${pin.digest("base64")}`,
    ],
  });
  page = context.pages()[0] ?? (await context.newPage());
  await page.goto(`https://${host}:${port}/page`);
}

async function evaluate(requests) {
  if (page === undefined) await start();
  return page.evaluate(fetchAll, { requests });
}

converse({
  name: version.split(" built")[0].trim(),
  can: ["end uploads"],
  get: (urls) => evaluate(urls.map((url) => ({ url }))),
  post: (url, size) => evaluate([{ url, size }]),
  async close() {
    await context?.close();
    rmSync(profile, { recursive: true, force: true });
  },
});
