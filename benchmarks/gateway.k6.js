// k6 as clients of a gateway: chat completions, whole and streamed.
//
//   k6 run -e URL=http://127.0.0.1:8080 -e MODEL=demo -e USERS=16 -e SECONDS=30 benchmarks/gateway.k6.js
//
// KEY is sent where the gateway asks for one. k6 comes from its own repository (grafana.com/docs/k6) and not from a
// package registry, so no test of ours runs this file but for its syntax. k6 reads a stream as a whole: the time to the
// first byte is `http_req_waiting`; locustfile.py has the time to the first piece as OpenAI's client sees it.
import http from "k6/http";
import { check } from "k6";
import { Counter, Trend } from "k6/metrics";

const url = `${__ENV.URL || "http://127.0.0.1:8080"}/v1/chat/completions`;
const model = __ENV.MODEL || "demo";
const firstByte = new Trend("stream_first_byte", true);
const unfinished = new Counter("streams_without_an_end");

export const options = {
  vus: Number(__ENV.USERS || 16),
  duration: `${__ENV.SECONDS || 30}s`,
  thresholds: {
    http_req_failed: ["rate==0"],
    checks: ["rate==1"],
    streams_without_an_end: ["count==0"],
  },
};

function ask(streamed) {
  const body = {
    model,
    messages: [{ role: "user", content: "Name three rivers." }],
    max_tokens: 32,
    temperature: 0,
    user: `user-${__VU}`,
    stream: streamed,
  };
  const headers = { "Content-Type": "application/json" };
  if (__ENV.KEY) {
    headers.Authorization = `Bearer ${__ENV.KEY}`;
  }
  return http.post(url, JSON.stringify(body), { headers, tags: { streamed: String(streamed) } });
}

export default function () {
  if (__ITER % 4 === 3) {
    const answer = ask(true);
    firstByte.add(answer.timings.waiting);
    if (!check(answer, { "a stream that ends": (one) => one.status === 200 && one.body.includes("data: [DONE]") })) {
      unfinished.add(1);
    }
    return;
  }
  check(ask(false), {
    "an answer": (one) => one.status === 200 && one.json("choices.0.message.content") !== undefined,
    "its id": (one) => Boolean(one.headers["X-Request-Id"]),
  });
}
