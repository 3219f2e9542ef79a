// OpenAI's client for Node: plain loops, and one that reads branches. Prints what it saw as JSON.
import OpenAI from "openai";

const [url, model, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey, maxRetries: 0 });
const its = { model, messages: [{ role: "user", content: "What is 1+1?" }], max_tokens: 60, seed: 4 };

const whole = await client.chat.completions.create(its);
let text = "";
let branches = 0;
const options = { include_branches: true, include_usage: true };
const stream = await client.chat.completions.create({ ...its, stream: true, stream_options: options });
let usage = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  branches += chunk.choices[0]?.delta?.branch ? 1 : 0;
  usage = chunk.usage ?? usage;
}

let answered = "";
let completed = null;
const asked = { model, input: "What is 1+1?", max_output_tokens: 60, seed: 4, stream: true };
for await (const event of await client.responses.create(asked)) {
  if (event.type === "response.output_text.delta") answered += event.delta;
  if (event.type === "response.completed" || event.type === "response.incomplete") completed = event.response;
}

const refused = await client.chat.completions
  .create({ ...its, tools: [{ type: "function", function: { name: "f" } }] })
  .catch((error) => ({ status: error.status, param: error.param }));

console.log(
  JSON.stringify({
    same: text === whole.choices[0].message.content,
    branches,
    usage,
    responses: answered === completed.output.find((item) => item.type === "message").content[0].text,
    refused,
  }),
);
