// A small application that goes by clients/node/tidegate_flags.mjs, and notes all it was told as tests/mongo/python_app.py does.
//
//     app.mjs URI PLAN DATABASE PROCESS LOG DIRECTORY      until SIGTERM
//     app.mjs evaluate FILE FLAG KEY...                     what OpenFeature's own evaluation of flagd's format says

import { readFileSync } from "node:fs";
import { appendFileSync } from "node:fs";

const [first] = process.argv.slice(2);
if (first === "evaluate") {
  const { FlagdCore } = await import("@openfeature/flagd-core");
  const [file, flag, ...keys] = process.argv.slice(3);
  const core = new FlagdCore();
  core.setConfigurations(readFileSync(file, "utf8"));
  const logger = { error: console.error, warn() {}, info() {}, debug() {} };
  console.log(JSON.stringify(keys.map((targetingKey) => core.resolveStringEvaluation(flag, "neither", { targetingKey }, logger).value)));
  process.exit(0);
}

const { Decimal128, MongoClient, ObjectId } = await import("mongodb");
const { Flags, share } = await import(process.env.FLAGS_CLIENT);
const [uri, plan, database, name, log, dir] = process.argv.slice(2);
const ORDERS = 120;
const PROCESSES = 2;
const me = Number(name.split("-")[1]) - 1;
const now = () => Number(process.hrtime.bigint()) / 1e9;
const note = (what, n, rev, more) => appendFileSync(log, `${JSON.stringify({ what, n, rev, at: now(), ...more })}\n`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
let going = true;
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => { going = false; });

/** Several types on purpose, as the one who made the orders has them. */
function idOf(n) {
  return [`order ${n}`, n, n, ObjectId.createFromHexString(n.toString(16).padStart(24, "0")), { shop: "harbour", n }][n % 5];
}

/** Order `n` at a revision, in the shape of a side, without its `_id`. */
function order(side, n, rev) {
  const cents = (n * 7919 + rev * 104729) % 1_000_000;
  const total = `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, "0")}`;
  const customer_name = `Customer ${n}`;
  if (side === "legacy") return { customer: { name: customer_name, city: "Kobe" }, total, n, rev };
  return { customer: { city: "Kobe" }, total: Decimal128.fromString(total), n, rev, customer_name, schema_version: 2 };
}

const majority = { readConcern: { level: "majority" }, writeConcern: { w: "majority" } };
const client = await MongoClient.connect(uri);
const sides = { legacy: client.db(database, majority).collection("orders"), next: client.db(database, majority).collection("orders_v2") };
const flags = await Flags.open(dir, { plan, process: name });
const revs = new Map();
for (let n = me; n < ORDERS; n += PROCESSES) {
  const found = await flags.write((side) => sides[side].findOne({ _id: idOf(n) }));
  if (found) revs.set(n, found.rev);
}
console.error("goes by the flags");

async function write() {
  const all = [...revs.keys()];
  const n = all[Math.floor(Math.random() * all.length)];
  const [before, rev] = [revs.get(n), revs.get(n) + 1];
  const made = await flags.write(async (side) => {
    note("try", n, rev, { side });
    const { matchedCount } = await sides[side].replaceOne({ _id: idOf(n), rev: before }, order(side, n, rev));
    return { side, matchedCount };
  });
  if (made.matchedCount !== 1) return note("lost", n, rev, { side: made.side });
  revs.set(n, rev);
  note("acknowledged", n, rev, { side: made.side });
}

async function read() {
  const n = Math.floor(Math.random() * ORDERS);
  await flags.read(n, async (side, owned) => {
    const began = now();
    const found = await sides[side].findOne({ _id: idOf(n) });
    note("read", n, found?.rev ?? null, { began, side, owned, share: share(n) });
  });
}

while (going) {
  await sleep(5 + Math.random() * 20);
  await (Math.random() < 0.5 ? read() : write());
}
await flags.close();
await client.close();
