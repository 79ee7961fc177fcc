// node run.mjs rebuilds.wasm > rebuilds.json: times of a change of membership in V8's wasm.
//
// The same work is done in several fresh modules, and of each step the least time counts: what
// another process takes away from one run it does not take away from the same step of all. The
// first pass over a module is `cold` (Envoy's VMs begin so), the last one warm.

import { readFileSync } from "node:fs";

const MODULES = 5;
const PASSES = 4;
const ENDPOINTS = [1000, 10000];
const HASH = [{ header: { header_name: "x-key" } }];
const POLICIES = {
  round_robin: { round_robin: {} },
  least_request: { least_request: {} },
  maglev: { maglev: { table_size: 65537 } },
  ring_hash: { ring_hash: {} },
  ring_hash_points_160: { ring_hash: {}, points: 160 },
  rendezvous: { rendezvous: { table_size: 65536 } },
};

const bytes = readFileSync(process.argv[2]);

// V8 keeps compiled code by the bytes of a module: a custom section makes each one another.
function instance(salt) {
  const section = [0, 3, 1, 0x73, salt];
  const module = new WebAssembly.Module(Buffer.concat([bytes, Buffer.from(section)]));
  const none = Object.fromEntries(
    WebAssembly.Module.imports(module).map(({ name }) => [name, () => 0]));
  return new WebAssembly.Instance(module, { wasi_snapshot_preview1: none, env: none }).exports;
}

function configure(plugin, policy, endpoints) {
  const { points, ...lb_policy } = structuredClone(POLICIES[policy]);
  if (points) lb_policy.ring_hash.minimum_ring_size = points * endpoints;
  const cluster = { name: "c1", lb_policy, hash_policy: HASH };
  const json = Buffer.from(JSON.stringify({ clusters: [cluster] }));
  const at = plugin.config_buffer(json.length);
  Buffer.from(plugin.memory.buffer).set(json, at);
}

function timed(into, name, call) {
  const begin = performance.now();
  const result = call();
  (into[name] ??= []).push(performance.now() - begin);
  return result;
}

function expect(what, is) {
  if (!is) throw new Error(`${what} went wrong`);
}

// One pass: the times of each stage, in order.
function pass(plugin, endpoints, gone) {
  const times = {};
  plugin.answer(endpoints, gone);
  expect("decode", timed(times, "decode", () => plugin.decode()));
  expect("publish", timed(times, "publish", () => plugin.publish()) > 0);
  while (plugin.slice(0));
  expect("take over", timed(times, "take_over", () => plugin.take_over()));
  while (timed(times, "slice", () => plugin.slice(1)));
  expect("compare", timed(times, "compare", () => plugin.compare()));
  expect("begin", timed(times, "begin", () => plugin.begin()));
  while (!timed(times, "step", () => plugin.step()));
  expect("finish", timed(times, "finish", () => plugin.finish()) === endpoints);
  return times;
}

// The least of each step over the runs.
function least(runs, stage) {
  return runs[0][stage].map((_, at) => Math.min(...runs.map((run) => run[stage][at] ?? Infinity)));
}

const round = (ms) => Math.round(ms * 1000) / 1000;
const sum = (list) => list.reduce((a, b) => a + b, 0);
const rows = [];
let salt = 0;
for (const policy of Object.keys(POLICIES)) {
  for (const endpoints of ENDPOINTS) {
    const [cold, warm] = [[], []];
    for (let at = 0; at < MODULES; at += 1) {
      const plugin = instance((salt += 1));
      configure(plugin, policy, endpoints);
      expect("configuration", plugin.engines());
      for (let gone = 0; gone < PASSES; gone += 1) {
        const times = pass(plugin, endpoints, gone);
        if (gone === 0) cold.push(times);
        if (gone === PASSES - 1) warm.push(times);
      }
    }
    const of = (runs) => (stage) => least(runs, stage);
    const [c, w] = [of(cold), of(warm)];
    const steps = (f) => [...f("begin"), ...f("step"), ...f("finish")];
    rows.push({
      policy, endpoints,
      build_ms: round(sum(steps(w))),
      slice_ms_max: round(Math.max(...w("step"), ...w("finish"))),
      begin_ms: round(w("begin")[0]),
      decode_ms: round(w("decode")[0]),
      publish_ms: round(w("publish")[0]),
      compare_ms: round(w("compare")[0]),
      take_over_ms: round(w("take_over")[0]),
      engine_slice_ms_max: round(Math.max(...w("slice"))),
      cold_build_ms: round(sum(steps(c))),
      cold_slice_ms_max: round(Math.max(...c("step"), ...c("finish"))),
      cold_take_over_ms: round(c("take_over")[0]),
    });
    process.stderr.write(`rebuilds: ${policy} ${endpoints}\n`);
  }
}
console.log(JSON.stringify(rows, null, 2));
