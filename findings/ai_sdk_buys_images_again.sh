#!/usr/bin/env bash
# ai 7.0.173 with @ai-sdk/fal 3.0.41 and @ai-sdk/replicate 3.0.46 (npm): what `generateImage` repeats if the image has been made
# and its download fails once.
# Guess: the download. The image exists; its URL was in the answer to the POST that ordered it.
# Seen: ordering and downloading are one attempt, and a 503 of the file's host makes `generateImage` (two retries by default)
# begin from the start: the same prompt is ordered and billed again, and the first image is dropped. With three such
# failures it throws, and three images are billed. `maxRetries: 0` avoids it at the price of a lost image.
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" ai@7.0.173 @ai-sdk/fal@3.0.41 @ai-sdk/replicate@3.0.46 >/dev/null
cat > "$tmp/run.mjs" <<'JS'
import http from "node:http";
import { readFileSync } from "node:fs";
import { createFal } from "@ai-sdk/fal";
import { createReplicate } from "@ai-sdk/replicate";
import { generateImage } from "ai";

let failures;
let orders;
let downloads;
const server = http.createServer((request, response) => {
  const url = `http://${request.headers.host}`;
  request.resume().on("end", () => {
    if (request.method === "POST") {
      orders += 1;
      const file = `${url}/files/${orders}.png`;
      const prediction = { id: "p", status: "succeeded", output: [file], urls: { get: `${url}/predictions/p` } };
      response.writeHead(200, { "content-type": "application/json" });
      return response.end(JSON.stringify({ ...prediction, images: [{ url: file, content_type: "image/png" }] }));
    }
    downloads += 1;
    response.writeHead(downloads > failures ? 200 : 503, { "content-type": "image/png" });
    response.end(Buffer.from("89504e470d0a1a0a", "hex"));
  });
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const baseURL = `http://127.0.0.1:${server.address().port}`;
const models = {
  fal: createFal({ apiKey: "none", baseURL }).image("fal-ai/flux/dev"),
  replicate: createReplicate({ apiToken: "none", baseURL }).image("black-forest-labs/flux-schnell"),
};
for (const name of ["ai", "@ai-sdk/fal", "@ai-sdk/replicate"]) {
  console.log(name, JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version);
}
console.log("expected: one image ordered, whatever becomes of its download");
const seen = [];
for (const [name, model] of Object.entries(models)) {
  for (const [failed, maxRetries] of [[0], [1], [3], [1, 0]]) {
    failures = failed;
    orders = downloads = 0;
    const ended = await generateImage({ model, prompt: "A harbour", maxRetries }).then(() => "one image", (error) => error.constructor.name);
    const setting = maxRetries === undefined ? "" : `, maxRetries: ${maxRetries}`;
    console.log(`${name}, ${failures} failed downloads${setting}: ${orders} orders, ${downloads} downloads, then ${ended}`);
    seen.push([orders, ended === "one image"]);
  }
}
const each = [[1, true], [2, true], [3, false], [1, false]];
process.exit(JSON.stringify(seen) === JSON.stringify([...each, ...each]) ? 0 : 1);
JS
(cd "$tmp" && node run.mjs)
