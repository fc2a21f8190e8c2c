// OpenTelemetry's SDK for Node, as its documentation sets it up: `node --require ./tracing.js web.js`.
const { HttpInstrumentation } = require("@opentelemetry/instrumentation-http");
const { NodeSDK } = require("@opentelemetry/sdk-node");

const sdk = new NodeSDK({ instrumentations: [new HttpInstrumentation()] });
sdk.start();

process.on("SIGINT", () => sdk.shutdown().finally(() => process.exit(0)));
