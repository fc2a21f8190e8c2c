// A shop's web: hands each order on to the front, over HTTP.
const http = require("node:http");

const server = http.createServer((request, response) => {
  const order = http.request(process.env.FRONT_URL + request.url, { method: "POST" }, (answer) => {
    answer.resume();
    answer.on("end", () => response.writeHead(answer.statusCode).end());
  });
  order.on("error", (error) => response.writeHead(502).end(error.message));
  order.end();
});

server.listen({ fd: Number(process.argv[2]) });
