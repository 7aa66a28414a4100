// AgentDB's half of the bench: node agentdb.mjs <directory with node_modules> <store> <workload>
// A line of JSON on standard input asks for calls, one after another; a line on standard output has the
// seconds of each and what it answered.
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

console.log = console.error; // the package talks on standard output
const [where, store, workload] = process.argv.slice(2);
const home = path.join(path.resolve(where), 'node_modules', 'agentdb');
const load = (name) => import(pathToFileURL(path.join(home, 'dist', name)).href);
const { createDatabase } = await load('db-fallback.js');
const { ReflexionMemory } = await load('controllers/ReflexionMemory.js');
const { MetadataFilter } = await load('controllers/MetadataFilter.js');
const { BatchOperations } = await load('optimizations/BatchOperations.js');

const K = 10;
const SYMBOLS = 20;
const sizes = JSON.parse(fs.readFileSync(path.join(workload, 'sizes.json'), 'utf-8'));
const vectors = numpy('vectors.npy');
const queries = numpy('queries.npy');

// float32, C order, as numpy wrote it: a header whose length stands at byte 8, then the numbers.
function numpy(name) {
  const file = fs.readFileSync(path.join(workload, name));
  const start = 10 + file.readUInt16LE(8);
  const numbers = file.buffer.slice(file.byteOffset + start, file.byteOffset + file.length);
  return new Float32Array(numbers);
}

const embed = async (text) => {
  const [kind, row] = text.split(' ');
  const source = kind === 'query' ? queries : vectors;
  return source.slice(Number(row) * sizes.dim, (Number(row) + 1) * sizes.dim);
};
const embedder = { embed, embedBatch: async (texts) => Promise.all(texts.map(embed)) };
const symbol = (row) => `S${String(row % SYMBOLS).padStart(2, '0')}`;
const text = (row) => `situation ${row} of ${symbol(row)}`;

fs.mkdirSync(store, { recursive: true });
const db = await createDatabase(path.join(store, 'memory.db'));
for (const schema of ['schema.sql', 'frontier-schema.sql']) {
  db.exec(fs.readFileSync(path.join(home, 'dist', 'schemas', schema), 'utf-8'));
}
const memory = new ReflexionMemory(db, embedder);
const batch = new BatchOperations(db, embedder);

// A situation is an episode without a reward worth the name; decisions are a session of their own.
const situation = (row, at) => ({
  sessionId: 'situations', task: text(row), reward: 0, success: false,
  metadata: {
    row, symbol: symbol(row), regime: ['calm', 'trend', 'storm'][row % 3], spread: (row % 97) / 8, recorded_at: at,
  },
});
const decision = (row, reward, at) => ({
  sessionId: 'decisions', task: text(row), reward, success: reward > 0.5, metadata: { row, recorded_at: at },
});
const rows = (found) => found.slice(0, K).map((one) => one.metadata.row);
const alike = async (number, only) => {
  const found = await memory.retrieveRelevant({ task: `query ${number}`, k: 1e9 });
  return MetadataFilter.apply(found, only);
};

const calls = {
  hello: async () => true,
  close: async () => { db.close(); return true; },
  load: async (first, stop, at) => {
    const made = [];
    for (let row = first; row < stop; row += 1) made.push(situation(row, at));
    return batch.insertEpisodes(made);
  },
  observe: (row, at) => memory.storeEpisode(situation(row, at)),
  holds: async (row) => db.prepare('SELECT 1 AS yes FROM episodes WHERE task = ?').get(text(row)) !== undefined,
  search: async (number) => rows(await memory.retrieveRelevant({ task: `query ${number}`, k: K })),
  search_symbol: async (number, asked) => rows(await alike(number, { 'metadata.symbol': asked })),
  search_as_of: async (number, at) => rows(await alike(number, { 'metadata.recorded_at': { $lte: at } })),
  // An episode is stored once, with its reward: until that is known there is nothing to store.
  decide: async () => null,
  outcome: (row, value, at) => memory.storeEpisode(decision(row, value, at)),
  lessons: async (number) => {
    const found = await alike(number, { sessionId: 'decisions' });
    return found.slice(0, K).map((one) => one.reward);
  },
  outcomes_as_of: async (row, at) => {
    const found = await memory.retrieveRelevant({ task: text(row), k: 1e9 });
    const known = MetadataFilter.apply(found, { sessionId: 'decisions', 'metadata.recorded_at': { $lte: at } });
    const own = known.filter((one) => one.metadata.row === row);
    return own.length ? own.map((one) => one.reward) : null;
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { kind, items, limit_s: limit } = JSON.parse(line);
  const seconds = [];
  const answers = [];
  const begun = performance.now();
  try {
    for (const item of items) {
      const start = performance.now();
      const answer = await calls[kind](...item);
      const end = performance.now();
      seconds.push((end - start) / 1e3);
      answers.push(answer ?? null);
      if (end - begun > limit * 1e3) break;
    }
    process.stdout.write(`${JSON.stringify({ seconds, answers })}\n`);
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ error: String(error) })}\n`);
  }
}
