// What `conversation.py` is for clients in JavaScript: node, bun and deno alike.

import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import process from "node:process";
import { createInterface } from "node:readline";

export const [host, port, authority] = process.argv.slice(2);

/** An answer as the matrix takes it; `body` is all of it, a Uint8Array. */
export function answer(status, pid, body) {
  return {
    status,
    pid: Number(pid ?? 0),
    size: body.length,
    sha256: createHash("sha256").update(body).digest("hex"),
    text: body.length <= 200 ? Buffer.from(body).toString("latin1") : "",
    error: "",
  };
}

/** A request that failed. */
export function failure(error) {
  return { ...answer(0, 0, new Uint8Array()), error: String(error) };
}

/** So many random bytes, and their SHA-256. */
export function randomBody(size) {
  const body = randomBytes(size);
  return { body, sent: createHash("sha256").update(body).digest("hex") };
}

/**
 * Be driven by stdin until that ends. A client has `name`, `can`, `open()`, `get(urls, moving)`
 * and `post(url, size)`, which resolve to {answers, sent} as it is said, and `close()`.
 */
export async function converse(client) {
  say({ client: client.name, can: client.can ?? [] });
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      say(await obey(client, JSON.parse(line)));
    } catch (error) {
      say({ error: String(error?.stack ?? error) });
    }
  }
  await client.close?.();
  process.exit(0);
}

async function obey(client, command) {
  if (command.do === "open") {
    await client.open();
    return {};
  }
  if (command.do === "get") return client.get(command.urls, command.moving);
  return client.post(command.url, command.size);
}

function say(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}
