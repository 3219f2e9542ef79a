// The Vercel AI SDK: text and reasoning of a stream and of a whole answer. Prints what it saw as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [url, name, apiKey] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "mvjax", baseURL: url, apiKey, includeUsage: true });
const its = { model: provider(name), prompt: "What is 1+1?", maxOutputTokens: 60, seed: 4, maxRetries: 0 };

const whole = await generateText(its);
const stream = streamText(its);
let text = "";
for await (const part of stream.textStream) text += part;
const usage = await stream.usage;
const reason = await stream.finishReason;

console.log(
  JSON.stringify({
    same: text === whole.text,
    reasoning: ((await stream.reasoningText) ?? "") === (whole.reasoningText ?? ""),
    tokens: usage.outputTokens,
    reason,
  }),
);
