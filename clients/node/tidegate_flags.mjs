// A flag file that tidegate writes, for applications that do not follow the route (`[route] mode = "flags"`): reads move by
// percentage, writes all at once.
//
// The directory that the processes and tidegate share is made once: `node tidegate_flags.mjs init DIRECTORY PLAN`. In the plan:
//
//     [route]
//     mode = "flags"
//     flag_file = "/srv/orders-flags/flags.json"
//     [hooks]
//     confirm = { command = ["node", "tidegate_flags.mjs", "confirm", "/srv/orders-flags"] }
//
// In the application:
//
//     const flags = await Flags.open("/srv/orders-flags", { plan: "orders-v2", process: "shop-1" });
//     await flags.write((side) => collections[side].replaceOne(...));      // waits while writes are held
//     await flags.read(id, (side) => collections[side].findOne(...));
//
// The file is in the format of flagd, so that OpenFeature's flagd provider can read it too; what no provider does is to say that a
// process follows, and to hold writes. That is what `follows/PROCESS.json` beside it is for. A process shows up there before it looks
// at the flags, and says that it follows something new once nothing is under way that it began before. A process that died is named
// by `confirm` until it is started again under its name, or its file is deleted by someone who knows that it is dead and that its last
// write has landed or never will.
//
// Node 18 or newer, no dependency.

import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, readFile, readdir, rename, unlink } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";

const SIDES = ["legacy", "next"];
/** How often a process looks at the flags, milliseconds. */
const POLL_MS = 50;
/**
 * How long a write that ended with an error counts as under way, and whatever a process that died may have begun: longer than a write
 * can take until it has landed or never will (timeoutMS), and much shorter than the plan's freeze_max.
 */
const GRACE_MS = 10_000;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function put(file, value) {
  const beside = `${file}.${process.pid}`;
  const handle = await open(beside, "w");
  await handle.writeFile(JSON.stringify(value));
  await handle.sync();
  await handle.close();
  await rename(beside, file);
}

async function get(file) {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (e) {
    if (e.code === "ENOENT") return null;
    throw e;
  }
}

/** A number from 0 to 99 that a key always has: whoever reads from next at a percentage still does at a higher one. */
export function share(key) {
  return createHash("sha256").update(String(key)).digest().readUInt32BE(0) % 100;
}

/** Writes were held for longer than the caller would wait. Nothing was written. */
export class Held extends Error {}
/** The flags have been closed. Nothing was written or read. */
export class Ended extends Error {}

/** Another process goes by this one's name. Nothing was written or read. */
export class NotMine extends Error {}

/** What one process goes by. Names of processes that run at the same time differ; one that is started again keeps its name. */
export class Flags {
  #dir; #plan; #file; #graceMs; #told; #silentUntil; #running;
  #closed = false;
  #over = false;
  /** Tells this process from another one of its name. */
  #token = randomUUID();
  #foreign = false;
  #state = { epoch: -1, reads: 0, writes: null };
  /** What is under way, by the epoch under which it was begun. */
  #busy = new Map();

  static async open(dir, { plan, process: name, graceMs = GRACE_MS }) {
    const flags = new Flags();
    flags.#dir = dir;
    flags.#plan = plan;
    flags.#graceMs = graceMs;
    flags.#file = path.join(dir, "follows", `${name}.json`);
    if (!(await get(path.join(dir, "flags.json")))) {
      throw new Error(`${dir} has no flags.json: is it the right directory? \`tidegate_flags.mjs init\` makes one`);
    }
    // Whoever had this name and died may have a write on its way.
    flags.#silentUntil = performance.now() + ((await get(flags.#file)) ? graceMs : 0);
    // Seen by whoever asks from here on; only then are the flags looked at.
    await flags.#showUp();
    await flags.#look();
    flags.#running = flags.#run();
    return flags;
  }

  async #showUp() {
    this.#told = -1;
    await put(this.#file, { epoch: -1, pid: process.pid, token: this.#token });
  }

  async #run() {
    while (!this.#over) {
      await sleep(POLL_MS);
      // What cannot be read now changes nothing: this process goes on as it is, and `confirm` says that it does.
      await this.#look().catch(() => {});
    }
  }

  async #look() {
    const shown = await get(this.#file);
    if (shown && shown.token !== this.#token) {
      // It speaks for itself and not for this one, which can do nothing any more.
      this.#foreign = true;
      return;
    }
    if (!shown) {
      // Somebody took this process off the list. It begins nothing more before it has shown up and looked again.
      this.#state = { ...this.#state, writes: null };
      await this.#showUp();
    }
    const file = await get(path.join(this.#dir, "flags.json"));
    // What is older than what is known was late on its way.
    if (file && file.metadata.epoch >= this.#state.epoch) {
      const reads = file.flags[`${this.#plan}-reads`];
      const split = reads.targeting?.fractional?.find((part) => part[0] === "next")?.[1];
      this.#state = {
        epoch: file.metadata.epoch,
        reads: split ?? (reads.defaultVariant === "next" ? 100 : 0),
        writes: file.flags[`${this.#plan}-writes`].defaultVariant,
      };
    }
    const { epoch } = this.#state;
    const ready = [...this.#busy.keys()].every((e) => e === epoch) && performance.now() >= this.#silentUntil;
    if (ready && this.#told !== epoch) {
      await put(this.#file, { epoch, pid: process.pid, token: this.#token });
      this.#told = epoch;
    }
  }

  async #begin(may, patienceMs) {
    const until = performance.now() + patienceMs;
    while (!this.#closed && !this.#foreign && !may(this.#state)) {
      if (performance.now() >= until) throw new Held(`held for ${patienceMs} ms`);
      await sleep(POLL_MS / 2);
    }
    if (this.#foreign) throw new NotMine("another process goes by this one's name");
    if (this.#closed) throw new Ended("this process has left the flags");
    const { epoch } = this.#state;
    this.#busy.set(epoch, (this.#busy.get(epoch) ?? 0) + 1);
    return this.#state;
  }

  #done(epoch) {
    const left = this.#busy.get(epoch) - 1;
    if (left) this.#busy.set(epoch, left);
    else this.#busy.delete(epoch);
  }

  /**
   * Calls `make` with the side that a write goes to. Held writes wait for `patienceMs`. What is read to decide the write is read inside,
   * from the same side. When `make` fails, the write may still land: it counts as under way for `graceMs` more.
   */
  async write(make, { patienceMs = 30_000 } = {}) {
    const { epoch, writes } = await this.#begin((state) => SIDES.includes(state.writes), patienceMs);
    let made;
    try {
      made = await make(writes);
    } catch (e) {
      setTimeout(() => this.#done(epoch), this.#graceMs).unref();
      throw e;
    }
    this.#done(epoch);
    return made;
  }

  /**
   * Calls `look` with the side that a read of `key` goes to, and whether what is read there is the owner's. Below 100 % on next, a read
   * from next may be seconds behind. Reads go on while writes are held.
   */
  async read(key, look, { patienceMs = 30_000 } = {}) {
    const { epoch, reads, writes } = await this.#begin((state) => state.writes !== null, patienceMs);
    try {
      const side = share(key) < reads ? "next" : "legacy";
      return await look(side, side === writes);
    } finally {
      this.#done(epoch);
    }
  }

  /** Begins nothing more, ends once nothing is under way, and is asked about no more. */
  async close() {
    this.#closed = true;
    while (this.#busy.size) await sleep(POLL_MS);
    this.#over = true;
    await this.#running;
    if (!this.#foreign) await unlink(this.#file);
  }
}

/** Makes the directory: everything on legacy, until tidegate writes more. What is there stays. */
async function init(dir, plan) {
  await mkdir(path.join(dir, "follows"), { recursive: true });
  const file = path.join(dir, "flags.json");
  if (await get(file)) return 0;
  const flag = (...variants) => ({
    state: "ENABLED", variants: Object.fromEntries(variants.map((v) => [v, v])), defaultVariant: "legacy", targeting: {},
  });
  const flags = { [`${plan}-reads`]: flag("legacy", "next"), [`${plan}-writes`]: flag("legacy", "held", "next") };
  await put(file, { metadata: { flagSetId: `tidegate/${plan}`, version: "0", epoch: 0 }, flags });
  return 0;
}

/** The hook `confirm`: every process that has shown up goes by the flags, or is named. */
async function confirm(dir) {
  let event = "";
  for await (const chunk of process.stdin) event += chunk;
  const wanted = JSON.parse(event).epoch;
  const there = (await get(path.join(dir, "flags.json")))?.metadata.epoch;
  if (there !== wanted) {
    console.log(`the flags are at ${there}, not at ${wanted}`);
    return 1;
  }
  const late = [];
  const names = await readdir(path.join(dir, "follows"));
  for (const name of names.filter((n) => n.endsWith(".json")).sort()) {
    const found = await get(path.join(dir, "follows", name));
    if (found && found.epoch !== wanted) late.push(`${name.slice(0, -5)} goes by ${found.epoch}`);
  }
  if (late.length) console.log(`not at ${wanted} yet: ${late.slice(0, 5).join(", ")}`);
  return late.length ? 1 : 0;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [what, dir, plan, ...more] = process.argv.slice(2);
  const right = what === "init" ? plan !== undefined : what === "confirm" && plan === undefined;
  if (!right || !dir || more.length) {
    console.error("usage: tidegate_flags.mjs init DIRECTORY PLAN\n       tidegate_flags.mjs confirm DIRECTORY < EVENT");
    process.exit(2);
  }
  process.exit(await (what === "init" ? init(dir, plan) : confirm(dir)));
}
