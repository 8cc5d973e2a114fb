// The two answers from Node: answers_node.js PORT KEEPALIVE_SECONDS [CERTIFICATE KEY]
"use strict";
const fs = require("node:fs");

const [port, keepAlive, cert, key] = process.argv.slice(2);
const bodies = { "/ok": Buffer.from("ok"), "/big": Buffer.alloc(2 ** 20, "x") };
let idleLimit = 0;

function answer(request, response) {
  const socket = request.socket;
  // The server's own listener, which puts the idle limit on the socket, was added before this one and so has run.
  response.once("finish", () => { idleLimit = socket.timeout / 1000; });
  // Lets the caller learn the limit that the previous answer left on its socket.
  const body = request.url === "/idle-limit" && idleLimit > 0 ? Buffer.from(String(idleLimit)) : bodies[request.url];
  response.writeHead(body ? 200 : 404, { "Content-Length": body ? body.length : 0 });
  response.end(body);
}

const tls = cert ? { cert: fs.readFileSync(cert), key: fs.readFileSync(key) } : {};
const server = require(cert ? "node:https" : "node:http").createServer(tls, answer);
server.keepAliveTimeout = Number(keepAlive) * 1000;
server.listen(Number(port), "127.0.0.1");
