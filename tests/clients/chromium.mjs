// Chromium, headless, driven by playwright-core.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(new URL("../../.clients/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const program = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();

/** Its name and version. */
export const version = execFileSync(program, ["--version"], {
  encoding: "utf8",
  stdio: ["ignore", "pipe", "ignore"],
}).split(" built")[0].trim();

/** Starts one with these flags and an empty profile; resolves to a page, and how to end it. */
export async function start(flags) {
  const profile = mkdtempSync(join(tmpdir(), "quicbaton-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: program,
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...flags,
    ],
  });
  const page = context.pages()[0] ?? (await context.newPage());
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { page, close };
}

/** Flags with which it speaks HTTP/3 there at once, and trusts the key with this hash. */
export function quicFlags(host, port, pin) {
  return [
    "--enable-quic",
    `--origin-to-force-quic-on=${host}:${port}`,
    `--ignore-certificate-errors-spki-list=${pin}`,
  ];
}
