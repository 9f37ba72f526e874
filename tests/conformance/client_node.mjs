// Node's `openai` through AzureOpenAI and OpenAI: it uploads chunked, and sends the file before its purpose.
import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI, { AuthenticationError, AzureOpenAI, BadRequestError } from "openai";

const { AZURE_OPENAI_ENDPOINT: endpoint, AZURE_OPENAI_API_KEY: apiKey, TRAINING_FILE, ARM, ARM_TOKEN } = process.env;
const BASE = "gpt-35-turbo-0613";
const client = new AzureOpenAI({ endpoint, apiKey, apiVersion: "2024-10-21" });
const v1 = new OpenAI({ baseURL: `${endpoint}/openai/v1/`, apiKey });
const hello = [{ role: "user", content: "Hello" }];

async function check(name, run) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    console.error(error);
    console.log(`FAILED ${name}: ${String(error).replaceAll("\n", " ")}`);
  }
}

async function until(find, accept) {
  for (let tries = 0; tries < 300; tries++) {
    const found = await find();
    if (accept(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("waited 30 seconds in vain");
}

let file, job;

await check("files.create, a chunked body with the file before its purpose", async () => {
  file = await client.files.create({ file: fs.createReadStream(TRAINING_FILE), purpose: "fine-tune" });
  file = await until(() => client.files.retrieve(file.id), (found) => found.status === "processed");
  assert.equal(file.bytes, fs.statSync(TRAINING_FILE).size);
});

await check("files.list page by page, content", async () => {
  const ids = [];
  for await (const found of client.files.list({ limit: 2 })) ids.push(found.id);
  assert.ok(ids.includes(file.id));
  const bytes = Buffer.from(await (await client.files.content(file.id)).arrayBuffer());
  assert.deepEqual(bytes, fs.readFileSync(TRAINING_FILE));
});

await check("fineTuning.jobs.create with method, retrieve", async () => {
  const made = await client.fineTuning.jobs.create({
    model: BASE,
    training_file: file.id,
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2 } } },
  });
  job = await until(() => client.fineTuning.jobs.retrieve(made.id), (found) => found.status === "succeeded");
  assert.ok(job.fine_tuned_model.startsWith(`${BASE}.ft-`));
});

await check("fineTuning.jobs.list, listEvents, checkpoints.list", async () => {
  const jobs = [];
  for await (const found of client.fineTuning.jobs.list({ limit: 1 })) jobs.push(found.id);
  assert.ok(jobs.includes(job.id));
  const events = [];
  for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 2 })) events.push(event.id);
  assert.ok(events.length > 5);
  const checkpoints = await client.fineTuning.jobs.checkpoints.list(job.id);
  assert.equal(checkpoints.data[0].fine_tuned_model_checkpoint, job.fine_tuned_model);
});

await check("chat and a stream from a deployment made with fetch", async () => {
  const url = `${ARM}/deployments/node?api-version=2023-05-01`;
  const headers = { authorization: `Bearer ${ARM_TOKEN}`, "content-type": "application/json" };
  const model = { format: "OpenAI", name: job.fine_tuned_model, version: "1" };
  const body = JSON.stringify({ sku: { name: "Standard", capacity: 1 }, properties: { model } });
  assert.equal((await fetch(url, { method: "PUT", headers, body })).status, 201);
  const state = async () => (await (await fetch(url, { headers })).json()).properties.provisioningState;
  await until(state, (found) => found === "Succeeded");
  const answer = await client.chat.completions.create({ model: "node", messages: hello });
  assert.equal(answer.model, job.fine_tuned_model);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: "node", messages: hello, stream: true }))
    text += chunk.choices[0]?.delta?.content ?? "";
  assert.equal(text, answer.choices[0].message.content);
  assert.equal((await fetch(url, { method: "DELETE", headers })).status, 200);
});

await check("an error has its class and code", async () => {
  await assert.rejects(client.fineTuning.jobs.create({ model: "no-such-model", training_file: file.id }), (error) => {
    return error instanceof BadRequestError && error.code === "invalidPayload";
  });
  const wrong = new AzureOpenAI({ endpoint, apiKey: "x", apiVersion: "2024-10-21" });
  await assert.rejects(wrong.models.retrieve(BASE), AuthenticationError);
});

await check("OpenAI on /openai/v1 sees the same job, then models.delete and files.delete", async () => {
  assert.equal((await v1.fineTuning.jobs.retrieve(job.id)).fine_tuned_model, job.fine_tuned_model);
  assert.ok((await v1.models.delete(job.fine_tuned_model)).deleted);
  assert.ok((await v1.files.delete(file.id)).deleted);
});
