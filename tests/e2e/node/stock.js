// A shop's stock: a third service, behind the worker.
const http = require("node:http");

http
  .createServer((request, response) => response.end(JSON.stringify({ reserved: request.url })))
  .listen({ fd: Number(process.argv[2]) });
