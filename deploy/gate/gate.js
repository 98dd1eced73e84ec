// The way of uploads to the storage by the hub's own address: lets presigned parts in, nothing else.
//
//   proxy  /BUCKET/...  ->  this program, on loopback  ->  the storage
//
// The hub's address must never answer with an object: what a user uploaded would be a page of the
// hub. And a header that was not signed must not reach the storage: some take x-amz-copy-source.
// So: only PUT, only with a signature, a part number and an upload; of the headers only those
// named here; of the answer only its status and its ETag.
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const https = require("node:https");

const port = Number(process.env.DCLOUD_GATE_PORT);
const bucket = process.env.DCLOUD_GATE_BUCKET;
const target = new URL(process.env.DCLOUD_GATE_TARGET);
const sealingKey = Buffer.from(process.env.DCLOUD_GATE_KEY, "hex");

const NEEDED = ["partNumber", "uploadId", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date",
  "X-Amz-Expires", "X-Amz-Signature", "X-Amz-SignedHeaders"];
const SEALED = "X-Dcloud-Sealed"; // dcloud_spawner/storage/sealing.py
const ALLOWED = new Set([...NEEDED, "X-Amz-Security-Token", SEALED]);
const LARGEST_PART = 5 * 2 ** 30;
const STILL_READ = 16 * 2 ** 20; // of what is refused, for a sender that is not told before it sent
const STILL_READ_MS = 5_000;
const QUIET_MS = 120_000; // neither side says anything for so long: the connection is dead

const transport = target.protocol === "https:" ? https : http;
const agent = new transport.Agent({ keepAlive: true, maxSockets: 256 });

// Why a request is refused, or "".
function refusal(request) {
  if (request.method !== "PUT") return "Only parts of uploads are taken here.";
  const [path, query = "", ...more] = request.url.split("?");
  // What stands behind a second question mark would reach the storage without a look.
  if (more.length) return "This address is not as it was made.";
  if (!path.startsWith(`/${bucket}/datasets/`) || /\/(\.|%2e){0,2}(\/|$)/i.test(path)) {
    return "No such place.";
  }
  const names = [...new URLSearchParams(query).keys()];
  if (new Set(names).size !== names.length || names.some((name) => !ALLOWED.has(name))) {
    return "This address is not as it was made.";
  }
  if (NEEDED.some((name) => !names.includes(name))) return "This address is not signed.";
  const length = request.headers["content-length"] ?? "";
  if (!/^[0-9]{1,10}$/.test(length) || Number(length) > LARGEST_PART) {
    return "A part says its length.";
  }
  return "";
}

// The address as it was signed: with the session token, which the one given out does not show.
function opened(url) {
  const [path, query] = url.split("?", 2);
  return `${path}?${query.split("&").map((part) => {
    if (!part.startsWith(`${SEALED}=`)) return part;
    const given = Buffer.from(part.slice(SEALED.length + 1), "base64url");
    const cipher = crypto.createDecipheriv("aes-256-gcm", sealingKey, given.subarray(0, 12),
      { authTagLength: 16 });
    cipher.setAuthTag(given.subarray(12, 28));
    const token = Buffer.concat([cipher.update(given.subarray(28)), cipher.final()]).toString();
    return `X-Amz-Security-Token=${encodeURIComponent(token)}`;
  }).join("&")}`;
}

function answer(response, status, text, headers = {}) {
  if (response.headersSent) return void response.destroy();
  response.writeHead(status, {
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Length": Buffer.byteLength(text),
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    // A page of the hub may send parts to the gate's own address; nothing here is for one reader.
    "Access-Control-Allow-Origin": "*",
    ...headers,
  });
  response.end(text);
}

// Refuses, once the sender has sent: an answer to somebody who still writes is lost with the
// connection, and a browser would try again what will never be taken.
function refuse(request, response, status, text) {
  let read = 0, told = false;
  const tell = () => {
    if (told) return;
    told = true;
    clearTimeout(timer);
    // What was not read would be taken for the next request.
    answer(response, status, text, request.complete ? {} : { Connection: "close" });
  };
  const timer = setTimeout(tell, STILL_READ_MS);
  request.on("data", (chunk) => {
    read += chunk.length;
    if (read > STILL_READ) tell();
  });
  for (const over of ["end", "close", "error"]) request.on(over, tell);
  if (request.complete && request.readableEnded) tell();
  else request.resume();
}

// The storage's own word for what is wrong, and nothing that was not made of letters.
function told(body) {
  return /<Code>([A-Za-z]{1,64})<\/Code>/.exec(body)?.[1] ?? "";
}

function pass(request, response, path) {
  const onward = transport.request({
    agent,
    host: target.hostname,
    port: target.port || (transport === https ? 443 : 80),
    method: "PUT",
    path,
    headers: {
      Host: request.headers.host ?? "",
      "Content-Length": request.headers["content-length"],
    },
    servername: transport === https ? target.hostname : undefined,
    timeout: QUIET_MS,
  });
  onward.on("timeout", () => onward.destroy(new Error("the storage says nothing")));
  onward.on("error", (error) => {
    request.unpipe(onward);
    if (!request.destroyed) console.error(`storage away: ${error.message}`);
    answer(response, 503, "The storage does not answer. Try again.\n", {
      "Retry-After": "5",
      Connection: "close",
    });
  });
  onward.on("response", (incoming) => {
    let body = "";
    incoming.setEncoding("utf8");
    incoming.on("data", (text) => {
      if (body.length < 10_000) body += text;
    });
    incoming.on("error", () => response.destroy());
    incoming.on("end", () => {
      const word = told(body);
      if (!request.complete) {
        request.unpipe(onward);
        onward.removeAllListeners("error");
        onward.on("error", () => {}); // there is an answer; what happens to the rest is no matter
        onward.destroy();
        return refuse(request, response, incoming.statusCode, word);
      }
      const headers = incoming.headers.etag ? { ETag: incoming.headers.etag } : {};
      return answer(response, incoming.statusCode, word, headers);
    });
  });
  request.on("aborted", () => onward.destroy());
  request.pipe(onward);
}

const server = http.createServer({ maxHeaderSize: 65536 }, (request, response) => {
  if (request.method === "OPTIONS") {
    return answer(response, 200, "", {
      "Access-Control-Allow-Methods": "PUT",
      "Access-Control-Allow-Headers": "content-type",
      "Access-Control-Max-Age": "3600",
    });
  }
  const why = refusal(request);
  if (why) return refuse(request, response, 403, `${why}\n`);
  let path;
  try {
    path = opened(request.url);
  } catch {
    return refuse(request, response, 403, "This address is not as it was made.\n");
  }
  return pass(request, response, path);
});
server.requestTimeout = 0; // a part may be large and a line slow; silence ends it
server.timeout = QUIET_MS;
server.keepAliveTimeout = 75_000;
server.listen(port, process.env.DCLOUD_GATE_HOST || "127.0.0.1", () => console.log(`uploads to ${target.host} by port ${port}`));
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
