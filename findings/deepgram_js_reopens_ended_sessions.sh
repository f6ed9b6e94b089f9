#!/usr/bin/env bash
# @deepgram/sdk 5.13.0 (npm): what its live transcription does if the server ends the session on purpose.
# Guess: it tells the caller (event `close`, with code and reason) and leaves it at that after 1008 (policy violation), which Deepgram's
# own example of reconnecting counts among the codes that are final, and after the codes of applications, from 4000 on.
# Seen: any code but 1000 makes it open the session again, thirty times by default (`reconnectAttempts`), though the last one ended
# at once for the same reason. To the caller `open` and `close` take turns.
# A server that bills or limits by the session has it up to 31 times. What ends it: code 1000, or a handshake that is refused. For
# callers, `reconnectAttempts: 0` or `shouldReconnect`. The pauses between sessions are shortened here.
# Needs npm and node; takes 20 seconds. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" @deepgram/sdk@5.13.0 ws@8.18.3 >/dev/null
cat > "$tmp/run.mjs" <<'JS'
import http from "node:http";
import { readFileSync } from "node:fs";
import { DeepgramClient } from "@deepgram/sdk";
import { WebSocketServer } from "ws";

const SECONDS = 20;
const FASTER = 50;
const later = globalThis.setTimeout;
globalThis.setTimeout = (then, milliseconds, ...given) => later(then, milliseconds / FASTER, ...given);

/** How many sessions one call asks for if the server closes each with this code; `refuses`: only the first one opens. */
async function sessions(code, refuses, options) {
  let asked = 0;
  const sockets = new WebSocketServer({ noServer: true });
  const server = http.createServer();
  server.on("upgrade", (request, socket, head) => {
    asked += 1;
    if (refuses && asked > 1) return socket.end("HTTP/1.1 402 Payment Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (session) => session.close(code, "no credit left"));
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const here = `127.0.0.1:${server.address().port}`;
  const environment = { base: `http://${here}`, production: `ws://${here}`, agent: `ws://${here}`, agentRest: `http://${here}` };
  const client = new DeepgramClient({ apiKey: "none", environment });
  const audio = { model: "nova-3", encoding: "linear16", sample_rate: 16000 };
  const session = await client.listen.v1.connect({ ...audio, connectionTimeoutInSeconds: 60 * FASTER, ...options });
  for (const event of ["open", "close", "error"]) session.on(event, () => {});
  session.connect();
  await new Promise((done) => later(done, SECONDS * 1000));
  return asked;
}

const cases = {
  "closed with 1000": [1000, false, {}],
  "closed with 1008": [1008, false, {}],
  "closed with 4402": [4402, false, {}],
  "closed with 1008, then refused with 402": [1008, true, {}],
  "closed with 1008, reconnectAttempts: 0": [1008, false, { reconnectAttempts: 0 }],
  "closed with 1008, shouldReconnect: () => false": [1008, false, { shouldReconnect: () => false }],
};
const { version } = JSON.parse(readFileSync(new URL("node_modules/@deepgram/sdk/package.json", import.meta.url)));
console.log("@deepgram/sdk", version);
console.log("expected: one session each");
const seen = await Promise.all(Object.values(cases).map((given) => sessions(...given)));
Object.keys(cases).forEach((name, at) => console.log(`${name}: asked for ${seen[at]} within ${SECONDS} s`));
process.exit(JSON.stringify(seen) === JSON.stringify([1, 31, 31, 2, 1, 1]) ? 0 : 1);
JS
(cd "$tmp" && node run.mjs)
