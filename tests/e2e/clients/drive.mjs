// Runs @codewords/client 0.1.6, unmodified, from the node_modules of the working directory; prints JSON.
import { createRequire } from "node:module";
const require = createRequire(process.cwd() + "/x.js");
const { ServiceClient } = require("@codewords/client");
const [, , key, oneTimeKey] = process.argv;
const results = {};

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

// The record trails the answer by the time that the sandbox takes to end.
async function details(of) {
  for (let tries = 0; ; tries++) {
    const record = await of.getRequestDetails();
    if (!["provisioned", "queued", "running"].includes(record.status) || tries > 100) return record;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Every call, one after another, on ONE client object.
const client = new ServiceClient(key);
results.runService = await client.runService("probe", "", { name: "Ada" });
results.again = await client.runService("probe", "echo/x", { a: 1 }, "q=1&q=2");
results.firstId = client.requestId;
results.details = await details(client);
results.runAsync = await client.runAsync("probe", "", { name: "Bob" });
results.pollResult = await client.pollResult(600000);
results.streamLogs = await all(client.streamLogs());
await client.runAsync("probe", "log", { count: 50 });
await client.pollResult(600000);
results.fiftyLines = await all(client.streamLogs());
results.url = await client.uploadFileAndGetUrl("a b.txt", Buffer.from("from npm"), "text/plain");
results.uploaded = await (await fetch(results.url)).text();
results.stream = await all(client.runServiceStream("probe", {}, "stream"));
results.afterStream = await client.runService("probe", "", { name: "Last" });

// Five objects in parallel.
results.parallel = await Promise.all(
  [1, 2, 3, 4, 5].map(async (number) => {
    const own = new ServiceClient(key);
    const answer = await own.runService("probe", "", { name: `n${number}` });
    const record = await details(own);
    return { answer, id: record.id, status: record.status };
  }),
);

// A one-time key: one run, then nothing.
const once = new ServiceClient(oneTimeKey);
results.once = await once.runService("probe", "", { name: "Once" });
results.onceDetails = await details(once);
try {
  await once.runService("probe", "", { name: "Twice" });
  results.twice = "accepted";
} catch (error) {
  results.twice = { status: error.response?.status, data: error.response?.data };
}
console.log(JSON.stringify(results));
